-- What stands around all that a keeper says to Postgres: one transaction in one round trip, "begin",
-- "limits", the statements, "commit"; and what makes a session one that can be relied on.

-- name: begin
-- Whatever the default of role or database is.
BEGIN ISOLATION LEVEL READ COMMITTED

-- name: limits
-- For this transaction alone: behind a pooler the next one may be another client's, and the
-- server's process another one than libpq was told of. The last is how the driver writes arrays.
SELECT pg_backend_pid(),
       current_setting('fsync')::boolean,
       set_config('lock_timeout', %(lock_ms)s, true),
       set_config('statement_timeout', %(statement_ms)s, true),
       set_config('idle_in_transaction_session_timeout', %(idle_ms)s, true),
       set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit')
                       WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true),
       set_config('array_nulls', 'on', true)

-- name: commit
COMMIT

-- name: settle
-- For a session of our own: the server finds out soon when we are gone, and does not end a session
-- for being quiet. Statements are prepared there, and planning the larger ones takes longer than
-- running them: a handoff shall not wait for that. What this server has no name for is left out.
SELECT set_config(name, wanted.value, false)
  FROM pg_catalog.pg_settings
  JOIN (VALUES ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'),
               ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '15000'),
               ('idle_session_timeout', '0'), ('plan_cache_mode', 'force_generic_plan'))
       AS wanted (setting, value)
    ON wanted.setting = name

-- name: listen
-- {channel} is ours: letters and digits.
LISTEN {channel}
