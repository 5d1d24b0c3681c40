"""What must hold after a guardrun's process has died at its n-th I/O step, for every n.

    python tests/crash_points.py [--jobs 2] [--every 1] [--seed N] [--role ROLE] [SCENE]...

A run with a key is traced (``tracer.py`` says what a step is), one of its processes is killed just
before its n-th step, and when nothing is left of it the same line is run once more: that one has to
end with a ledger that is complete, and agrees with what COMMAND has written down itself.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import servers
from crash_scenes import Point, Scene, far_scenes, lease_scenes, local_scenes
from crash_truth import STAGES
from fleet import fleet_host
from tracer import ROLES


def play_all(scene: Scene, role: str, root: Path, jobs: int, every: int, first: int) -> list[Point]:
    """The points ``first``, ``first + every``, … of one role, until none fires."""
    points: list[Point] = []
    numbers = itertools.count(first, every)

    def play(at: int) -> Point:
        place = Path(tempfile.mkdtemp(dir=root))
        try:
            return scene.play(place, role, at)
        finally:
            shutil.rmtree(place)

    with ThreadPoolExecutor(jobs) as pool:
        while not any(point.step is None for point in points):
            points += pool.map(play, itertools.islice(numbers, jobs))
    return [point for point in points if point.step is not None or point.problems]


def line(scene: str, role: str, points: Sequence[Point], seconds: float) -> str:
    """One line of the table."""
    stages = Counter(point.stage for point in points)
    counts = "".join(f"{stages[stage]:>10}" for stage in STAGES)
    wrong = sum(bool(point.problems) for point in points)
    return f"{scene:26}{role:12}{len(points):>7}{counts}{wrong:>10}{seconds:>8.0f}"


def main(words: Sequence[str]) -> int:
    """Play the scenes, and print a table; 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description="Kill guardrun at every I/O step.")
    parser.add_argument("--jobs", type=int, default=2, help="points at a time")
    parser.add_argument("--every", type=int, default=1, help="only every so many-th step")
    parser.add_argument("--seed", type=int, help="which of them comes first")
    parser.add_argument("--role", choices=ROLES, help="only whoever has this one")
    parser.add_argument("scenes", nargs="*", help="their names; without one: all")
    given = parser.parse_args(words)
    first = random.Random(given.seed).randrange(given.every) + 1
    servers.own_session()
    url, redis_url = servers.database(servers.postgres_url()), servers.redis_url()
    wrong = 0
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        fleet_host(root / "migrate", url).close()
        scenes = [
            *local_scenes(root / "hog"),
            *lease_scenes(redis_url),
            *far_scenes(url, redis_url),
        ]
        unknown = set(given.scenes) - {scene.name for scene in scenes}
        if unknown:
            parser.error(f"no such scene: {', '.join(unknown)}")
        names = "".join(f"{stage:>10}" for stage in STAGES)
        print(f"{'run':26}{'who dies':12}{'points':>7}{names}{'wrong':>10}{'s':>8}")
        for scene in scenes:
            if given.scenes and scene.name not in given.scenes:
                continue
            for role in scene.roles:
                if given.role not in (None, role):
                    continue
                began = time.monotonic()
                points = play_all(scene, role, root, given.jobs, given.every, first)
                took = time.monotonic() - began
                print(line(scene.name, role, points, took), flush=True)
                for point in points:
                    if point.problems:
                        wrong += 1
                        print(f"  {point.role} {point.at}: {point.step}")
                        print(*(f"    {problem}" for problem in point.problems), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    os.environ.pop("GUARDRUN_JOB_PATH", None)
    sys.exit(main(sys.argv[1:]))
