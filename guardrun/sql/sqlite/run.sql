-- What a run says to the embedded ledger. Every write happens inside BEGIN IMMEDIATE, so what one
-- statement has read is still true for the next.

-- name: running
-- The runs that may be dead. Served by runs_by_result.
SELECT job_id, key, token
  FROM runs
 WHERE result = 'running' AND result <> 'success'
 ORDER BY started_at;

-- name: mark_dead
-- finished_at stays empty: nobody knows it, and the run's own truth may still come by the spool.
UPDATE runs
   SET result = 'interrupted', reason = :reason
 WHERE job_id = :job_id AND result = 'running';

-- name: interrupt_key
UPDATE keys
   SET state = 'interrupted'
 WHERE key = :key AND token = :token AND state = 'running';

-- name: cut_off
-- The job's last run, if nobody has told how it ended. Served by runs_by_job.
SELECT job_id
  FROM (SELECT job_id, result, finished_at
          FROM runs
         WHERE job = :job
         ORDER BY started_at DESC, id DESC
         LIMIT 1)
 WHERE result = 'interrupted' AND finished_at IS NULL;

-- name: key
SELECT state, job_id, owner, fingerprint, claimed_at, finished_at, expires_at
  FROM keys
 WHERE key = :key;

-- name: claim
-- The decision: one row is written, or none. The last line lets a run claim again what it claims
-- already, because a commit whose answer was an error may have happened.
INSERT INTO keys (key, state, token, job_id, owner, fingerprint, claimed_at)
VALUES (:key, 'running', :token, :job_id, :owner, :fingerprint, :now)
ON CONFLICT (key) DO UPDATE
   SET state = 'running', token = excluded.token, job_id = excluded.job_id,
       owner = excluded.owner, fingerprint = excluded.fingerprint,
       claimed_at = excluded.claimed_at, finished_at = NULL, expires_at = NULL
 WHERE keys.state = 'failed'
    OR (keys.state = 'succeeded' AND keys.expires_at <= :now)
    OR (keys.state = 'interrupted' AND :rerun
        AND (:any_command OR keys.fingerprint = excluded.fingerprint))
    OR (keys.state = 'running' AND keys.job_id = excluded.job_id);

-- name: begin_run
INSERT INTO runs (job_id, job, host, username, pid, owner, argv, fingerprint, lock, key, needs,
                  path, token, started_at, enqueued_at, result)
VALUES (:job_id, :job, :host, :username, :pid, :owner, :argv, :fingerprint, :lock, :key, :needs,
        :path, :token, :started_at, :enqueued_at, 'running')
ON CONFLICT (job_id) DO UPDATE
   SET token = excluded.token, result = 'running', reason = NULL
 WHERE runs.finished_at IS NULL;

-- name: finish_run
-- Inserts where begin never got here, or where the run was refused.
INSERT INTO runs (job_id, job, host, username, pid, owner, argv, fingerprint, lock, key, needs,
                  path, token, started_at, enqueued_at, finished_at, duration_us, result,
                  exit_code, command_code, signal, reason, attempts, held, lock_wait_us,
                  fencing_token, lease_lost, held_by)
VALUES (:job_id, :job, :host, :username, :pid, :owner, :argv, :fingerprint, :lock, :key, :needs,
        :path, :token, :started_at, :enqueued_at, :finished_at, :duration_us, :result,
        :exit_code, :command_code, :signal, :reason, :attempts, :held, :lock_wait_us,
        :fencing_token, :lease_lost, :held_by)
ON CONFLICT (job_id) DO UPDATE
   SET finished_at = excluded.finished_at, duration_us = excluded.duration_us,
       result = excluded.result, exit_code = excluded.exit_code,
       command_code = excluded.command_code, signal = excluded.signal,
       reason = excluded.reason, attempts = excluded.attempts,
       held = excluded.held, lock_wait_us = excluded.lock_wait_us,
       fencing_token = excluded.fencing_token, lease_lost = excluded.lease_lost,
       held_by = excluded.held_by
 WHERE runs.finished_at IS NULL;

-- name: finish_key
-- The compare-and-set. A key that was found interrupted takes the late truth of the same claim.
UPDATE keys
   SET state = :state, finished_at = :finished_at, expires_at = :expires_at
 WHERE key = :key AND token = :token AND state IN ('running', 'interrupted');

-- name: unclaimed_success
-- Of a run that went on without the ledger. It yields to whatever began after it, and to every
-- success that had not expired when it ended; its empty token is nobody's claim.
INSERT INTO keys (key, state, token, job_id, owner, fingerprint, claimed_at, finished_at, expires_at)
VALUES (:key, 'succeeded', '', :job_id, :owner, :fingerprint, :started_at, :finished_at, :expires_at)
ON CONFLICT (key) DO UPDATE
   SET state = 'succeeded', token = '', job_id = excluded.job_id, owner = excluded.owner,
       fingerprint = excluded.fingerprint, claimed_at = excluded.claimed_at,
       finished_at = excluded.finished_at, expires_at = excluded.expires_at
 WHERE (keys.state IN ('failed', 'interrupted')
        OR (keys.state = 'succeeded' AND keys.expires_at <= excluded.finished_at))
   AND keys.claimed_at <= excluded.claimed_at;

-- name: mark_stale
UPDATE runs SET stale = 1 WHERE job_id = :job_id;

-- name: was_stale
SELECT stale FROM runs WHERE job_id = :job_id;

-- name: attempt
-- What a file of the spool may repeat must not stop those behind it.
INSERT OR IGNORE INTO attempts (job_id, number, started_at, duration_us, result, exit_code, signal, reason)
VALUES (:job_id, :number, :started_at, :duration_us, :result, :exit_code, :signal, :reason);

-- name: output
INSERT OR IGNORE INTO outputs (job_id, stdout, stderr) VALUES (?, ?, ?);

-- name: stored_output
SELECT outputs.stdout, outputs.stderr
  FROM keys JOIN outputs ON outputs.job_id = keys.job_id
 WHERE keys.key = :key AND keys.state = 'succeeded';

-- name: forget_spent
DELETE FROM budgets WHERE job = :job AND spent_at <= :before;

-- name: count_spent
SELECT coalesce(sum(spent), 0) FROM budgets WHERE job = :job AND spent_at > :since;

-- name: spend
INSERT INTO budgets (job, spent_at, spent) VALUES (:job, :now, 1)
ON CONFLICT (job, spent_at) DO UPDATE SET spent = budgets.spent + 1;
