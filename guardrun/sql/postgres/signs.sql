-- What a person who is about to take a lease away wants to know of the server.

-- name: clock
SELECT extract(epoch FROM clock_timestamp())::float8

-- name: signs
-- What changes with every sign of life of a holder: until when its lease lasts; of an advisory
-- lock, when its session was last asked something (NULL where our role may not see that). Holders
-- that have ended, or lapsed, are not among them, whatever keeps their place.
SELECT held.token,
       CASE WHEN held.number IS NULL THEN held.expires_at ELSE session.state_change END::text
  FROM guardrun.leases_taken AS held
  LEFT JOIN pg_catalog.pg_stat_activity AS session ON session.pid = held.backend
 WHERE held.lease_id = %(id)s AND NOT held.released
   AND (held.number IS NOT NULL OR held.expires_at > clock_timestamp())
