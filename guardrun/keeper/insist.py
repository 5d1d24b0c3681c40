"""Telling a store something that nobody waits for any more, until it has heard it."""

from __future__ import annotations

import select

from guardrun import kernel
from guardrun.errors import GuardrunError, StoreUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from guardrun.ports import Rng

UNASKED = 5.0
"""s that one request may take that nobody waits for"""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
"""s"""


def insist(tell: Callable[[float], object], seconds: float, rng: Rng) -> bool:
    """Tell a store something, jittered, for so long; False when it has not heard it.

    ``tell`` is given the CLOCK_BOOTTIME reading by which it must have done.
    """
    last = kernel.now() + seconds
    pause = _FIRST_PAUSE
    timer = kernel.Timer()
    poll = select.poll()
    poll.register(timer.fd, select.POLLIN)
    while (now := kernel.now()) < last:
        try:
            tell(min(now + UNASKED, last))
            return True
        except StoreUnavailable:
            timer.set(kernel.now() + rng.uniform(0, pause))
            poll.poll()
            pause = min(2 * pause, _LONGEST_PAUSE)
        except (GuardrunError, ValueError, OverflowError):
            return True  # no asking again helps: the spool has it, and the ttl does the rest
    return False
