"""How long COMMAND may run under what its keeper holds: a few instants in shared memory.

The keeper writes them, supervisor and warden look at them when they need to know. Not messages:
a reader that was stopped for hours would find a queue of old ones, and the newest of them lost.
Make it before the processes are forked. All instants are CLOCK_BOOTTIME readings.
"""

from __future__ import annotations

import mmap

from guardrun.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.channel import Channel
    from guardrun.core.lease import Lease

_NEVER = float("inf")
_LEAST = 3.0
"""s in which a keeper has loaded its drivers, and has an answer or none to its first renewal"""
_TERM, _KILL, _HALF, _OVERDUE = range(4)
_ROW = 4


class Row:
    """What one thing that is held allows: a key's claim, or a lock's lease; nothing at first."""

    def __init__(self, page: memoryview[float]) -> None:
        self._page = page
        self.clear()

    def extend(self, lease: Lease, overdue_at: float, now: float) -> None:
        """Write down what a lease just granted allows.

        From ``term_at`` on COMMAND is being stopped, and that is not taken back.
        """
        if now < self.term_at:
            # The kill first: a reader in between sees a grace period that is too long, never a
            # term that is.
            self._page[_KILL] = lease.kill_at
            self._page[_TERM] = lease.term_at
            self._page[_HALF] = lease.half_at
        self._page[_OVERDUE] = overdue_at

    def show_life(self, overdue_at: float) -> None:
        """Write down when the keeper will have done something next, if anything is held."""
        if self.term_at != _NEVER:
            self._page[_OVERDUE] = overdue_at

    def begin_anew(self, now: float, most: float) -> None:
        """Write down when a keeper that starts now will have done something, if anything is held.

        After ``most`` seconds; sooner, while there is yet time for another one to renew.
        """
        left = self.term_at - now
        self.show_life(now + (min(most, max(_LEAST, left / 2)) if left > 0 else most))

    def lose(self, now: float) -> None:
        """It is not held any more, and that is certain.

        What has passed by then stays as it was: moved on, it would look like a renewal.
        """
        for at in (_TERM, _KILL, _HALF):
            self._page[at] = min(self._page[at], now)
        self._page[_OVERDUE] = _NEVER

    def clear(self) -> None:
        """It is not held, and does not need to be."""
        for at in (_OVERDUE, _TERM, _KILL, _HALF):
            self._page[at] = _NEVER

    @property
    def term_at(self) -> float:
        """From here on it is not proved to be held, unless this has moved on by then."""
        return self._page[_TERM]

    @property
    def kill_at(self) -> float:
        """What depends on it must be dead."""
        return self._page[_KILL]

    @property
    def half_at(self) -> float:
        """From here on COMMAND must not be started under it."""
        return self._page[_HALF]

    @property
    def overdue_at(self) -> float:
        """A keeper that has not moved this on by then is stopped or stuck."""
        return self._page[_OVERDUE]


class Term:
    """One page, shared with every process forked from here on.

    ``on_lease_loss`` says whether COMMAND must ``stop`` when the lock is lost, or not (``warn``).
    ``lock`` is the row of a lock that somebody else's keeper holds for it.
    """

    def __init__(self, on_lease_loss: str = "stop", lock: Row | None = None) -> None:
        page = memoryview(mmap.mmap(-1, 8 * (2 * _ROW + 1))).cast("d")
        self.claim = Row(page[:_ROW])
        self.lock = lock or Row(page[_ROW : 2 * _ROW])
        self._executed = page[2 * _ROW :]
        self._rows = (self.claim, self.lock)
        self._kept = self._rows if lock is None else (self.claim,)
        """by the keeper whose term this is"""
        self._binding = (self.claim,) if on_lease_loss == "warn" else self._rows

    @property
    def term_at(self) -> float:
        """COMMAND is told to stop, unless this has moved on by then."""
        return min([row.term_at for row in self._binding])

    @property
    def kill_at(self) -> float:
        """COMMAND is killed."""
        return min([row.kill_at for row in self._binding])

    @property
    def half_at(self) -> float:
        """From here on COMMAND must not be started."""
        return min([row.half_at for row in self._rows])

    @property
    def start_by(self) -> float:
        """From here on COMMAND is not even started late, also where a loss would not stop it."""
        return min([row.term_at for row in self._rows])

    @property
    def overdue_at(self) -> float:
        """A keeper that has not moved this on by then is stopped or stuck."""
        return min([row.overdue_at for row in self._kept])

    @property
    def warn_at(self) -> float:
        """The lock is lost, and COMMAND runs on all the same."""
        return self.lock.term_at if self.lock not in self._binding else _NEVER

    def begin_anew(self, now: float, most: float) -> None:
        """Write down when a keeper that starts now will have done something."""
        for row in self._kept:
            row.begin_anew(now, most)

    @property
    def executed(self) -> int:
        """How many wardens may ever have started COMMAND under it: a pool has several."""
        return int(self._executed[0])

    def execute(self, wardens: int = 1) -> None:
        """COMMAND is just about to be started: from here on only its end frees what is held.

        ``wardens`` have been there by now that may do so; it never becomes less.
        """
        self._executed[0] = max(self._executed[0], float(wardens))


class Bond(NamedTuple):
    """What ties COMMAND's life to its keepers, at the warden's end."""

    term: Term
    tethers: tuple[Channel, ...]
    """to and from each keeper: beside that of its own run there may be a pool's"""
    number: int = 0
    """of the warden, among all that a keeper has had to do with"""
