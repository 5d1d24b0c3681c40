-- What an operator should know of the server, and of our rights in it.

-- name: server
-- The last one is the number of standbys that are connected just now.
SELECT current_setting('server_version'), pg_is_in_recovery(),
       current_setting('fsync')::boolean, current_setting('full_page_writes')::boolean,
       current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
       (SELECT count(*) FROM pg_catalog.pg_stat_replication)

-- name: process
SELECT pg_backend_pid()

-- name: rights
-- What the run role of docs/postgres.md may, and we may not.
SELECT wanted.tab || ': ' || wanted.verb
  FROM (VALUES ('runs', 'SELECT'), ('runs', 'INSERT'), ('runs', 'UPDATE'),
               ('keys', 'SELECT'), ('keys', 'INSERT'), ('keys', 'UPDATE'),
               ('budgets', 'SELECT'), ('budgets', 'INSERT'), ('budgets', 'UPDATE'),
               ('attempts', 'INSERT'), ('outputs', 'INSERT'),
               ('leases', 'INSERT'), ('leases', 'UPDATE'),
               ('lease_holders', 'INSERT'), ('lease_holders', 'UPDATE'),
               ('lease_waiters', 'INSERT'), ('lease_waiters', 'UPDATE'))
       AS wanted (tab, verb)
 WHERE NOT has_table_privilege(format('guardrun.%%I', wanted.tab), wanted.verb)
