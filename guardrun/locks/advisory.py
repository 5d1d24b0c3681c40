"""Session advisory locks of Postgres (``postgresql+advisory://``): no ttl, and no margin.

The server frees the lock at the moment it ends the session, and knows before we do; so any error
on that session means that the lock is lost. It can be lost unseen for as long as nobody looks:
``loss_fd`` becomes readable when the session ends, and ``renew`` is a round trip on it. There is
no taking it up again on another connection.

The lock's number is 64 bits of a SHA-256, and shared with every application in the database: at
worst two locks exclude each other. Places, queue and fence are kept in the lease tables, where a
place counts as taken as long as the server lists the lock. Waiters are served in the order of that
queue. A release wakes the next; a session that ends without one tells nobody, so the first in the
queue asks twice a second as well. Needs a session of its own: refused behind a pooler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardrun.digest import sha256
from guardrun.errors import UsageError
from guardrun.locks.lease import check
from guardrun.locks.postgres import ask, asking, decide, taken
from guardrun.locks.stores import ADVISORY, database_url
from guardrun.model import Place, Waiting
from guardrun.postgres.connection import LEASES
from guardrun.postgres.leases import SQL, coded, identity
from guardrun.postgres.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardrun.model import Grant, LeaseRequest

SCHEME = ADVISORY

_EVER_US = 100 * 366 * 86400 * 1_000_000
"""as a ttl: the session alone counts"""


class AdvisoryLeases:
    """The ``LeaseStore`` port over advisory locks of one session; ``ttl`` means nothing here."""

    def __init__(self, url: str) -> None:
        self._session = Session(database_url(url), LEASES)
        self._waiting: set[str] = set()
        self._held: dict[str, int] = {}
        """which session each token's lock is in, by how many were lost before it"""
        self._settled = -1

    @property
    def fence_durable(self) -> bool | None:
        """As in the lease table, where it is kept."""
        return self._session.fsync

    @property
    def awaited(self) -> bool:
        """The session stays in any case."""
        return False

    def acquire(self, wanted: LeaseRequest, wait: bool, due: float) -> Grant | Waiting:
        """Take a place, or be in the queue.

        After an error the next call asks anew, on another session, and gets another fence.
        Raises ``UsageError`` behind a pooler and for ``min_hold``, else as the lease table does.
        """
        check(wanted)
        if wanted.min_hold:
            raise UsageError("--min-hold: an advisory lock cannot outlive its session")
        self._settle(due)
        if wait and not self._session.listens:
            self._session.listen(due)
        values = asking(self._session, wanted, wait) | {
            "ttl_us": _EVER_US,
            "hold_us": 0,
            "numbers": [number(wanted.lock, slot) for slot in range(1, wanted.slots + 1)],
            "backend": self._session.pid,
        }
        said, _ = ask(self._session, due, SCHEME, wanted, values)
        if isinstance(said, Waiting):
            if wait:
                self._waiting.add(wanted.token)
        else:
            self._waiting.discard(wanted.token)
            self._held[wanted.token] = self._session.lost
        return said

    def leave(self, wanted: LeaseRequest, due: float) -> None:
        """Stop waiting, and let the next one know."""
        self._waiting.discard(wanted.token)
        decide(self._session, due, SCHEME, wanted.lock, "leave", {"token": wanted.token})

    def renew(self, wanted: LeaseRequest, due: float) -> bool:
        """Whether the session still holds it; False, for good, as soon as it does not answer.

        One that does not answer is not ended at once: who has the lock needs time to let go.
        """
        check(wanted)
        if wanted.token in self._held:
            return self._holds(wanted) and self._session.is_alive(due)
        values = {"token": wanted.token, "id": identity(SCHEME, wanted.lock)}
        return bool(self._session.transact(due, (SQL["session_holds"], values))[0][0][0])

    def release(self, wanted: LeaseRequest, due: float) -> bool:
        """Unlock and wake who is next; False when the session has ended before."""
        lost = wanted.token in self._held and not self._holds(wanted)
        self._held.pop(wanted.token, None)
        if lost:
            return False
        values = {"token": wanted.token}
        return bool(decide(self._session, due, SCHEME, wanted.lock, "unlock", values))

    def wake_fd(self) -> int | None:
        """Readable when a place is free, or the session has ended."""
        return self._session.fileno() if self._waiting and self._session.listens else None

    def loss_fd(self) -> int | None:
        """Readable when the session that holds something may have ended: ``renew`` tells."""
        return self._session.fileno() if self._held and self._session.is_open else None

    def drain(self) -> None:
        """Read what made it readable; when the session has ended, ``renew`` says so at once."""
        self._session.drain()

    def holders(self, lock: str, due: float) -> tuple[Place, ...]:
        """The places of a lock that are taken, the oldest first."""
        return tuple(taken(self._session, due, SCHEME, lock))

    def locks(self, due: float) -> Iterator[Place]:
        """All that are taken in this store."""
        return iter(taken(self._session, due, SCHEME, None))

    def take_away(self, lock: str, token: str, due: float) -> bool:
        """Have the server end the session that holds it, and raise the fence.

        Takes the rights of that session's role.
        """
        values = {"token": token}
        if self._held.get(token) == self._session.lost and self._session.is_open:
            self._session.close_connection()
            return bool(decide(self._session, due, SCHEME, lock, "raise_fence", values))
        return bool(decide(self._session, due, SCHEME, lock, "end_session", values))

    def idle(self) -> None:
        """Let go of the session, unless it holds or waits for something."""
        if self._session.lost not in self._held.values() and not self._waiting:
            self._session.close_connection()

    def close(self) -> None:
        """Let go of everything: the server frees what the session held."""
        self._waiting.clear()
        self._held.clear()
        self._session.close()

    def _holds(self, wanted: LeaseRequest) -> bool:
        """Whether the session that got this lock is there, as far as we know."""
        return self._session.is_open and self._held.get(wanted.token) == self._session.lost

    def _settle(self, due: float) -> None:
        """Have a session that is ours alone. Raises ``UsageError`` behind a pooler."""
        if self._session.is_open and self._settled == self._session.lost:
            return
        if not self._session.settle(due):
            self._session.close_connection()
            raise UsageError(
                f"--lease-url {SCHEME}://…: there is a connection pooler before the server, and "
                "advisory locks need a session of their own: name the server itself, "
                "or use postgresql:// without +advisory"
            )
        self._settled = self._session.lost


def number(lock: str, slot: int) -> int:
    """The advisory lock of one place: 64 bits, signed as Postgres has them."""
    digest = sha256(f"guardrun lock {slot} ".encode() + coded(lock)).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
