-- What is asked of the ledger in Postgres beside what guardrun itself asks.

-- name: runs
-- One run every %(spacing)s microseconds up to %(now)s, as in sqlite.sql: so many jobs on so many
-- hosts, 90 of 100 runs successful, every other one with a key of its own. Refusals are of the last
-- days only, because older ones would have been pruned.
WITH mixed AS (
    SELECT i, mod(i * 2654435761, 4294967296) AS bits,
           %(now)s::bigint - (%(runs)s::bigint - i) * %(spacing)s::bigint AS started
      FROM generate_series(1::bigint, %(runs)s::bigint) AS numbered (i)
), drawn AS (
    SELECT i, started,
           (lpad(to_hex(started / 1000), 12, '0') || '7' || lpad(to_hex(mod(bits, 4096)), 3, '0')
            || 'a' || lpad(to_hex(mod(bits / 4096, 4096)), 3, '0')
            || lpad(to_hex(i), 6, '0') || lpad(to_hex(mod(bits, 16777216)), 6, '0'))::uuid AS job_id,
           'job-' || lpad(mod(bits / 1024, 20)::text, 2, '0') AS job,
           'host-' || lpad(mod(bits / 64, 50)::text, 2, '0') AS host,
           mod(bits, 30000) + 300 AS pid,
           1000000 + mod(bits, 600000000) AS took,
           CASE WHEN mod(bits / 65536, 100) < 90 THEN 'success'
                WHEN mod(bits / 65536, 100) < 96 THEN 'failed'
                WHEN mod(bits / 65536, 100) < 98 THEN 'timeout'
                WHEN mod(bits / 65536, 100) < 99 THEN 'interrupted'
                WHEN started > %(now)s::bigint - %(refusals_kept)s::bigint THEN 'skipped_duplicate'
                ELSE 'success'
            END AS result
      FROM mixed
), timed AS (
    SELECT *, timestamptz 'epoch' + started * interval '1 microsecond' AS started_at,
           CASE WHEN mod(i, 2) = 0 THEN job || '/' || i END AS key
      FROM drawn
)
INSERT INTO guardrun.runs (job_id, job, host, username, pid, owner, argv, fingerprint, lock, key,
                           key_id, needs, path, token, started_at, finished_at, duration_us, result,
                           exit_code, command_code, signal, reason, attempts, held, lock_wait_us,
                           fencing_token)
SELECT job_id, job, host, 'backup', pid, host || ':' || pid || ':' || job_id,
       '["/usr/local/bin/' || job || '", "--all", "--verbose"]', lpad(to_hex(mod(i, 20)), 64, '0'),
       job, key, sha256(convert_to(key, 'UTF8')), '[]', '[]',
       CASE WHEN key IS NOT NULL THEN md5(random()::text || i) END, started_at,
       CASE WHEN result <> 'interrupted' THEN started_at + took * interval '1 microsecond' END,
       CASE WHEN result <> 'interrupted' THEN took END, result,
       CASE result WHEN 'failed' THEN 1 WHEN 'timeout' THEN 124 WHEN 'interrupted' THEN NULL
                   ELSE 0 END,
       CASE result WHEN 'failed' THEN 1 WHEN 'success' THEN 0 END,
       CASE result WHEN 'timeout' THEN 15 END,
       CASE result WHEN 'success' THEN NULL ELSE 'as it goes with jobs' END,
       CASE result WHEN 'failed' THEN 3 WHEN 'success' THEN 1 WHEN 'timeout' THEN 1 ELSE 0 END,
       result <> 'skipped_duplicate', 150, started
  FROM timed

-- name: attempts
INSERT INTO guardrun.attempts (job_id, number, started_at, duration_us, result, exit_code, signal)
SELECT job_id, number, started_at, duration_us / attempts,
       CASE WHEN number < attempts THEN 'retry' ELSE result END, command_code, signal
  FROM guardrun.runs, generate_series(1, attempts) AS number

-- name: keys
INSERT INTO guardrun.keys (id, key, state, token, job_id, owner, fingerprint, claimed_at,
                           claim_until, finished_at, expires_at)
SELECT key_id, key, CASE result WHEN 'success' THEN 'succeeded' WHEN 'failed' THEN 'failed'
                                ELSE 'interrupted' END,
       token, job_id, owner, fingerprint, started_at, started_at + interval '15 minutes',
       finished_at, CASE result WHEN 'failed' THEN finished_at END
  FROM guardrun.runs
 WHERE key IS NOT NULL AND result <> 'skipped_duplicate'

-- name: settle
-- What autovacuum and the checkpointer would do in the minutes to come, in the way of what is measured.
VACUUM ANALYZE guardrun.runs, guardrun.attempts, guardrun.keys

-- name: checkpoint
CHECKPOINT
