"""Leases in Consul: what can go wrong there alone, on real servers."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import servers
from lease_fleet import SHORT, Written, below, wipe_consul
from lease_stores import (
    ConsulStore,
    PrivateConsul,
    await_grant,
    busy,
    due,
    granted,
    lock_name,
    request,
)
from proxy import Proxy
from support import Host, eventually, finish, no_survivors, sleepers, stubborn_tree

from guardrun import kernel
from guardrun.errors import ConfigError, StoreUnavailable, UsageError
from guardrun.locks.consul import ConsulLeases
from guardrun.locks.consul_connection import Http
from guardrun.locks.consul_keys import PLACE, WAIT, Record, key, prefix
from guardrun.locks.consul_session import Conflict, Session, lock
from guardrun.locks.consul_state import DELAYED, HELD_BACK
from guardrun.locks.consul_url import TOKEN, TOKEN_FILE, read, token
from guardrun.locks.consul_watch import Target, Watches
from guardrun.locks.json_http import Wire
from guardrun.locks.members import Place, Tls
from guardrun.locks.stores import address
from guardrun.model import LeaseRequest


@pytest.fixture
def shared() -> Iterator[ConsulStore]:
    """The session's server."""
    store = ConsulStore()
    yield store
    store.close()


@pytest.fixture(scope="module")
def module_server() -> Iterator[PrivateConsul]:
    """A private server for the tests of this file that leave it as it was."""
    with PrivateConsul.start() as started:
        yield started


@pytest.fixture
def private(module_server: PrivateConsul) -> Iterator[PrivateConsul]:
    """That server, empty."""
    wipe_consul(module_server.url)
    yield module_server
    module_server.close()


def by_hand(url: str, method: str, path: str, body: object = None, **more: str) -> Any:
    """What a person would use the program consul for."""
    with contextlib.closing(Http(url)) as http:
        return http.ask(due(), method, path, body, **more).body


def place(leases: ConsulStore, wanted: LeaseRequest) -> Record:
    """What a run has written down of its place."""
    (found,) = below(leases.url, key(wanted.lock, PLACE))
    return found


def invalidate(leases: ConsulStore, wanted: LeaseRequest) -> None:
    """End the session of who holds the lock, as its node's going does."""
    assert by_hand(leases.url, "PUT", f"session/destroy/{place(leases, wanted).session}")


def _ready(fd: int | None, within: float) -> bool:
    return fd is not None and bool(select.select([fd], [], [], within)[0])


class TestLosing:
    def test_invalidated(self, shared: ConsulStore) -> None:
        """A session that is invalidated is a lease that is lost; lock-delay is the reason to wait.

        It is told of, is longer than a quarter of the ttl, and passes by itself.
        """
        one, two = shared.open(), shared.open()
        first, second = request(lock := lock_name(), ttl=10.0), request(lock)
        fence = granted(one.acquire(first, False, due())).fence or 0
        assert busy(two.acquire(second, True, due())).reason is None
        invalidate(shared, first)
        ended_at = kernel.now()
        assert _ready(two.wake_fd(), 10)
        two.drain()
        said = busy(two.acquire(second, True, due()))
        assert said.reason == DELAYED
        assert [holder.owner for holder in said.holders] == [first.owner]
        assert said.ask_again <= 1
        (held,) = two.holders(lock, due())
        assert held.released
        assert held.delayed
        assert held.owner == first.owner
        assert not two.take_away(lock, held.token, due()), "nobody can end a lock-delay"
        assert not one.renew(first, due())
        assert not one.release(first, due())
        assert busy(one.acquire(request(lock), False, due())).reason == DELAYED
        with pytest.raises(ConfigError, match="--slots"):
            one.acquire(request(lock, slots=2), False, due())
        grant = await_grant(two, second, 20)
        assert 4.5 < kernel.now() - ended_at < 10
        assert (grant.fence or 0) > fence

    def test_lapsed(self, shared: ConsulStore) -> None:
        """Who dies without a word has lost the lock after twice its ttl and the lock-delay."""
        one, two = shared.open(), shared.open()
        first, second = request(lock := lock_name(), ttl=2.0), request(lock)
        began = kernel.now()
        granted(one.acquire(first, False, due()))
        await_grant(two, second, 20)
        assert 2.0 < kernel.now() - began < 2 * 2.0 + 1.0 + 2.0

    def test_nobody_before_it_is_dead(self, shared: ConsulStore, tmp_path: Path, mark: str) -> None:
        """COMMAND, whose session was invalidated, is dead when the next one is granted the lock."""
        host = Host(tmp_path, {"GUARDRUN_LEASE_URL": shared.url})
        log = Written(tmp_path / "log")
        tree = stubborn_tree(tmp_path / "tree", mark)
        wanted = request(lock_name())
        process = host.start(
            *(*SHORT, *log.words, "--lock", wanted.lock, "-k", "1h", "--", str(tree))
        )
        sleepers(mark, 4)
        invalidate(shared, wanted)
        store = shared.open()
        busy(store.acquire(wanted, True, due()))
        await_grant(store, wanted, 30)
        no_survivors(mark, 0)
        assert process.wait(20) == 74
        assert len(log.lines("lease_lost")) == 1
        host.close()

    def test_waiting_is_explained(self, shared: ConsulStore, tmp_path: Path) -> None:
        """A run that waits, or is refused, for a lock-delay says so; also for --min-hold."""
        host = Host(tmp_path, {"GUARDRUN_LEASE_URL": shared.url})
        store = shared.open()
        wanted = request(lock_name(), ttl=60.0)
        granted(store.acquire(wanted, False, due()))
        invalidate(shared, wanted)
        refused = host.run(*SHORT, "--lock", wanted.lock, "--", "true")
        assert refused.code == 75
        assert refused.event("lock_busy")["reason"] == DELAYED
        assert refused.event("lock_busy")["held_by"]["owner"] == wanted.owner
        kept = request(lock_name(), min_hold=30.0)
        granted(store.acquire(kept, False, due()))
        assert store.release(kept, due())
        waited = host.run(*SHORT, "-w", "200ms", "--lock", kept.lock, "--", "true")
        assert waited.code == 75
        reasons = [line["reason"] for line in waited.lines if line["event"] == "lock_busy"]
        assert reasons == [HELD_BACK] * 2
        host.close()

    @pytest.mark.parametrize("value", ["mine now", "[]", '{"owner": 1}', ""])
    def test_overwritten(self, shared: ConsulStore, value: str) -> None:
        """What somebody writes over a place keeps it taken, and its holder writes it anew."""
        store, other = shared.open(), shared.open()
        wanted = request(lock_name())
        grant = granted(store.acquire(wanted, False, due()))
        by_hand(shared.url, "PUT", f"kv/{key(wanted.lock, PLACE, 0)}", value)
        busy(other.acquire(request(wanted.lock), False, due()))
        (held,) = other.holders(wanted.lock, due())
        assert (held.owner, held.expires_in) == ("?", float("inf"))
        assert store.renew(wanted, due())
        (held,) = other.holders(wanted.lock, due())
        assert (held.owner, held.fence) == (wanted.owner, grant.fence)

    def test_overwritten_and_given_up(self, shared: ConsulStore) -> None:
        """What nobody knows the owner of can be taken away."""
        store, other = shared.open(), shared.open()
        wanted = request(lock_name())
        granted(store.acquire(wanted, False, due()))
        by_hand(shared.url, "PUT", f"kv/{key(wanted.lock, PLACE, 0)}", "x")
        (held,) = other.holders(wanted.lock, due())
        assert other.take_away(wanted.lock, held.token, due())
        assert not store.renew(wanted, due())
        granted(other.acquire(request(wanted.lock), False, due()))

    @pytest.mark.parametrize("how", ["delete", "release"])
    def test_by_hand(self, shared: ConsulStore, how: str) -> None:
        """A key that is deleted or released by hand is a lease that is lost."""
        store, other = shared.open(), shared.open()
        wanted = request(lock_name())
        fence = granted(store.acquire(wanted, False, due())).fence or 0
        name = f"kv/{key(wanted.lock, PLACE, 0)}"
        if how == "delete":
            by_hand(shared.url, "DELETE", name)
        else:
            by_hand(shared.url, "PUT", name, release=place(shared, wanted).session)
        assert not store.renew(wanted, due())
        assert not store.release(wanted, due())
        assert (granted(other.acquire(request(wanted.lock), False, due())).fence or 0) > fence

    def test_deleted_during_lock_delay(self, shared: ConsulStore) -> None:
        """Where a lock-delay is on, and nothing tells whose, the wait has its reason as well."""
        store = shared.open()
        wanted = request(lock_name(), ttl=10.0)
        granted(store.acquire(wanted, False, due()))
        invalidate(shared, wanted)
        wipe_consul(shared.url, prefix(wanted.lock))
        said = busy(store.acquire(after := request(wanted.lock), True, due()))
        assert (said.reason, said.holders) == (DELAYED, ())
        await_grant(store, after, 20)

    def test_what_is_not_ours(self, shared: ConsulStore) -> None:
        """Other keys below the prefix are not locks, and do not disturb."""
        store = shared.open()
        wanted = request(lock_name())
        for name in ("note", "place/x", "place/", "place/0/x"):
            by_hand(shared.url, "PUT", f"kv/{prefix(wanted.lock)}{name}", "hello")
        by_hand(shared.url, "PUT", f"kv/{key(wanted.lock, PLACE, 0)}", "nobody locked it")
        granted(store.acquire(wanted, False, due()))
        assert [held.lock for held in store.locks(due()) if held.lock == wanted.lock] == [
            wanted.lock
        ]

    def test_lapsed_in_the_queue(self, shared: ConsulStore) -> None:
        """A waiter whose key is gone stands at the end of the queue when it asks again."""
        one, two, three = [shared.open() for _ in range(3)]
        lock = lock_name()
        first, second, third = [request(lock) for _ in range(3)]
        granted(one.acquire(first, False, due()))
        busy(two.acquire(second, True, due()))
        busy(three.acquire(third, True, due()))
        wipe_consul(shared.url, key(lock, WAIT, second.token))
        busy(two.acquire(second, True, due()))
        assert one.release(first, due())
        busy(two.acquire(second, True, due()))
        granted(three.acquire(third, True, due()))

    def test_freed_in_the_queue(self, shared: ConsulStore) -> None:
        """A waiter's key that is released by hand keeps nobody from the lock, and it waits anew."""
        one, two, three = [shared.open() for _ in range(3)]
        lock = lock_name()
        first, second, third = [request(lock) for _ in range(3)]
        granted(one.acquire(first, False, due()))
        busy(two.acquire(second, True, due()))
        (waits,) = below(shared.url, key(lock, WAIT))
        by_hand(shared.url, "PUT", f"kv/{waits.key}", release=waits.session)
        assert one.release(first, due())
        granted(three.acquire(third, False, due()))
        busy(two.acquire(second, True, due()))
        assert three.release(third, due())
        granted(two.acquire(second, True, due()))

    def test_ended_while_sitting_down(
        self, shared: ConsulStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A waiter whose session was ended before it had its key gets another one."""
        one, two = shared.open(), shared.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        granted(one.acquire(first, False, due()))
        new = Session.new_or_longer

        def ended(self: Session, *words: Any) -> str:
            monkeypatch.setattr(Session, "new_or_longer", new)
            session = new(self, *words)
            self.end(due(), session)
            return session

        monkeypatch.setattr(Session, "new_or_longer", ended)
        busy(two.acquire(second, True, due()))
        assert one.release(first, due())
        assert _ready(two.wake_fd(), 10)
        granted(two.acquire(second, True, due()))

    def test_moved_without_an_answer(
        self, shared: ConsulStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A longer session that was taken, and not told of, is found by the next renewal."""
        store = shared.open()
        wanted = request(lock_name(), ttl=10.0)
        grant = granted(store.acquire(wanted, False, due()))
        change = Session.change

        def lost(self: Session, *words: Any) -> Any:
            change(self, *words)
            raise StoreUnavailable("no answer in time")

        with monkeypatch.context() as patched:
            patched.setattr(Session, "change", lost)
            with pytest.raises(StoreUnavailable):
                store.renew(wanted._replace(ttl=20.0), due())
        assert store.renew(wanted, due())
        assert granted(store.acquire(wanted, False, due())) == grant
        assert store.release(wanted, due())

    @pytest.mark.parametrize("again", [True, False])
    def test_carried_out_late(
        self, shared: ConsulStore, monkeypatch: pytest.MonkeyPatch, again: bool
    ) -> None:
        """What was asked for in vain takes no place when it is carried out at last.

        Whether its run has got another one, or has given up.
        """
        store, late = shared.open(), []
        wanted = request(lock_name(), slots=2)

        def under_way(_: Session, *words: Any) -> Any:
            late.append(words)
            raise StoreUnavailable("no answer in time")

        with monkeypatch.context() as patched:
            patched.setattr(Session, "change", under_way)
            with pytest.raises(StoreUnavailable):
                store.acquire(wanted, False, due())
        if again:
            other = request(wanted.lock, slots=2)
            granted(shared.open().acquire(other, False, due()))
            granted(store.acquire(wanted, False, due()))
            assert shared.open().take_away(other.lock, other.token, due())
        else:
            store.leave(wanted, due())
        (words,) = late
        with contextlib.closing(Session(shared.url)) as session, pytest.raises(Conflict) as error:
            session.change(due(), *words[1:])
        assert error.value.ended
        assert store.release(wanted, due()) == again
        assert not store.holders(wanted.lock, due())

    def test_two_places(self, shared: ConsulStore) -> None:
        """Of two places a new keeper takes up the one that its run was granted, and no other."""
        wanted = request(lock_name(), slots=2)
        other = request(wanted.lock, slots=2)
        one, two = shared.open(), shared.open()
        granted(one.acquire(other, False, due()))
        grant = granted(two.acquire(wanted, False, due()))
        real = next(one for one in below(shared.url, prefix(wanted.lock)) if one.number == 1)
        assert one.release(other, due())
        assert real.detail is not None
        with contextlib.closing(Session(shared.url)) as session:
            ghost = session.new(due(), 10.0)
            written = lock(key(wanted.lock, PLACE, 0), ghost, real.detail.written())
            session.change(due(), wanted.lock, written)
        assert granted(shared.open().acquire(wanted, False, due())) == grant
        assert shared.open().release(wanted, due())
        assert [one.number for one in below(shared.url, prefix(wanted.lock))] == [0]
        assert by_hand(shared.url, "PUT", f"session/destroy/{ghost}")


class TestSessions:
    def test_its_own(self, shared: ConsulStore) -> None:
        """No health check ends a holder's session, and a release leaves neither it nor a delay."""
        store = shared.open()
        wanted = request(lock_name(), ttl=10.0)
        granted(store.acquire(wanted, False, due()))
        session = place(shared, wanted).session
        (told,) = by_hand(shared.url, "GET", f"session/info/{session}")
        assert not told.get("NodeChecks")
        assert not told.get("ServiceChecks")
        assert not told.get("Checks")
        assert (told["TTL"], told["LockDelay"]) == ("10000ms", 5_000_000_000)
        assert store.release(wanted, due())
        assert by_hand(shared.url, "GET", f"session/info/{session}") == []
        assert below(shared.url, prefix(wanted.lock)) == []
        granted(store.acquire(request(wanted.lock), False, due()))

    def test_the_hold_is_over_for_consul(self, shared: ConsulStore) -> None:
        """A session for --min-hold that has ended before the release keeps nobody from the lock.

        Consul's clock may run a bit faster than the host's.
        """
        store = shared.open()
        wanted = request(lock_name(), min_hold=60.0)
        granted(store.acquire(wanted, False, due()))
        detail = place(shared, wanted).detail
        assert detail is not None
        assert by_hand(shared.url, "PUT", f"session/destroy/{detail.keeps}")
        assert store.release(wanted, due())
        assert below(shared.url, prefix(wanted.lock)) == []

    def test_the_agent_is_started_again(self, tmp_path: Path) -> None:
        """An agent that is killed and started again costs no lease: COMMAND lives on."""
        with servers.Consul.start() as server:
            host = Host(tmp_path, {"GUARDRUN_LEASE_URL": server.url})
            log = Written(tmp_path / "log")
            process = host.hold(*SHORT, *log.words, "--lock", lock_name())
            server.kill()
            server.start_again()
            eventually(lambda: len(log.lines("lease_renewed")) > 2, 30, "renewals")
            assert finish(process).code == 0
            assert log.lines("lease_lost") == []
            host.close()

    def test_shorter_than_allowed(self, tmp_path: Path) -> None:
        """A ttl that this Consul's sessions cannot have is a usage error that names its bounds."""
        with servers.Consul.start(session_ttl_min="30s") as server:
            store = ConsulLeases(server.url)
            with pytest.raises(UsageError, match=r"--ttl 10s: .* from 30s to 24h"):
                store.acquire(request(lock_name(), ttl=10.0), False, due())
            wanted = request(lock_name(), ttl=30.0, min_hold=0.1)
            granted(store.acquire(wanted, False, due()))
            busy(store.acquire(request(wanted.lock), True, due()))
            store.close()
            host = Host(tmp_path, {"GUARDRUN_LEASE_URL": server.url})
            result = host.run(*SHORT, "--lock", "a", "--", host.job)
            assert result.code == 64
            assert host.executions() == []
            host.close()

    def test_renewed_at_once(self, shared: ConsulStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """A session that ends between a renewal's two steps is told of by 404: lost."""
        store = shared.open()
        wanted = request(lock_name())
        granted(store.acquire(wanted, False, due()))
        change = Session.change

        def then_ended(self: Session, *words: Any) -> Any:
            said = change(self, *words)
            invalidate(shared, wanted)
            return said

        monkeypatch.setattr(Session, "change", then_ended)
        assert not store.renew(wanted, due())

    def test_a_renewal_that_hangs(self, shared: ConsulStore) -> None:
        """It takes no longer than it was told, and the next one finds the lease as it was."""
        with Proxy.before(shared.url) as proxy:
            store = ConsulLeases(proxy.url_for(shared.url))
            wanted = request(lock_name())
            granted(store.acquire(wanted, False, due()))
            proxy.blackhole()
            began = kernel.now()
            with pytest.raises(StoreUnavailable, match="check that the server is not stopped"):
                store.renew(wanted, due(0.5))
            assert kernel.now() - began < 2
            proxy.resume()
            assert store.renew(wanted, due())
            assert store.release(wanted, due())
            store.close()


class TestFence:
    def test_is_an_index(self, shared: ConsulStore) -> None:
        """The fence is the index of the change by which the place was taken, renewed or not."""
        one, two = shared.open(), shared.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        fence = granted(one.acquire(first, False, due())).fence
        assert fence == place(shared, first).modified
        assert one.renew(first, due())
        assert place(shared, first).modified > (fence or 0)
        assert granted(one.acquire(first, False, due())).fence == fence
        busy(two.acquire(second, True, due()))
        assert one.release(first, due())
        assert (granted(two.acquire(second, True, due())).fence or 0) > (fence or 0)

    def test_after_what_was_left(self, shared: ConsulStore) -> None:
        """Who takes a place that an invalidated session has left makes its key anew."""
        store = shared.open()
        first = request(lock_name(), ttl=0.2)
        fence = granted(store.acquire(first, False, due())).fence or 0
        eventually(lambda: not place(shared, first).session, what="an invalidated session")
        left = place(shared, first)
        second = request(first.lock)
        grant = await_grant(store, second, 10)
        assert grant.fence == place(shared, second).created > left.modified > fence


class TestWaiting:
    @pytest.mark.parametrize("left", [False, True])
    def test_somebody_was_faster(
        self, shared: ConsulStore, monkeypatch: pytest.MonkeyPatch, left: bool
    ) -> None:
        """Who found the lock free, and comes second, is told who has it, and leaves nothing.

        Also where both found what a run had left that was lost.
        """
        one, two = shared.open(), shared.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        if left:
            granted(one.acquire(request(first.lock, ttl=0.2), False, due()))
            eventually(lambda: not two.holders(first.lock, due()), what="a lapse and its delay")
        new = Session.new

        def meanwhile(self: Session, *words: Any, **more: Any) -> str:
            monkeypatch.setattr(Session, "new", new)
            granted(two.acquire(second, False, due()))
            return new(self, *words, **more)

        monkeypatch.setattr(Session, "new", meanwhile)
        said = busy(one.acquire(first, False, due()))
        assert [holder.owner for holder in said.holders] == [second.owner]
        assert two.renew(second, due())
        assert [one.token for one in below(shared.url, prefix(first.lock))] == [second.token]

    def test_an_index_that_went_back(self, shared: ConsulStore) -> None:
        """A watch for an index that is still to come is begun anew: Consul has begun anew."""
        store = shared.open()
        wanted = request(lock_name())
        granted(store.acquire(wanted, False, due()))
        name, index = key(wanted.lock, PLACE, 0), place(shared, wanted).modified
        with contextlib.closing(Session(shared.url)) as session:
            watches = Watches(session)
            assert not watches.begin("t", Target(name, False), index + 1000, due())
            assert store.renew(wanted, due())
            assert not _ready(watches.fileno(), 0.3), "it has not waited for that index"
            watches.begin("t", Target(name, False), place(shared, wanted).modified, due())
            assert not _ready(watches.fileno(), 0.1)
            assert store.renew(wanted, due())
            assert _ready(watches.fileno(), 10)
            watches.close()

    def test_an_answer_without_news(self, shared: ConsulStore) -> None:
        """A renewal wakes the first waiter, which goes on waiting."""
        one, two = shared.open(), shared.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        granted(one.acquire(first, False, due()))
        busy(two.acquire(second, True, due()))
        assert one.renew(first, due())
        assert _ready(two.wake_fd(), 10)
        two.drain()
        busy(two.acquire(second, True, due()))
        assert not _ready(two.wake_fd(), 0)
        assert one.release(first, due())
        assert _ready(two.wake_fd(), 10)
        two.drain()
        granted(two.acquire(second, True, due()))

    def test_several_places(self, shared: ConsulStore) -> None:
        """With several places the first waiter is woken by any of them, the next by the first.

        What was deleted before makes nobody ask in vain.
        """
        stores = [shared.open() for _ in range(5)]
        lock = lock_name()
        wanted = [request(lock, slots=2) for _ in stores]
        for number in (0, 1, 4):
            if number == 4:
                assert stores[1].release(wanted[1], due())
            granted(stores[number].acquire(wanted[number], False, due()))
        for number in (2, 3):
            busy(stores[number].acquire(wanted[number], True, due()))
        assert not _ready(stores[2].wake_fd(), 0.2)
        assert stores[0].release(wanted[0], due())
        assert _ready(stores[2].wake_fd(), 10)
        stores[2].drain()
        granted(stores[2].acquire(wanted[2], True, due()))
        assert _ready(stores[3].wake_fd(), 10)
        stores[3].drain()
        busy(stores[3].acquire(wanted[3], True, due()))
        assert stores[4].release(wanted[4], due())
        assert _ready(stores[3].wake_fd(), 10)
        granted(stores[3].acquire(wanted[3], True, due()))

    def test_requests_for_a_handoff(
        self, private: PrivateConsul, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A handoff costs as many requests with twenty waiters as with three."""
        asked = []
        send = Wire.send

        def counted(self: Wire, due: float, method: str, path: str, *words: Any) -> None:
            asked.append((method, path.partition("?")[0].rpartition("guardrun/")[0] or path))
            send(self, due, method, path, *words)

        monkeypatch.setattr(Wire, "send", counted)

        def cost(waiters: int) -> int:
            holder, *stores = [private.open() for _ in range(waiters + 1)]
            first, *waiting = [request(lock) for lock in [lock_name()] * (waiters + 1)]
            granted(holder.acquire(first, False, due()))
            for store, wanted in zip(stores, waiting, strict=True):
                busy(store.acquire(wanted, True, due()))
            asked.clear()
            assert holder.release(first, due())
            assert _ready(stores[0].wake_fd(), 10)
            assert not any(_ready(store.wake_fd(), 0) for store in stores[1:])
            granted(stores[0].acquire(waiting[0], True, due()))
            assert _ready(stores[1].wake_fd(), 10)
            stores[1].drain()
            busy(stores[1].acquire(waiting[1], True, due()))
            found = len(asked)
            assert not any(_ready(store.wake_fd(), 0) for store in stores[1:])
            private.close()
            private.opened.clear()
            return found

        few = cost(3)
        assert few == cost(20)
        assert few <= 8


class TestWays:
    def test_rights(self, private: PrivateConsul) -> None:
        """Write on the prefix and on sessions is enough for everything; none is told what to do."""
        rules = 'key_prefix "guardrun/" { policy = "write" } session_prefix "" { policy = "write" }'
        few, none = (token_with(private.url, text) for text in (rules, ""))
        one, two = (ConsulLeases(with_token(private, few)) for _ in range(2))
        first, second = request(lock := lock_name(), min_hold=30.0), request(lock)
        granted(one.acquire(first, False, due()))
        busy(two.acquire(second, True, due()))
        assert one.renew(first, due())
        assert two.wake_fd() is not None
        two.leave(second, due())
        assert one.release(first, due())
        (held,) = one.locks(due())
        assert one.take_away(lock, held.token, due())
        granted(two.acquire(second, True, due()))
        refused = ConsulLeases(with_token(private, none))
        with pytest.raises(StoreUnavailable, match=r"ermission denied.*key_prefix guardrun/ write"):
            refused.acquire(first, False, due())
        for used in (one, two, refused):
            used.close()

    def test_unknown_token(self, private: PrivateConsul, tmp_path: Path) -> None:
        """A token that Consul does not know is one clear line, without it."""
        host = Host(tmp_path, {"GUARDRUN_LEASE_URL": with_token(private, wrong := "wr0ng-t0ken")})
        result = host.run(*SHORT, "--store-wait", "1s", "--lock", "a", "--", host.job)
        assert result.code == 69
        (line,) = result.stderr.decode().splitlines()
        assert "this Consul does not know the token" in line
        assert wrong.encode() not in result.stdout + result.stderr
        assert host.executions() == []
        host.close()

    def test_a_token_that_no_header_can_hold(self, private: PrivateConsul, tmp_path: Path) -> None:
        """It is a wrong setting, in one clear line without it, and COMMAND is not executed."""
        where = f"consul://localhost:{private.own.port}"
        host = Host(tmp_path, {"GUARDRUN_LEASE_URL": where, TOKEN: "wr0ng\x07t0ken"})
        result = host.run(*SHORT, "--lock", "a", "--", host.job)
        assert result.code == 78, result
        (line,) = result.stderr.decode().splitlines()
        assert f"${TOKEN} has a character that no token can have" in line
        assert b"wr0ng" not in result.stdout + result.stderr
        assert host.executions() == []
        host.close()

    def test_token_from_the_environment(
        self, private: PrivateConsul, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A file that is named wins over a token that is given, the URL over both.

        The file is read anew: what has been written there since counts.
        """
        url, right = private.own.open_url, private.own.token
        wanted = request(lock_name())
        monkeypatch.setenv(TOKEN, right)
        for _ in range(2):
            store = ConsulLeases(url)
            granted(store.acquire(wanted, False, due()))
            store.close()
            (file := tmp_path / "token").write_text(f"{right}\n")
            monkeypatch.setenv(TOKEN_FILE, str(file))
            monkeypatch.setenv(TOKEN, "wr0ng")
        file.write_text("wr0ng")
        assert private.open().renew(wanted, due())
        store = ConsulLeases(url)
        with pytest.raises(StoreUnavailable, match="does not know the token") as error:
            store.renew(wanted, due())
        assert "wr0ng" not in str(error.value)
        file.write_text(right)
        assert store.renew(wanted, due())
        file.unlink()
        with pytest.raises(ConfigError, match=rf"\${TOKEN_FILE}: .*No such file"):
            store.renew(wanted, due())
        store.close()

    @pytest.mark.parametrize("text", ["t0p\nsecret", "t0psecret\x07", "t0psecrét"])
    def test_what_is_no_token(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        """What no header can hold is refused without being shown, wherever it was found."""
        monkeypatch.setenv(TOKEN, text)
        with pytest.raises(ConfigError, match=rf"^\${TOKEN} has a character"):
            token("consul://h")
        with pytest.raises(ConfigError) as error:
            token(f"consul://{quote(text)}@h")
        assert "t0p" not in str(error.value)

    def test_a_newline_after_a_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a secret's file ends with is none of it, in the environment as in a file."""
        monkeypatch.setenv(TOKEN, "t0psecret\n")
        assert token("consul://h") == "t0psecret"

    def test_of_several_agents_one_is_gone(self, private: PrivateConsul) -> None:
        """An agent where nobody listens costs nothing but a look at the next one."""
        url = private.url.replace("@", f"@127.0.0.1:{servers.free_port()},")
        store = ConsulLeases(url)
        granted(store.acquire(request(lock_name()), False, due()))
        store.close()

    @pytest.mark.parametrize(
        ("parameter", "says"),
        [("datacenter=nowhere", "check the datacenter"), ("namespace=x", "take the namespace out")],
    )
    def test_where(self, private: PrivateConsul, parameter: str, says: str) -> None:
        """Consul is told of datacenter and namespace; one without them says so."""
        with (
            contextlib.closing(ConsulLeases(f"{private.url}?{parameter}")) as store,
            pytest.raises(StoreUnavailable, match=says),
        ):
            store.acquire(request(lock_name()), False, due(5))
        with contextlib.closing(ConsulLeases(f"{private.url}?datacenter=dc1")) as store:
            granted(store.acquire(request(lock_name()), False, due()))

    def test_an_agent_that_is_no_server(self, private: PrivateConsul) -> None:
        """What the servers refuse is understood also as the agent beside the run hands it on."""
        with private.own.agent() as agent:
            store = ConsulLeases(agent.url)
            lost = request(lock_name(), ttl=0.2)
            fence = granted(store.acquire(lost, False, due())).fence or 0
            eventually(lambda: not place(private, lost).session, what="an invalidated session")
            after = await_grant(store, request(lost.lock, min_hold=0.001), 10)
            assert (after.fence or 0) > fence
            with pytest.raises(UsageError, match=r"--ttl 0.001s: .* from 10ms to 24h"):
                store.acquire(request(lock_name(), ttl=0.001), False, due())
            store.close()

    def test_tls(self, certified: Path) -> None:
        """consuls:// takes a server whose certificate is good for its name, and no other."""
        files = {"cert_file": f"{certified}/cert", "key_file": f"{certified}/key"}
        with servers.Consul.start(tls=f"?cacert={certified}/cert", **files) as server:
            one, two = ConsulLeases(server.url), ConsulLeases(server.url)
            first, second = [request(lock) for lock in [lock_name()] * 2]
            granted(one.acquire(first, True, due()))
            busy(two.acquire(second, True, due()))
            assert one.release(first, due())
            assert _ready(two.wake_fd(), 10)
            two.drain()
            granted(two.acquire(second, True, due()))
            for url, says in (
                (f"consuls://wr0ng@localhost:{server.port}", "check the server's certificate"),
                (f"consuls://wr0ng@127.0.0.1:{server.port}?cacert={certified}/cert", "certificate"),
                (f"consuls://wr0ng@localhost:{server.port}?cacert=/nowhere", "check the files"),
                (f"consul://wr0ng@localhost:{server.port}", "TLS"),
            ):
                store = ConsulLeases(url)
                with pytest.raises(StoreUnavailable, match=says):
                    store.acquire(first, True, due(3))
                store.close()
            for used in (one, two):
                used.close()

    def test_tls_with_a_certificate_of_our_own(self, certified: Path) -> None:
        """Where the server wants a certificate, it gets the one that the URL names."""
        pair = {"cert_file": f"{certified}/cert", "key_file": f"{certified}/key"}
        trust = {"ca_file": f"{certified}/cert", "verify_incoming_https": True}
        own = f"&cert={certified}/cert&key={certified}/key"
        tls = f"?cacert={certified}/cert{own}"
        with servers.Consul.start(tls=tls, **pair, **trust) as server:
            store = ConsulLeases(server.url)
            granted(store.acquire(request(lock_name()), False, due()))
            store.close()
            without = ConsulLeases(server.url.replace(own, ""))
            with pytest.raises(StoreUnavailable):
                without.acquire(request(lock_name()), False, due(3))
            without.close()

    def test_plain_server(self, private: PrivateConsul) -> None:
        """A server without TLS is not mistaken for one with it."""
        store = ConsulLeases(f"consuls://x@localhost:{private.own.port}")
        # What is left unread of our hello may reset the connection before its answer is read.
        with pytest.raises(StoreUnavailable, match=r"whether (the server|it) speaks TLS"):
            store.acquire(request(lock_name()), False, due(3))
        store.close()


def token_with(url: str, rules: str) -> str:
    """A token that may do so much."""
    name = lock_name()
    by_hand(url, "PUT", "acl/policy", {"Name": name, "Rules": rules})
    told = by_hand(url, "PUT", "acl/token", {"Policies": [{"Name": name}]})
    return str(told["SecretID"])


def with_token(private: PrivateConsul, token: str) -> str:
    """The same server, for somebody else."""
    return private.own.open_url.replace("://", f"://{token}@")


class TestUrl:
    def test_read(self) -> None:
        """Agents, token, place and files are what the URL says, unescaped."""
        assert read("consul://h") == ((Place("h", 8500, None),), None, {})
        assert read(
            "consuls://t%40@a:1,[::1]?cacert=/c%20a&cert=/c&key=/k&datacenter=d&namespace=n"
        ) == (
            (Place("a", 1, files := Tls("/c a", "/c", "/k")), Place("::1", 8501, files)),
            "t@",
            {"dc": "d", "ns": "n"},
        )

    @pytest.mark.parametrize(
        "url",
        [
            *("consul://hun/ter2@h", "consul://hun#ter2@h", "consul://hun?ter2@h"),
            *("consul://hun@ter2@h", "consul://u:hunter2@h", "consul://:hunter2@h"),
            *("consul://h:hunter2", "consul://h/hunter2", "consul://[hunter2"),
            *("consul://h?token=hunter2", "consul://h?cacert=/hunter2", "consuls://h?key=/hunter2"),
            *("consuls://h?cert=", "consul://h,", "consul://@h", "consul://h?datacenter="),
        ],
    )
    def test_unreadable(self, url: str) -> None:
        """A URL that cannot be read is a fault in the configuration, and is not shown."""
        with pytest.raises(ConfigError, match="URL cannot be read: write consul://") as error:
            ConsulLeases(url).acquire(request(lock_name()), False, due())
        assert "ter2" not in str(error.value)

    def test_address(self) -> None:
        """A URL in a message has no token and no options."""
        assert address("consuls://hunter2@a:1,b:2?cacert=/c") == "consuls://a:1,b:2"

    @pytest.mark.parametrize(
        ("said", "does"),
        [
            ("Connection refused", "server runs there"),
            ("No cluster leader", "more than half"),
            ("rpc error making call: Permission denied", "key_prefix guardrun/ write"),
            ("ACL not found", "does not know the token"),
            ("something hunter2 said", "check the cluster"),
        ],
    )
    def test_remedies(self, said: str, does: str) -> None:
        """An error says what to do about it, in one line without the token."""
        line = str(Http("consul://hunter2@h:1").unavailable(said))
        assert line.startswith("the lease store consul://h:1: ")
        assert does in line
        assert "hunter2" not in line
