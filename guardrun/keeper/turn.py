"""When a waiter's turn is so near that its keeper has a connection to the ledger ready.

The claim of the key follows the lock, and a connection that is only made then keeps the lock idle:
that was 20 of the 30 ms of a handoff. But idle waiters must not eat the server's connections, so
only the first ones in a lock's queue have one, and only for a while.
"""

from __future__ import annotations

from guardrun import kernel
from guardrun.model import Waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.model import Grant
    from guardrun.ports import RemoteLedger

_FIRST = 2
"""who is next, and who may be so before it has asked once more"""
_WHILE = 60.0
"""s; after so long a wait at the head nobody minds the 20 ms"""
_BESIDE = 1.0
"""s that getting ready may keep the keeper from what it waits for"""


class Turn:
    """One waiter's, and the ledger that it will claim in; ``None``: there is nothing to prepare."""

    def __init__(self, ledger: RemoteLedger | None) -> None:
        self.ready_until = 0.0
        """CLOCK_BOOTTIME"""
        self._ledger = ledger
        self._seen = False

    def look(self, said: Grant | Waiting) -> None:
        """Take notice of how many wait before us."""
        ahead = said.ahead if isinstance(said, Waiting) else None
        if self._ledger is not None and not self._seen and ahead is not None and ahead < _FIRST:
            self._seen = True
            self.ready_until = kernel.now() + _WHILE

    def get_ready(self) -> None:
        """Where it is near, have a connection, and know that it is a good one."""
        if self._ledger is not None and self.is_near():
            self._ledger.prepare(kernel.now() + _BESIDE)

    def is_near(self) -> bool:
        return kernel.now() < self.ready_until

    def end(self) -> None:
        """It has come, or never will."""
        self._seen, self.ready_until = False, 0.0
