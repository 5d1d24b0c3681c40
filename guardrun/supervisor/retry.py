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

FIRST_ANSWER = 1.0
"""s that the first question to a store is given, however short ``--store-wait`` is: that says how
long a store which does not answer is asked again"""
_FIRST = 0.002
"""s"""


def insist(
    waiter: Waiter, rng: Rng, due: float, cap: float, ask: Callable[[float], Answer]
) -> Answer:
    """Ask a store until it answers or ``due`` (CLOCK_BOOTTIME) has come; full jitter in between.

    ``ask`` is told ``due``; the jitter grows up to ``cap`` (s). Raises the store's last
    StoreUnavailable, at once when trying again can't help.
    """
    limit = _FIRST
    while True:
        try:
            return ask(due)
        except StoreOutdated:
            raise
        except StoreUnavailable:
            waiter.pause((), min(due, kernel.now() + rng.uniform(0, limit)))
            if kernel.now() >= due:
                raise
        limit = min(2 * limit, cap)
