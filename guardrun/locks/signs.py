"""What a lease store can tell of its holders beside its port: signs of life, and its clock.

Who renews a lease is alive, wherever it is. How long its place stays taken does not show that: a
``--min-hold`` that is longer than the lease covers every renewal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from guardrun import sql
from guardrun.locks.stores import CONSUL, ETCD, database_url

if TYPE_CHECKING:
    from collections.abc import Collection

    from guardrun.locks import consul_session, etcd_session
    from guardrun.locks.redis_connection import Connection
    from guardrun.locks.redis_sentinel import Guided
    from guardrun.postgres.session import Session


class Signs(Protocol):
    """One store's; every method raises ``StoreUnavailable``."""

    def clock(self, due: float) -> float:
        """Seconds since 1970 by the clock that ``since`` was read from."""

    def of(self, lock: str, tokens: Collection[str], due: float) -> dict[str, str]:
        """For each that holds the lock now: a text that changes whenever it shows that it lives."""

    def close(self) -> None:
        """Let go of the connection."""


def open_signs(url: str) -> Signs:
    """The signs in the store at ``url``; nothing is connected yet."""
    scheme = url.partition(":")[0]
    if scheme.startswith("postgresql"):
        from guardrun.postgres.connection import LEASES
        from guardrun.postgres.session import Session

        return _PostgresSigns(scheme, Session(database_url(url), LEASES))
    if scheme in ETCD:
        from guardrun.locks import etcd_session

        return _SessionSigns(etcd_session.Session(url))
    if scheme in CONSUL:
        from guardrun.locks import consul_session

        return _SessionSigns(consul_session.Session(url))
    from guardrun.locks import redis_sentinel
    from guardrun.locks.redis_connection import Connection

    guided = scheme in redis_sentinel.SCHEMES
    return _RedisSigns(url, redis_sentinel.Guided(url) if guided else Connection(url))


class _PostgresSigns:
    def __init__(self, scheme: str, session: Session) -> None:
        self._scheme = scheme
        self._session = session
        self._sql = sql.statements("postgres", "signs")

    def clock(self, due: float) -> float:
        (((now,),),) = self._session.transact(due, (self._sql["clock"], {}))
        return float(now)

    def of(self, lock: str, tokens: Collection[str], due: float) -> dict[str, str]:
        from guardrun.postgres.leases import identity

        values = {"id": identity(self._scheme, lock)}
        (rows,) = self._session.transact(due, (self._sql["signs"], values))
        return {token: sign or "" for token, sign in rows if token in tokens}

    def close(self) -> None:
        self._session.close()


class _SessionSigns:
    def __init__(self, session: etcd_session.Session | consul_session.Session) -> None:
        self._session = session

    def clock(self, due: float) -> float:
        return self._session.clock(due)

    def of(self, lock: str, tokens: Collection[str], due: float) -> dict[str, str]:
        signs = self._session.signs(lock, due)
        return {token: signs[token] for token in tokens if token in signs}

    def close(self) -> None:
        self._session.close()


class _RedisSigns:
    def __init__(self, url: str, server: Connection | Guided) -> None:
        self._url = url
        self._server = server

    def clock(self, due: float) -> float:
        return self._ask(due)[0]

    def of(self, lock: str, tokens: Collection[str], due: float) -> dict[str, str]:
        from guardrun.locks.redis import keys_of

        key = keys_of(lock)[0]
        now, places = self._ask(due, *(("HGET", key, f"place:{token}") for token in tokens))
        found = {}
        for token, place in zip(tokens, places, strict=True):
            # since, fence, until when the lease lasts, …: as common.lua writes it.
            lapses = (place or b"").split()[2:3]
            if lapses and lapses[0].isdigit() and int(lapses[0]) / 1e6 > now:
                found[token] = lapses[0].decode()
        return found

    def close(self) -> None:
        self._server.close()

    def _ask(self, due: float, *commands: tuple[str, ...]) -> tuple[float, list[bytes | None]]:
        """The server's clock, and its answers."""
        from guardrun.locks.redis_connection import unavailable

        said = self._server.ask(due, ("TIME",), *commands)
        for one in said:
            if isinstance(one, Exception):
                raise unavailable(self._url, one)
        (seconds, microseconds), *answers = said
        return int(seconds) + int(microseconds) / 1e6, answers
