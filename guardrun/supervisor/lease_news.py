"""What the log is told of a lock's lease while COMMAND runs."""

from __future__ import annotations

import time

from guardrun.core import policy
from guardrun.report import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.model import Grant
    from guardrun.report.log import Log
    from guardrun.supervisor.guard import Guard

_NEVER = float("inf")


class LeaseNews:
    """Looks at the keeper's term for changes, for one attempt."""

    def __init__(self, guard: Guard, log: Log, number: int, grant: Grant | None) -> None:
        self._guard = guard
        self._log = log
        self._number = number
        self._grant = grant
        self._half_at = guard.half_at()
        self._warned = False

    def due(self) -> float:
        """When ``look`` has something to tell, unless the keeper renews before."""
        return _NEVER if self._warned else self._guard.warn_at()

    def look(self, now: float) -> None:
        """Tell of a renewal, and once of a loss that does not stop COMMAND."""
        half_at, self._half_at = self._half_at, self._guard.half_at()
        if now >= self.due():
            self._warned = True
            self._log.emit(events.lease_lost(time.time(), self._number, policy.LOCK_LOST))
        elif self._half_at > half_at:
            self._log.emit(events.lease_renewed(time.time(), self._number, self._grant))
