"""Where the log lines go: whatever happens there, nobody waits and nothing is raised.

Lines that cannot be written (a blocked or closed pipe, a full disk) wait in memory; beyond 1 MiB
the oldest are dropped and counted, for the last lines of a run say the most. When lines can be
written again, a notice with the count goes first.
"""

from __future__ import annotations

import select
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from guardrun.outlet import Outlet

MEMORY = 1 << 20
"""How many bytes of lines may wait."""
_LONGEST_FAREWELL = 1.0


class Sink:
    """An outlet for whole lines, each written with one write(2)."""

    def __init__(self, outlet: Outlet, notice: Callable[[int], bytes], dropped: int = 0) -> None:
        """``notice`` renders the line that says how many lines, ``dropped`` so far, are missing."""
        self._outlet = outlet
        self._notice = notice
        self._dropped = dropped
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._remainder = b""
        self._stalled = False

    def write(self, line: bytes) -> None:
        """Write ``line`` after all that came before it, now or later."""
        self._waiting.append(line)
        self._size += len(line)
        self._flush()
        while self._size > MEMORY:
            self._size -= len(self._waiting.popleft())
            self._dropped += 1

    def interests(self) -> list[tuple[int, int]]:
        """What to poll for, and where; a broken outlet is tried again with the next line."""
        return [(self._outlet.fd, select.POLLOUT)] if self._stalled else []

    def ready(self, fd: int) -> None:
        """Go on: ``fd`` may be writable again."""
        if fd == self._outlet.fd:
            self._flush()

    def close(self, patience: float = 0.1) -> None:
        """Close the outlet, after waiting at most ``patience`` seconds for a reader to go on.

        A reader that does go on gets up to a second for the rest.
        """
        poll = select.poll()
        due = time.monotonic() + max(_LONGEST_FAREWELL, patience)
        for fd, events in self.interests():
            poll.register(fd, events)
        while self._stalled and time.monotonic() < due and poll.poll(patience * 1000):
            self._flush()
        self._outlet.close()

    def _flush(self) -> None:
        self._stalled = False
        try:
            # What was begun is ended first: a line in two pieces must not have another inside.
            while self._remainder or self._dropped or self._waiting:
                if self._remainder:
                    self._remainder = self._remainder[self._outlet.write(self._remainder) :]
                elif self._dropped:
                    self._begin(self._notice(self._dropped))
                    self._dropped = 0
                else:
                    self._begin(self._waiting[0])
                    self._size -= len(self._waiting.popleft())
        except BlockingIOError:
            self._stalled = True
        except OSError:
            # Closed, full or broken: polling would spin. A disk gets room, a FIFO a new reader.
            pass

    def _begin(self, line: bytes) -> None:
        self._remainder = line[self._outlet.write(line) :]
