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
_TERM, _KILL, _HALF, _OVERDUE = range(4)


class Term:
    """One page, shared with every process forked from here on; nothing is held at first."""

    def __init__(self) -> None:
        self._page = memoryview(mmap.mmap(-1, 4 * 8)).cast("d")
        self.clear()

    def extend(self, lease: Lease, overdue_at: float) -> None:
        """Write down what a lease just granted allows."""
        # The kill first: a reader in between sees a grace period that is too long, never a term
        # that is.
        self._page[_KILL] = lease.kill_at
        self._page[_TERM] = lease.term_at
        self._page[_HALF] = lease.half_at
        self._page[_OVERDUE] = overdue_at

    def show_life(self, overdue_at: float) -> None:
        """Write down when the keeper will have done something next."""
        self._page[_OVERDUE] = overdue_at

    def lose(self, now: float) -> None:
        """Nothing is held any more, and that is certain: COMMAND must be dead at once."""
        self._page[_TERM] = self._page[_KILL] = self._page[_HALF] = now
        self._page[_OVERDUE] = _NEVER

    def clear(self) -> None:
        """Nothing is held, and nothing needs to be."""
        for at in (_OVERDUE, _TERM, _KILL, _HALF):
            self._page[at] = _NEVER

    @property
    def term_at(self) -> float:
        """COMMAND is told to stop, unless this has moved on by then."""
        return self._page[_TERM]

    @property
    def kill_at(self) -> float:
        """COMMAND is killed."""
        return self._page[_KILL]

    @property
    def half_at(self) -> float:
        """From here on COMMAND must not be started."""
        return self._page[_HALF]

    @property
    def overdue_at(self) -> float:
        """A keeper that has not moved this on by then is stopped or stuck."""
        return self._page[_OVERDUE]


class Bond(NamedTuple):
    """What ties COMMAND's life to its keeper, at the warden's end."""

    term: Term
    tether: Channel
    """to and from the keeper"""
