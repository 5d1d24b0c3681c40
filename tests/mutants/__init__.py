"""Planted bugs: one-line mistakes in guardrun that some test has to notice, each for its reason.

``catalogue.py`` is the list; ``python -m tests.mutants`` plants them one after the other, each into
a fresh copy of the tree.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent


class Mutant(NamedTuple):
    """One mistake: in ``file``, ``old``, which stands there exactly once, becomes ``new``."""

    name: str
    file: str
    old: str
    new: str
    reason: str
    """what goes wrong with it, for whom"""
    tests: tuple[str, ...]
    """node ids of pytest, each of which must notice; the quickest first"""
    crashes: tuple[str, ...] = ()
    """words for ``crash_points.py``, which must notice as well"""
    simulated: bool = False
    """also within reach of the simulator"""


def planted(mutant: Mutant, text: str) -> str:
    """The file's text with the mistake in it; ValueError when that is not possible any more."""
    found = text.count(mutant.old)
    if found != 1:
        raise ValueError(f"{mutant.name}: {mutant.old!r} stands {found} times in {mutant.file}")
    return text.replace(mutant.old, mutant.new)
