"""Hosts that share a lease store: what the tests of whole runs under a lease need."""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
import servers
from fleet import ask
from lease_stores import STORES, Leases, due
from support import Host, eventually, family, log_lines, status

from guardrun.locks import consul_connection, consul_keys, consul_session
from guardrun.locks.etcd_keys import ENTRY, PREFIX, beyond, coded, key, prefix
from guardrun.locks.etcd_session import Session
from guardrun.locks.etcd_words import all_of, records
from guardrun.locks.redis import keys_of
from guardrun.model import Place
from guardrun.postgres.leases import identity

if TYPE_CHECKING:
    from guardrun.locks.etcd_keys import Record
    from guardrun.ports import LeaseStore

LEASE = ("--scope", "distributed")
"""for a lease store that the environment names"""
SHORT = (*LEASE, "--ttl", "10s")
"""the shortest lease that the contract allows"""
LONGEST_RENEWAL = 2.5
"""s from one renewal of a short lease to the next, at the most"""


def environment_url(kind: str, url: str) -> str:
    """What a guardrun is given for a store of this kind at ``url``."""
    return url.replace("postgresql", "postgresql+advisory", 1) if kind == "advisory" else url


@dataclass
class LeaseFleet:
    """One lease store, and the hosts that use it: each has its own state and its own ledger."""

    kind: str
    root: Path
    leases: Leases
    hosts: list[Host] = field(default_factory=list)

    @classmethod
    def shared(cls, kind: str, root: Path) -> LeaseFleet:
        """Hosts below ``root`` with leases in the session's server."""
        return cls(kind, root, STORES[kind].shared())

    @property
    def url(self) -> str:
        """What its guardruns are given."""
        return environment_url(self.kind, self.leases.url)

    @property
    def lapses(self) -> bool:
        """A lease has a ttl; else it is gone with its connection."""
        return self.leases.lapses

    @property
    def direct(self) -> str:
        """The server itself, past a pooler."""
        if self.kind != "postgres-pgbouncer":
            return self.leases.url
        return servers.in_database(servers.postgres_url(), self.leases.url.rpartition("/")[2])

    def host(self, name: str = "one", **env: str) -> Host:
        """A host with this lease store."""
        root = self.root / f"{self.kind}-{name}"
        root.mkdir()
        host = Host(root, {"GUARDRUN_LEASE_URL": self.url, **env})
        self.hosts.append(host)
        return host

    def open(self) -> LeaseStore:
        """A view of the store, beside the hosts'."""
        return self.leases.open()

    def places(self, lock: str) -> tuple[Place, ...]:
        """Who holds a lock now."""
        store = self.open()
        try:
            return store.holders(lock, due())
        finally:
            store.idle()

    def place(self, lock: str) -> Place:
        """The one that holds a lock now."""
        (place,) = self.places(lock)
        return place

    def queue(self, lock: str) -> int:
        """How many wait for a lock now, as its store sees it."""
        if self.kind == "redis":
            with redis.Redis.from_url(self.direct) as client:
                return int(client.zcard(keys_of(lock)[2]))
        if self.kind == "consul":
            return len(below(self.direct, consul_keys.key(lock, consul_keys.WAIT)))
        if self.kind == "etcd":
            return sum(not entry.granted for entry in entries(self.direct, lock))
        query = "SELECT count(*) AS n FROM guardrun.leases_queue WHERE lease_id = %s"
        return int(ask(self.direct, query, self._identity(lock))[0]["n"])

    def queued(self, lock: str, number: int) -> None:
        """Wait until so many wait for a lock."""
        eventually(lambda: self.queue(lock) == number, 20, f"{number} waiters for {lock}")

    def rob(self, lock: str) -> None:
        """Take a lock away from whoever holds it, as a careless person would: by hand."""
        if self.kind == "redis":
            with redis.Redis.from_url(self.direct) as client:
                assert client.delete(*keys_of(lock))
        elif self.kind == "consul":
            assert wipe_consul(self.direct, consul_keys.prefix(lock))
        elif self.kind == "etcd":
            assert wipe(self.direct, prefix(lock))
        elif self.kind == "advisory":
            query = "SELECT pg_terminate_backend(backend) FROM guardrun.leases_taken"
            query += " WHERE lease_id = %s"
            assert ask(self.direct, query, self._identity(lock))
        else:
            query = (
                "UPDATE guardrun.lease_holders SET expires_at = '-infinity',"
                " not_before = '-infinity' WHERE lease_id = %s RETURNING token"
            )
            assert ask(self.direct, query, self._identity(lock))

    def _identity(self, lock: str) -> bytes:
        return identity(environment_url(self.kind, "postgresql"), lock)

    def close(self) -> None:
        """End what is left, and the store's part in it."""
        for host in self.hosts:
            host.close()
        self.leases.close()


def entries(url: str, lock: str) -> list[Record]:
    """Who holds or waits for a lock, as it is written down in etcd."""
    with contextlib.closing(Session(url)) as etcd:
        return records(etcd.transact(due(), lock, [], [all_of(key(lock, ENTRY))]))


def wipe(url: str, begin: bytes = PREFIX) -> int:
    """Delete all keys in etcd that begin so; how many there were."""
    with contextlib.closing(Session(url)) as etcd:
        body = {"key": coded(begin), "range_end": coded(beyond(begin))}
        return int(etcd.ask(due(), "kv/deleterange", body).get("deleted", 0))


def below(url: str, begin: str = consul_keys.PREFIX) -> list[consul_keys.Record]:
    """What is written down in Consul in keys that begin so."""
    with contextlib.closing(consul_session.Session(url)) as consul:
        return consul.below(due(), begin)[0]


def wipe_consul(url: str, begin: str = consul_keys.PREFIX) -> int:
    """Delete all keys in Consul that begin so; how many there were."""
    found = below(url, begin)
    with contextlib.closing(consul_connection.Http(url)) as consul:
        consul.ask(due(), "DELETE", f"kv/{begin}", recurse="")
    return len(found)


# ---------------------------------------------------------------- runs that are under way


class Written:
    """The log of a run that is under way: it goes to a file, which a test reads meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def words(self) -> tuple[str, ...]:
        """The options that a run needs for it."""
        return ("--log-to", str(self._path), "--log-level", "debug")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Its lines with this event so far."""
        data = self._path.read_bytes() if self._path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        return [line for line in log_lines(whole) if line["event"] == name]

    def await_line(self, name: str, within: float = 20.0) -> dict[str, Any]:
        """Wait for the first of them."""
        return eventually(lambda: self.lines(name), within, f"{name} in {self._path}")[0]


def keeper(process: subprocess.Popen[bytes], *before: int) -> int:
    """The pid of a run's keeper, once there is one; ``before`` are all that have been killed.

    One that dies is seen running for a while after it has closed its end, and has a successor.
    """

    def found() -> int | None:
        pid = family(process.pid).get("keeper", 0)
        alive = pid and status(pid).get("State", "Z")[0] not in "ZX"
        return pid if alive and pid not in before else None

    return eventually(found, 20, "a keeper")


def let_go(process: subprocess.Popen[bytes]) -> None:
    """Let the COMMAND of ``Host.hold`` end."""
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None


def took(begun: float) -> float:
    """Seconds since a reading of the monotonic clock."""
    return time.monotonic() - begun
