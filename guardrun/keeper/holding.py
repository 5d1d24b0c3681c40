"""One thing that a keeper holds in a store for a while, and renews: a claim, or a lock's place."""

from __future__ import annotations

from guardrun import kernel
from guardrun.core import lease
from guardrun.errors import StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from guardrun.ports import Rng
    from guardrun.term import Row

_NEVER = float("inf")
_TRIES = 2


class Holding:
    """``ask`` renews it until a moment (CLOCK_BOOTTIME); False from it: it is not ours any more.

    What it allows is written to ``row``; without one nothing of COMMAND depends on it.
    """

    def __init__(
        self,
        ask: Callable[[float], bool],
        row: Row | None,
        ttl: float,
        grace: float,
        rng: Rng,
    ) -> None:
        self.renew_at = 0.0
        """at once, unless it has just been taken: what an earlier keeper held is renewed first"""
        self._ask = ask
        self._row = row
        self._ttl = ttl
        self._grace = grace
        self._rng = rng
        self._overdue_at = _NEVER if row is None else row.overdue_at
        self._unanswered = 0
        """renewals in a row of which nobody knows"""

    def take(self, sent_at: float) -> None:
        """Write down what a grant that was asked for then allows.

        Raises StoreUnavailable when that is nothing any more, because we were stopped meanwhile.
        """
        if lease.Lease(self._ttl, sent_at, self._grace).term_at <= kernel.now():
            raise StoreUnavailable("the store's answer was heard too late")
        if self._row is not None:
            self._row.clear()  # an earlier keeper may have written a grant that it never told of
        self._extend(sent_at)

    def _extend(self, sent_at: float) -> None:
        granted = lease.Lease(self._ttl, sent_at, self._grace)
        self.renew_at = lease.next_renewal(granted, self._rng)
        self._unanswered = 0
        self._overdue_at = lease.overdue_at(granted, self.renew_at)
        if self._row is not None:
            self._row.extend(granted, self._overdue_at, kernel.now())

    def renew(self, others: float) -> bool | None:
        """Renew it, and plan the next time; ``None``: nobody knows whether it is still ours.

        Takes no longer than until ``others``, when something else must be renewed.
        """
        for _ in range(_TRIES):
            sent_at = kernel.now()
            try:
                ours = self._ask(min(sent_at + self._patience(sent_at), spared(others)))
            except StoreUnavailable:
                continue
            if ours:
                self._extend(sent_at)
            else:
                self.renew_at = _NEVER
            return ours
        self._unanswered += 1
        tried = lease.Lease(self._ttl, kernel.now(), self._grace)
        self.renew_at = lease.next_try(tried, tried.sent_at, self._rng)
        self._overdue_at = lease.overdue_at(tried, self.renew_at, self._unanswered)
        self.work()
        return None

    def _patience(self, now: float) -> float:
        """How long to wait for an answer, in seconds; no longer than it can change something.

        After the term COMMAND is being stopped, and its outcome wants to be recorded.
        """
        least = lease.patience(self._ttl)
        left = _NEVER if self._row is None else self._row.term_at - now
        return min(lease.patience(self._ttl, self._unanswered), max(left, least))

    def sleep(self) -> None:
        """The keeper has nothing to do before ``renew_at``, or before somebody wants something."""
        if self._row is not None:
            self._row.show_life(lease.late_at(self._ttl, max(self.renew_at, kernel.now())))

    def work(self) -> None:
        """The keeper is about to do what may take a while."""
        if self._row is not None:
            self._row.show_life(self._overdue_at)

    @property
    def needed_at(self) -> float:
        """Until when the keeper may be busy with something else, and still renew this in time."""
        if self._row is None or self._row.term_at <= kernel.now():
            return _NEVER
        # By overdue_at it would be taken for stuck, and replaced, together with what it is doing.
        last = min(self._row.term_at, self._overdue_at)
        return last - _TRIES * lease.patience(self._ttl) - _MARGIN


def spared(others: float) -> float:
    """When to have done with one request, for the sake of something that must be renewed then."""
    return max(others, kernel.now() + _LEAST)


_MARGIN = 0.5
_LEAST = 1.0
"""s"""
