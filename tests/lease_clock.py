"""Virtual time in a real lease store: what is stored is moved back, as if so much time had passed.

Fences and queues stay as they are; a waiter is taken to have asked again meanwhile.
"""

from __future__ import annotations

import contextlib
from typing import Protocol

import redis
from fleet import ask
from lease_fleet import environment_url
from lease_stores import Leases

from guardrun.locks.redis import keys_of
from guardrun.postgres.leases import identity


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


def lease_clock(leases: Leases, direct: str) -> contextlib.AbstractContextManager[LeaseClock]:
    """That of the server behind these leases, which is at ``direct``."""
    if leases.kind == "redis":
        return contextlib.closing(RedisClock(direct))
    return contextlib.closing(PostgresClock(leases.kind, direct))
