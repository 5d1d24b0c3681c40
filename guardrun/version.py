"""Which version this is: what the build found in git's tags, or in the sdist it was made from."""

from __future__ import annotations


def version() -> str:
    """As PEP 440 writes it; ``0.0`` in a tree that nobody has built or installed."""
    try:
        from guardrun._version import VERSION
    except ImportError:
        return "0.0"
    return VERSION
