"""What every lease store promises, on real servers: one suite over all of them."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lease_stores import (
    STORES,
    Leases,
    await_grant,
    busy,
    due,
    granted,
    lock_name,
    opener,
    request,
    run_workers,
)
from servers import free_port
from support import Host, eventually

from guardrun import kernel
from guardrun.errors import ConfigError, StoreUnavailable, UsageError
from guardrun.model import Grant, LeaseRequest

if TYPE_CHECKING:
    from guardrun.ports import LeaseStore

ODD_NAMES = [
    "a b",
    "{x}",
    "}{",
    "{}",
    "nächtlich/☃",
    "100%",
    "%7B*?[a]",
    "line\nbreak\ttab",
    'it\'s "quoted" \\ and :',
    "x" * 1024,
    "☃" * 1024,
    "\udcff",
]


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    """One kind of store after the other."""
    return str(request.param)


@pytest.fixture
def leases(kind: str) -> Iterator[Leases]:
    """That store in the session's server."""
    store: Leases = STORES[kind].shared()
    yield store
    store.close()


@pytest.fixture
def ordered(leases: Leases) -> Leases:
    """A store that promises an order."""
    if not leases.ordered:
        pytest.skip(f"{leases.kind} promises no order")
    return leases


@pytest.fixture
def lapsing(leases: Leases) -> Leases:
    """A store whose leases run out."""
    if not leases.lapses:
        pytest.skip(f"{leases.kind} has no ttl")
    return leases


class TestHolding:
    def test_one_holder(self, leases: Leases) -> None:
        """While one holds a lock, another is told who does."""
        one, two = leases.open(), leases.open()
        first, second = request(lock_name()), request("")
        grant = granted(one.acquire(first, False, due()))
        said = busy(two.acquire(second._replace(lock=first.lock), False, due()))
        (holder,) = said.holders
        assert (holder.owner, holder.job_id, holder.since) == (
            first.owner,
            first.job_id,
            grant.since,
        )
        assert said.ask_again > 0

    def test_released_is_free(self, leases: Leases) -> None:
        """A lock that was released goes to the next who asks."""
        one, two = leases.open(), leases.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        granted(one.acquire(first, False, due()))
        assert one.release(first, due())
        granted(two.acquire(second, False, due()))

    def test_asked_twice(self, leases: Leases) -> None:
        """Who asks again because the answer was lost has one place, and the same fence."""
        store = leases.open()
        wanted = request(lock_name(), slots=2)
        grant = granted(store.acquire(wanted, False, due()))
        assert store.acquire(wanted, False, due()) == grant
        assert len(store.holders(wanted.lock, due())) == 1

    def test_lost_connection(self, lapsing: Leases) -> None:
        """A lease belongs to its token: whoever has it goes on over another connection."""
        first, second = lapsing.open(), lapsing.open()
        wanted = request(lock_name())
        grant = granted(first.acquire(wanted, False, due()))
        first.close()
        assert second.acquire(wanted, False, due()) == grant
        assert second.renew(wanted, due())
        assert second.release(wanted, due())

    def test_only_the_owner(self, leases: Leases) -> None:
        """Another token can neither renew nor release, and its attempts change nothing."""
        store, other = leases.open(), leases.open()
        wanted = request(lock_name())
        granted(store.acquire(wanted, False, due()))
        (before,) = store.holders(wanted.lock, due())
        stranger = request(wanted.lock)
        assert not other.renew(stranger, due())
        assert not other.release(stranger, due())
        (after,) = store.holders(wanted.lock, due())
        assert after._replace(expires_in=0) == before._replace(expires_in=0)
        assert store.renew(wanted, due())

    def test_released_twice(self, leases: Leases) -> None:
        """A release that is repeated takes nothing from who holds the lock now."""
        one, two = leases.open(), leases.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        granted(one.acquire(first, False, due()))
        assert one.release(first, due())
        assert not one.release(first, due())
        granted(two.acquire(second, False, due()))
        assert not one.release(first, due())
        assert not one.renew(first, due())
        assert two.renew(second, due())

    def test_nothing_held(self, leases: Leases) -> None:
        """Of a lock that nobody ever had, nothing is held, renewed or released."""
        store = leases.open()
        wanted = request(lock_name())
        assert store.holders(wanted.lock, due()) == ()
        assert not store.renew(wanted, due())
        assert not store.release(wanted, due())

    def test_no_overlap(self, leases: Leases, tmp_path: Path) -> None:
        """Processes that add to a file under the lock lose no addition, and fences grow."""
        counter = tmp_path / "counter"
        counter.write_text("0\n")
        run_workers(leases, 4, _COUNT, lock_name(), str(counter))
        lines = counter.read_text().splitlines()
        assert [int(line.split()[0]) for line in lines] == list(range(4 * 25 + 1))
        fences = [int(line.split()[1]) for line in lines[1:]]
        assert fences == sorted(set(fences))


_COUNT = """
lock, counter = sys.argv[3], Path(sys.argv[4])
for _ in range(25):
    wanted = request(lock)
    grant = await_grant(store, wanted)
    # Not appended: who overlaps overwrites.
    lines = counter.read_text()
    last = int(lines.splitlines()[-1].split()[0])
    counter.write_text(lines + f"{last + 1} {grant.fence}\\n")
    assert store.release(wanted, due())
"""


class TestFence:
    def test_grows(self, leases: Leases) -> None:
        """Every acquisition has a higher fence than all before, with several places as well."""
        stores = [leases.open() for _ in range(3)]
        lock = lock_name()
        fences = []
        for round_ in range(3):
            wanted = [request(lock, slots=3) for _ in stores]
            for store, one in zip(stores, wanted, strict=True):
                fences.append(granted(store.acquire(one, False, due())).fence)
            for store, one in zip(stores, wanted, strict=True):
                assert store.release(one, due()), round_
        assert fences == sorted(set(fences), key=lambda fence: fence or 0)

    def test_is_a_time(self, leases: Leases) -> None:
        """The first fence of a lock is a moment of the server's, which no empty server repeats."""
        if not leases.timed:
            pytest.skip(f"{leases.kind} counts its changes")
        grant = granted(leases.open().acquire(request(lock_name()), False, due()))
        assert grant.fence is not None
        assert grant.fence / 1e6 == pytest.approx(grant.since, abs=1)


class TestLapse:
    def test_lapses(self, lapsing: Leases) -> None:
        """A lease that is not renewed is over at its ttl's end; its holder cannot bring it back."""
        one, two = lapsing.open(), lapsing.open()
        first = request(lock_name(), ttl=0.5)
        second = request(first.lock)
        fence = granted(one.acquire(first, False, due())).fence or 0
        grant = eventually(lambda: _maybe(two, second), what="the lock")
        assert (grant.fence or 0) > fence
        assert not one.renew(first, due())
        assert not one.release(first, due())
        assert two.renew(second, due())

    def test_a_late_release(self, lapsing: Leases) -> None:
        """Who has lapsed, and does not know it yet, gives back nothing of the next holder's."""
        one, two = lapsing.open(), lapsing.open()
        first = request(lock_name(), ttl=0.5)
        second = request(first.lock)
        granted(one.acquire(first, False, due()))
        eventually(lambda: _maybe(two, second), what="the lock")
        assert not one.release(first, due())
        assert two.renew(second, due())

    def test_lapsed_but_not_taken(self, lapsing: Leases) -> None:
        """A lease that has run out is not renewed, also when nobody else wants it."""
        store = lapsing.open()
        wanted = request(lock_name(), ttl=0.2)
        before = granted(store.acquire(wanted, False, due()))
        eventually(lambda: not store.holders(wanted.lock, due()), what="a lease that ran out")
        assert not store.renew(wanted, due())
        after = granted(store.acquire(wanted, False, due()))
        assert (after.fence or 0) > (before.fence or 0)

    def test_renewed(self, lapsing: Leases) -> None:
        """A renewal is good for a full ttl from now on."""
        store = lapsing.open()
        wanted = request(lock_name(), ttl=30.0)
        granted(store.acquire(wanted, False, due()))
        assert store.renew(wanted._replace(ttl=300.0), due())
        (held,) = store.holders(wanted.lock, due())
        assert 200 < held.expires_in <= 300

    def test_asked_again_extends(self, lapsing: Leases) -> None:
        """A grant that is repeated is good for a full ttl, as the one who asks reckons."""
        store = lapsing.open()
        wanted = request(lock_name(), ttl=30.0)
        granted(store.acquire(wanted, False, due()))
        granted(store.acquire(wanted._replace(ttl=300.0), False, due()))
        (held,) = store.holders(wanted.lock, due())
        assert held.expires_in > 200

    def test_a_lapse_is_foretold(self, lapsing: Leases) -> None:
        """Who waits for a lease that runs out is told when that is, or woken then."""
        one, two = lapsing.open(), lapsing.open()
        first = request(lock_name(), ttl=0.4)
        granted(one.acquire(first, False, due()))
        said = busy(two.acquire(request(first.lock), True, due()))
        assert _readable(two, 10) if lapsing.lapse_wakes else said.ask_again <= 0.4

    @pytest.mark.parametrize("ttl", [0.0, -1.0, 86401.0, float("inf"), float("nan")])
    def test_bounds(self, lapsing: Leases, ttl: float) -> None:
        """A ttl that no lease can have is refused, and never ends another's."""
        store = lapsing.open()
        wanted = request(lock_name())
        granted(store.acquire(wanted, False, due()))
        with pytest.raises(UsageError, match="--ttl"):
            store.renew(wanted._replace(ttl=ttl), due())
        with pytest.raises(UsageError, match="--ttl"):
            store.acquire(request(wanted.lock, ttl=ttl), False, due())
        assert store.renew(wanted, due())


def _maybe(store: LeaseStore, wanted: LeaseRequest) -> Grant | None:
    said = store.acquire(wanted, False, due())
    return said if isinstance(said, Grant) else None


class TestSlots:
    def test_so_many(self, leases: Leases) -> None:
        """A lock with three places has three holders, and the fourth is told of them."""
        stores = [leases.open() for _ in range(4)]
        lock = lock_name()
        wanted = [request(lock, slots=3) for _ in stores]
        for store, one in list(zip(stores, wanted, strict=True))[:3]:
            granted(store.acquire(one, False, due()))
        said = busy(stores[3].acquire(wanted[3], False, due()))
        assert {who.owner for who in said.holders} == {one.owner for one in wanted[:3]}
        assert stores[1].release(wanted[1], due())
        granted(stores[3].acquire(wanted[3], False, due()))

    def test_disagreement(self, leases: Leases) -> None:
        """Another number of slots is refused while the lock is held, naming both."""
        one, two = leases.open(), leases.open()
        first = request(lock_name(), slots=2)
        other = request(first.lock, slots=3)
        granted(one.acquire(first, False, due()))
        with pytest.raises(ConfigError, match=r"--slots 2.*--slots 3") as error:
            two.acquire(other, True, due())
        assert error.value.exit_code == 78
        assert one.renew(first, due())
        assert one.release(first, due())
        granted(two.acquire(other, False, due()))

    def test_never_more(self, leases: Leases, tmp_path: Path) -> None:
        """Of processes that want one of three places, three at most are inside at a time."""
        said = run_workers(leases, 4, _CROWD, lock_name(), str(tmp_path))
        most = [int(line) for line in said]
        assert max(most) == 3

    def test_none(self, leases: Leases) -> None:
        """A lock without a place is refused."""
        with pytest.raises(UsageError, match="--slots"):
            leases.open().acquire(request(lock_name(), slots=0), False, due())


_CROWD = """
lock, inside = sys.argv[3], Path(sys.argv[4])
most = 0
for _ in range(25):
    wanted = request(lock, slots=3)
    await_grant(store, wanted)
    mark = inside / wanted.token
    mark.touch()
    most = max(most, len(list(inside.iterdir())))
    time.sleep(0.05)  # longer than it takes to get in
    mark.unlink()
    assert store.release(wanted, due())
print(most)
"""


class TestQueue:
    def test_who_is_next(self, leases: Leases) -> None:
        """Whoever waits is told how many wait before it; of more than it knows of nothing is said.

        Two stands for more as well.
        """
        holder, *stores = [leases.open() for _ in range(4)]
        lock = lock_name()
        first, *waiting = [request(lock) for _ in range(4)]
        granted(holder.acquire(first, False, due()))
        told = [
            busy(store.acquire(one, True, due())).ahead
            for store, one in zip(stores, waiting, strict=True)
        ]
        # Consul's waiters know no more than the one before them.
        assert told == ([0, None, None] if leases.kind == "consul" else [0, 1, 2])
        assert holder.release(first, due())
        await_grant(stores[0], waiting[0])
        assert busy(stores[1].acquire(waiting[1], True, due())).ahead == 0
        stores[1].leave(waiting[1], due())
        assert busy(stores[2].acquire(waiting[2], True, due())).ahead == 0

    def test_in_order(self, ordered: Leases) -> None:
        """Waiters get the lock in the order they came, and nobody overtakes them."""
        holder, *stores = [ordered.open() for _ in range(4)]
        lock = lock_name()
        first, *waiting = [request(lock) for _ in range(4)]
        granted(holder.acquire(first, False, due()))
        for store, one in zip(stores, waiting, strict=True):
            busy(store.acquire(one, True, due()))
        before, before_store = first, holder
        for number, (store, one) in enumerate(zip(stores, waiting, strict=True)):
            assert before_store.release(before, due())
            for later, other in list(zip(stores, waiting, strict=True))[number + 1 :]:
                busy(later.acquire(other, True, due()))
            busy(holder.acquire(request(lock), False, due()))
            granted(store.acquire(one, True, due()))
            before, before_store = one, store

    def test_no_starvation(self, ordered: Leases) -> None:
        """Who comes back at once stands behind those who wait already."""
        stores = [ordered.open() for _ in range(3)]
        lock = lock_name()
        wanted = [request(lock) for _ in stores]
        granted(stores[0].acquire(wanted[0], True, due()))
        for turn in range(12):
            here, then = turn % 3, (turn + 1) % 3
            for other in ((turn + 1) % 3, (turn + 2) % 3):
                busy(stores[other].acquire(wanted[other], True, due()))
            assert stores[here].release(wanted[here], due())
            wanted[here] = request(lock)
            busy(stores[here].acquire(wanted[here], True, due()))
            granted(stores[then].acquire(wanted[then], True, due()))

    def test_as_many_as_there_are_places(self, ordered: Leases) -> None:
        """With several places free, so many of the first waiters get in, in any order."""
        stores = [ordered.open() for _ in range(5)]
        lock = lock_name()
        wanted = [request(lock, slots=2) for _ in stores]
        for number in (0, 1):
            granted(stores[number].acquire(wanted[number], False, due()))
        for number in (2, 3, 4):
            busy(stores[number].acquire(wanted[number], True, due()))
        for number in (0, 1):
            assert stores[number].release(wanted[number], due())
        busy(stores[4].acquire(wanted[4], True, due()))
        granted(stores[3].acquire(wanted[3], True, due()))
        granted(stores[2].acquire(wanted[2], True, due()))

    def test_who_does_not_wait_does_not_count(self, leases: Leases) -> None:
        """A no without waiting leaves nobody in the queue."""
        one, two, three = [leases.open() for _ in range(3)]
        lock = lock_name()
        first = request(lock)
        granted(one.acquire(first, False, due()))
        busy(two.acquire(request(lock), False, due()))
        assert one.release(first, due())
        granted(three.acquire(request(lock), False, due()))

    def test_leaving(self, leases: Leases) -> None:
        """A waiter that gives up lets the next one in."""
        one, two, three = [leases.open() for _ in range(3)]
        lock = lock_name()
        first, second, third = [request(lock) for _ in range(3)]
        granted(one.acquire(first, False, due()))
        busy(two.acquire(second, True, due()))
        busy(three.acquire(third, True, due()))
        two.leave(second, due())
        assert one.release(first, due())
        granted(three.acquire(third, True, due()))

    def test_dead_waiter(self, ordered: Leases) -> None:
        """A waiter that has died without a word is passed over after some seconds."""
        one, two, three = [ordered.open() for _ in range(3)]
        lock = lock_name()
        first, second, third = [request(lock) for _ in range(3)]
        granted(one.acquire(first, False, due()))
        busy(two.acquire(second, True, due()))
        two.close()
        busy(three.acquire(third, True, due()))
        assert one.release(first, due())
        began = kernel.now()
        await_grant(three, third)
        assert kernel.now() - began < 20


class TestWake:
    def test_woken(self, leases: Leases) -> None:
        """A release makes the first waiter's descriptor readable, and no other's."""
        one, two, three = [leases.open() for _ in range(3)]
        lock = lock_name()
        first, second, third = [request(lock) for _ in range(3)]
        granted(one.acquire(first, False, due()))
        for store, wanted in ((two, second), (three, third)):
            said = busy(store.acquire(wanted, True, due()))
            if store.wake_fd() is None:
                assert said.ask_again <= 2
                return
        assert not _readable(two, 0)
        assert one.release(first, due())
        assert _readable(two, 10)
        two.drain()
        assert not _readable(two, 0)
        granted(two.acquire(second, True, due()))
        if leases.names_next:
            assert _readable(three, 10)
            three.drain()
            busy(three.acquire(third, True, due()))
        if leases.ordered:
            assert not _readable(three, 0)
        assert two.release(second, due())
        assert _readable(three, 10)

    @pytest.mark.parametrize("how", ["leaves", "is taken away"])
    def test_woken_otherwise(self, leases: Leases, how: str) -> None:
        """Whatever else makes a place free wakes who gets it."""
        one, two, three = [leases.open() for _ in range(3)]
        lock = lock_name()
        first, second, third = [request(lock) for _ in range(3)]
        granted(one.acquire(first, False, due()))
        busy(two.acquire(second, True, due()))
        busy(three.acquire(third, True, due()))
        if how == "leaves":
            assert one.release(first, due())
            two.leave(second, due())
            store, wanted = three, third
        else:
            assert one.take_away(lock, one.holders(lock, due())[0].token, due())
            store, wanted = two, second
        if store.wake_fd() is not None:
            assert _readable(store, 10)
            granted(store.acquire(wanted, True, due()))
        else:
            await_grant(store, wanted, 10)

    def test_nobody_to_wake(self, leases: Leases) -> None:
        """Who waits for nothing has nothing to listen to."""
        store = leases.open()
        wanted = request(lock_name())
        assert store.wake_fd() is None
        granted(store.acquire(wanted, True, due()))
        assert store.wake_fd() is None
        store.drain()

    def test_idle_still_hears(self, leases: Leases) -> None:
        """A waiter that lets go of its connection is woken all the same."""
        one, two = leases.open(), leases.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        granted(one.acquire(first, False, due()))
        busy(two.acquire(second, True, due()))
        two.idle()
        if two.wake_fd() is not None:
            assert one.release(first, due())
            assert _readable(two, 10)


def _readable(store: LeaseStore, within: float) -> bool:
    fd = store.wake_fd()
    assert fd is not None
    return bool(select.select([fd], [], [], within)[0])


class TestMinHold:
    def test_stays_taken(self, lapsing: Leases) -> None:
        """A lock that is released early stays taken for the rest of its min-hold, no longer."""
        one, two = lapsing.open(), lapsing.open()
        first = request(lock_name(), min_hold=1.0)
        second = request(first.lock)
        grant = granted(one.acquire(first, False, due()))
        assert one.release(first, due())
        said = busy(two.acquire(second, True, due()))
        assert [who.owner for who in said.holders] == [first.owner]
        assert _readable(two, 10) if lapsing.lapse_wakes else said.ask_again <= 1.0
        after = await_grant(two, second, 15)
        assert after.since - grant.since >= 1.0

    def test_is_nobodys(self, lapsing: Leases) -> None:
        """What is left of a lease after its release cannot be renewed, nor released again."""
        store = lapsing.open()
        wanted = request(lock_name(), min_hold=30.0)
        granted(store.acquire(wanted, False, due()))
        assert store.release(wanted, due())
        assert not store.renew(wanted, due())
        assert not store.release(wanted, due())
        busy(store.acquire(wanted, False, due()))
        (held,) = store.holders(wanted.lock, due())
        assert held.released
        assert 20 < held.expires_in <= 30

    def test_over(self, lapsing: Leases) -> None:
        """After its min-hold a release frees the lock at once."""
        one, two = lapsing.open(), lapsing.open()
        first = request(lock_name(), min_hold=0.001)
        granted(one.acquire(first, False, due()))
        eventually(lambda: one.renew(first, due()), what="a while")
        assert one.release(first, due())
        granted(two.acquire(request(first.lock), False, due()))

    def test_outlasts_the_ttl(self, lapsing: Leases) -> None:
        """A holder that died keeps the lock taken for its min-hold, but the lease is over."""
        one, two = lapsing.open(), lapsing.open()
        first = request(lock_name(), ttl=0.3, min_hold=30.0)
        granted(one.acquire(first, False, due()))
        lapsed_at = due(max(0.3, lapsing.least_ttl))
        eventually(lambda: kernel.now() > lapsed_at, what="the end of its ttl")
        assert not one.renew(first, due())
        busy(two.acquire(request(first.lock), False, due()))
        (held,) = two.holders(first.lock, due())
        assert held.released, "it is listed as if its run went on"

    def test_taken_away(self, lapsing: Leases) -> None:
        """A person can end a min-hold."""
        store = lapsing.open()
        wanted = request(lock_name(), min_hold=30.0)
        granted(store.acquire(wanted, False, due()))
        assert store.release(wanted, due())
        (held,) = store.holders(wanted.lock, due())
        assert store.take_away(wanted.lock, held.token, due())
        granted(store.acquire(request(wanted.lock), False, due()))


class TestLooking:
    def test_holders(self, leases: Leases) -> None:
        """What is told of a holding: whose it is, since when, its fence, until when."""
        store = leases.open()
        wanted = request(lock_name(), slots=2)
        grant = granted(store.acquire(wanted, False, due()))
        (held,) = leases.open().holders(wanted.lock, due())
        assert (held.lock, held.owner, held.job_id) == (wanted.lock, wanted.owner, wanted.job_id)
        assert (held.fence, held.since, held.slots) == (grant.fence, grant.since, 2)
        assert not held.released
        if leases.lapses:
            assert 20 < held.expires_in <= 30

    @pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
    def test_odd_names(self, leases: Leases, name: str) -> None:
        """Any text is the name of a lock, and comes back as it is."""
        store, other = leases.open(), leases.open()
        wanted = request(name)
        await_grant(store, wanted)
        busy(other.acquire(request(name), False, due()))
        assert [held.lock for held in store.holders(name, due())] == [name]
        assert name in [held.lock for held in store.locks(due())]
        assert store.release(wanted, due())

    def test_similar_names(self, leases: Leases) -> None:
        """Names that differ in a character are different locks."""
        base = lock_name()
        for name in (base, base + " ", base.upper(), base + "%20", f"{{{base}}}", base + "\n"):
            granted(leases.open().acquire(request(name), False, due()))

    def test_all_locks(self, leases: Leases) -> None:
        """All that is held is told once, and nothing that is not."""
        store, other = leases.open(), leases.open()
        one, two, three = [request(lock_name(), slots=2) for _ in range(3)]
        granted(store.acquire(one, False, due()))
        granted(store.acquire(two, False, due()))
        granted(other.acquire(second := request(two.lock, slots=2), False, due()))
        granted(store.acquire(three, False, due()))
        assert store.release(three, due())
        names = {wanted.lock for wanted in (one, two, three)}
        found = [held for held in leases.open().locks(due()) if held.lock in names]
        assert sorted(held.owner for held in found) == sorted(
            wanted.owner for wanted in (one, two, second)
        )


class TestTakingAway:
    def test_taken(self, leases: Leases) -> None:
        """A holding that was taken away is over at once, and its fence is behind the lock's."""
        one, person, two = [leases.open() for _ in range(3)]
        first, second = [request(lock) for lock in [lock_name()] * 2]
        fence = granted(one.acquire(first, False, due())).fence or 0
        (held,) = person.holders(first.lock, due())
        assert person.take_away(first.lock, held.token, due())
        if leases.lapses:
            assert not one.renew(first, due())
        grant = await_grant(two, second, 10)
        assert (grant.fence or 0) > fence + 1
        assert not person.take_away(first.lock, held.token, due())
        assert two.renew(second, due())

    def test_nothing_to_take(self, leases: Leases) -> None:
        """A holding that is not there cannot be taken away."""
        assert not leases.open().take_away(lock_name(), "0" * 32, due())


class TestUnreachable:
    def test_no_server(self, kind: str) -> None:
        """Where no server is, every call says so in one line, with no password in it."""
        url = STORES[kind].nowhere.format(port=free_port())
        wanted = request(lock_name())
        store = opener(kind, url)
        for call in (
            lambda: store.acquire(wanted, True, due()),
            lambda: store.renew(wanted, due()),
            lambda: store.release(wanted, due()),
            lambda: store.leave(wanted, due()),
            lambda: store.holders(wanted.lock, due()),
            lambda: list(store.locks(due())),
        ):
            with pytest.raises(StoreUnavailable) as error:
                call()
            said = str(error.value)
            assert "hunter2" not in said
            assert "\n" not in said
            assert "127.0.0.1" in said
        store.close()

    def test_frozen(self, kind: str) -> None:
        """No call waits longer for a server that is frozen than it was told."""
        with STORES[kind].private() as leases:
            if not leases.lapses:
                pytest.skip(f"{kind} is lost with the first answer that does not come")
            store, fresh = leases.open(), leases.open()
            wanted = request(lock_name())
            granted(store.acquire(wanted, True, due()))
            leases.pause()
            for call in (
                lambda: store.renew(wanted, due(0.5)),
                lambda: store.renew(wanted, due(0.5)),
                lambda: store.release(wanted, due(0.5)),
                lambda: fresh.acquire(request(wanted.lock), True, due(0.5)),
                lambda: list(fresh.locks(due(0.5))),
                lambda: store.renew(wanted, due(-1)),
            ):
                began = kernel.now()
                with pytest.raises(StoreUnavailable, match="check that the server is not stopped"):
                    call()
                assert kernel.now() - began < 2
            leases.resume()
            if leases.lapses:
                # The frozen server has got that release in the meantime, or will never.
                eventually(
                    lambda: store.renew(wanted, due()) or not store.holders(wanted.lock, due()),
                    what="an answer",
                )

    def test_restarted(self, kind: str) -> None:
        """After the server's restart the same store goes on, over a new connection."""
        with STORES[kind].private() as leases:
            store = leases.open()
            before = granted(store.acquire(wanted := request(lock_name()), False, due()))
            leases.restart()

            def again() -> bool:
                try:
                    store.renew(wanted, due())
                    return True
                except StoreUnavailable:
                    return False

            eventually(again, 30, "a server that is back")
            fresh = request(wanted.lock)
            store.release(wanted, due())
            assert (await_grant(store, fresh, 30).fence or 0) > (before.fence or 0)

    def test_waiter_outlives_a_restart(self, kind: str) -> None:
        """A waiter whose connection broke is told at once, and gets the lock all the same."""
        with STORES[kind].private() as leases:
            one, two = leases.open(), leases.open()
            first, second = [request(lock) for lock in [lock_name()] * 2]
            granted(one.acquire(first, False, due()))
            busy(two.acquire(second, True, due()))
            leases.restart()
            if two.wake_fd() is not None:
                assert _readable(two, 10)
                two.drain()
                assert two.wake_fd() is None

            def over() -> bool:
                try:
                    one.release(first, due())
                    await_grant(two, second, 30)
                    return True
                except StoreUnavailable:
                    return False

            eventually(over, 30, "the lock")


@pytest.mark.parametrize("kind", ["etcd", "consul"])
def test_the_extra_is_not_installed(host: Host, tmp_path: Path, kind: str) -> None:
    """64, and one line with the command that installs it; nothing is executed."""
    blocked = tmp_path / "blocked"
    (blocked / "urllib3").mkdir(parents=True)
    (blocked / "urllib3" / "__init__.py").write_text("raise ImportError('blocked')\n")
    env = {"GUARDRUN_LEASE_URL": f"{kind}://127.0.0.1:1", "PYTHONPATH": str(blocked)}
    result = host.run("--scope", "distributed", "--lock", "a", "--", host.job, env=env)
    assert result.code == 64, result
    (line,) = result.stderr.decode().splitlines()
    assert f"pip install 'guardrun[{kind}]'" in line
    assert host.executions() == []
