"""The lease store that a URL names; what its driver costs, only its users pay."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.ports import LeaseStore

ADVISORY = "postgresql+advisory"


def open_leases(url: str) -> LeaseStore:
    """The store at ``url``; nothing is connected yet. Raises ``ConfigError`` for a wrong URL."""
    scheme = url.partition(":")[0]
    if scheme == ADVISORY:
        from guardrun.locks.advisory import AdvisoryLeases

        return AdvisoryLeases(url)
    if scheme == "postgresql":
        from guardrun.locks.postgres import PostgresLeases

        return PostgresLeases(url)
    from guardrun.locks.redis import RedisLeases

    return RedisLeases(url)
