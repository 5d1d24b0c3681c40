"""Waiting for a kernel lock without polling, and without being stuck in the call.

flock(2) and F_OFD_SETLKW can't be polled for, and Python restarts them after a signal. So a
forked child blocks in the call, on the same open file description: what it gets is ours. Its
pidfd says when.
"""

from __future__ import annotations

import os
import signal

from guardrun import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


WAITING: set[int] = set()
"""the children of this process that block in a call: nobody else may reap or kill them"""


class BlockedChild:
    """A child that blocks in one call; ``fileno()`` is readable when the call has returned."""

    def __init__(self, call: Callable[[], None]) -> None:
        parent = os.getpid()

        def block() -> None:
            kernel.die_with_parent(parent)
            call()

        self._pid = kernel.fork(block)
        WAITING.add(self._pid)
        self._pidfd = os.pidfd_open(self._pid)

    def fileno(self) -> int:
        return self._pidfd

    def succeeded(self) -> bool:
        """Whether the call did; to be asked once the child is done."""
        os.close(self._pidfd)
        _, status = os.waitpid(self._pid, 0)
        WAITING.discard(self._pid)
        return status == 0

    def cancel(self) -> None:
        """End the child; what its call may have got at the last moment, the caller lets go."""
        os.kill(self._pid, signal.SIGKILL)
        self.succeeded()
