"""Virtual time in a real lease store: what is stored is moved back, as if so much time had passed.

Fences and queues stay as they are; a waiter is taken to have asked again meanwhile.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

import redis
from fleet import ask
from lease_fleet import environment_url, wipe, wipe_consul
from lease_stores import Leases, due

from guardrun.locks import consul_keys, consul_session, etcd_keys, etcd_session
from guardrun.locks.etcd_words import all_of, put, records
from guardrun.locks.redis import keys_of
from guardrun.postgres.leases import identity

if TYPE_CHECKING:
    from guardrun.locks.etcd_words import Word

_HALF = 0.5


class LeaseClock(Protocol):
    """One server's."""

    def pass_by(self, lock: str, seconds: float) -> None:
        """Have leases and not-before times of this lock end so much sooner."""

    def silence(self, lock: str, token: str) -> None:
        """Have a waiter be one that has not asked for too long."""


class RedisClock:
    """As ``common.lua`` stores it."""

    def __init__(self, url: str) -> None:
        self._server = redis.Redis.from_url(url)

    def pass_by(self, lock: str, seconds: float) -> None:
        key, held, *_ = keys_of(lock)
        stored_places: dict[bytes, bytes] = self._server.hgetall(key)  # type: ignore[assignment]
        for field, stored in stored_places.items():
            if field.startswith(b"place:"):
                numbers, _, detail = stored.partition(b"\n")
                since, fence, lapses, holds = map(int, numbers.split())
                lapses, holds = (moment - round(seconds * 1e6) for moment in (lapses, holds))
                told = f"{since} {fence} {lapses} {holds}\n".encode() + detail
                self._server.hset(key, field, told)
                member = field.removeprefix(b"place:").decode()
                self._server.zadd(held, {member: max(lapses, holds)})

    def silence(self, lock: str, token: str) -> None:
        self._server.zadd(keys_of(lock)[3], {token: 1})

    def close(self) -> None:
        """Let go of the connection."""
        self._server.close()


class PostgresClock:
    """As ``0002_leases.sql`` has it; the leases of sessions have no time."""

    def __init__(self, kind: str, url: str) -> None:
        self._scheme = environment_url(kind, "postgresql")
        self._url = url

    def pass_by(self, lock: str, seconds: float) -> None:
        ask(
            self._url,
            "UPDATE guardrun.lease_holders SET expires_at = expires_at - %s * interval '1 s',"
            " not_before = not_before - %s * interval '1 s' WHERE lease_id = %s",
            *(seconds, seconds, identity(self._scheme, lock)),
        )

    def silence(self, lock: str, token: str) -> None:
        ask(
            self._url,
            "UPDATE guardrun.lease_waiters SET expires_at = '-infinity'"
            " WHERE lease_id = %s AND token = %s",
            *(identity(self._scheme, lock), token),
        )

    def close(self) -> None:
        """Nothing is kept."""


class EtcdClock:
    """What is stored is put on leases that end sooner, or goes with its own that ends now."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._etcd = etcd_session.Session(leases.url)

    def pass_by(self, lock: str, seconds: float) -> None:
        said = self._etcd.transact(due(), lock, [], [all_of(etcd_keys.prefix(lock))])
        by_lease: dict[int, list[etcd_keys.Record]] = defaultdict(list)
        for one in records(said):
            if one.kind == etcd_keys.ALIVE or one.granted:
                by_lease[one.lease].append(one)
        for lease, group in by_lease.items():
            left = self._etcd.left(lease, due()) + _HALF - seconds  # it rounds down
            if left > 0:
                sooner = self._etcd.new_lease(left, due())
                self._etcd.transact(due(), lock, [], [self._on(one, sooner) for one in group])
            self._etcd.end({lease}, due())
        forget(self._leases)

    @staticmethod
    def _on(one: etcd_keys.Record, lease: int) -> Word:
        name = etcd_keys.key(one.lock, one.kind, one.token)
        detail = one.detail and one.detail._replace(fence=one.fence)
        return put(name, lease, detail.written() if detail else "")

    def silence(self, lock: str, token: str) -> None:
        wipe(self._leases.url, etcd_keys.key(lock, etcd_keys.ENTRY, token))

    def close(self) -> None:
        """Let go of the connection."""
        self._etcd.close()


class ConsulClock:
    """What is written of times is moved; a place that has lapsed goes, its lock-delay over."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._consul = consul_session.Session(leases.url)

    def pass_by(self, lock: str, seconds: float) -> None:
        for one in self._consul.read(due(), lock, consul_keys.key(lock, consul_keys.PLACE)):
            assert one.detail is not None
            detail = one.detail._replace(
                renewed=one.detail.renewed - seconds, hold=one.detail.hold - seconds
            )
            lapses, kept = detail.renewed + detail.ttl, detail.since + detail.hold
            if (kept if detail.released else lapses) > self._consul.now:
                said = {"Verb": "set", "Key": one.key, "Value": detail.written()}
                self._consul.change(due(), lock, {"KV": said})
            else:
                self._consul.change(due(), lock, consul_session.delete(one.key))
                self._consul.end(due(), one.session)
        forget(self._leases)

    def silence(self, lock: str, token: str) -> None:
        wipe_consul(self._leases.url, consul_keys.key(lock, consul_keys.WAIT, token))

    def close(self) -> None:
        """Let go of the connection."""
        self._consul.close()


def forget(leases: Leases) -> None:
    """Have stores know nothing of what they hold but what is stored."""
    for store in leases.opened:
        store._taken.clear()


def lease_clock(leases: Leases, direct: str) -> contextlib.AbstractContextManager[LeaseClock]:
    """That of the server behind these leases, which is at ``direct``."""
    if leases.kind == "redis":
        return contextlib.closing(RedisClock(direct))
    if leases.kind == "etcd":
        return contextlib.closing(EtcdClock(leases))
    if leases.kind == "consul":
        return contextlib.closing(ConsulClock(leases))
    return contextlib.closing(PostgresClock(leases.kind, direct))
