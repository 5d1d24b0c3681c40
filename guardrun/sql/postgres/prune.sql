-- How the ledger in Postgres forgets: oldest first, in batches. Rows that somebody works on are
-- left for the next time. The role that does this may DELETE; the runs' own may not.

-- name: runs
-- Served by runs_by_start. A run that nobody told the end of counts as over when it was not
-- renewed.
WITH gone AS (
    DELETE FROM guardrun.runs
     WHERE id = ANY (ARRAY (
               SELECT id
                 FROM guardrun.runs
                WHERE started_at < clock_timestamp() - %(age_us)s * interval '1 microsecond'
                  AND NOT coalesce(result = 'running' AND alive_until > clock_timestamp(), false)
                ORDER BY started_at
                LIMIT %(batch)s
                  FOR UPDATE SKIP LOCKED))
    RETURNING job_id
), tried AS (
    DELETE FROM guardrun.attempts WHERE job_id = ANY (ARRAY (SELECT job_id FROM gone))
), printed AS (
    DELETE FROM guardrun.outputs WHERE job_id = ANY (ARRAY (SELECT job_id FROM gone))
)
SELECT count(*) FROM gone

-- name: refusals
-- Served by runs_by_result. They have neither attempts nor output.
WITH gone AS (
    DELETE FROM guardrun.runs
     WHERE id = ANY (ARRAY (
               SELECT id
                 FROM guardrun.runs
                WHERE result = %(result)s AND result <> 'success'
                  AND started_at < clock_timestamp() - %(age_us)s * interval '1 microsecond'
                ORDER BY started_at
                LIMIT %(batch)s
                  FOR UPDATE SKIP LOCKED))
    RETURNING true
)
SELECT count(*) FROM gone

-- name: keys
-- Only what failed or has expired ever gets an expires_at: what blocks stays. A failed key may have
-- been completed by COMMAND itself, and then it is a success that expires, or never does.
WITH gone AS (
    DELETE FROM guardrun.keys
     WHERE id = ANY (ARRAY (
               SELECT id
                 FROM guardrun.keys
                WHERE expires_at < clock_timestamp() - %(age_us)s * interval '1 microsecond'
                  AND (state = 'succeeded' OR guardrun.completed_at(token) IS NULL
                       OR guardrun.completed_at(token) + key_ttl_us * interval '1 microsecond'
                          < clock_timestamp() - %(age_us)s * interval '1 microsecond')
                ORDER BY expires_at
                LIMIT %(batch)s
                  FOR UPDATE SKIP LOCKED))
       -- Once more, now that nobody can complete it: until then somebody may have.
       AND (state = 'succeeded' OR guardrun.completed_at(token) IS NULL
            OR guardrun.completed_at(token) + key_ttl_us * interval '1 microsecond'
               < clock_timestamp() - %(age_us)s * interval '1 microsecond')
    RETURNING true
)
SELECT count(*) FROM gone

-- name: completions
-- What is no key's claim any more, or is told by the key itself.
WITH gone AS (
    DELETE FROM guardrun.completions
     WHERE token = ANY (ARRAY (
               SELECT completions.token
                 FROM guardrun.completions
                 LEFT JOIN guardrun.keys ON keys.token = completions.token
                WHERE completed_at < clock_timestamp() - %(age_us)s * interval '1 microsecond'
                  AND coalesce(keys.state = 'succeeded', true)
                ORDER BY completed_at
                LIMIT %(batch)s))
    RETURNING true
)
SELECT count(*) FROM gone

-- name: budgets
WITH gone AS (
    DELETE FROM guardrun.budgets
     WHERE (job_digest, spent_at) IN (
               SELECT job_digest, spent_at
                 FROM guardrun.budgets
                WHERE spent_at < clock_timestamp() - %(age_us)s * interval '1 microsecond'
                ORDER BY spent_at
                LIMIT %(batch)s)
    RETURNING true
)
SELECT count(*) FROM gone

-- name: leases
-- Locks that nobody holds or waits for. Their fences are not missed: the next is drawn from the
-- clock. used_at is looked at again once the row is locked, should somebody just have got it.
WITH gone AS (
    DELETE FROM guardrun.leases
     WHERE id = ANY (ARRAY (
               SELECT id
                 FROM guardrun.leases
                WHERE used_at < clock_timestamp() - %(age_us)s * interval '1 microsecond'
                  AND NOT EXISTS (SELECT FROM guardrun.leases_taken WHERE lease_id = id)
                  AND NOT EXISTS (SELECT FROM guardrun.leases_queue WHERE lease_id = id)
                ORDER BY used_at
                LIMIT %(batch)s
                  FOR UPDATE SKIP LOCKED))
    RETURNING id
), places AS (
    DELETE FROM guardrun.lease_holders WHERE lease_id = ANY (ARRAY (SELECT id FROM gone))
), seats AS (
    DELETE FROM guardrun.lease_waiters WHERE lease_id = ANY (ARRAY (SELECT id FROM gone))
)
SELECT count(*) FROM gone
