"""Waiting for a store that cannot say when it is worth asking again."""

from __future__ import annotations

import os

from guardrun import kernel


class Nap:
    """So many seconds; ``fileno()`` is readable when they are over."""

    def __init__(self, seconds: float) -> None:
        self._timer = kernel.Timer()
        self._timer.set(kernel.now() + seconds)

    def fileno(self) -> int:
        return self._timer.fd

    def cancel(self) -> None:
        """End it, whether it is over or not."""
        os.close(self._timer.fd)
