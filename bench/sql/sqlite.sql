-- What is asked of the embedded ledger beside what guardrun itself asks.

-- name: runs
-- One run every :spacing microseconds up to :now, as in postgres.sql: so many jobs on so many hosts,
-- 90 of 100 runs successful, every other one with a key of its own. Refusals are of the last days
-- only, because older ones would have been pruned.
WITH RECURSIVE numbered (i) AS (
    SELECT 1 UNION ALL SELECT i + 1 FROM numbered WHERE i < :runs
), mixed AS (
    SELECT i, i * 2654435761 % 4294967296 AS bits, :now - (:runs - i) * :spacing AS started
      FROM numbered
), drawn AS (
    SELECT i, started,
           printf('%08x-%04x-7%03x-a%03x-%06x%06x', started / 65536000, started / 1000 % 65536,
                  bits % 4096, bits / 4096 % 4096, i, bits % 16777216) AS job_id,
           printf('job-%02d', bits / 1024 % 20) AS job,
           printf('host-%02d', bits / 64 % 50) AS host,
           bits % 30000 + 300 AS pid,
           1000000 + bits % 600000000 AS took,
           CASE WHEN bits / 65536 % 100 < 90 THEN 'success'
                WHEN bits / 65536 % 100 < 96 THEN 'failed'
                WHEN bits / 65536 % 100 < 98 THEN 'timeout'
                WHEN bits / 65536 % 100 < 99 THEN 'interrupted'
                WHEN started > :now - :refusals_kept THEN 'skipped_duplicate'
                ELSE 'success'
            END AS result
      FROM mixed
)
INSERT INTO runs (job_id, job, host, username, pid, owner, argv, fingerprint, lock, key, needs,
                  path, token, started_at, finished_at, duration_us, result, exit_code,
                  command_code, signal, reason, attempts, held, lock_wait_us, fencing_token)
SELECT job_id, job, host, 'backup', pid, host || ':' || pid || ':' || job_id,
       '["/usr/local/bin/' || job || '", "--all", "--verbose"]', printf('%064x', i % 20), job,
       CASE WHEN i % 2 = 0 THEN job || '/' || i END, '[]', '[]',
       CASE WHEN i % 2 = 0 THEN lower(hex(randomblob(16))) END, started,
       CASE WHEN result <> 'interrupted' THEN started + took END,
       CASE WHEN result <> 'interrupted' THEN took END, result,
       CASE result WHEN 'failed' THEN 1 WHEN 'timeout' THEN 124 WHEN 'interrupted' THEN NULL
                   ELSE 0 END,
       CASE result WHEN 'failed' THEN 1 WHEN 'success' THEN 0 END,
       CASE result WHEN 'timeout' THEN 15 END,
       CASE result WHEN 'success' THEN NULL ELSE 'as it goes with jobs' END,
       CASE result WHEN 'failed' THEN 3 WHEN 'success' THEN 1 WHEN 'timeout' THEN 1 ELSE 0 END,
       result <> 'skipped_duplicate', 150, started
  FROM drawn;

-- name: attempts
INSERT INTO attempts (job_id, number, started_at, duration_us, result, exit_code, signal)
SELECT job_id, number, started_at, duration_us / attempts,
       CASE WHEN number < attempts THEN 'retry' ELSE result END, command_code, signal
  FROM runs
  JOIN (SELECT 1 AS number UNION ALL SELECT 2 UNION ALL SELECT 3) ON number <= attempts;

-- name: keys
INSERT INTO keys (key, state, token, job_id, owner, fingerprint, claimed_at, finished_at, expires_at)
SELECT key, CASE result WHEN 'success' THEN 'succeeded' WHEN 'failed' THEN 'failed'
                        ELSE 'interrupted' END,
       token, job_id, owner, fingerprint, started_at, finished_at,
       CASE result WHEN 'failed' THEN finished_at END
  FROM runs
 WHERE key IS NOT NULL AND result <> 'skipped_duplicate';
