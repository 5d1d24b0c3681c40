"""``python -m tests.sim``: play many schedules, or one and show it.

Exit code 1 when a rule was broken, 2 when too little has happened for that to mean anything.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from . import report
from .install import installed
from .schedule import play

_BATCH = 50
_PROGRESS = 10_000
_SHOWN = 5
"""violations of which the timeline is shown"""


class Batch(NamedTuple):
    """What came of some schedules."""

    schedules: int
    seconds: float
    """of simulated time"""
    counts: Counter[str]
    broken: tuple[tuple[int, tuple[str, ...]], ...]
    """(seed, violations)"""


def play_batch(seeds: range) -> Batch:
    """Play these, in this process."""
    counts: Counter[str] = Counter()
    broken = []
    seconds = 0.0
    with installed():
        for seed in seeds:
            played = play(seed)
            counts += played.counts
            seconds += played.seconds
            if played.violations:
                broken.append((seed, played.violations))
    return Batch(len(seeds), seconds, counts, tuple(broken))


def timeline(seed: int) -> str:
    """The whole story of one seed, for people."""
    with installed():
        played = play(seed, trace=True)
    return "\n".join([f"seed {seed}:", *played.timeline, *played.violations])


def _batches(seeds: range, jobs: int) -> Iterator[Batch]:
    parts = [seeds[at : at + _BATCH] for at in range(0, len(seeds), _BATCH)]
    if jobs == 1:
        yield from map(play_batch, parts)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(play_batch, parts)


def main() -> int:
    """Do what the words on the command line say."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--show", type=int, metavar="SEED", help="play this one, and show it")
    parser.add_argument("--keep-going", action="store_true", help="also after a violation")
    given = parser.parse_args()
    if given.show is not None:
        print(timeline(given.show))
        return 0
    begun, done, seconds = time.monotonic(), 0, 0.0
    counts: Counter[str] = Counter()
    broken: list[tuple[int, tuple[str, ...]]] = []
    for batch in _batches(range(given.seed, given.seed + given.schedules), given.jobs):
        done += batch.schedules
        seconds += batch.seconds
        counts += batch.counts
        broken += batch.broken
        for seed, violations in batch.broken:  # at once: it may be hours to the end
            print(f"seed {seed}: {'; '.join(violations)}", file=sys.stderr, flush=True)
        if done % _PROGRESS == 0:
            took = time.monotonic() - begun
            print(f"{done} schedules in {took:.0f} s", file=sys.stderr, flush=True)
        if broken and not given.keep_going:
            break
    took = time.monotonic() - begun
    for seed, _ in broken[:_SHOWN]:
        print(timeline(seed), end="\n\n")
    print(report.table(counts))
    print(
        f"{done} schedules (seeds {given.seed} to {given.seed + done - 1}), {seconds / 86400:.1f} "
        f"simulated days, in {took:.0f} s: {done / took:.0f} seeds a second; "
        f"{len(broken)} with violations"
    )
    for seed, violations in broken:
        print(f"seed {seed}: {'; '.join(violations)}")
        print(f"  again: python -m tests.sim --show {seed}")
    if broken:
        return 1
    absent = report.missing(counts, done)
    for line in absent:
        print(f"too little has happened: {line}")
    return 2 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
