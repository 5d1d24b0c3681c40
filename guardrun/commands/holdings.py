"""Who holds what, in either scope: as values, as objects for programs, as a table for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from guardrun import kernel
from guardrun.commands import objects, stores, table
from guardrun.commands.history import SHORT
from guardrun.errors import StoreOutdated
from guardrun.locks import listing
from guardrun.locks.signs import open_signs
from guardrun.locks.stores import open_leases
from guardrun.model import FOREVER, Place

if TYPE_CHECKING:
    from guardrun.commands.stores import LockStores
    from guardrun.locks.listing import Held

HOST, DISTRIBUTED = "host", "distributed"
SCOPES = (HOST, DISTRIBUTED)

_ROOM = 20
"""characters that the names of locks should have"""


class Holding(NamedTuple):
    """One place of a lock that is taken."""

    lock: str | None
    """``None``: nobody has written the name down"""
    scope: str
    slots: int
    shared: bool
    owner: str | None
    """``host:pid:job_id``; ``None`` where it is not known, as with the two that follow"""
    job_id: str | None
    since: float | None
    """s since 1970, by the clock of the lock's store"""
    begun: float | None
    """the same moment on our own CLOCK_BOOTTIME, whatever the store's clock says"""
    fence: int | None
    expires_in: float | None
    """s until the place is free unless it is renewed; ``None``: it is not for time to end it"""
    released: bool
    """the run has ended; a not-before time keeps the place, or the store's lock-delay"""
    at: Held | Place
    """where it was found"""


def read_host(where: LockStores, lock: str | None = None) -> list[Holding]:
    """The host locks that are held, or the places of one of them; the oldest first."""
    if where.directory is None:
        return []
    found = listing.held(where.directory)
    file = None if lock is None else listing.file_of(lock)
    now = time.time()
    return oldest_first(_of_host(one, now) for one in found if file in (None, one.file))


def read_leases(where: LockStores, lock: str | None = None) -> list[Holding]:
    """The leases that are held, or the places of one lock; the oldest first.

    A database that is the lease store only because the ledger is there, and has had no schema with
    leases so far, has none. Raises ``StoreUnavailable``.
    """
    if where.lease_url is None:
        return []
    leases, signs = open_leases(where.lease_url), open_signs(where.lease_url)

    def ask(due: float) -> list[Holding]:
        now = signs.clock(due)
        here = kernel.now()  # before we look: that may take a while, and makes no lease younger
        places = leases.locks(due) if lock is None else leases.holders(lock, due)
        return oldest_first(_of_store(place, now, here) for place in places)

    try:
        return stores.patiently(where, ask)
    except StoreOutdated:
        if not where.by_default or not _may_be_migrated(where):
            raise
        return []
    finally:
        signs.close()
        leases.close()


def _may_be_migrated(where: LockStores) -> bool:
    """Whether the schema is an older one, or none. Raises ``StoreOutdated`` for a newer one."""
    from guardrun.postgres import schema

    url = where.lease_url or ""
    return bool(schema.pending(url, kernel.now() + where.store_wait).names)


def _of_host(one: Held, now: float) -> Holding:
    return Holding(
        lock=one.lock,
        scope=HOST,
        slots=one.slots,
        shared=one.shared,
        owner=one.holder.owner if one.holder else None,
        job_id=one.holder.job_id if one.holder else None,
        since=one.since,
        begun=None if one.since is None else _begun(one.since, now, kernel.now()),
        fence=one.fence,
        expires_in=one.hold.remaining(now) if one.hold else None,
        released=one.hold is not None,
        at=one,
    )


def _of_store(place: Place, now: float, here: float) -> Holding:
    return Holding(
        lock=place.lock,
        scope=DISTRIBUTED,
        slots=place.slots,
        shared=False,
        owner=place.owner,
        job_id=place.job_id,
        since=place.since,
        begun=_begun(place.since, now, here),
        fence=place.fence,
        expires_in=None if place.expires_in == FOREVER else place.expires_in,
        released=place.released,
        at=place,
    )


def _begun(since: float, now: float, here: float) -> float:
    """``now`` and ``here`` are one moment: by the clock of ``since``, and by ours."""
    return here - max(now - since, 0.0)


def oldest_first(found: Iterable[Holding]) -> list[Holding]:
    """Sorted; what was got at a time nobody knows comes last."""
    return sorted(found, key=lambda one: FOREVER if one.begun is None else one.begun)


def age(one: Holding) -> float | None:
    """For how many seconds it has been held; ``None`` where nobody knows."""
    return None if one.begun is None else kernel.now() - one.begun


# ---------------------------------------------------------------- for programs


def fields(one: Holding) -> dict[str, object]:
    """As contract section 5 names them."""
    return {
        "lock": None if one.lock is None else objects.unicode(one.lock),
        "scope": one.scope,
        "slots": one.slots,
        "shared": one.shared,
        "lock_owner": None if one.owner is None else objects.unicode(one.owner),
        "job_id": one.job_id,
        "fencing_token": one.fence,
        "since": objects.rfc3339(_us(one.since)),
        "age_ms": objects.milliseconds(_us(age(one))),
        "expires_in_ms": objects.milliseconds(_us(one.expires_in)),
        "released": one.released,
    }


def _us(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e6)


# ---------------------------------------------------------------- for people


def keeper(one: Holding) -> str:
    """What keeps a place whose lease has ended."""
    return "lock-delay" if isinstance(one.at, Place) and one.at.delayed else "min-hold"


def local(one: Holding) -> str:
    """Since when, as people read it."""
    since = _us(one.since)
    return "a time nobody knows" if since is None else table.local_time(since)


def _holder(one: Holding) -> str:
    return (one.owner or "?").rpartition(":")[0] or "?"


def _note(one: Holding) -> str:
    if one.released:
        return keeper(one)
    return "shared" if one.shared else ""


def _lock(one: Holding) -> str:
    if one.lock is None:
        return "(its name is not known)"
    return table.printable(one.lock)


_COLUMNS: tuple[tuple[str, int, Callable[[Holding], str]], ...] = (
    ("AGE", 0, lambda one: table.took(_us(age(one)))),
    ("SINCE", 1, lambda one: "" if one.since is None else local(one)),
    ("SCOPE", 0, lambda one: one.scope),
    ("SLOTS", 0, lambda one: f"1 of {one.slots}" if one.slots > 1 else ""),
    ("HOLDER", 0, lambda one: table.printable(_holder(one))),
    ("RUN", 0, lambda one: (one.job_id or "")[-SHORT:]),
    ("TOKEN", 2, lambda one: "" if one.fence is None else str(one.fence)),
    ("EXPIRES", 0, lambda one: table.took(_us(one.expires_in))),
    ("NOTE", 0, _note),
    ("LOCK", 0, _lock),
)
"""Title, how soon the column is left out where there is no room (0: never), and what is in it."""


def write(found: Sequence[Holding], none: str) -> None:
    """Print a table as wide as it may be; columns in which nothing stands are left out."""
    rows = {title: [cell(one) for one in found] for title, _, cell in _COLUMNS}
    shown = [title for title, _, _ in _COLUMNS if any(rows[title])]
    for title in _dispensable():
        if _width(rows, shown) > table.console().width - _ROOM and title in shown:
            shown.remove(title)
    columns = [(title, None if title == "LOCK" else _widest(rows, title)) for title in shown]
    table.write(columns, zip(*(rows[title] for title in shown), strict=True), none)


def _dispensable() -> Iterator[str]:
    """The columns that may be left out, the first to go first."""
    found = [(rank, title) for title, rank, _ in _COLUMNS if rank]
    return (title for _, title in sorted(found, reverse=True))


def _widest(rows: dict[str, list[str]], title: str) -> int:
    return max(len(title), *map(len, rows[title]))


def _width(rows: dict[str, list[str]], shown: Iterable[str]) -> int:
    return sum(_widest(rows, title) + 1 for title in shown if title != "LOCK")
