"""Random numbers for jitter.

``random`` takes 1.5 ms to import; all that jitter needs of it is ``uniform``.
"""

from __future__ import annotations

import os

_BITS = 53


class Chance:
    """Draws from the kernel's generator, so that forks and clones of one machine differ."""

    def uniform(self, low: float, high: float) -> float:
        """A number from ``low`` to ``high``."""
        drawn = int.from_bytes(os.urandom(7), "big") >> (56 - _BITS)
        return low + (high - low) * drawn / (1 << _BITS)
