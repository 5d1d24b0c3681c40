-- What a run says to the ledger in Postgres (session.sql stands around it). Every statement is one
-- decision: it writes, or writes nothing, and what it returns says which. clock_timestamp(), not
-- now(): a row lock may have been waited for. Locks are taken in one order, key before run. Rows of
-- running runs are found by job_id and finished_at IS NULL: for result = 'running' the planner may
-- take the index of running rows, which it thinks are few.

-- name: claim
-- The first condition of the WHERE lets a run claim again what it claims already, because a commit
-- whose answer was lost may have happened. What is obviously not free is not even tried: an attempt
-- would wait for a transaction of COMMAND's that has called guardrun.complete. A takeover has to
-- wait for it, and does, because it changes the unique token; completed_at() then sees what it did.
-- A run that has ended claims nothing: this may be a request that was long on its way.
WITH met AS (
    SELECT
      FROM guardrun.key_states AS found
     WHERE found.id = ANY (%(needs)s::bytea[]) AND found.state = 'succeeded' AND NOT found.free
    HAVING count(*) = cardinality(%(needs)s::bytea[])
), taken AS (
    SELECT
      FROM guardrun.key_states AS found
     WHERE found.id = %(key_id)s
       AND (found.state = 'running' AND found.token IS DISTINCT FROM %(token)s
            OR found.state = 'succeeded' AND NOT found.free)
), claimed AS (
    INSERT INTO guardrun.keys AS held (id, key, state, token, job_id, owner, fingerprint,
                                       claimed_at, claim_until, key_ttl_us)
    SELECT %(key_id)s, %(key)s, 'running', %(token)s, %(job_id)s::uuid, %(owner)s, %(fingerprint)s,
           clock_timestamp(), clock_timestamp() + %(claim_ttl_us)s * interval '1 microsecond',
           %(key_ttl_us)s::bigint
     WHERE EXISTS (SELECT FROM met) AND NOT EXISTS (SELECT FROM taken)
       AND NOT EXISTS (SELECT FROM guardrun.runs
                        WHERE job_id = %(job_id)s::uuid AND finished_at IS NOT NULL)
    ON CONFLICT (id) DO UPDATE
       SET state = 'running', token = excluded.token, job_id = excluded.job_id,
           owner = excluded.owner, fingerprint = excluded.fingerprint,
           follows = CASE WHEN held.state = 'running' AND held.token = excluded.token
                          THEN held.follows
                          WHEN held.state IN ('running', 'interrupted')
                               AND guardrun.completed_at(held.token) IS NULL
                          THEN held.job_id
                     END,
           claimed_at = clock_timestamp(),
           claim_until = clock_timestamp() + %(claim_ttl_us)s * interval '1 microsecond',
           finished_at = NULL, expires_at = NULL, key_ttl_us = excluded.key_ttl_us
     WHERE CASE WHEN held.state = 'running' AND held.token = excluded.token THEN true
                WHEN held.state = 'succeeded' THEN held.expires_at <= clock_timestamp()
                WHEN guardrun.completed_at(held.token) IS NOT NULL
                THEN guardrun.completed_at(held.token)
                     + held.key_ttl_us * interval '1 microsecond' <= clock_timestamp()
                WHEN held.state = 'failed' THEN true
                WHEN held.state = 'running' AND held.claim_until > clock_timestamp() THEN false
                ELSE %(rerun)s AND (%(any_command)s OR held.fingerprint = excluded.fingerprint)
           END
    RETURNING held.token, held.follows
), ended AS (
    -- finished_at stays empty: nobody knows it, and the run's own truth may still come.
    UPDATE guardrun.runs
       SET result = 'interrupted', reason = %(cut_off)s
      FROM claimed
     WHERE runs.job_id = claimed.follows AND runs.finished_at IS NULL
), begun AS (
    INSERT INTO guardrun.runs (job_id, job, host, username, pid, owner, argv, fingerprint, lock,
                               key, key_id, needs, path, token, started_at, enqueued_at, result,
                               alive_until)
    SELECT %(job_id)s::uuid, %(job)s, %(host)s, %(username)s, %(pid)s, %(owner)s, %(argv)s,
           %(fingerprint)s, %(lock)s, %(key)s, %(key_id)s, %(needed)s, %(path)s, claimed.token,
           %(started_at)s, %(enqueued_at)s::timestamptz, 'running',
           clock_timestamp() + %(claim_ttl_us)s * interval '1 microsecond'
      FROM claimed
    ON CONFLICT (job_id) DO UPDATE
       SET token = excluded.token, result = 'running', reason = NULL,
           alive_until = excluded.alive_until
     WHERE runs.finished_at IS NULL
)
SELECT follows::text FROM claimed

-- name: begin_run
-- The same without a key; tells the job's last run, if nobody has told how that ended.
WITH met AS (
    SELECT
      FROM guardrun.key_states AS found
     WHERE found.id = ANY (%(needs)s::bytea[]) AND found.state = 'succeeded' AND NOT found.free
    HAVING count(*) = cardinality(%(needs)s::bytea[])
), last AS (
    SELECT job_id, result, finished_at, alive_until
      FROM guardrun.runs
     WHERE left(job, 128) = left(%(job)s, 128) AND job = %(job)s AND job_id <> %(job_id)s::uuid
     ORDER BY started_at DESC, id DESC
     LIMIT 1
), begun AS (
    INSERT INTO guardrun.runs (job_id, job, host, username, pid, owner, argv, fingerprint, lock,
                               needs, path, started_at, enqueued_at, result, alive_until)
    SELECT %(job_id)s::uuid, %(job)s, %(host)s, %(username)s, %(pid)s, %(owner)s, %(argv)s,
           %(fingerprint)s, %(lock)s, %(needed)s, %(path)s, %(started_at)s,
           %(enqueued_at)s::timestamptz, 'running',
           clock_timestamp() + %(claim_ttl_us)s * interval '1 microsecond'
     WHERE EXISTS (SELECT FROM met)
    ON CONFLICT (job_id) DO UPDATE
       SET result = 'running', reason = NULL, alive_until = excluded.alive_until
     WHERE runs.finished_at IS NULL
    RETURNING job_id
)
SELECT (SELECT job_id::text
          FROM last
         WHERE finished_at IS NULL
           AND (result = 'interrupted' OR result = 'running' AND alive_until <= clock_timestamp()))
  FROM begun

-- name: keys
-- What explains a no.
SELECT id, state, job_id::text, owner, fingerprint,
       extract(epoch FROM coalesce(finished_at, claimed_at))::float8, free
  FROM guardrun.key_states
 WHERE id = ANY (%(ids)s::bytea[])

-- name: renew
-- The last condition of the second UPDATE is there for the order of locks.
WITH claim AS (
    UPDATE guardrun.keys
       SET claim_until = clock_timestamp() + %(claim_ttl_us)s * interval '1 microsecond'
     WHERE id = %(key_id)s AND token = %(token)s AND state = 'running'
    RETURNING true
), run AS (
    UPDATE guardrun.runs
       SET alive_until = clock_timestamp() + %(claim_ttl_us)s * interval '1 microsecond'
     WHERE job_id = %(job_id)s::uuid AND finished_at IS NULL AND result <> 'interrupted'
       AND (SELECT count(*) FROM claim) >= 0
    RETURNING true
)
SELECT EXISTS (SELECT FROM claim), EXISTS (SELECT FROM run)

-- name: interrupt
WITH claim AS (
    UPDATE guardrun.keys
       SET state = 'interrupted'
     WHERE id = %(key_id)s AND token = %(token)s AND state = 'running'
    RETURNING true
)
UPDATE guardrun.runs
   SET result = 'interrupted', reason = %(cut_off)s
 WHERE job_id = %(job_id)s::uuid AND finished_at IS NULL AND (SELECT count(*) FROM claim) >= 0

-- name: give_back
-- The run is over as well: of one that nobody is left to tell the outcome of, this is what is known.
WITH claim AS (
    UPDATE guardrun.keys
       SET state = 'failed', finished_at = clock_timestamp(), expires_at = clock_timestamp()
     WHERE id = %(key_id)s AND token = %(token)s AND state = 'running'
    RETURNING true
)
UPDATE guardrun.runs
   SET result = 'interrupted', reason = %(cut_off)s
 WHERE job_id = %(job_id)s::uuid AND finished_at IS NULL AND (SELECT count(*) FROM claim) >= 0

-- name: unclaimed_success
-- Of a run that went on without the ledger; before "finish", in the same transaction. It yields to
-- whatever began after it, and to every success that had not expired when it ended; without a token
-- it is nobody's claim. By the server's clock, the run's instants being so many microseconds ago. As
-- with a claim, what is obviously not free is not even tried: in the spool, one that waits for COMMAND's
-- transaction keeps its host's runs from all other keys.
INSERT INTO guardrun.keys AS held (id, key, state, job_id, owner, fingerprint, claimed_at,
                                   finished_at, expires_at, key_ttl_us)
SELECT %(key_id)s, %(key)s, 'succeeded', %(job_id)s::uuid, %(owner)s, %(fingerprint)s,
       clock_timestamp() - %(began_us)s * interval '1 microsecond',
       clock_timestamp() - %(ended_us)s * interval '1 microsecond',
       clock_timestamp() + (%(key_ttl_us)s::bigint - %(ended_us)s) * interval '1 microsecond',
       %(key_ttl_us)s::bigint
 WHERE NOT EXISTS (SELECT FROM guardrun.runs
                    WHERE job_id = %(job_id)s::uuid AND finished_at IS NOT NULL)
   AND NOT EXISTS (SELECT FROM guardrun.keys WHERE id = %(key_id)s AND token = %(token)s)
   AND NOT EXISTS (SELECT
                     FROM guardrun.key_states AS found
                    WHERE found.id = %(key_id)s
                      AND (found.state = 'running' OR found.state = 'succeeded' AND NOT found.free))
ON CONFLICT (id) DO UPDATE
   SET state = 'succeeded', token = NULL, job_id = excluded.job_id, owner = excluded.owner,
       fingerprint = excluded.fingerprint, follows = NULL, claimed_at = excluded.claimed_at,
       claim_until = NULL, finished_at = excluded.finished_at, expires_at = excluded.expires_at,
       key_ttl_us = excluded.key_ttl_us
 WHERE held.claimed_at <= excluded.claimed_at
   AND CASE WHEN held.state = 'succeeded' THEN held.expires_at <= excluded.finished_at
            WHEN guardrun.completed_at(held.token) IS NOT NULL
            THEN guardrun.completed_at(held.token)
                 + held.key_ttl_us * interval '1 microsecond' <= excluded.finished_at
            ELSE held.state IN ('failed', 'interrupted')
                 OR held.state = 'running' AND held.claim_until <= clock_timestamp()
       END

-- name: finish
-- The compare-and-set, on the claim's token. A key that was found interrupted takes the late truth
-- of the same claim; one that COMMAND completed has succeeded, whatever COMMAND's exit code. The
-- run's row is inserted where begin never got here, or where the run was refused. No row comes back
-- when another process has recorded the same outcome since this statement began. Where the lock's
-- lease is in the same database, its row is locked, and it ends in the same transaction: whether it
-- was held until now is part of the outcome.
WITH done AS (
    SELECT stale, lease_lost FROM guardrun.runs WHERE job_id = %(job_id)s::uuid AND finished_at IS NOT NULL
), ours AS (
    UPDATE guardrun.keys AS held
       SET state = CASE WHEN held.state = 'succeeded'
                             OR EXISTS (SELECT FROM guardrun.completions
                                         WHERE completions.token = held.token)
                        THEN 'succeeded'
                        ELSE %(state)s
                   END,
           finished_at = CASE WHEN held.state = 'succeeded' THEN held.finished_at
                              ELSE clock_timestamp() - %(ended_us)s * interval '1 microsecond'
                         END,
           expires_at = CASE WHEN held.state = 'succeeded' THEN held.expires_at
                             WHEN %(state)s = 'succeeded'
                                  OR EXISTS (SELECT FROM guardrun.completions
                                              WHERE completions.token = held.token)
                             THEN clock_timestamp()
                                  + (%(key_ttl_us)s::bigint - %(ended_us)s)
                                    * interval '1 microsecond'
                             WHEN %(state)s = 'failed' THEN clock_timestamp()
                        END
     WHERE held.id = %(key_id)s AND held.token = %(token)s AND NOT EXISTS (SELECT FROM done)
    RETURNING true
), run AS (
    INSERT INTO guardrun.runs (job_id, job, host, username, pid, owner, argv, fingerprint, lock,
                               key, key_id, needs, path, token, started_at, enqueued_at,
                               finished_at, duration_us, result, exit_code, command_code, signal,
                               reason, attempts, held, lock_wait_us, fencing_token, lease_lost,
                               held_by, stale)
    SELECT %(job_id)s::uuid, %(job)s, %(host)s, %(username)s, %(pid)s, %(owner)s, %(argv)s,
           %(fingerprint)s, %(lock)s, %(key)s, %(key_id)s, %(needed)s, %(path)s,
           %(claim)s, %(started_at)s, %(enqueued_at)s::timestamptz, %(finished_at)s,
           %(duration_us)s, %(result)s, %(exit_code)s::integer, %(command_code)s::integer,
           %(signal)s::integer, %(reason)s, %(attempts)s, %(held)s, %(lock_wait_us)s::bigint,
           %(fencing_token)s::bigint,
           %(lease_lost)s
               OR %(lease_id)s::bytea IS NOT NULL
                  AND NOT EXISTS (SELECT
                                    FROM guardrun.lease_holders AS place
                                   WHERE place.lease_id = %(lease_id)s
                                     AND place.token = %(lease_token)s
                                     AND place.fence = %(fencing_token)s
                                     AND place.expires_at > clock_timestamp()),
           %(held_by)s,
           %(claim)s::text IS NOT NULL AND NOT EXISTS (SELECT FROM ours)
               AND NOT EXISTS (SELECT FROM guardrun.completions
                                WHERE completions.token = %(token)s)
    ON CONFLICT (job_id) DO UPDATE
       SET finished_at = excluded.finished_at, duration_us = excluded.duration_us,
           result = excluded.result, exit_code = excluded.exit_code,
           command_code = excluded.command_code, signal = excluded.signal,
           reason = excluded.reason, attempts = excluded.attempts, held = excluded.held,
           lock_wait_us = excluded.lock_wait_us, fencing_token = excluded.fencing_token,
           lease_lost = excluded.lease_lost, held_by = excluded.held_by, stale = excluded.stale
     WHERE runs.finished_at IS NULL
    RETURNING job_id, stale, lease_lost
), tried AS (
    INSERT INTO guardrun.attempts (job_id, number, started_at, duration_us, result, exit_code,
                                   signal, reason)
    SELECT run.job_id, one.*
      FROM run,
           unnest(%(numbers)s::integer[], %(starts)s::timestamptz[], %(durations)s::bigint[],
                  %(results)s::text[], %(codes)s::integer[], %(signals)s::integer[],
                  %(reasons)s::text[]) AS one
    ON CONFLICT DO NOTHING
), printed AS (
    -- Also when all else has been recorded: a large output may come later than the outcome.
    INSERT INTO guardrun.outputs (job_id, stdout, stderr)
    SELECT %(job_id)s::uuid, %(stdout)b::bytea, %(stderr)b::bytea
     WHERE %(stdout)b::bytea IS NOT NULL AND (EXISTS (SELECT FROM run) OR EXISTS (SELECT FROM done))
    ON CONFLICT DO NOTHING
)
SELECT stale, lease_lost FROM run UNION ALL SELECT stale, lease_lost FROM done

-- name: as_recorded
SELECT stale, lease_lost FROM guardrun.runs WHERE job_id = %(job_id)s::uuid

-- name: stored_output
SELECT outputs.stdout, outputs.stderr
  FROM guardrun.key_states AS found
  JOIN guardrun.outputs ON outputs.job_id = found.job_id
 WHERE found.id = %(key_id)s AND found.state = 'succeeded'

-- name: lock_budget
-- One at a time, per job: who counts must see what all before it have spent. The lock lives as long
-- as the transaction, and needs no row to lock.
SELECT pg_advisory_xact_lock(%(lock)s)

-- name: spend
INSERT INTO guardrun.budgets (job_digest, job, spent_at, spent)
SELECT %(job_digest)s, %(job)s, clock_timestamp(), 1
 WHERE (SELECT coalesce(sum(spent), 0)
          FROM guardrun.budgets
         WHERE job_digest = %(job_digest)s
           AND spent_at > clock_timestamp() - %(window_us)s * interval '1 microsecond')
       < %(retries)s
ON CONFLICT (job_digest, spent_at) DO UPDATE SET spent = budgets.spent + 1
RETURNING true
