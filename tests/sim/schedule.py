"""One seed, one schedule."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from .descriptors import Now
from .scenario import Scene
from .world import World


class Played(NamedTuple):
    """What came of one schedule."""

    seed: int
    violations: tuple[str, ...]
    counts: Counter[str]
    timeline: tuple[str, ...]
    """empty unless it was asked for"""
    seconds: float
    """of simulated time"""


def play(seed: int, trace: bool = False) -> Played:
    """Play the schedule of ``seed``; only while ``install.installed()`` lasts."""
    world = Now.world = World(seed, trace)
    try:
        Scene(world).play()
        return Played(seed, tuple(world.violations), world.counts, tuple(world.timeline), world.now)
    finally:
        world.close()
