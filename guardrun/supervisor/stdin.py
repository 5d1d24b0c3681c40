"""``--stdin replay``: what comes in is read once, and given whole to every attempt."""

from __future__ import annotations

import os

from guardrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.ports import Waiter

_NEVER = float("inf")
_CHUNK = 1 << 18


class Stdin:
    """A memory file with all that stood on stdin."""

    def __init__(self, waiter: Waiter, limit: int) -> None:
        """Read stdin to its end; raises UsageError when it is longer than ``limit`` bytes."""
        self._fd = os.memfd_create("stdin")
        size = 0
        while True:
            waiter.pause((0,), _NEVER)
            try:
                data = os.read(0, _CHUNK)
            except OSError as error:
                raise UsageError(f"stdin cannot be read: {error.strerror}") from None
            if not data:
                return
            size += len(data)
            if size > limit:
                raise UsageError(f"stdin is longer than --stdin-max ({limit} bytes)")
            while data:
                data = data[os.write(self._fd, data) :]

    def bytes(self) -> bytes:
        """All of it."""
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def open(self) -> int:
        """A descriptor of its own, at the beginning."""
        return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
