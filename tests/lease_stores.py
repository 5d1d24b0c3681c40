"""The lease stores under test, and what their tests share: requests, waiting, worker processes.

A store is added by a class that has ``Leases``'s shape, and its line in ``STORES`` and ``opener``.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import servers
from ledgers import answers, job_id

from guardrun import kernel
from guardrun.model import Grant, LeaseRequest, Waiting
from guardrun.postgres.schema import migrate

if TYPE_CHECKING:
    from guardrun.ports import LeaseStore


def url_of(leases: Leases) -> str:
    """The URL as a user writes it."""
    scheme = "postgresql+advisory" if leases.kind == "advisory" else "postgresql"
    return leases.url.replace("postgresql", scheme, 1)


def due(seconds: float = 10.0) -> float:
    """A moment on CLOCK_BOOTTIME."""
    return kernel.now() + seconds


def lock_name() -> str:
    """A lock that nobody else has."""
    return f"lock-{os.urandom(8).hex()}"


def request(lock: str, slots: int = 1, ttl: float = 30.0, min_hold: float = 0.0) -> LeaseRequest:
    """What a run that nobody else is asks for."""
    own = job_id()
    return LeaseRequest(lock, f"h:1:{own}", own, os.urandom(16).hex(), slots, ttl, min_hold)


def granted(answer: Grant | Waiting) -> Grant:
    """The grant; fails on a no."""
    assert isinstance(answer, Grant), answer
    return answer


def busy(answer: Grant | Waiting) -> Waiting:
    """The no; fails on a grant."""
    assert isinstance(answer, Waiting), answer
    return answer


def await_grant(store: LeaseStore, wanted: LeaseRequest, within: float = 60.0) -> Grant:
    """Wait for a place as the keeper does: until it is woken, or is to ask again."""
    last = due(within)
    while True:
        said = store.acquire(wanted, True, last)
        if isinstance(said, Grant):
            return said
        assert kernel.now() < last, said
        wait_turn(store, said, last)


def wait_turn(store: LeaseStore, said: Waiting, last: float) -> None:
    """Wait until it is worth asking again, but not beyond ``last``."""
    fd = store.wake_fd()
    wait = min(said.ask_again * random.uniform(0.5, 1.0), last - kernel.now())
    ready, _, _ = select.select([] if fd is None else [fd], [], [], max(wait, 0.001))
    if ready:
        store.drain()


class Leases(Protocol):
    """What the contract suite needs of one server with leases."""

    kind: str
    """what ``opener`` opens"""
    lapses: bool
    """a lease ends when nobody renews it; else when its connection does"""
    ordered: bool
    """waiters get the lock in the order they came"""
    wakes: bool
    """waiters are told of a free place; else they only ask again"""
    url: str
    least_ttl: float
    """s; a shorter ttl lasts as long as that"""
    timed: bool
    """the fence is a moment of the server's clock; else it counts what has changed in it"""
    opened: list[Any]
    """what was opened here"""
    lasts: float
    """so many times its ttl a place is taken at most, after the last renewal of its lease"""
    lapse_wakes: bool
    """nobody is told when a lease will lapse, and who waits for it is woken when it does"""
    names_next: bool
    """who is the first of the queue now is told, too, because it waits for something else then"""

    def open(self) -> LeaseStore:
        """A store of its own: another process's view of the server."""

    def close(self) -> None:
        """Close what was opened here."""


class Private(Leases, Protocol):
    """A server of a test's own."""

    def pause(self) -> None:
        """Freeze it."""

    def resume(self) -> None:
        """Let it go on."""

    def restart(self) -> None:
        """Crash it and start it again, with what it has kept."""


@dataclass
class RedisStore:
    """Leases in the session's Redis, or in that of ``url``."""

    url: str = field(default_factory=servers.redis_url)
    opened: list[Any] = field(default_factory=list)

    kind = "redis"
    lapses = True
    ordered = True
    wakes = True
    least_ttl = 0.0
    timed = True
    lasts = 1.0
    lapse_wakes = False
    names_next = False

    def open(self) -> LeaseStore:
        """A store of its own."""
        self.opened.append(opener(self.kind, self.url))
        store: LeaseStore = self.opened[-1]
        return store

    def close(self) -> None:
        """Close what was opened here."""
        for store in self.opened:
            store.close()


Server = TypeVar("Server", bound=servers.Single)


class Own(Generic[Server]):
    """Leases in a server of a test's own."""

    server: Server | None

    @property
    def own(self) -> Server:
        """The server."""
        assert self.server is not None
        return self.server

    def pause(self) -> None:
        """Freeze it."""
        self.own.pause()

    def resume(self) -> None:
        """Let it go on."""
        self.own.resume()

    def restart(self) -> None:
        """Crash it and start it again, with what it has kept."""
        self.own.kill()
        self.own.start_again()


@dataclass
class PrivateRedis(Own[servers.Redis], RedisStore):
    """Leases in a Redis of a test's own."""

    url: str = ""
    server: servers.Redis | None = None

    @classmethod
    @contextlib.contextmanager
    def start(cls, **settings: object) -> Iterator[PrivateRedis]:
        """Run it for as long as the block lasts."""
        with servers.Redis.start(**settings) as server:
            store = cls(server.url, server=server)
            try:
                yield store
            finally:
                server.resume()
                store.close()


@dataclass
class EtcdStore(RedisStore):
    """Leases in the session's etcd, or in that of ``url``."""

    url: str = field(default_factory=servers.etcd_url)

    kind = "etcd"
    lapse_wakes = True
    least_ttl = 3.0  # two, and half of one until it looks
    timed = False


@dataclass
class PrivateEtcd(Own[servers.Etcd], EtcdStore):
    """Leases in an etcd of a test's own."""

    url: str = ""
    server: servers.Etcd | None = None

    @classmethod
    @contextlib.contextmanager
    def start(cls, **settings: object) -> Iterator[PrivateEtcd]:
        """Run it for as long as the block lasts."""
        with servers.Etcd.start("", **settings) as server:
            store = cls(server.url, server=server)
            try:
                yield store
            finally:
                server.resume()
                store.close()


@dataclass
class ConsulStore(RedisStore):
    """Leases in the session's Consul, or in that of ``url``."""

    url: str = field(default_factory=servers.consul_url)

    kind = "consul"
    least_ttl = 1.0  # of the tests' short ones each lasts twice as long
    timed = False
    lapse_wakes = True
    names_next = True
    lasts = 2.5  # a session twice its TTL; then there is a lock-delay


@dataclass
class PrivateConsul(Own[servers.Consul], ConsulStore):
    """Leases in a Consul of a test's own."""

    url: str = ""
    server: servers.Consul | None = None

    @classmethod
    @contextlib.contextmanager
    def start(cls, **settings: object) -> Iterator[PrivateConsul]:
        """Run it for as long as the block lasts."""
        with servers.Consul.start("", **settings) as server:
            store = cls(server.url, server=server)
            try:
                yield store
            finally:
                server.resume()
                store.close()


@dataclass
class PostgresLeaseStore:
    """Leases in a database of the session's Postgres, or at ``url``."""

    kind: str
    url: str = ""
    server: servers.Postgres | None = None
    opened: list[Any] = field(default_factory=list)

    ordered = True
    least_ttl = 0.0
    timed = True
    lasts = 1.0
    lapse_wakes = False
    names_next = False

    @property
    def lapses(self) -> bool:
        return not self.kind.startswith("advisory")

    @property
    def wakes(self) -> bool:
        return not self.kind.endswith("pgbouncer")

    @classmethod
    def shared(cls, kind: str) -> PostgresLeaseStore:
        """A fresh database with the schema, behind a pooler if the kind says so."""
        url = servers.database(servers.postgres_url())
        migrate(url, due(60))
        return cls(kind, servers.pgbouncer_url(url) if kind.endswith("pgbouncer") else url)

    @classmethod
    @contextlib.contextmanager
    def start(cls, kind: str) -> Iterator[PostgresLeaseStore]:
        """A server of a test's own for as long as the block lasts."""
        with servers.Postgres.start() as server:
            url = server.database()
            migrate(url, due(60))
            store = cls(kind, url, server)
            try:
                yield store
            finally:
                server.resume()
                store.let_go()

    @property
    def own(self) -> servers.Postgres:
        """The server."""
        assert self.server is not None
        return self.server

    def open(self) -> LeaseStore:
        """A store of its own."""
        store = opener(self.kind, self.url)
        self.opened.append(store)
        return store

    def let_go(self) -> None:
        """Close what was opened here."""
        for store in self.opened:
            store.close()

    def close(self) -> None:
        """Close what was opened here, and drop the database."""
        self.let_go()
        servers.drop_database(
            servers.in_database(servers.postgres_url(), self.url.rpartition("/")[2])
        )

    def pause(self) -> None:
        """Freeze it."""
        self.own.pause()

    def resume(self) -> None:
        """Let it go on."""
        self.own.resume()

    def restart(self) -> None:
        """Crash it and start it again, with what it has kept."""
        self.own.stop(crash=True)
        self.own.start_again()


def _postgres(kind: str) -> Kind:
    return Kind(
        lambda: PostgresLeaseStore.shared(kind),
        lambda: PostgresLeaseStore.start(kind),
        "postgresql://u:hunter2@127.0.0.1:{port}/x",
    )


@dataclass(frozen=True)
class Kind:
    """How one kind of store is started for tests."""

    shared: Any
    """makes one in the session's server"""
    private: Any
    """a context manager: one in a server of a test's own"""
    nowhere: str
    """a URL, with the password ``hunter2``, where no server is"""


STORES = {
    "redis": Kind(RedisStore, PrivateRedis.start, "redis://:hunter2@127.0.0.1:{port}/0"),
    "postgres": _postgres("postgres"),
    "postgres-pgbouncer": _postgres("postgres-pgbouncer"),
    "advisory": _postgres("advisory"),
    "etcd": Kind(EtcdStore, PrivateEtcd.start, "etcd://u:hunter2@127.0.0.1:{port}"),
    "consul": Kind(ConsulStore, PrivateConsul.start, "consul://hunter2@127.0.0.1:{port}"),
}
"""Every store that the contract suite runs over."""


def opener(kind: str, url: str) -> LeaseStore:
    """Open a store by what a worker process was given on its command line."""
    if kind == "redis":
        from guardrun.locks.redis import RedisLeases

        return RedisLeases(url)
    if kind.startswith("postgres"):
        from guardrun.locks.postgres import PostgresLeases

        return PostgresLeases(url)
    if kind == "etcd":
        from guardrun.locks.etcd import EtcdLeases

        return EtcdLeases(url)
    if kind == "consul":
        from guardrun.locks.consul import ConsulLeases

        return ConsulLeases(url)
    if kind == "advisory":
        from guardrun.locks.advisory import AdvisoryLeases

        return AdvisoryLeases(url.replace("postgresql", "postgresql+advisory", 1))
    raise AssertionError(kind)


_PREAMBLE = """
import os, sys, time
from pathlib import Path
from lease_stores import await_grant, due, opener, request

store = opener(*sys.argv[1:3])
print("ready", flush=True)
sys.stdin.readline()
"""


def start_worker(leases: Leases, script: str, *words: str) -> subprocess.Popen[str]:
    """A process that runs ``script``, in which ``store`` is the store, when it gets a line."""
    place = Path(__file__).parent
    return subprocess.Popen(
        ["nice", sys.executable, "-c", _PREAMBLE + script, leases.kind, leases.url, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{place.parent}:{place}"},
    )


def await_ready(started: Iterable[subprocess.Popen[str]]) -> None:
    """Return when all of them wait for their line."""
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"


def end_workers(started: Iterable[subprocess.Popen[str]]) -> None:
    """Have none of them be left."""
    for process in started:
        process.kill()
        process.communicate()


def run_workers(leases: Leases, number: int, script: str, *words: str) -> list[str]:
    """What so many processes say that run ``script`` at once, in which ``store`` is the store."""
    started = [start_worker(leases, script, *words) for _ in range(number)]
    try:
        await_ready(started)
        return answers(started)
    finally:
        end_workers(started)
