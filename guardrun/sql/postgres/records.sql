-- What people and reports ask. Instants come as microseconds since 1970; what a claim or a run that
-- was not renewed in time is, is for the server's clock to say.

-- name: begin
BEGIN ISOLATION LEVEL READ COMMITTED {access}

-- name: limits
-- For this transaction alone: behind PgBouncer the next one may be another client's. Nothing here
-- reads enough rows to be worth compiling for, which costs up to 30 ms.
SELECT set_config('lock_timeout', %(milliseconds)s, true),
       set_config('statement_timeout', %(milliseconds)s, true),
       set_config('jit', 'off', true)

-- name: runs
-- Newest first, one page. What stands for the condition is put together from the fragments below.
-- The two columns at the end are not a record's: whether the run is gone, and how to go on from here.
SELECT job_id::text, job, host, username, pid, owner, argv, fingerprint, lock, key, needs, path,
       (extract(epoch FROM started_at) * 1000000)::bigint,
       (extract(epoch FROM enqueued_at) * 1000000)::bigint,
       (extract(epoch FROM finished_at) * 1000000)::bigint,
       duration_us, result, exit_code, command_code, signal, reason, attempts, held, lock_wait_us,
       fencing_token, lease_lost, held_by, stale,
       result = 'running' AND alive_until <= clock_timestamp(), id
  FROM guardrun.runs
 WHERE {where}
 ORDER BY started_at DESC, id DESC
 LIMIT %(page)s

-- name: all
true

-- name: before
-- Where the last page ended: served by the two columns at the end of every index.
(started_at, id) < (timestamptz 'epoch' + %(last_start)s * interval '1 microsecond', %(last_id)s)

-- name: by_id
job_id = %(job_id)s::uuid

-- name: by_job
-- To compare a short name twice would have the planner expect too few rows to walk the index for.
left(job, 128) = left(%(job)s::text, 128) AND (length(%(job)s::text) < 128 OR job = %(job)s::text)

-- name: by_key
key_id = %(key_id)s

-- name: by_result
-- The second half lets runs_by_result serve; successes are most of the ledger and need no index.
result = %(result)s AND result <> 'success'

-- name: by_success
result = 'success'

-- name: by_running
result = 'running' AND result <> 'success'
AND (alive_until <= clock_timestamp()) IS NOT TRUE

-- name: by_gone
-- Still recorded as running, and cut off: told as interrupted.
result = 'running' AND result <> 'success' AND alive_until <= clock_timestamp()

-- name: since
started_at >= timestamptz 'epoch' + %(since)s * interval '1 microsecond'

-- name: until
started_at < timestamptz 'epoch' + %(until)s * interval '1 microsecond'

-- name: for_good
-- Nothing has succeeded in its place: the key, or without one the job. Each probe is one look into
-- runs_by_key or runs_by_job: asked for the next success, and not whether there is one, the planner
-- does not hope to come across it by reading the table. Claims of one key come one after the other,
-- and each with its run's row; who waited for it may have started first, or have a slow clock, by a
-- day at most. What COMMAND itself completed has succeeded, however its run ended.
CASE WHEN key_id IS NULL
     THEN (SELECT 1 FROM guardrun.runs AS later
            WHERE left(later.job, 128) = left(runs.job, 128) AND later.job = runs.job
              AND later.started_at > runs.started_at AND later.result = 'success'
            ORDER BY later.started_at, later.id
            LIMIT 1) IS NULL
     ELSE NOT EXISTS (SELECT FROM guardrun.completions WHERE completions.token = runs.token)
          AND NOT EXISTS (SELECT FROM guardrun.runs AS later
                           WHERE later.key_id = runs.key_id AND later.result = 'success'
                             AND later.started_at > runs.started_at - interval '1 day'
                             AND CASE WHEN later.token IS NULL OR runs.token IS NULL
                                      THEN later.started_at > runs.started_at
                                      ELSE later.id > runs.id
                                 END)
END

-- name: jobs
-- Every job once, by as many steps through runs_by_job as there are jobs. (Jobs whose names begin
-- with the same 128 characters are told apart by a look at all of their runs.)
WITH RECURSIVE beginnings (beginning) AS (
    (SELECT left(job, 128) FROM guardrun.runs ORDER BY left(job, 128) LIMIT 1)
     UNION ALL
    SELECT (SELECT left(job, 128) FROM guardrun.runs
             WHERE left(job, 128) > beginning ORDER BY left(job, 128) LIMIT 1)
      FROM beginnings
     WHERE beginning IS NOT NULL
), jobs (job) AS (
    SELECT beginning FROM beginnings WHERE length(beginning) < 128
     UNION
    SELECT long.job
      FROM beginnings
     CROSS JOIN LATERAL (SELECT DISTINCT job FROM guardrun.runs
                          WHERE left(job, 128) = beginning OFFSET 0) AS long
     WHERE length(beginning) = 128
)
SELECT job,
       (SELECT (extract(epoch FROM finished_at) * 1000000)::bigint FROM guardrun.runs
         WHERE left(runs.job, 128) = left(jobs.job, 128) AND runs.job = jobs.job
           AND result = 'success'
         ORDER BY started_at DESC, id DESC LIMIT 1),
       (SELECT coalesce(sum(spent), 0)::bigint FROM guardrun.budgets
         WHERE job_digest = sha256(convert_to(jobs.job, 'UTF8'))
           AND spent_at > timestamptz 'epoch' + %(since)s * interval '1 microsecond')
  FROM jobs

-- name: latest_runs
-- A job's newest runs that started in time. Served by runs_by_job.
SELECT job_id::text,
       CASE WHEN result = 'running' AND alive_until <= clock_timestamp() THEN 'interrupted'
            ELSE result
        END,
       (extract(epoch FROM started_at) * 1000000)::bigint, duration_us, lock_wait_us,
       (extract(epoch FROM started_at - enqueued_at) * 1000000)::bigint, attempts,
       lock IS NOT NULL AND NOT held
  FROM guardrun.runs
 WHERE left(job, 128) = left(%(job)s::text, 128)
   AND (length(%(job)s::text) < 128 OR job = %(job)s::text)
   AND started_at >= timestamptz 'epoch' + %(since)s * interval '1 microsecond'
 ORDER BY started_at DESC, id DESC
 LIMIT %(last)s

-- name: find_prefix
SELECT job_id::text FROM guardrun.runs
 WHERE job_id BETWEEN %(first)s::uuid AND %(last)s::uuid
 ORDER BY job_id
 LIMIT 3

-- name: find_suffix
-- The first condition lets runs_by_end serve.
SELECT job_id::text FROM guardrun.runs
 WHERE right(job_id::text, 6) = right(%(part)s, 6) AND right(job_id::text, %(length)s) = %(part)s
 LIMIT 3

-- name: attempts
SELECT number, (extract(epoch FROM started_at) * 1000000)::bigint, duration_us, result, exit_code,
       signal, reason
  FROM guardrun.attempts
 WHERE job_id = %(job_id)s::uuid
 ORDER BY number

-- name: output
SELECT stdout, stderr FROM guardrun.outputs WHERE job_id = %(job_id)s::uuid

-- name: keys
-- Which keys, and in what order, is chosen by one of the statements below; what they really are is
-- then asked for those alone (OFFSET 0 keeps the planner to that). A success that does not block any
-- more is told as expired.
SELECT told.key,
       CASE WHEN told.state = 'succeeded' AND told.free THEN 'expired' ELSE told.state END,
       told.job_id::text, told.owner, told.fingerprint,
       (extract(epoch FROM told.claimed_at) * 1000000)::bigint,
       CASE WHEN told.state = 'running'
            THEN (extract(epoch FROM told.claim_until) * 1000000)::bigint
        END,
       (extract(epoch FROM told.finished_at) * 1000000)::bigint,
       (extract(epoch FROM told.expires_at) * 1000000)::bigint
  FROM ({chosen}) AS chosen (id)
 CROSS JOIN LATERAL (SELECT * FROM guardrun.key_states WHERE key_states.id = chosen.id OFFSET 0)
       AS told
 ORDER BY told.claimed_at DESC, told.id DESC

-- name: latest
-- Served by keys_by_claim.
SELECT id FROM guardrun.keys ORDER BY claimed_at DESC, id DESC LIMIT %(page)s

-- name: earlier
-- The page after that one; served by keys_by_claim.
SELECT id
  FROM guardrun.keys
 WHERE (claimed_at, id) < (timestamptz 'epoch' + %(last_claim)s * interval '1 microsecond',
                           %(last_id)s)
 ORDER BY claimed_at DESC, id DESC
 LIMIT %(page)s

-- name: latest_of_state
SELECT id
  FROM guardrun.key_states
 WHERE CASE WHEN state = 'succeeded' AND free THEN 'expired' ELSE state END = %(state)s
 ORDER BY claimed_at DESC, id DESC
 LIMIT %(limit)s

-- name: one_key
SELECT %(key_id)s::bytea

-- name: lock_key
-- The lock that a takeover takes: it waits for a transaction that is about to complete the key.
SELECT 1 FROM guardrun.keys WHERE id = %(key_id)s FOR UPDATE

-- name: expire
-- Without a token the key is nobody's: neither a completion nor late truth belongs to it any more.
UPDATE guardrun.keys
   SET state = 'succeeded', token = NULL, expires_at = clock_timestamp(),
       finished_at = timestamptz 'epoch' + %(finished_at)s * interval '1 microsecond'
 WHERE id = %(key_id)s

-- name: give_up
UPDATE guardrun.keys
   SET state = 'failed', token = NULL, expires_at = clock_timestamp(),
       finished_at = coalesce(finished_at, clock_timestamp())
 WHERE id = %(key_id)s
