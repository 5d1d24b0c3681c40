-- Leases in Postgres, schema 2: locks with a time to live, by the server's clock.
--
-- Every decision about a lock is made while its row of guardrun.leases is locked, so each sees what
-- the one before it did. Nobody who runs jobs may DELETE: rows of holders and waiters are used
-- again, and there are never more of them than there were at once.

-- One row a lock. The fence never goes back, also when the row has been pruned, because it is drawn
-- as max(last + 1, microseconds since 1970).
CREATE TABLE guardrun.leases (
    id      bytea PRIMARY KEY,        -- SHA-256 of the scheme, a blank and the name's bytes
    scheme  text NOT NULL CHECK (scheme IN ('postgresql', 'postgresql+advisory')),
    name    text NOT NULL,            -- for people
    raw     bytea,                    -- its bytes, where it has something that text cannot hold
    slots   integer NOT NULL,         -- places, while one of them is taken
    fence   bigint NOT NULL,          -- the last one drawn
    used_at timestamptz NOT NULL      -- of the last acquisition, or when somebody first asked
) WITH (fillfactor = 80);

-- One row a place; whether it is taken is told by guardrun.leases_taken.
CREATE TABLE guardrun.lease_holders (
    lease_id   bytea NOT NULL,
    slot       integer NOT NULL,      -- from 1
    token      text NOT NULL,         -- who has it may renew and release
    owner      text NOT NULL,         -- host:pid:job_id
    job_id     text NOT NULL,
    fence      bigint NOT NULL,
    since      timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,  -- renewed; '-infinity' once it was released or taken away
    not_before timestamptz NOT NULL,  -- the place stays taken until then, whatever became of it
    released   boolean NOT NULL,      -- the run has ended
    number     bigint,                -- of the session's advisory lock, in the scheme that has them
    backend    integer,               -- pid of that session
    PRIMARY KEY (lease_id, slot)
) WITH (fillfactor = 50);             -- room for renewals, which touch no index

-- The queue. A ticket is larger than those of all that live in the queue when it is drawn.
CREATE TABLE guardrun.lease_waiters (
    lease_id   bytea NOT NULL,
    seat       integer NOT NULL,      -- which of the lock's rows; used again when it is free
    ticket     bigint NOT NULL,
    token      text NOT NULL,
    expires_at timestamptz NOT NULL,
    channel    text,                  -- where it listens; NULL where it cannot
    backend    integer,               -- pid of the session that listens
    offered    boolean NOT NULL,      -- it was told that there is a place for it
    PRIMARY KEY (lease_id, seat)
) WITH (fillfactor = 50);

-- The places that are taken at the moment of reading. A session's advisory lock is as true as the
-- server's own list of locks; there the two halves of its number stand in two columns.
CREATE VIEW guardrun.leases_taken AS
SELECT held.lease_id, held.slot, held.token, held.owner, held.job_id, held.fence, held.since,
       held.expires_at, held.not_before, held.released, held.number, held.backend,
       CASE WHEN held.number IS NULL THEN greatest(held.expires_at, held.not_before)
            ELSE 'infinity'
       END AS lapses_at
  FROM guardrun.lease_holders AS held
 WHERE CASE WHEN held.number IS NULL
            THEN greatest(held.expires_at, held.not_before) > clock_timestamp()
            ELSE EXISTS (
                 SELECT
                   FROM pg_catalog.pg_locks AS lock
                  WHERE lock.locktype = 'advisory' AND lock.granted AND lock.objsubid = 1
                    AND lock.pid = held.backend
                    AND lock.classid = (held.number >> 32 & 4294967295)::oid
                    AND lock.objid = (held.number & 4294967295)::oid
                    AND lock.database = (SELECT oid FROM pg_catalog.pg_database
                                          WHERE datname = current_database()))
       END;

-- Who waits. A waiter whose session has ended is gone at once, not only when its entry expires.
CREATE VIEW guardrun.leases_queue AS
SELECT waiting.lease_id, waiting.seat, waiting.ticket, waiting.token, waiting.expires_at,
       waiting.channel, waiting.backend, waiting.offered
  FROM guardrun.lease_waiters AS waiting
 WHERE waiting.expires_at > clock_timestamp()
   AND (waiting.backend IS NULL
        OR EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(waiting.backend)));

REVOKE ALL ON guardrun.leases, guardrun.lease_holders, guardrun.lease_waiters,
              guardrun.leases_taken, guardrun.leases_queue FROM PUBLIC;
