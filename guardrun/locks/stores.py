"""The lease store that a URL names; what its driver costs, only its users pay."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.ports import LeaseStore

ADVISORY = "postgresql+advisory"
ETCD = ("etcd", "etcds")
CONSUL = ("consul", "consuls")


def is_session_bound(url: str) -> bool:
    """Whether a lease ends with the connection that got it, and can't be taken up by another."""
    return url.startswith(ADVISORY + ":")


def database_url(url: str) -> str:
    """The URL of a lease store in Postgres as any client of that database writes it."""
    scheme, _, rest = url.partition(":")
    return f"{scheme.partition('+')[0]}:{rest}"


def address(url: str) -> str:
    """The store's URL with what names the place alone: no user, no password, no options."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


def time_to_live(url: str, ttl: float) -> float:
    """How long a lease at ``url`` is good for, in seconds, when ``ttl`` was asked for."""
    return min(ttl, _SESSION) if is_session_bound(url) else ttl


_SESSION = 20.0
"""s; a session has no ttl: it is looked at every quarter of this, sooner than the server gives up
on a client that has vanished (postgres/connection.py)"""


def open_leases(url: str) -> LeaseStore:
    """The store at ``url``; nothing is connected yet. Raises ``ConfigError`` for a wrong URL."""
    scheme = url.partition(":")[0]
    if scheme == ADVISORY:
        from guardrun.locks.advisory import AdvisoryLeases

        return AdvisoryLeases(url)
    if scheme == "postgresql":
        from guardrun.locks.postgres import PostgresLeases

        return PostgresLeases(url)
    if scheme in ETCD:
        from guardrun.locks.etcd import EtcdLeases

        return EtcdLeases(url)
    if scheme in CONSUL:
        from guardrun.locks.consul import ConsulLeases

        return ConsulLeases(url)
    from guardrun.locks.redis import RedisLeases

    return RedisLeases(url)
