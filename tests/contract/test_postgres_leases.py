"""What only the lease stores in Postgres promise: its clock, rows, sessions, poolers, failures."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import servers
from postgres_stores import PostgresStore, due
from support import eventually
from test_postgres_ledger import Proxy, roles

from guardrun import kernel
from guardrun.errors import ConfigError, StoreOutdated, StoreUnavailable, UsageError
from guardrun.ledger.postgres import PostgresLedger
from guardrun.locks.advisory import AdvisoryLeases, number
from guardrun.locks.postgres import PostgresLeases
from guardrun.model import Grant, LeaseRequest, Waiting
from guardrun.postgres.schema import SCHEMA, migrate

__all__ = ["roles"]

Leases = PostgresLeases | AdvisoryLeases
BOTH = pytest.mark.parametrize("kind", [PostgresLeases, AdvisoryLeases])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PostgresStore]:
    """A database with the schema."""
    made = PostgresStore(tmp_path)
    yield made
    made.close()


@pytest.fixture
def opened() -> Iterator[Callable[..., Leases]]:
    """Opens a lease store that is closed at the end."""
    with contextlib.ExitStack() as stack:

        def opener(kind: type[Leases], url: str) -> Leases:
            leases = kind(
                url if kind is PostgresLeases else url.replace("postgresql", "postgresql+advisory")
            )
            stack.callback(leases.close)
            return leases

        yield opener


def wanted(lock: str = "l", slots: int = 1, ttl: float = 30.0, hold: float = 0.0) -> LeaseRequest:
    """A request that nobody else has."""
    token = os.urandom(16).hex()
    return LeaseRequest(lock, f"h:1:{token}", f"job {token}", token, slots, ttl, hold)


def granted(said: Grant | Waiting) -> Grant:
    """The grant; fails on a no."""
    assert isinstance(said, Grant), said
    return said


def busy(said: Grant | Waiting) -> Waiting:
    """The no; fails on a grant."""
    assert isinstance(said, Waiting), said
    return said


def woken(leases: Leases, within: float = 10.0) -> bool:
    """Whether the store says in time that it is worth asking again, or that a lock is lost."""
    fd = leases.wake_fd()
    if fd is None and isinstance(leases, AdvisoryLeases):
        fd = leases.loss_fd()
    return fd is not None and bool(select.select([fd], [], [], within)[0])


def lapse(store: PostgresStore, request: LeaseRequest) -> None:
    """Have a lease's time be over."""
    store.sql(
        "UPDATE guardrun.lease_holders SET expires_at = clock_timestamp() WHERE token = %s",
        request.token,
    )


def sessions(store: PostgresStore) -> list[int]:
    """The server's processes that work for guardrun in this database."""
    return [
        pid
        for (pid,) in store.sql(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'guardrun'"
        )
    ]


# ---------------------------------------------------------------- both schemes


@BOTH
def test_the_queue_is_served_in_order(
    store: PostgresStore, opened: Callable[..., Leases], kind: type[Leases]
) -> None:
    """A release wakes the first in the queue and nobody else; nobody comes before it."""
    holder, first, second = (opened(kind, store.url) for _ in range(3))
    own, one, two = wanted(), wanted(), wanted()
    before = granted(holder.acquire(own, False, due()))
    busy(first.acquire(one, True, due()))
    assert busy(second.acquire(two, True, due())).holders[0].owner == own.owner
    assert not woken(first, 0)
    assert holder.release(own, due())
    assert woken(first)
    assert not woken(second, 0)
    first.drain()
    assert not woken(first, 0)
    busy(holder.acquire(wanted(), False, due()))
    busy(second.acquire(two, True, due()))
    after = granted(first.acquire(one, True, due()))
    assert (after.fence or 0) > (before.fence or 0)
    assert first.release(one, due())
    assert woken(second)
    granted(second.acquire(two, True, due()))


@BOTH
def test_a_place_after_a_place(
    store: PostgresStore, opened: Callable[..., Leases], kind: type[Leases]
) -> None:
    """Several places free at once go to as many waiters, each woken."""
    holder = opened(kind, store.url)
    held = [wanted(slots=2) for _ in range(2)]
    for request in held:
        granted(holder.acquire(request, False, due()))
    waiters = [(opened(kind, store.url), wanted(slots=2)) for _ in range(3)]
    for leases, request in waiters:
        busy(leases.acquire(request, True, due()))
    for request in held:
        assert holder.release(request, due())
    assert [woken(leases, 1) for leases, _ in waiters] == [True, True, False]
    for leases, request in waiters[:2]:
        granted(leases.acquire(request, True, due()))
    busy(waiters[2][0].acquire(waiters[2][1], True, due()))


@BOTH
def test_a_waiter_that_was_killed_is_passed_over_at_once(
    store: PostgresStore, opened: Callable[..., Leases], kind: type[Leases]
) -> None:
    """The server knows that its session has ended: the place goes to the next."""
    holder, second = opened(kind, store.url), opened(kind, store.url)
    own, two = wanted(), wanted()
    granted(holder.acquire(own, False, due()))
    script = """
import sys
from guardrun import kernel
from guardrun.locks.advisory import AdvisoryLeases
from guardrun.model import LeaseRequest
from guardrun.locks.postgres import PostgresLeases
kind = AdvisoryLeases if sys.argv[1].startswith("postgresql+") else PostgresLeases
leases = kind(sys.argv[1])
leases.acquire(LeaseRequest("l", "o", "j", "f" * 32, 1, 30.0), True, kernel.now() + 20)
print("waits", flush=True)
sys.stdin.read()
"""
    url = store.url if kind is PostgresLeases else store.url.replace("sql", "sql+advisory", 1)
    with subprocess.Popen(
        [sys.executable, "-c", script, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waits\n"
        busy(second.acquire(two, True, due()))
        process.send_signal(signal.SIGKILL)
        process.wait()
        eventually(lambda: len(sessions(store)) == 2, what="the dead waiter's session ended")
        assert holder.release(own, due())
        assert woken(second)
        granted(second.acquire(two, True, due()))


def test_a_waiter_that_does_not_come_is_passed_over(
    store: PostgresStore, opened: Callable[..., Leases]
) -> None:
    """Frozen, with its session alive: after a few seconds the next one gets the place."""
    holder, frozen, second = (opened(PostgresLeases, store.url) for _ in range(3))
    own, one, two = wanted(), wanted(), wanted()
    granted(holder.acquire(own, False, due()))
    busy(frozen.acquire(one, True, due()))
    busy(second.acquire(two, True, due()))
    assert holder.release(own, due())
    said = busy(second.acquire(two, True, due()))
    assert said.holders == ()
    assert 0 < said.ask_again <= 3.5
    asked = time.monotonic()
    eventually(lambda: time.monotonic() > asked + said.ask_again)
    granted(second.acquire(two, True, due()))
    busy(frozen.acquire(one, True, due()))


@BOTH
def test_what_comes_with_an_answer_is_not_missed(
    store: PostgresStore, opened: Callable[..., Leases], kind: type[Leases]
) -> None:
    """A store that wakes itself, by releasing one place and waiting for another, is woken."""
    leases = opened(kind, store.url)
    held, waits = wanted(), wanted()
    granted(leases.acquire(held, False, due()))
    busy(leases.acquire(waits, True, due()))
    assert leases.release(held, due())
    assert woken(leases)
    leases.drain()
    granted(leases.acquire(waits, True, due()))


def test_what_comes_with_a_sign_of_life_is_not_missed(
    store: PostgresStore, opened: Callable[..., Leases]
) -> None:
    """A session that is asked whether it is alive, while a place is free for it, is still woken."""
    leases, other = opened(AdvisoryLeases, store.url), opened(AdvisoryLeases, store.url)
    held, first, second = wanted("held"), wanted("awaited"), wanted("awaited")
    granted(leases.acquire(held, False, due()))
    granted(other.acquire(first, False, due()))
    busy(leases.acquire(second, True, due()))
    assert other.release(first, due())
    assert woken(leases)
    assert leases.renew(held, due())
    assert woken(leases, 1.0)
    leases.drain()
    granted(leases.acquire(second, True, due()))


@BOTH
def test_a_pause_of_the_waiter_wakes_the_next(
    store: PostgresStore, opened: Callable[..., Leases], kind: type[Leases]
) -> None:
    """Who was told of a place and leaves instead passes it on."""
    holder, first, second = (opened(kind, store.url) for _ in range(3))
    own, one, two = wanted(), wanted(), wanted()
    granted(holder.acquire(own, False, due()))
    busy(first.acquire(one, True, due()))
    busy(second.acquire(two, True, due()))
    assert holder.release(own, due())
    first.leave(one, due())
    assert woken(second)
    granted(second.acquire(two, True, due()))


@BOTH
@pytest.mark.parametrize("gone", ["SCHEMA guardrun", "TABLE guardrun.leases"])
def test_without_its_tables_it_says_what_to_do(
    store: PostgresStore, opened: Callable[..., Leases], kind: type[Leases], gone: str
) -> None:
    """A schema that is missing, or from before the leases, needs a migration."""
    store.sql(f"DROP {gone} CASCADE")
    with pytest.raises(StoreOutdated, match=r"the lease store .*run guardrun migrate"):
        opened(kind, store.url).acquire(wanted(), False, due())


@BOTH
def test_a_newer_schema_is_refused(
    store: PostgresStore, opened: Callable[..., Leases], kind: type[Leases]
) -> None:
    """What a later version means by its tables, this one does not know."""
    store.sql(f"UPDATE guardrun.schema_version SET version = {SCHEMA + 1} WHERE version = {SCHEMA}")
    with pytest.raises(StoreOutdated, match="upgrade guardrun"):
        opened(kind, store.url).acquire(wanted(), False, due())


@BOTH
def test_a_standby_is_refused(
    store: PostgresStore, opened: Callable[..., Leases], kind: type[Leases]
) -> None:
    """What may only be read from decides nothing."""
    store.sql(f"ALTER DATABASE {store.database} SET default_transaction_read_only = on")
    with pytest.raises(StoreUnavailable, match=r"the lease store .*read-only.*name the primary"):
        opened(kind, store.url).acquire(wanted(), False, due())


@BOTH
def test_a_url_that_cannot_be_read(opened: Callable[..., Leases], kind: type[Leases]) -> None:
    """It is said whose it is, and nothing of what is in it."""
    with pytest.raises(ConfigError, match="the lease store's URL cannot be read") as raised:
        opened(kind, "postgresql://u:hunter2@x@h/db").acquire(wanted(), False, due())
    assert "hunter2" not in str(raised.value)


@BOTH
def test_a_frozen_server_is_given_up_in_time(
    opened: Callable[..., Leases], kind: type[Leases]
) -> None:
    """SIGSTOP: with a session and without one, every call ends when it is due."""
    with servers.Postgres.start() as server:
        url = server.database()
        migrate(url, due())
        holder, waiter, fresh = (opened(kind, url) for _ in range(3))
        own, one = wanted(), wanted()
        granted(holder.acquire(own, False, due()))
        busy(waiter.acquire(one, True, due()))
        server.pause()
        calls: list[Callable[[float], object]] = [
            lambda until: waiter.acquire(one, True, until),
            lambda until: fresh.acquire(wanted(), False, until),
            lambda until: holder.renew(own, until),
            lambda until: holder.release(own, until),
            lambda until: fresh.holders("l", until),
        ]
        for call in calls:
            before = kernel.now()
            with contextlib.suppress(StoreUnavailable):
                assert not call(due(0.5))
            assert kernel.now() - before < 1.5
        server.resume()
        if kind is PostgresLeases:
            assert holder.renew(own, due())
        else:
            assert not holder.renew(own, due())
            granted(eventually(lambda: free(holder, own), what="the old session ended"))


def free(leases: Leases, request: LeaseRequest) -> Grant | None:
    """The grant, if there is one."""
    said = leases.acquire(request, False, due())
    return said if isinstance(said, Grant) else None


@BOTH
def test_the_documented_roles_suffice_for_leases(
    roles: dict[str, str], opened: Callable[..., Leases], kind: type[Leases]
) -> None:
    """Everything a run does with a lock works for the run role, and pruning for its own."""
    holder, waiter = opened(kind, roles["run"]), opened(kind, roles["run"])
    own, one = wanted(), wanted()
    granted(holder.acquire(own, False, due()))
    assert holder.renew(own, due())
    busy(waiter.acquire(one, True, due()))
    waiter.leave(one, due())
    busy(waiter.acquire(one, True, due()))
    assert holder.release(own, due())
    assert woken(waiter)
    granted(waiter.acquire(one, True, due()))
    assert [held.token for held in holder.locks(due())] == [one.token]
    assert holder.take_away("l", one.token, due())
    waiter.close()
    eventually(lambda: not holder.holders("l", due()), what="the lock is free")
    pruner = PostgresLedger(roles["prune"], time.time)
    while pruner.prune(0, 0, 3):
        pass
    pruner.close()
    with psycopg.connect(roles["read"]) as connection:
        assert connection.execute("SELECT count(*) FROM guardrun.leases").fetchone() == (0,)


# ---------------------------------------------------------------- the table


def test_a_lease_after_a_lock_wait_lasts_its_whole_ttl(
    store: PostgresStore, opened: Callable[..., Leases]
) -> None:
    """However long the row was locked, past the old lease's end: one of those who waited gets the
    lease, and its time counts from the grant."""
    own, contenders = wanted(), [wanted(), wanted()]
    granted(opened(PostgresLeases, store.url).acquire(own, False, due()))
    script = """
import sys
from guardrun import kernel
from guardrun.model import LeaseRequest
from guardrun.locks.postgres import PostgresLeases
leases = PostgresLeases(sys.argv[1])
said = leases.acquire(LeaseRequest("l", "o", "j", sys.argv[2], 1, 30.0), False, kernel.now() + 20)
print(type(said).__name__)
"""
    with psycopg.connect(store.url) as blocker:
        blocker.execute("SELECT FROM guardrun.leases FOR UPDATE")
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script, store.url, one.token], stdout=subprocess.PIPE
            )
            for one in contenders
        ]
        eventually(
            lambda: (
                len(
                    store.sql(
                        "SELECT true FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                        " AND datname = current_database()"
                    )
                )
                == len(contenders)
            ),
            what="they wait for the row",
        )
        lapse(store, own)
        ((free_at,),) = store.sql("SELECT clock_timestamp()")
        blocker.rollback()
        said = [process.communicate(timeout=30)[0] for process in processes]
    assert sorted(said) == [b"Grant\n", b"Waiting\n"]
    ((since, expires_at, token),) = store.sql(
        "SELECT since, expires_at, token FROM guardrun.lease_holders"
    )
    assert token == contenders[said.index(b"Grant\n")].token
    assert since > free_at
    assert (expires_at - since).total_seconds() == 30


def test_a_renewal_behind_a_lock_that_outlasts_the_lease_fails(
    store: PostgresStore, opened: Callable[..., Leases]
) -> None:
    """The moment that counts is when it is decided, not when the transaction began."""
    leases = opened(PostgresLeases, store.url)
    own = wanted()
    granted(leases.acquire(own, False, due()))
    script = """
import sys
from guardrun import kernel
from guardrun.model import LeaseRequest
from guardrun.locks.postgres import PostgresLeases
own = LeaseRequest("l", "o", "j", sys.argv[2], 1, 30.0)
print(PostgresLeases(sys.argv[1]).renew(own, kernel.now() + 20))
"""
    with psycopg.connect(store.url) as blocker:
        blocker.execute("SELECT FROM guardrun.leases FOR UPDATE")
        with subprocess.Popen(
            [sys.executable, "-c", script, store.url, own.token], stdout=subprocess.PIPE
        ) as process:
            eventually(
                lambda: store.sql(
                    "SELECT true FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    " AND datname = current_database()"
                ),
                what="it waits for the row",
            )
            lapse(store, own)
            blocker.rollback()
            assert process.communicate(timeout=30)[0] == b"False\n"


def test_a_row_that_is_locked_for_long_is_given_up_in_time(
    store: PostgresStore, opened: Callable[..., Leases]
) -> None:
    """And it is said what it was waiting for."""
    leases = opened(PostgresLeases, store.url)
    own = wanted()
    granted(leases.acquire(own, False, due()))
    with psycopg.connect(store.url) as blocker:
        blocker.execute("SELECT FROM guardrun.leases FOR UPDATE")
        before = kernel.now()
        with pytest.raises(StoreUnavailable, match="another transaction holds the lock"):
            leases.renew(own, due(1))
        assert kernel.now() - before < 1.5


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
def test_another_default_isolation_changes_nothing(
    store: PostgresStore, opened: Callable[..., Leases], level: str
) -> None:
    """Under a snapshot it would not see what it has waited for."""
    store.sql(f"ALTER DATABASE {store.database} SET default_transaction_isolation = '{level}'")
    store.sql(f"ALTER DATABASE {store.database} SET synchronous_commit = off")
    one, two = opened(PostgresLeases, store.url), opened(PostgresLeases, store.url)
    own = wanted()
    granted(one.acquire(own, False, due()))
    busy(two.acquire(wanted(), False, due()))
    assert one.release(own, due())
    granted(two.acquire(wanted(), False, due()))


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("verb", ["acquire", "renew", "release"])
def test_a_lost_answer_is_asked_for_again(
    store: PostgresStore, opened: Callable[..., Leases], verb: str, how: str
) -> None:
    """Whether the commit happened or not, once more has one effect: one grant, one fence."""
    proxy = Proxy(store.url)
    leases = opened(PostgresLeases, proxy.url)
    own = wanted()
    if verb != "acquire":
        granted(leases.acquire(own, False, due()))
    ((before,),) = store.sql("SELECT coalesce(max(fence), 0) FROM guardrun.leases")
    proxy.cut = how
    call: Callable[[], object] = (
        (lambda: leases.acquire(own, False, due()))
        if verb == "acquire"
        else (lambda: getattr(leases, verb)(own, due()))
    )
    with pytest.raises(StoreUnavailable):
        call()
    said = call()
    assert bool(said) == (verb != "release" or how == "before")
    ((after,),) = store.sql("SELECT max(fence) FROM guardrun.leases")
    held = leases.holders("l", due())
    if verb == "release":
        assert held == ()
    else:
        assert [one.token for one in held] == [own.token]
        assert held[0].fence == after
    assert verb == "acquire" or after == before
    proxy.close()


def test_a_restart_loses_nothing(opened: Callable[..., Leases]) -> None:
    """Leases, fences and the queue are in the tables; whoever comes first asks again."""
    with servers.Postgres.start() as server:
        url = server.database()
        migrate(url, due())
        holder, waiter = opened(PostgresLeases, url), opened(PostgresLeases, url)
        own, one = wanted(), wanted()
        before = granted(holder.acquire(own, False, due()))
        busy(waiter.acquire(one, True, due()))
        server.stop(crash=True)
        assert woken(waiter)
        waiter.drain()
        assert waiter.wake_fd() is None
        with pytest.raises(StoreUnavailable, match="check that the server runs"):
            waiter.acquire(one, True, due())
        server.start_again()
        with contextlib.suppress(StoreUnavailable):
            holder.renew(own, due())
        assert holder.renew(own, due())
        assert granted(holder.acquire(own, False, due())) == before
        busy(waiter.acquire(one, True, due()))
        assert holder.release(own, due())
        assert woken(waiter)
        assert (granted(waiter.acquire(one, True, due())).fence or 0) > (before.fence or 0)


def test_no_connection_is_kept_but_to_be_woken(
    store: PostgresStore, opened: Callable[..., Leases]
) -> None:
    """A holder has none between renewals, a waiter one."""
    holder, waiter = opened(PostgresLeases, store.url), opened(PostgresLeases, store.url)
    own, one = wanted(), wanted()
    granted(holder.acquire(own, False, due()))
    busy(waiter.acquire(one, True, due()))
    assert len(sessions(store)) == 2
    holder.idle()
    waiter.idle()
    eventually(lambda: len(sessions(store)) == 1, what="the holder's connection is closed")
    assert holder.renew(own, due())
    assert holder.release(own, due())
    assert woken(waiter)
    granted(waiter.acquire(one, True, due()))
    holder.idle()
    waiter.idle()
    eventually(lambda: not sessions(store), what="no connection is left")


def test_a_holder_knows_whether_it_is_awaited(
    store: PostgresStore, opened: Callable[..., Leases]
) -> None:
    """From its grant, or else from its next renewal on, and until nobody waits any more."""
    first, second, third = (opened(PostgresLeases, store.url) for _ in range(3))
    own, one, other = wanted(), wanted(), wanted()
    granted(first.acquire(own, False, due()))
    assert not first.awaited
    busy(second.acquire(one, True, due()))
    assert first.renew(own, due())
    assert first.awaited
    busy(third.acquire(other, True, due()))
    assert first.release(own, due())
    granted(second.acquire(one, True, due()))
    assert second.awaited
    third.leave(other, due())
    assert second.renew(one, due())
    assert not second.awaited


def test_rows_are_used_again(store: PostgresStore, opened: Callable[..., Leases]) -> None:
    """However often a lock is waited for and taken, nothing has to be deleted."""
    leases = [opened(PostgresLeases, store.url) for _ in range(3)]
    for _ in range(5):
        requests = [wanted() for _ in leases]
        for one, request in zip(leases, requests, strict=True):
            one.acquire(request, True, due())
        for one, request in zip(leases, requests, strict=True):
            granted(one.acquire(request, True, due()))
            assert one.release(request, due())
    assert store.sql("SELECT count(*) FROM guardrun.lease_holders") == [(1,)]
    ((seats,),) = store.sql("SELECT count(*) FROM guardrun.lease_waiters")
    assert seats <= 2


def test_pruning_leaves_what_is_held(store: PostgresStore, opened: Callable[..., Leases]) -> None:
    """Locks that were not used for long go, those that are held or waited for stay; a fence that
    is drawn anew is greater all the same."""
    leases = opened(PostgresLeases, store.url)
    old, held = wanted("old"), wanted("held")
    before = granted(leases.acquire(old, False, due()))
    assert leases.release(old, due())
    granted(leases.acquire(held, False, due()))
    store.sql("UPDATE guardrun.leases SET used_at = used_at - interval '100 days'")
    ledger = PostgresLedger(store.url, time.time)
    assert ledger.prune(90 * 86400.0, 86400.0, 10) == 1
    ledger.close()
    assert store.sql("SELECT name FROM guardrun.leases") == [("held",)]
    assert store.sql("SELECT count(*) FROM guardrun.lease_holders") == [(1,)]
    assert (granted(leases.acquire(wanted("old"), False, due())).fence or 0) > (before.fence or 0)


def test_a_fence_survives_a_clock_that_was_set_back(
    store: PostgresStore, opened: Callable[..., Leases]
) -> None:
    """It is one more than the last where the clock says less."""
    leases = opened(PostgresLeases, store.url)
    first = wanted()
    granted(leases.acquire(first, False, due()))
    assert leases.release(first, due())
    store.sql("UPDATE guardrun.leases SET fence = fence + 3600000000")
    ((ahead,),) = store.sql("SELECT fence FROM guardrun.leases")
    assert granted(leases.acquire(wanted(), False, due())).fence == ahead + 1


# ---------------------------------------------------------------- poolers


def test_through_pgbouncer(store: PostgresStore, opened: Callable[..., Leases]) -> None:
    """In transaction mode everything works but being woken: a waiter asks of its own accord."""
    url = servers.pgbouncer_url(store.url)
    holder, waiter = opened(PostgresLeases, url), opened(PostgresLeases, url)
    own, one = wanted(), wanted()
    granted(holder.acquire(own, False, due()))
    said = busy(waiter.acquire(one, True, due()))
    assert waiter.wake_fd() is None
    assert said.ask_again <= 1.0
    assert holder.renew(own, due())
    assert holder.release(own, due())
    busy(holder.acquire(wanted(), False, due()))
    granted(waiter.acquire(one, True, due()))
    assert waiter.release(one, due())


_ADVISORY = """
    FROM pg_locks JOIN pg_database ON pg_database.oid = database
   WHERE locktype = 'advisory' AND datname = current_database()
"""
"""other tests use the same server"""


def test_advisory_locks_refuse_a_pooler(
    store: PostgresStore, opened: Callable[..., Leases]
) -> None:
    """The lock would be another client's with the next transaction; nothing is left of the try."""
    leases = opened(AdvisoryLeases, servers.pgbouncer_url(store.url))
    for _ in range(2):
        with pytest.raises(UsageError, match=r"pooler.*name the server itself"):
            leases.acquire(wanted(), False, due())
    assert store.sql(f"SELECT count(*) {_ADVISORY}") == [(0,)]
    assert store.sql("SELECT count(*) FROM guardrun.leases") == [(0,)]


# ---------------------------------------------------------------- advisory locks


@pytest.mark.parametrize("look", ["at once", "after drain"])
def test_a_session_that_ends_is_seen_at_once(
    store: PostgresStore, opened: Callable[..., Leases], look: str
) -> None:
    """The holder's descriptor is readable, its renewal says no, and another may have the lock."""
    leases, other = opened(AdvisoryLeases, store.url), opened(AdvisoryLeases, store.url)
    own, next_one = wanted(), wanted()
    before = granted(leases.acquire(own, False, due()))
    assert leases.renew(own, due())
    assert not woken(leases, 0)
    ((pid,),) = store.sql(f"SELECT pid {_ADVISORY}")
    store.sql("SELECT pg_terminate_backend(%s, 5000)", pid)
    assert woken(leases)
    if look == "after drain":
        leases.drain()
    assert not leases.renew(own, due())
    assert not leases.renew(own, due())
    assert not leases.release(own, due())
    after = granted(other.acquire(next_one, False, due()))
    assert (after.fence or 0) > (before.fence or 0)
    assert not leases.renew(own, due())
    assert other.renew(next_one, due())


def test_a_restart_loses_advisory_locks(opened: Callable[..., Leases]) -> None:
    """For good: also when the server is back before anybody has looked."""
    with servers.Postgres.start() as server:
        url = server.database()
        migrate(url, due())
        leases = opened(AdvisoryLeases, url)
        own = wanted()
        before = granted(leases.acquire(own, False, due()))
        server.stop(crash=True)
        server.start_again()
        assert not leases.renew(own, due())
        assert leases.holders("l", due()) == ()
        assert not leases.renew(own, due())
        assert (granted(leases.acquire(own, False, due())).fence or 0) > (before.fence or 0)
        assert leases.renew(own, due())


def test_a_waiter_of_advisory_locks_finds_a_silent_end(
    store: PostgresStore, opened: Callable[..., Leases]
) -> None:
    """A session that was killed wakes nobody; the first in the queue asks on its own."""
    holder, waiter = opened(AdvisoryLeases, store.url), opened(AdvisoryLeases, store.url)
    own, one = wanted(), wanted()
    granted(holder.acquire(own, False, due()))
    assert busy(waiter.acquire(one, True, due())).ask_again <= 1.0
    holder.close()
    granted(eventually(lambda: free(waiter, one), what="the server ended the session"))


def test_another_applications_lock_is_waited_for(
    store: PostgresStore, opened: Callable[..., Leases]
) -> None:
    """Numbers are shared: whoever has ours excludes us, and nothing is half taken."""
    leases = opened(AdvisoryLeases, store.url)
    own = wanted()
    with psycopg.connect(store.url) as stranger:
        stranger.execute("SELECT pg_advisory_lock(%s)", [number("l", 1)])
        assert busy(leases.acquire(own, True, due())).ask_again <= 5.0
        assert leases.holders("l", due()) == ()
        stranger.execute("SELECT pg_advisory_unlock_all()")
    granted(leases.acquire(own, True, due()))


def test_taking_away_ones_own(store: PostgresStore, opened: Callable[..., Leases]) -> None:
    """Also from the store that holds it."""
    leases, other = opened(AdvisoryLeases, store.url), opened(AdvisoryLeases, store.url)
    own = wanted()
    before = granted(leases.acquire(own, False, due()))
    assert leases.take_away("l", own.token, due())
    assert not leases.renew(own, due())
    after = granted(eventually(lambda: free(other, wanted()), what="the session has ended"))
    assert (after.fence or 0) > (before.fence or 0) + 1


def test_taking_away_ends_the_session(store: PostgresStore, opened: Callable[..., Leases]) -> None:
    """The holder sees it at once, and the fence is raised."""
    leases, other = opened(AdvisoryLeases, store.url), opened(AdvisoryLeases, store.url)
    own = wanted()
    before = granted(leases.acquire(own, False, due()))
    assert not other.take_away("l", "0" * 32, due())
    assert other.take_away("l", own.token, due())
    assert woken(leases)
    assert not leases.renew(own, due())
    ((fence,),) = store.sql("SELECT fence FROM guardrun.leases")
    assert fence > (before.fence or 0)
    granted(eventually(lambda: free(other, wanted()), what="the session has ended"))


def test_the_session_is_told_to_be_watched(
    store: PostgresStore, opened: Callable[..., Leases]
) -> None:
    """The server looks after the way to us, and does not end the session for being quiet."""
    with contextlib.suppress(psycopg.errors.UndefinedObject):  # before Postgres 14
        store.sql(f"ALTER DATABASE {store.database} SET idle_session_timeout = '1h'")
    leases = opened(AdvisoryLeases, store.url)
    own = wanted()
    granted(leases.acquire(own, False, due()))
    connection = leases._session._open
    assert connection is not None
    for name, value in (("tcp_keepalives_idle", "10"), ("tcp_user_timeout", "15000")):
        asked = "SELECT setting FROM pg_settings WHERE name = %(name)s"
        assert connection.execute(asked, {"name": name}) == [(value,)]
    found = connection.execute(
        "SELECT setting FROM pg_settings WHERE name = 'idle_session_timeout'"
    )
    assert found in ([("0",)], [])


def test_a_minimum_hold_is_refused(store: PostgresStore, opened: Callable[..., Leases]) -> None:
    """Nothing of an advisory lock outlives its session."""
    with pytest.raises(UsageError, match="--min-hold"):
        opened(AdvisoryLeases, store.url).acquire(wanted(hold=1.0), False, due())


def test_the_schemes_have_locks_of_their_own(
    store: PostgresStore, opened: Callable[..., Leases]
) -> None:
    """One name, two locks; each scheme lists its own."""
    table, advisory = opened(PostgresLeases, store.url), opened(AdvisoryLeases, store.url)
    one, two = wanted(), wanted()
    granted(table.acquire(one, False, due()))
    granted(advisory.acquire(two, False, due()))
    assert [held.token for held in table.locks(due())] == [one.token]
    (held,) = advisory.locks(due())
    assert (held.token, held.lock, held.slots, held.released) == (two.token, "l", 1, False)
    assert held.expires_in == float("inf")
