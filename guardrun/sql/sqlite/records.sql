-- What people and reports ask.

-- name: runs
-- Newest first. What stands for the condition is put together from the fragments below.
SELECT job_id, job, host, username, pid, owner, argv, fingerprint, lock, key, needs, path,
       started_at, enqueued_at, finished_at, duration_us, result, exit_code, command_code,
       signal, reason, attempts, held, lock_wait_us, fencing_token, lease_lost, held_by, stale
  FROM runs
 WHERE {where}
 ORDER BY started_at DESC, id DESC;

-- name: all
true

-- name: by_id
job_id = :job_id

-- name: by_job
job = :job

-- name: by_key
key = :key

-- name: by_result
-- The second half lets runs_by_result serve; successes are most of the ledger and need no index.
result = :result AND result <> 'success'

-- name: by_success
result = 'success'

-- name: by_interrupted
-- A row still 'running' may turn out to be interrupted.
result IN ('interrupted', 'running') AND result <> 'success'

-- name: since
started_at >= :since

-- name: until
started_at < :until

-- name: for_good
-- Nothing has succeeded in its place: the key, or without one the job. Each probe is one look into
-- runs_by_key or runs_by_job. Claims of one key come one after the other, and each with its run's
-- row; who waited for it may have started first, by a day at most.
CASE WHEN key IS NULL
     THEN NOT EXISTS (SELECT 1 FROM runs AS later
                       WHERE later.job = runs.job AND later.started_at > runs.started_at
                         AND later.result = 'success')
     ELSE NOT EXISTS (SELECT 1 FROM runs AS later
                       WHERE later.key = runs.key AND later.result = 'success'
                         AND later.started_at > runs.started_at - 86400000000
                         AND CASE WHEN later.token IS NULL OR runs.token IS NULL
                                  THEN later.started_at > runs.started_at
                                  ELSE later.id > runs.id
                             END)
END

-- name: jobs
-- Every job once, by as many steps through runs_by_job as there are jobs.
WITH RECURSIVE jobs (job) AS (
    SELECT min(job) FROM runs
     UNION ALL
    SELECT (SELECT min(job) FROM runs WHERE runs.job > jobs.job) FROM jobs WHERE job IS NOT NULL
)
SELECT job,
       (SELECT finished_at FROM runs
         WHERE runs.job = jobs.job AND result = 'success'
         ORDER BY started_at DESC, id DESC LIMIT 1),
       (SELECT coalesce(sum(spent), 0) FROM budgets
         WHERE budgets.job = jobs.job AND spent_at > :since)
  FROM jobs
 WHERE job IS NOT NULL;

-- name: latest_runs
-- A job's newest runs that started in time. Served by runs_by_job.
SELECT job_id, result, started_at, duration_us, lock_wait_us, started_at - enqueued_at, attempts,
       lock IS NOT NULL AND NOT held
  FROM runs
 WHERE job = :job AND started_at >= :since
 ORDER BY started_at DESC, id DESC
 LIMIT :last;

-- name: find_prefix
SELECT job_id FROM runs WHERE job_id >= :part AND job_id < :part || '~' LIMIT 3;

-- name: find_suffix
SELECT job_id FROM runs WHERE substr(job_id, -length(:part)) = :part LIMIT 3;

-- name: attempts
SELECT number, started_at, duration_us, result, exit_code, signal, reason
  FROM attempts
 WHERE job_id = :job_id
 ORDER BY number;

-- name: output
SELECT stdout, stderr FROM outputs WHERE job_id = :job_id;

-- name: keys
-- The latest claimed first, by a sort: an index would cost every claim, and people ask rarely.
SELECT key, shown, job_id, owner, fingerprint, claimed_at, NULL, finished_at, expires_at
  FROM (SELECT *, CASE WHEN state = 'succeeded' AND expires_at <= :now
                       THEN 'expired' ELSE state END AS shown
          FROM keys)
 WHERE {where}
 ORDER BY claimed_at DESC, key
 LIMIT :limit;

-- name: by_state
shown = :state

-- name: unfinished
-- A key still 'running' may turn out to be interrupted.
state IN ('running', 'interrupted')
