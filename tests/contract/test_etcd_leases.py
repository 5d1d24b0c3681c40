"""Leases in etcd: what can go wrong there alone, on real servers."""

from __future__ import annotations

import contextlib
import json
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
from lease_fleet import SHORT, Written, entries, wipe
from lease_stores import (
    EtcdStore,
    PrivateEtcd,
    await_grant,
    busy,
    due,
    granted,
    lock_name,
    request,
)
from support import Host, eventually, finish, no_survivors, sleepers, stubborn_tree

from guardrun import kernel
from guardrun.errors import ConfigError, StoreUnavailable
from guardrun.locks.etcd import EtcdLeases
from guardrun.locks.etcd_connection import Gateway, unavailable
from guardrun.locks.etcd_keys import ALIVE, ENTRY, Record, coded, key, prefix
from guardrun.locks.etcd_session import Session
from guardrun.locks.etcd_url import Login, read
from guardrun.locks.etcd_watch import Watches, target
from guardrun.locks.etcd_words import put
from guardrun.locks.json_http import Wire
from guardrun.locks.members import Place, Tls
from guardrun.locks.stores import address
from guardrun.model import LeaseRequest


@pytest.fixture
def shared() -> Iterator[EtcdStore]:
    """The session's server."""
    store = EtcdStore()
    yield store
    store.close()


@pytest.fixture(scope="module")
def module_server() -> Iterator[PrivateEtcd]:
    """A private server for the tests of this file that leave it as it was."""
    with PrivateEtcd.start() as started:
        yield started


@pytest.fixture
def private(module_server: PrivateEtcd) -> Iterator[PrivateEtcd]:
    """That server, empty."""
    wipe(module_server.url)
    yield module_server
    module_server.close()


@contextlib.contextmanager
def by_hand(url: str) -> Iterator[Session]:
    """What a person would use etcdctl for."""
    with contextlib.closing(Session(url)) as session:
        yield session


def write(url: str, name: bytes, value: str, lease: int = 0) -> None:
    """Write a key by hand."""
    with by_hand(url) as session:
        session.ask(due(), "kv/put", put(name, lease, coded(value.encode()))["request_put"])


def entry(leases: EtcdStore, wanted: LeaseRequest) -> Record:
    """What a run has written down of itself."""
    (found,) = [one for one in entries(leases.url, wanted.lock) if one.token == wanted.token]
    return found


def test_a_grant_that_is_carried_out_again(
    shared: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that comes late, after another one has, changes neither lease nor fence."""
    asked: list[dict[str, Any]] = []
    ask = Gateway.ask

    def noted(gateway: Gateway, until: float, path: str, body: dict[str, Any]) -> dict[str, Any]:
        asked.extend([body] if path == "kv/txn" else ())
        return ask(gateway, until, path, body)

    lock = lock_name()
    first, second = request(lock), request(lock)
    holder, waiter = shared.open(), shared.open()
    granted(holder.acquire(first, False, due()))
    busy(waiter.acquire(second, True, due()))
    assert holder.release(first, due())
    monkeypatch.setattr(Gateway, "ask", noted)
    grant = granted(waiter.acquire(second, True, due()))
    stands = entry(shared, second)
    with by_hand(shared.url) as session:
        for body in tuple(asked):
            session.ask(due(), "kv/txn", body)
    assert entry(shared, second) == stands
    assert grant.fence == stands.fence


def test_somebody_was_faster(shared: EtcdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who found the lock free, and comes second, is told who has it."""
    one, two = shared.open(), shared.open()
    first, second = [request(lock) for lock in [lock_name()] * 2]
    new_lease = Session.new_lease

    def meanwhile(self: Session, *words: Any) -> int:
        monkeypatch.setattr(Session, "new_lease", new_lease)
        granted(two.acquire(second, False, due()))
        return new_lease(self, *words)

    monkeypatch.setattr(Session, "new_lease", meanwhile)
    said = busy(one.acquire(first, False, due()))
    assert [holder.owner for holder in said.holders] == [second.owner]
    assert two.renew(second, due())


class TestLosing:
    def test_extended_without_a_ttl(
        self, shared: EtcdStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A lease that ends between a renewal's two steps is told of by 200 and no TTL: lost."""
        store = shared.open()
        wanted = request(lock_name())
        granted(store.acquire(wanted, False, due()))
        transact = Session.transact

        def then_revoked(self: Session, *words: Any) -> dict[str, Any]:
            said = transact(self, *words)
            with by_hand(shared.url) as session:
                session.end({int(said["responses"][0]["response_range"]["kvs"][0]["lease"])}, due())
            return said

        monkeypatch.setattr(Session, "transact", then_revoked)
        assert not store.renew(wanted, due())

    def test_revoked(self, shared: EtcdStore) -> None:
        """A lease that is revoked by hand is lost, and its place goes to the next at once."""
        one, two = shared.open(), shared.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        granted(one.acquire(first, False, due()))
        busy(two.acquire(second, True, due()))
        with by_hand(shared.url) as session:
            session.end({entry(shared, first).lease}, due())
        assert _ready(two.wake_fd(), 10)
        granted(two.acquire(second, True, due()))
        assert not one.renew(first, due())
        assert not one.release(first, due())
        assert two.renew(second, due())

    @pytest.mark.parametrize("kind", [ENTRY, ALIVE])
    def test_deleted(self, shared: EtcdStore, kind: str) -> None:
        """A key that is deleted by hand is a lease that is lost, whichever of the two it is."""
        store = shared.open()
        wanted = request(lock_name())
        granted(store.acquire(wanted, False, due()))
        wipe(shared.url, key(wanted.lock, kind))
        assert not store.renew(wanted, due())
        assert not store.release(wanted, due())

    @pytest.mark.parametrize("value", ["mine now", "[]", '{"owner": 1}', ""])
    def test_overwritten(self, shared: EtcdStore, value: str) -> None:
        """What somebody writes over a holder's key stays as it is, and keeps the lock taken."""
        store, other = shared.open(), shared.open()
        wanted = request(lock_name())
        granted(store.acquire(wanted, False, due()))
        name = key(wanted.lock, ENTRY, wanted.token)
        write(shared.url, name, value)
        assert not store.renew(wanted, due())
        assert not store.release(wanted, due())
        busy(store.acquire(wanted, True, due()))
        busy(other.acquire(request(wanted.lock), False, due()))
        (held,) = other.holders(wanted.lock, due())
        assert (held.token, held.owner, held.expires_in) == (wanted.token, "?", float("inf"))
        assert other.take_away(wanted.lock, held.token, due())
        granted(other.acquire(request(wanted.lock), False, due()))

    def test_what_is_not_ours(self, shared: EtcdStore) -> None:
        """Other keys below the prefix are not locks, and do not disturb."""
        store = shared.open()
        wanted = request(lock_name())
        write(shared.url, prefix(wanted.lock) + b"note", "hello")
        granted(store.acquire(wanted, False, due()))
        assert [held.lock for held in store.locks(due()) if held.lock == wanted.lock] == [
            wanted.lock
        ]

    def test_lapsed_in_the_queue(self, shared: EtcdStore) -> None:
        """A waiter whose entry is gone stands at the end of the queue when it asks again."""
        one, two, three = [shared.open() for _ in range(3)]
        lock = lock_name()
        first, second, third = [request(lock) for _ in range(3)]
        granted(one.acquire(first, False, due()))
        busy(two.acquire(second, True, due()))
        busy(three.acquire(third, True, due()))
        wipe(shared.url, key(lock, ENTRY, second.token))
        busy(two.acquire(second, True, due()))
        assert one.release(first, due())
        busy(two.acquire(second, True, due()))
        granted(three.acquire(third, True, due()))

    def test_a_waiter_without_its_lease(self, shared: EtcdStore) -> None:
        """A waiter whose key was put on no lease by hand asks calmly, and waits anew without it."""
        one, two = shared.open(), shared.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        granted(one.acquire(first, False, due()))
        busy(two.acquire(second, True, due()))
        text = json.dumps(entry(shared, second).detail._asdict())  # type: ignore[union-attr]
        write(shared.url, key(first.lock, ENTRY, second.token), text)
        eventually(lambda: busy(two.acquire(second, True, due())).ask_again < 1, what="a notice")
        wipe(shared.url, key(first.lock, ENTRY, second.token))
        assert one.release(first, due())
        await_grant(two, second, 10)


class TestFence:
    def test_is_a_revision(self, shared: EtcdStore) -> None:
        """The fence is the revision in which the place was taken, not that of coming."""
        one, two = shared.open(), shared.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        fence = granted(one.acquire(first, False, due())).fence
        assert fence == entry(shared, first).modified
        busy(two.acquire(second, True, due()))
        came = entry(shared, second).created
        assert one.release(first, due())
        grant = granted(two.acquire(second, True, due()))
        assert (grant.fence or 0) > came > (fence or 0)

    def test_outlives_another_lease(self, shared: EtcdStore) -> None:
        """What is moved to a longer lease keeps its fence, and the short one is gone."""
        store = shared.open()
        wanted = request(lock_name())
        grant = granted(store.acquire(wanted, False, due()))
        before = entry(shared, wanted).lease
        assert store.renew(longer := wanted._replace(ttl=300.0), due())
        assert granted(store.acquire(longer, False, due())) == grant
        with by_hand(shared.url) as session:
            assert session.left(before, due()) < 0
        assert store.release(longer, due())


class TestWaiting:
    def test_compacted(self, private: PrivateEtcd) -> None:
        """A watch whose beginning is compacted away ends, and the waiter asks again."""
        one, two = private.open(), private.open()
        first = request(lock_name())
        granted(one.acquire(first, False, due()))
        with by_hand(private.url) as session, by_hand(private.url) as own:
            watches = Watches(own)
            for _ in range(2):
                assert one.renew(first, due())
            revision = entry(private, first).modified
            said = session.ask(due(), "kv/range", {"key": coded(b"x")})
            session.ask(due(), "kv/compaction", {"revision": said["header"]["revision"]})
            told = watches.begin("t", target(first.lock, 1, None), revision, due())
            assert told or _ready(watches.fileno(), 10)
            watches.drain()
            if not told:
                assert watches.fileno() is None
            watches.close()
        busy(two.acquire(second := request(first.lock), True, due()))
        assert one.release(first, due())
        assert _ready(two.wake_fd(), 10)
        granted(two.acquire(second, True, due()))

    def test_several_places(self, shared: EtcdStore) -> None:
        """With several places the first waiter is woken by any of them, the next by the first."""
        stores = [shared.open() for _ in range(5)]
        lock = lock_name()
        wanted = [request(lock, slots=2) for _ in stores]
        for number in (0, 1):
            granted(stores[number].acquire(wanted[number], False, due()))
        for number in (2, 3):
            busy(stores[number].acquire(wanted[number], True, due()))
        assert stores[0].release(wanted[0], due())
        assert _ready(stores[2].wake_fd(), 10)
        granted(stores[2].acquire(wanted[2], True, due()))
        assert _ready(stores[3].wake_fd(), 10)
        stores[3].drain()
        busy(stores[3].acquire(wanted[3], True, due()))
        assert stores[1].release(wanted[1], due())
        assert _ready(stores[3].wake_fd(), 10)
        granted(stores[3].acquire(wanted[3], True, due()))

    def test_an_event_with_the_beginning(self, private: PrivateEtcd) -> None:
        """What happened before a watch began is told with its beginning, and not lost."""
        store = private.open()
        first = request(lock_name())
        granted(store.acquire(first, False, due()))
        with by_hand(private.url) as session:
            watches = Watches(session)
            revision = entry(private, first).modified + 1
            assert store.release(first, due())
            told = watches.begin("t", target(first.lock, 1, None), revision, due())
            assert told or _ready(watches.fileno(), 10)
            watches.close()

    def test_an_abandoned_hold(self, shared: EtcdStore) -> None:
        """Who waits for a place that only --min-hold keeps is woken when that is over."""
        one, two = shared.open(), shared.open()
        first, second = request(lock := lock_name(), min_hold=2.0), request(lock)
        granted(one.acquire(first, False, due()))
        assert one.release(first, due())
        assert entries(shared.url, lock) == []
        busy(two.acquire(second, True, due()))
        assert _ready(two.wake_fd(), 10)
        two.drain()
        granted(two.acquire(second, True, due()))

    def test_requests_for_a_handoff(
        self, private: PrivateEtcd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A handoff costs as many requests with twenty waiters as with two."""
        asked = []
        for name in ("ask", "listen"):
            plain = getattr(Wire, name)

            def counted(
                self: Wire, due: float, method: str, path: str, *words: Any, plain: Any = plain
            ) -> Any:
                asked.append(path)
                return plain(self, due, method, path, *words)

            monkeypatch.setattr(Wire, name, counted)

        def cost(waiters: int) -> list[str]:
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
            found = list(asked)
            assert not any(_ready(store.wake_fd(), 0) for store in stores[1:])
            private.close()
            private.opened.clear()
            return found

        two = cost(2)
        assert two == cost(20)
        assert len(two) <= 5


def _ready(fd: int | None, within: float) -> bool:
    return fd is not None and bool(select.select([fd], [], [], within)[0])


class TestWays:
    def test_logged_out(self, private: PrivateEtcd) -> None:
        """A login that the server knows no more is made anew, within the same call."""
        one, two = private.open(), private.open()
        first, second = [request(lock) for lock in [lock_name()] * 2]
        granted(one.acquire(first, False, due()))
        private.restart()
        eventually(lambda: _renews(one, first), 30, "a server that is back")
        with by_hand(private.url) as session:  # rights that change make all logins old
            session.ask(due(), "auth/role/add", {"name": f"r{lock_name()}"})
        assert one.renew(first, due())
        busy(two.acquire(second, True, due()))
        assert one.release(first, due())
        await_grant(two, second, 10)

    def test_rights(self, private: PrivateEtcd) -> None:
        """A role with the prefix alone is enough for everything; one without is told what to do."""
        with by_hand(private.url) as session:
            for path, body in (
                ("auth/role/add", {"name": "few"}),
                ("auth/role/grant", {"name": "few", "perm": _RIGHTS}),
                ("auth/user/add", {"name": "few", "password": "p@ss"}),
                ("auth/user/grant", {"user": "few", "role": "few"}),
                ("auth/user/add", {"name": "none", "password": "p@ss"}),
            ):
                session.ask(due(), path, body)
        url = f"etcd://few:p%40ss@127.0.0.1:{private.own.port}"
        one, two = EtcdLeases(url), EtcdLeases(url)
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
        none = EtcdLeases(url.replace("few", "none"))
        with pytest.raises(StoreUnavailable, match=r"permission denied.*readwrite on the prefix"):
            none.acquire(first, False, due())
        for used in (one, two, none):
            used.close()

    @pytest.mark.parametrize(
        ("login", "says"),
        [
            ("root:wr0ng@", "check the user and the password in the URL"),
            ("nobody:wr0ng@", "check the user and the password in the URL"),
            ("", "put user and password into the URL"),
        ],
    )
    def test_wrong_login(self, private: PrivateEtcd, login: str, says: str) -> None:
        """A login that is wrong, or missing, says so, without the password."""
        store = EtcdLeases(f"etcd://{login}127.0.0.1:{private.own.port}")
        with pytest.raises(StoreUnavailable, match=says) as error:
            store.acquire(request(lock_name()), False, due())
        assert "wr0ng" not in str(error.value)
        store.close()

    def test_tls(self, certified: Path) -> None:
        """etcds:// takes a server whose certificate is good for its name, and no other."""
        files = {"cert_file": certified / "cert", "key_file": certified / "key"}
        with PrivateEtcd.start(**files) as private:
            one, two = private.open(), private.open()
            first, second = [request(lock) for lock in [lock_name()] * 2]
            granted(one.acquire(first, True, due()))
            busy(two.acquire(second, True, due()))
            assert one.release(first, due())
            assert _ready(two.wake_fd(), 10)
            two.drain()
            assert not _ready(two.wake_fd(), 0)
            granted(two.acquire(second, True, due()))
            login = f"root:{private.own.password}@"
            port = private.own.port
            for url, says in (
                (f"etcds://{login}localhost:{port}", "check the server's certificate"),
                (f"etcds://{login}127.0.0.1:{port}?cacert={certified}/cert", "certificate"),
                (f"etcds://{login}localhost:{port}?cacert=/nowhere", "check the files"),
                (f"etcd://{login}localhost:{port}", "TLS"),
            ):
                store = EtcdLeases(url)
                with pytest.raises(StoreUnavailable, match=says):
                    store.acquire(first, True, due(3))
                store.close()

    def test_tls_with_a_certificate_of_our_own(self, certified: Path) -> None:
        """Where the server wants a certificate, it gets the one that the URL names."""
        # The gateway shows the certificate of the server to it: no name may be in there.
        files = {"cert_file": certified / "nameless-cert", "key_file": certified / "nameless-key"}
        trust = {"client_cert_auth": "true", "trusted_ca_file": certified / "nameless-cert"}
        own = f"&cert={certified}/nameless-cert&key={certified}/nameless-key"
        with servers.Etcd.start(**files, **trust, tls=own) as server:
            store = EtcdLeases(server.url)
            granted(store.acquire(request(lock_name()), False, due()))
            store.close()
            without = EtcdLeases(server.url.replace(own, ""))
            with pytest.raises(StoreUnavailable):
                without.acquire(request(lock_name()), False, due(3))
            without.close()

    def test_plain_server(self, private: PrivateEtcd) -> None:
        """A server without TLS is not mistaken for one with it."""
        store = EtcdLeases(f"etcds://root:x@localhost:{private.own.port}")
        # What is left unread of our hello may reset the connection before its answer is read.
        with pytest.raises(StoreUnavailable, match=r"whether (the server|it) speaks TLS"):
            store.acquire(request(lock_name()), False, due(3))
        store.close()


_RIGHTS = {
    "permType": "READWRITE",
    "key": coded(b"guardrun/"),
    "range_end": coded(b"guardrun0"),
}


def _renews(store: EtcdLeases | Any, wanted: Any) -> bool:
    with contextlib.suppress(StoreUnavailable):
        return bool(store.renew(wanted, due()))
    return False


class TestUrl:
    def test_read(self) -> None:
        """Members, login and files are what the URL says, unescaped."""
        assert read("etcd://h") == ((Place("h", 2379, None),), None)
        assert read("etcds://u%40:p%3A@a:1,[::1]:2?cacert=/c%20a&cert=/c&key=/k") == (
            (Place("a", 1, files := Tls("/c a", "/c", "/k")), Place("::1", 2, files)),
            Login("u@", "p:"),
        )

    @pytest.mark.parametrize(
        "url",
        [
            *("etcd://u:hun/ter2@h", "etcd://u:hun#ter2@h", "etcd://u:hun?ter2@h"),
            *("etcd://u:hun@ter2@h", "etcd://u:hun:ter2@h", "etcd://hunter2@h"),
            *("etcd://h:hunter2", "etcd://h/hunter2", "etcd://[hunter2", "etcd://h?hunter2=1"),
            *("etcd://h?cacert=/hunter2", "etcds://h?key=/hunter2", "etcds://h?cert="),
            *("etcd://h,", "etcd://:hunter2@h", "etcds://h?cert=/hunter2&cert=/b"),
        ],
    )
    def test_unreadable(self, url: str) -> None:
        """A URL that cannot be read is a fault in the configuration, and is not shown."""
        with pytest.raises(ConfigError, match="URL cannot be read: write etcd://") as error:
            EtcdLeases(url).acquire(request(lock_name()), False, due())
        assert "ter2" not in str(error.value)

    def test_address(self) -> None:
        """A URL in a message has no login and no options."""
        assert address("etcds://u:hunter2@a:1,b:2?cacert=/c") == "etcds://a:1,b:2"

    @pytest.mark.parametrize(
        ("said", "does"),
        [
            ("Not Found", "etcd 3.4 or newer, with enable-grpc-gateway"),
            ("etcdserver: no leader", "more than half"),
            ("etcdserver: mvcc: database space exceeded", "compact, defragment"),
            ("etcdserver: authentication is not enabled", "take user and password out"),
            ("something hunter2 said", "check the cluster"),
        ],
    )
    def test_remedies(self, said: str, does: str) -> None:
        """An error says what to do about it, in one line without the password."""
        line = str(unavailable("etcd://u:hunter2@h:1", said))
        assert line.startswith("the lease store etcd://h:1: ")
        assert does in line
        assert "hunter2" not in line
        assert "etcdserver" not in line


class TestMembers:
    def test_members_are_lost(self, tmp_path: Path, mark: str) -> None:
        """A killed leader costs no lease, nor a frozen member; without a majority COMMAND is dead
        before its lease would end."""
        with servers.EtcdCluster.start() as cluster:
            host = Host(tmp_path, {"GUARDRUN_LEASE_URL": cluster.url})
            log = Written(tmp_path / "one.log")
            lock = lock_name()
            process = host.hold(*SHORT, *log.words, "--lock", lock)
            leader = cluster.leader()
            leader.kill()
            before = len(log.lines("lease_renewed"))
            eventually(lambda: len(log.lines("lease_renewed")) > before + 2, 30, "renewals")
            leader.start_again()
            assert finish(process).code == 0
            assert log.lines("lease_lost") == []

            frozen, *others = cluster.members
            store = EtcdLeases(cluster.url)
            frozen.pause()
            wanted = request(lock_name(), ttl=10.0)
            began = kernel.now()
            with pytest.raises(StoreUnavailable, match="check that the server is not stopped"):
                store.acquire(wanted, False, due(0.5))
            assert kernel.now() - began < 2
            eventually(lambda: _granted_soon(store, wanted), 20, "another member")
            frozen.resume()
            store.close()

            tree = stubborn_tree(tmp_path / "tree", mark)
            log = Written(tmp_path / "two.log")
            words = (*SHORT, *log.words, "--lock", lock, "-k", "1h", "--", str(tree))
            process = host.start(*words)
            sleepers(mark, 4)
            for member in others:
                member.kill()
            began = time.monotonic()
            no_survivors(mark, 15)
            assert time.monotonic() - began < 10
            assert process.wait(20) == 74
            assert len(log.lines("lease_lost")) == 1
            host.close()


def _granted_soon(store: EtcdLeases, wanted: Any) -> bool:
    with contextlib.suppress(StoreUnavailable):
        granted(store.acquire(wanted, False, due(1)))
        return True
    return False


def test_refused_by_one_asks_the_next() -> None:
    """A member where nobody listens costs nothing but a look at the next one."""
    with PrivateEtcd.start() as private:
        port = servers.free_port()
        url = private.url.replace("@", f"@127.0.0.1:{port},")
        store = EtcdLeases(url)
        granted(store.acquire(request(lock_name()), False, due()))
        store.close()


def test_clock_of_the_server(shared: EtcdStore) -> None:
    """When a lease began is told by the member's clock: its second is what counts."""
    gateway = Gateway(shared.url)
    assert gateway.clock is None
    gateway.ask(due(), "kv/range", {"key": coded(b"x")})
    before = gateway.clock or 0.0
    grant = granted(shared.open().acquire(request(lock_name()), False, due()))
    gateway.ask(due(), "kv/range", {"key": coded(b"x")})
    assert before <= grant.since <= (gateway.clock or 0.0)
    gateway.close()


def test_another_clock(shared: EtcdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose clock is wrong tells the same second as all others."""
    right = time.time()
    for wrong in (-3600.0, 3600.0):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: right + wrong)
        grant = granted(shared.open().acquire(request(lock_name()), False, due()))
        assert abs(grant.since - right) < 60
