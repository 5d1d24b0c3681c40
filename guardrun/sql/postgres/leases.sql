-- What a run says to a lease store in Postgres, a verb a transaction (session.sql). "lock" comes
-- before every decision, in a statement of its own, because what a statement sees is settled when
-- it starts. clock_timestamp(), not now(): the row lock may have been waited for.

-- name: register
INSERT INTO guardrun.leases (id, scheme, name, raw, slots, fence, used_at)
VALUES (%(id)s, %(scheme)s, %(name)s, %(raw)s, %(slots)s, 0, clock_timestamp())
ON CONFLICT (id) DO NOTHING

-- name: lock
SELECT FROM guardrun.leases WHERE id = %(id)s FOR NO KEY UPDATE

-- name: acquire
-- One row: the grant's fence and moment, if there is one; else why not. A place is ours when one is
-- left after everybody before us in the queue has got one; before whom we are is decided by the
-- ticket, and who has none is last. Asking again with the same token extends what it has. In the
-- scheme with advisory locks the one of the chosen place, and of no other, is tried; it is the
-- session's, and no rollback frees it: after an error the session must end.
WITH moment AS MATERIALIZED (
    SELECT clock_timestamp() AS t
), taken AS MATERIALIZED (
    SELECT * FROM guardrun.leases_taken WHERE lease_id = %(id)s
), queue AS MATERIALIZED (
    SELECT * FROM guardrun.leases_queue WHERE lease_id = %(id)s
), state AS MATERIALIZED (
    SELECT (SELECT count(*) FROM taken) AS taken,
           (SELECT slots FROM guardrun.leases WHERE id = %(id)s) AS slots,
           (SELECT count(*)
              FROM queue
             WHERE token <> %(token)s
               AND ticket < coalesce((SELECT min(ticket) FROM queue WHERE token = %(token)s),
                                     9223372036854775807)) AS ahead
), mine AS MATERIALIZED (
    SELECT taken.slot
      FROM taken, moment
     WHERE taken.token = %(token)s AND taken.expires_at > t
       AND taken.backend IS NOT DISTINCT FROM %(backend)s::integer
), agreed AS MATERIALIZED (
    SELECT taken = 0 OR slots = %(slots)s AS yes FROM state
), chosen AS MATERIALIZED (
    SELECT place.slot
      FROM generate_series(1, %(slots)s::integer) AS place (slot), state, agreed
     WHERE agreed.yes AND NOT EXISTS (SELECT FROM mine)
       AND %(slots)s - state.taken > state.ahead
       AND place.slot NOT IN (SELECT slot FROM taken)
     ORDER BY place.slot
     LIMIT 1
), got AS MATERIALIZED (
    SELECT slot, (%(numbers)s::bigint[])[slot] AS number
      FROM chosen
     WHERE %(numbers)s::bigint[] IS NULL OR pg_try_advisory_lock((%(numbers)s::bigint[])[slot])
), drawn AS (
    UPDATE guardrun.leases
       SET fence = greatest(leases.fence + 1, (extract(epoch FROM t) * 1000000)::bigint),
           slots = %(slots)s, used_at = t
      FROM got, moment
     WHERE id = %(id)s
    RETURNING leases.fence
), granted AS (
    INSERT INTO guardrun.lease_holders AS held (lease_id, slot, token, owner, job_id, fence, since,
                                                expires_at, not_before, released, number, backend)
    SELECT %(id)s, got.slot, %(token)s, %(owner)s, %(job_id)s, drawn.fence, t,
           t + %(ttl_us)s * interval '1 microsecond', t + %(hold_us)s * interval '1 microsecond',
           false, got.number, %(backend)s::integer
      FROM got, drawn, moment
    ON CONFLICT (lease_id, slot) DO UPDATE
       SET token = excluded.token, owner = excluded.owner, job_id = excluded.job_id,
           fence = excluded.fence, since = excluded.since, expires_at = excluded.expires_at,
           not_before = excluded.not_before, released = false, number = excluded.number,
           backend = excluded.backend
    RETURNING fence, since
), extended AS (
    UPDATE guardrun.lease_holders AS held
       SET expires_at = t + %(ttl_us)s * interval '1 microsecond'
      FROM mine, moment
     WHERE held.lease_id = %(id)s AND held.slot = mine.slot
    RETURNING held.fence, held.since
), said AS MATERIALIZED (
    SELECT fence, since FROM granted UNION ALL SELECT fence, since FROM extended
), gone AS (
    UPDATE guardrun.lease_waiters
       SET expires_at = '-infinity'
     WHERE lease_id = %(id)s AND token = %(token)s AND EXISTS (SELECT FROM said)
), seconds AS MATERIALIZED (
    -- Until something may have changed though nobody told us: a place lapses, or one before us in
    -- the queue does not come for the place that it was offered.
    SELECT extract(epoch FROM least(
               (SELECT min(lapses_at) FROM taken WHERE lapses_at < 'infinity'),
               (SELECT min(expires_at)
                  FROM queue, state
                 WHERE token <> %(token)s AND %(slots)s > state.taken)) - t)::float8 AS lapse,
           greatest(ahead - greatest(%(slots)s - taken, 0), 0) AS rank,
           EXISTS (SELECT FROM taken WHERE number IS NOT NULL) AS silent
      FROM state, moment
), pause AS MATERIALIZED (
    -- Who can be woken asks again in case something lapses; the later its turn, the later, up to a
    -- bound: it may be the first long before that, and whoever asks wakes the first. Who cannot, or
    -- waits for sessions that may end without a word, asks twice a second or so.
    SELECT CASE WHEN %(channel)s::text IS NULL OR silent
                THEN least(%(poll)s + rank * %(poll)s / 4, %(longest)s, lapse + %(late)s)
                ELSE least(%(longest)s, lapse + %(late)s)
                     + least(rank * %(offer)s, 2 * %(longest)s)
           END AS seconds
      FROM seconds
), seated AS (
    INSERT INTO guardrun.lease_waiters AS waiting (lease_id, seat, ticket, token, expires_at,
                                                   channel, backend, offered)
    SELECT %(id)s,
           coalesce((SELECT min(seat) FROM queue WHERE token = %(token)s),
                    (SELECT min(free.seat)
                       FROM generate_series(1, (SELECT count(*) + 1 FROM queue)::integer)
                            AS free (seat)
                      WHERE free.seat NOT IN (SELECT seat FROM queue))),
           coalesce((SELECT min(ticket) FROM queue WHERE token = %(token)s),
                    (SELECT max(ticket) + 1 FROM queue), 1),
           %(token)s, t + greatest(3 * pause.seconds, %(offer)s) * interval '1 second',
           %(channel)s, %(listener)s::integer, false
      FROM moment, pause, agreed
     WHERE %(wait)s AND agreed.yes AND NOT EXISTS (SELECT FROM said)
    ON CONFLICT (lease_id, seat) DO UPDATE
       SET ticket = excluded.ticket, token = excluded.token, expires_at = excluded.expires_at,
           channel = excluded.channel, backend = excluded.backend, offered = false
)
SELECT said.fence, extract(epoch FROM said.since)::float8, agreed.yes, state.slots,
       greatest(pause.seconds, %(late)s)::float8, state.ahead,
       EXISTS (SELECT FROM queue WHERE token <> %(token)s),
       ARRAY (SELECT owner FROM taken ORDER BY since, slot LIMIT 10),
       ARRAY (SELECT job_id FROM taken ORDER BY since, slot LIMIT 10),
       ARRAY (SELECT extract(epoch FROM since)::float8 FROM taken ORDER BY since, slot LIMIT 10)
  FROM state, agreed, pause LEFT JOIN said ON true

-- name: wake
-- Tell those whom a free place is for; each once. Who listens, and does not come soon, is passed
-- over. {nudge} more are told to ask when their time comes, because it has changed.
WITH moment AS MATERIALIZED (
    SELECT clock_timestamp() AS t
), free AS MATERIALIZED (
    SELECT greatest(max(slots) - (SELECT count(*) FROM guardrun.leases_taken
                                   WHERE lease_id = %(id)s), 0) AS places
      FROM guardrun.leases
     WHERE id = %(id)s
), next AS MATERIALIZED (
    SELECT seat, channel, row_number() OVER (ORDER BY ticket) AS rank
      FROM guardrun.leases_queue
     WHERE lease_id = %(id)s
     ORDER BY ticket
     LIMIT (SELECT places + %(nudge)s FROM free)
), told AS (
    UPDATE guardrun.lease_waiters AS waiting
       SET offered = true,
           expires_at = CASE WHEN waiting.channel IS NULL THEN waiting.expires_at
                             ELSE least(waiting.expires_at,
                                        t + %(offer)s * interval '1 second')
                        END
      FROM next, free, moment
     WHERE waiting.lease_id = %(id)s AND waiting.seat = next.seat AND next.rank <= free.places
       AND NOT waiting.offered
    RETURNING waiting.channel
), ring AS (
    SELECT channel FROM told
     UNION
    SELECT channel FROM next, free WHERE next.rank > free.places
)
SELECT pg_notify(channel, '') FROM ring WHERE channel IS NOT NULL

-- name: leave
UPDATE guardrun.lease_waiters
   SET expires_at = '-infinity'
 WHERE lease_id = %(id)s AND token = %(token)s

-- name: renew
-- One row, if it is ours; true in it when somebody waits.
UPDATE guardrun.lease_holders
   SET expires_at = clock_timestamp() + %(ttl_us)s * interval '1 microsecond'
 WHERE lease_id = %(id)s AND token = %(token)s AND expires_at > clock_timestamp()
   AND number IS NULL
RETURNING EXISTS (SELECT FROM guardrun.leases_queue WHERE lease_id = %(id)s)

-- name: release
-- Asked for again after a lost answer, it says no, and changes nothing.
UPDATE guardrun.lease_holders
   SET expires_at = '-infinity', released = true
 WHERE lease_id = %(id)s AND token = %(token)s AND expires_at > clock_timestamp()
   AND number IS NULL
RETURNING true

-- name: session_holds
SELECT EXISTS (SELECT
                 FROM guardrun.leases_taken
                WHERE lease_id = %(id)s AND token = %(token)s AND backend = pg_backend_pid())

-- name: unlock
-- The row first, so that its place is not taken for free while it is somebody's.
UPDATE guardrun.lease_holders
   SET expires_at = '-infinity', released = true
 WHERE lease_id = %(id)s AND token = %(token)s AND backend = pg_backend_pid() AND NOT released
RETURNING pg_advisory_unlock(number)

-- name: taken
SELECT leases.name, leases.raw, held.owner, held.job_id, held.token, held.fence,
       extract(epoch FROM held.since)::float8,
       coalesce(extract(epoch FROM nullif(held.lapses_at, 'infinity') - clock_timestamp())::float8,
                'infinity'), leases.slots,
       held.released OR held.expires_at <= clock_timestamp()
  FROM guardrun.leases_taken AS held
  JOIN guardrun.leases ON leases.id = held.lease_id
 WHERE leases.scheme = %(scheme)s
   AND (%(id)s::bytea IS NULL OR held.lease_id = %(id)s)
 ORDER BY held.since, held.slot

-- name: take_away
WITH ended AS (
    UPDATE guardrun.lease_holders
       SET expires_at = '-infinity', not_before = '-infinity', released = false
     WHERE lease_id = %(id)s AND token = %(token)s AND number IS NULL
       AND greatest(expires_at, not_before) > clock_timestamp()
    RETURNING true
)
UPDATE guardrun.leases
   SET fence = greatest(fence + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
 WHERE id = %(id)s AND EXISTS (SELECT FROM ended)
RETURNING true

-- name: end_session
-- The server ends the session that holds it, and the advisory lock with it.
WITH ended AS MATERIALIZED (
    SELECT pg_terminate_backend(backend) AS told
      FROM guardrun.leases_taken
     WHERE lease_id = %(id)s AND token = %(token)s AND number IS NOT NULL
)
UPDATE guardrun.leases
   SET fence = greatest(fence + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
 WHERE id = %(id)s AND EXISTS (SELECT FROM ended WHERE told)
RETURNING true

-- name: raise_fence
UPDATE guardrun.leases
   SET fence = greatest(fence + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
 WHERE id = %(id)s
RETURNING true
