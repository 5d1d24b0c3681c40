-- The schema's own state: what is there, and who changes it.

-- name: version
SELECT max(version) FROM guardrun.schema_version

-- name: found
-- Without error where there is nothing, and for a role that may not look into it.
SELECT to_regnamespace('guardrun') IS NOT NULL,
       EXISTS (SELECT FROM pg_catalog.pg_class
                WHERE relnamespace = to_regnamespace('guardrun') AND relname = 'schema_version'),
       current_setting('server_version_num')::integer,
       current_setting('server_encoding')

-- name: limits
SELECT set_config('lock_timeout', %(lock_ms)s, true)

-- name: lock
-- Of two migrations at once, one waits for the other. The number is the first eight bytes of the
-- SHA-256 of "guardrun schema".
SELECT pg_advisory_xact_lock(x'6d0e90ac900b73e2'::bit(64)::bigint)

-- name: create
CREATE SCHEMA guardrun

-- name: record
INSERT INTO guardrun.schema_version (version, name) VALUES (%(version)s, %(name)s)
