"""Trying again what may succeed the next time: jittered, bounded, interruptible."""

from __future__ import annotations

from guardrun import kernel
from guardrun.errors import StoreOutdated, StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from guardrun.ports import Rng, Waiter

    Answer = TypeVar("Answer")

_FIRST, _CAP = 0.002, 0.1
"""s; a writer that holds SQLite's lock needs a few ms, and asking costs nothing but that"""


def insist(waiter: Waiter, rng: Rng, due: float, ask: Callable[[], Answer]) -> Answer:
    """Ask a store until it answers or ``due`` (CLOCK_BOOTTIME) has come; full jitter in between.

    Raises the store's last StoreUnavailable, at once when trying again can't help.
    """
    cap = _FIRST
    while True:
        try:
            return ask()
        except StoreOutdated:
            raise
        except StoreUnavailable:
            now = kernel.now()
            if now >= due:
                raise
        waiter.pause((), min(due, now + rng.uniform(0, cap)))
        cap = min(2 * cap, _CAP)
