"""What is measured of locks that several hosts share: guardrun over each store, and its peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.launcher import which
from bench.queues import ConsulStore, EtcdStore, PostgresStore, RedisStore
from bench.scene import Scene
from bench.stores import Stores
from bench.subjects import Subject

CONSUL = "consul lock"
"""what the budget of guardrun's start is a multiple of"""

_LOCK_AND_RUN = """
import os, subprocess, sys
from redis import Redis

with Redis.from_url(os.environ["BENCH_REDIS_URL"]).lock(sys.argv[1], timeout=60):
    code = subprocess.run(sys.argv[2:]).returncode
sys.exit(code)
"""


@dataclass(frozen=True)
class Remotes:
    """The subjects whose lock is in a store, by what is measured of them."""

    whole: tuple[Subject, ...]
    """guardrun with a ledger, as it is used"""
    bare: tuple[Subject, ...]
    """guardrun with nothing but the lock, as its peers have it"""
    peers: tuple[Subject, ...]
    missing: tuple[str, ...]
    """programs of peers"""
    asked: tuple[RedisStore | PostgresStore, ...]
    """with a connection of the benchmark's own"""

    def close(self) -> None:
        """Let go of these connections."""
        for store in self.asked:
            store.close()


_KEPT = (RedisStore, PostgresStore)


class _Lease(NamedTuple):
    """One way to keep guardrun's lock in a store."""

    name: str
    url: str
    queue: Callable[[Path], int]
    store: RedisStore | PostgresStore | EtcdStore | ConsulStore
    restless: str = ""


def find(scene: Scene, stores: Stores) -> Remotes:
    """What can be measured with these stores."""
    ledger = stores.postgres.ledger(scene, "remote") if stores.postgres else ""
    leases = list(_leases(stores, ledger))
    bare = [
        _guardrun(scene, lease, f", {lease.name}, no ledger", "--ledger-url", "none:")
        for lease in leases
    ]
    programs = {name: which(name) for name in ("etcdctl", "consul")}
    return Remotes(
        tuple(_whole(scene, leases, ledger)),
        tuple(bare),
        tuple(_peers(scene, stores, programs)),
        tuple(name for name, path in programs.items() if path is None),
        tuple(store for lease in leases if isinstance(store := lease.store, _KEPT)),
    )


# ---------------------------------------------------------------- guardrun


def _leases(stores: Stores, database: str) -> Iterator[_Lease]:
    if stores.redis:
        redis = RedisStore(stores.redis.url)
        yield _Lease("Redis lease", stores.redis.url, redis.queue, redis)
    if database:
        postgres = PostgresStore(database)
        yield _Lease("Postgres lease", database, postgres.queue, postgres)
        advisory = database.replace("postgresql:", "postgresql+advisory:", 1)
        restless = "looks at its session every 5 s"
        yield _Lease("advisory lock", advisory, postgres.advisory_queue, postgres, restless)
    if stores.etcd:
        etcd = EtcdStore(stores.etcd.url)
        yield _Lease("etcd lease", _scheme(stores.etcd.url, "etcd"), etcd.entries, etcd)
    if stores.consul:
        consul = ConsulStore(stores.consul.url)
        yield _Lease("Consul lease", _scheme(stores.consul.url, "consul"), consul.waiters, consul)


def _scheme(url: str, scheme: str) -> str:
    """The URL of a lease store that its own programs reach by ``url``."""
    return f"{scheme}://{url.partition('://')[2]}"


def _whole(scene: Scene, leases: list[_Lease], database: str) -> Iterator[Subject]:
    """With the embedded ledger and no key; with a key and the ledger in Postgres."""
    for lease in leases:
        if lease.url != database:
            yield _guardrun(scene, lease, f", {lease.name}")
    for lease in leases if database else []:
        if lease.name != "advisory lock":
            name = " and ledger" if lease.url == database else ", Postgres ledger"
            key = ("--key", "bench-@")
            yield _guardrun(scene, lease, f" --key, {lease.name}{name}", *key, ledger=database)


def _guardrun(scene: Scene, lease: _Lease, name: str, *options: str, ledger: str = "") -> Subject:
    lock = ("--scope", "distributed", "--lock", "{lock}", "--wait", "forever")
    return Subject(
        f"guardrun --lock{name}",
        (scene.guardrun, *lock, *options, "--"),
        guardrun=True,
        full="--key" in options,
        ledger=ledger,
        environ={"GUARDRUN_LEASE_URL": lease.url},
        queue=lease.queue,
        count=lease.store.count,
        counted=lease.store.counted,
        restless=lease.restless,
    )


# ---------------------------------------------------------------- its peers


def _peers(scene: Scene, stores: Stores, programs: dict[str, str | None]) -> Iterator[Subject]:
    if stores.redis:
        redis = RedisStore(stores.redis.url)
        yield Subject(
            "redis-py's Lock",
            (scene.python, "-c", _LOCK_AND_RUN, "{lock}"),
            environ={"BENCH_REDIS_URL": stores.redis.url},
            queue=redis.pollers,
            count=redis.count,
            counted=redis.counted,
        )
    etcdctl, consul = (programs[name] for name in ("etcdctl", "consul"))
    if stores.etcd and etcdctl:
        etcd = EtcdStore(stores.etcd.url)
        yield Subject(
            "etcdctl lock",
            (etcdctl, "lock", "--ttl", "60", "--", "{lock}"),
            environ={"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": stores.etcd.url},
            queue=etcd.queue,
            count=etcd.count,
            counted=etcd.counted,
        )
    if stores.consul and consul:
        sessions = ConsulStore(stores.consul.url)
        yield Subject(
            CONSUL,
            (consul, "lock", "-shell=false", "-child-exit-code", "{lock}"),
            environ={"CONSUL_HTTP_ADDR": stores.consul.url},
            queue=sessions.queue,
            count=sessions.count,
            counted=sessions.counted,
        )
