"""Leases in a table of Postgres (``postgresql://``): the server's clock, one row a lock.

Promises: places are never given to more than there are, in the order of the queue, and what was
given or refused is not decided again when an answer got lost; a lease that was waited for behind a
row lock lasts its whole ttl. Works through PgBouncer in transaction mode, but nobody is woken
there: the first waiters ask twice a second, those far behind every few seconds. A waiter is passed
over when its session has ended, or when it does not come for its place within seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardrun.errors import ConfigError
from guardrun.locks.lease import LONGEST_HOLD, check
from guardrun.model import Grant, Holder, Place, Waiting
from guardrun.postgres import leases
from guardrun.postgres.connection import LEASES
from guardrun.postgres.leases import SCHEME, SQL, coded, identity
from guardrun.postgres.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardrun.model import LeaseRequest


class PostgresLeases:
    """The ``LeaseStore`` port over the database at ``url``, whose schema exists.

    ``session``: one to it that a ledger in the same database uses as well.
    """

    def __init__(self, url: str, session: Session | None = None) -> None:
        self._session = session or Session(url, LEASES)
        self._waiting: set[str] = set()
        self._awaited = False

    @property
    def fence_durable(self) -> bool | None:
        """Commits are waited for; whether they are on the disk then is the server's ``fsync``."""
        return self._session.fsync

    @property
    def awaited(self) -> bool:
        """Whether there was a queue at the grant, or at the last renewal."""
        return self._awaited

    def acquire(self, wanted: LeaseRequest, wait: bool, due: float) -> Grant | Waiting:
        """Take a place, or be in the queue. Raises ``ConfigError``, ``StoreUnavailable``."""
        check(wanted)
        said = self._ask(wanted, wait, due)
        # Only who has to wait needs to be woken; and who was not listening asks once more.
        missed = wait and isinstance(said, Waiting) and not self._session.listens
        if missed and self._session.listen(due):
            said = self._ask(wanted, wait, due)
        if wait and isinstance(said, Waiting):
            self._waiting.add(wanted.token)
        else:
            self._waiting.discard(wanted.token)
        return said

    def leave(self, wanted: LeaseRequest, due: float) -> None:
        """Stop waiting, and let the next one know."""
        self._waiting.discard(wanted.token)
        decide(self._session, due, SCHEME, wanted.lock, "leave", {"token": wanted.token})

    def renew(self, wanted: LeaseRequest, due: float) -> bool:
        """Extend the lease to a full ttl from now; False when it has lapsed or is another's."""
        check(wanted)
        values = {"token": wanted.token, "ttl_us": _us(wanted.ttl)}
        renewed = decide(self._session, due, SCHEME, wanted.lock, "renew", values)
        self._awaited = renewed == [(True,)]
        return bool(renewed)

    def release(self, wanted: LeaseRequest, due: float) -> bool:
        """Give the place back and wake who is next; with ``min_hold`` it stays taken till then."""
        *_, found, _ = self._session.transact(due, *leases.release(wanted))
        return bool(found)

    def wake_fd(self) -> int | None:
        """Readable when a place is free, or the connection has ended."""
        return self._session.fileno() if self._waiting and self._session.listens else None

    def loss_fd(self) -> int | None:
        """Nothing tells: only the ttl counts."""
        return None

    def drain(self) -> None:
        """Read what made it readable."""
        self._session.drain()

    def holders(self, lock: str, due: float) -> tuple[Place, ...]:
        """The places of a lock that are taken, the oldest first."""
        return tuple(taken(self._session, due, SCHEME, lock))

    def locks(self, due: float) -> Iterator[Place]:
        """All that are taken in this store."""
        return iter(taken(self._session, due, SCHEME, None))

    def take_away(self, lock: str, token: str, due: float) -> bool:
        """End one holding, its ``min_hold`` too, and raise the fence."""
        return bool(decide(self._session, due, SCHEME, lock, "take_away", {"token": token}))

    def idle(self) -> None:
        """Let go of the connection, unless it is what wakes us."""
        if not (self._waiting and self._session.listens):
            self._session.close_connection()

    def close(self) -> None:
        """Let go of everything; who waits leaves the queue by that."""
        self._waiting.clear()
        self._session.close()

    def _ask(self, wanted: LeaseRequest, wait: bool, due: float) -> Grant | Waiting:
        values = asking(self._session, wanted, wait) | {
            "ttl_us": _us(wanted.ttl),
            "hold_us": _us(min(wanted.min_hold, LONGEST_HOLD)),
            "numbers": None,
            "backend": None,
        }
        said, self._awaited = ask(self._session, due, SCHEME, wanted, values)
        return said


# ---------------------------------------------------------------- shared with advisory locks


def asking(session: Session, wanted: LeaseRequest, wait: bool) -> dict[str, Any]:
    """What ``acquire`` is told in either scheme."""
    return {
        "token": wanted.token,
        "owner": shown(wanted.owner),
        "job_id": wanted.job_id,
        "slots": wanted.slots,
        "wait": wait,
        "channel": session.channel if session.listens else None,
        "listener": session.pid if session.listens else None,
    }


def ask(
    session: Session, due: float, scheme: str, wanted: LeaseRequest, values: dict[str, Any]
) -> tuple[Grant | Waiting, bool]:
    """Ask for a place; and whether others wait for one.

    Raises ``ConfigError`` for another number of slots than the lock has.
    """
    name, raw = shown(wanted.lock), coded(wanted.lock)
    known = {
        "scheme": scheme,
        "name": name,
        "raw": None if name == wanted.lock else raw,
        "slots": wanted.slots,
    }
    (said,) = decide(session, due, scheme, wanted.lock, "acquire", values, known)
    fence, since, agreed, slots, pause, ahead, awaited, owners, job_ids, moments = said
    if fence is not None:
        return Grant(wanted.lock, fence, since), awaited
    if not agreed:
        raise ConfigError(
            f"the lock {wanted.lock!r} is held with --slots {slots}, not --slots {wanted.slots}: "
            "all users of a lock must give the same number"
        )
    holders = zip(owners, job_ids, moments, strict=True)
    return Waiting(tuple(Holder(*holder) for holder in holders), pause, ahead=ahead), awaited


def decide(
    session: Session,
    due: float,
    scheme: str,
    lock: str,
    statement: str,
    values: dict[str, Any],
    known: dict[str, Any] | None = None,
) -> list[tuple[Any, ...]]:
    """Lock the lock's row (making it where it is ``known`` how), decide, wake whom it concerns."""
    begun = [] if known is None else [(SQL["register"], known | {"id": identity(scheme, lock)})]
    decision = leases.decision(scheme, lock, statement, values)
    *_, found, _ = session.transact(due, *begun, *decision)
    return found


def taken(session: Session, due: float, scheme: str, lock: str | None) -> list[Place]:
    """The places that are taken, of one lock or of all."""
    values = {"scheme": scheme, "id": None if lock is None else identity(scheme, lock)}
    (rows,) = session.transact(due, (SQL["taken"], values))
    return [
        Place(name if raw is None else bytes(raw).decode("utf-8", "surrogatepass"), *row)
        for name, raw, *row in rows
    ]


def shown(text: str) -> str:
    """The text as Postgres takes it: what is not valid Unicode, and NUL, written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
