-- How the embedded ledger forgets: oldest first, in batches small enough to hide in a run.

-- name: old_runs
-- Served by runs_by_start.
SELECT job_id
  FROM runs
 WHERE started_at < :before AND result <> 'running'
 ORDER BY started_at
 LIMIT :batch;

-- name: old_refusals
-- Served by runs_by_result.
SELECT job_id
  FROM runs
 WHERE result = :result AND result <> 'success' AND started_at < :before
 ORDER BY started_at
 LIMIT :batch;

-- name: delete_run
DELETE FROM runs WHERE job_id = ?;

-- name: delete_attempts
DELETE FROM attempts WHERE job_id = ?;

-- name: delete_output
DELETE FROM outputs WHERE job_id = ?;

-- name: delete_keys
-- Only what failed or has expired ever gets an expires_at: what blocks stays.
DELETE FROM keys
 WHERE key IN (SELECT key FROM keys WHERE expires_at < :before ORDER BY expires_at LIMIT :batch);

-- name: delete_spent
DELETE FROM budgets WHERE spent_at < :before;
