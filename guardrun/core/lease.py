"""When a lease or a claim must be renewed, and when COMMAND must be dead because of it.

All instants are CLOCK_BOOTTIME readings of this host; ``sent_at`` is read *before* the request
that was granted left us, so whatever the network took away is on the safe side. The store counts
its ``ttl`` from when the request arrived: with clocks that run at the same rate, but for ``drift``,
COMMAND is dead before the store can grant again.

    sent_at         renew                    term_at        kill_at        sent_at + ttl
       |--- ttl/4 ---|--- ttl/4 ---| … |--------| grace |------| slack + drift |
"""

from __future__ import annotations

from guardrun.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.ports import Rng


_LONGEST = 3.0
"""s"""


class Lease(NamedTuple):
    """What a store granted: for how long, and since when at the latest."""

    ttl: float
    """s"""
    sent_at: float
    grace: float
    """s that COMMAND would like between SIGTERM and SIGKILL (``--kill-after``)"""

    @property
    def kill_at(self) -> float:
        """SIGKILL is due: what is left until the store's ttl ends is for drift and for dying."""
        return self.sent_at + self.ttl - max(0.2, self.ttl / 100) - min(1.0, self.ttl / 20)

    @property
    def term_at(self) -> float:
        """COMMAND is told to stop; a renewal that succeeds after this changes nothing."""
        return self.kill_at - min(self.grace, self.ttl / 8)

    @property
    def half_at(self) -> float:
        """From here on COMMAND is not started under it: it is renewed first."""
        return self.sent_at + self.ttl / 2


def patience(ttl: float, unanswered: int = 0) -> float:
    """How long one request of a renewal may take, in seconds; two are tried.

    After each renewal in a row that was ``unanswered`` it is doubled: a server that is only slow
    would never be heard otherwise.
    """
    return min(_LONGEST, max(1.0, ttl / 20) * 2.0 ** min(unanswered, 2))


def next_renewal(lease: Lease, rng: Rng) -> float:
    """When to renew a lease that has just been granted: a quarter of its ttl, or a bit earlier."""
    return lease.sent_at + rng.uniform(lease.ttl / 5, lease.ttl / 4)


def next_try(lease: Lease, now: float, rng: Rng) -> float:
    """When to try again after both requests of a renewal failed: soon, but not all at once."""
    return now + rng.uniform(0, lease.ttl / 16)


def overdue_at(lease: Lease, renew_at: float, unanswered: int = 0) -> float:
    """When a keeper that works has renewed, or has tried to: later than that it hangs."""
    return renew_at + 2 * patience(lease.ttl, unanswered) + min(3.0, lease.ttl / 16)


def late_at(ttl: float, wake_at: float) -> float:
    """When a keeper that sleeps until ``wake_at`` is awake: later than that it is stopped."""
    return wake_at + min(3.0, ttl / 8)
