"""What lease store and ledger share: how a lock is found in its table, and how it is given back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardrun import sql
from guardrun.digest import sha256

if TYPE_CHECKING:
    from guardrun.model import LeaseRequest

SQL = sql.statements("postgres", "leases")
SCHEME = "postgresql"

Statement = tuple[str, dict[str, Any]]

_WAIT = {"offer": 3.0, "poll": 0.5, "longest": 5.0, "late": 0.001}
"""s: to come for a place that one was told of; between questions where nobody wakes us; between
those of the first in the queue where somebody does; after a lapse"""


def decision(
    scheme: str, lock: str, statement: str, values: dict[str, Any]
) -> tuple[Statement, Statement, Statement]:
    """Lock the lock's row, decide, wake whom it concerns: for one transaction."""
    given = {"nudge": 0, **_WAIT, **values, "id": identity(scheme, lock)}
    return (SQL["lock"], given), (SQL[statement], given), (SQL["wake"], given)


def release(wanted: LeaseRequest) -> tuple[Statement, Statement, Statement]:
    """Give a place back; with ``min_hold`` it stays taken till then."""
    values = {"token": wanted.token, "nudge": wanted.slots if wanted.min_hold else 0}
    return decision(SCHEME, wanted.lock, "release", values)


def identity(scheme: str, lock: str) -> bytes:
    """What a lock's rows go by."""
    return sha256(scheme.encode() + b" " + coded(lock)).digest()


def coded(lock: str) -> bytes:
    """The name's bytes, whatever is in it."""
    return lock.encode("utf-8", "surrogatepass")
