-- What a person does to a key. The job_id is that of the claim as it was seen: a key that has been
-- claimed since is left alone.

-- name: expire
UPDATE keys
   SET expires_at = :now
 WHERE key = :key AND job_id = :job_id AND state = 'succeeded';

-- name: give_up
-- Late truth of that claim will not come in any more: it is for keys running or interrupted.
UPDATE keys
   SET state = 'failed', finished_at = coalesce(finished_at, :now), expires_at = :now
 WHERE key = :key AND job_id = :job_id AND state IN ('running', 'interrupted');
