"""Handoffs of a lock that is kept in a store: how long they take, and what they cost the store.

One subject after the other, unlike elsewhere: a hundred waiters of one, or those who poll, would be
in the way of another's handoff, and be counted as its commands.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bench import process, subjects
from bench.handoff import Chain, Handoff, releases
from bench.scene import Scene
from bench.stats import Budget, Row, Section
from bench.subjects import Subject


class Crowd(NamedTuple):
    """What was seen of one lock with so many waiters."""

    subject: Subject
    waiters: int
    handoffs: tuple[Handoff, ...]
    asked: tuple[float, ...]
    """what the store was asked to do for each, beyond what it is asked while all only wait"""
    rate: float
    """what it is asked to do per second then"""


def measure(
    scene: Scene,
    few: Sequence[Subject],
    many: Sequence[Subject],
    waiters: tuple[int, int],
    rounds: int,
    seconds: float,
) -> Iterator[Section]:
    """Hand over with few waiters, then with many; what waiting costs is seen for some seconds."""
    small = [_always(scene, subject, waiters[0], rounds, seconds) for subject in few]
    yield from times(f"{waiters[0]} waiters", small)
    large = [_at_least(scene, subject, waiters[1], rounds, seconds) for subject in many]
    yield from times(f"{waiters[1]} waiters and more", large)
    yield from costs(small, large)


# ---------------------------------------------------------------- handing over


def _always(scene: Scene, subject: Subject, waiters: int, rounds: int, seconds: float) -> Crowd:
    """The same number of waiters at each handoff."""
    chain = Chain(scene, subject, waiters)
    return _hand_over(chain, subject, waiters, rounds, seconds, chain.join)


def _at_least(scene: Scene, subject: Subject, waiters: int, rounds: int, seconds: float) -> Crowd:
    """As many and more, so that nobody has to be started in between."""
    chain = Chain(scene, subject, waiters + rounds - 1)
    return _hand_over(chain, subject, waiters, rounds, seconds, lambda: None)


def _hand_over(
    chain: Chain,
    subject: Subject,
    waiters: int,
    rounds: int,
    seconds: float,
    fill_up: Callable[[], None],
) -> Crowd:
    count = subject.count or (lambda: 0)
    before, begun = count(), time.monotonic()
    time.sleep(seconds)
    rate = (count() - before) / (time.monotonic() - begun)
    handoffs, asked = [], []
    for _ in range(rounds):
        before, begun = count(), time.monotonic()
        handoffs.append(chain.handoff())
        chain.settle()
        asked.append(count() - before - rate * (time.monotonic() - begun))
        fill_up()
    chain.close()
    process.bury_orphans()
    return Crowd(subject, waiters, tuple(handoffs), tuple(asked), rate)


# ---------------------------------------------------------------- what came of it


def times(who: str, crowds: Sequence[Crowd]) -> Iterator[Section]:
    """How long it took, from two moments on."""
    from_release, from_end = [], []
    for crowd in crowds:
        budget = subjects.REMOTE_HANDOFF if crowd.subject.guardrun else None
        known = releases(crowd.handoffs)
        # With the outcome, in one transaction, before anybody could say so.
        remark = "" if len(known) == len(crowd.handoffs) else "released before the line"
        from_release.append(Row(crowd.subject.name, known, budget, remark))
        from_end.append(Row(crowd.subject.name, tuple(one.from_end for one in crowd.handoffs)))
    handoff = f"handoff in a store, {who}"
    yield Section(f"{handoff}: lock released → next COMMAND starts", "ms", tuple(from_release))
    yield Section(f"{handoff}: COMMAND ends → next COMMAND starts", "ms", tuple(from_end))


def costs(small: Sequence[Crowd], large: Sequence[Crowd]) -> Iterator[Section]:
    """What the store is asked; of guardrun with many waiters no more than with few."""
    per_handoff, per_second = [], []
    for crowd in large:
        few = next(one for one in small if one.subject.name == crowd.subject.name)
        name, unit = crowd.subject.name, crowd.subject.counted
        base = Row(f"{name}, {few.waiters} waiters", few.asked, remark=unit)
        limit = Budget(math.ceil(base.median or 0)) if crowd.subject.guardrun else None
        per_handoff += [base, Row(f"{name}, {crowd.waiters} waiters", crowd.asked, limit, unit)]
        for one in (few, crowd):
            per_second.append(Row(f"{name}, {one.waiters} waiters", (one.rate,), remark=unit))
    yield Section("what a handoff costs the store, beyond waiting", "", tuple(per_handoff))
    yield Section("what waiting costs the store", "1/s", tuple(per_second))
