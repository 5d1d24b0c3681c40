"""Plant every bug of the catalogue, run the tests that must notice, and print a table.

    python -m tests.mutants [--jobs 2] [--simulate N] [NAME]...

1 when a bug survives, can't be planted any more, or has a test that fails without it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from . import ROOT, Mutant, planted
from .catalogue import MUTANTS

_NEEDED = ("guardrun", "tests", "pyproject.toml")
"""what a copy of the tree consists of: what runs, and what tests it"""
_PATIENCE = 240
"""s that one test may take: one that hangs has noticed as well, but is not called a failure"""
_FAILED = re.compile(r"^FAILED (\S+)", re.MULTILINE)
_CRASHES = ("tests/crash_points.py", "--jobs", "1", "--seed", "1")
_SIMULATOR = ("-m", "tests.sim")


class Verdict(NamedTuple):
    """What came of one command on one copy of the tree."""

    caught: bool
    by: str
    seconds: float
    output: str = ""


def main(words: Sequence[str]) -> int:
    """Judge every mutant; the exit code."""
    parser = argparse.ArgumentParser(description="Plant bugs, and see them caught.")
    parser.add_argument("--jobs", type=int, default=2, help="copies of the tree at a time")
    parser.add_argument("--simulate", type=int, metavar="N", help="schedules for the simulator")
    parser.add_argument("names", nargs="*", help="of mutants; without one: all")
    given = parser.parse_args(words)
    unknown = set(given.names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"no such mutant: {', '.join(unknown)}")
    chosen = [one for one in MUTANTS if not given.names or one.name in given.names]
    wrong = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="guardrun-mutants-") as directory:
        place = Path(directory)
        place.chmod(0o755)  # servers that root's tests start as another user look into it
        wrong += _control(place, chosen)
        print(f"{'planted bug':46}{'caught by':80}{'s':>6}")
        with ThreadPoolExecutor(given.jobs) as pool:
            work = [(place, mutant, given.simulate) for mutant in chosen]
            for mutant, verdicts in pool.map(lambda one: _hunt(*one), work):
                for verdict in verdicts:
                    print(f"{mutant.name:46}{verdict.by:80}{verdict.seconds:>6.1f}", flush=True)
                    if not verdict.caught:
                        wrong += 1
                        print(f"  {mutant.reason}\n{verdict.output}")
    print(f"{len(chosen)} planted, {wrong} wrong, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def _control(place: Path, chosen: Sequence[Mutant]) -> int:
    """Run the tests without a bug: one that fails then notices nothing. How many do."""
    tests = tuple(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
    began = time.monotonic()
    tree = _copy(place / "control")
    run = _pytest(tree, tests, len(tests) * 60, "-n", "2", "--dist", "loadgroup")
    seconds = time.monotonic() - began
    print(f"without a bug: {len(tests)} tests, exit code {run.returncode}, {seconds:.0f} s")
    wrong = 0
    if run.returncode != 0 or "skipped" in run.stdout:
        wrong += 1
        print(run.stdout)
    for words in dict.fromkeys(mutant.crashes for mutant in chosen if mutant.crashes):
        played = _run(tree, [*_CRASHES, *words], None)
        if played.returncode != 0:
            wrong += 1
            print("crash points without a bug:", played.stdout, played.stderr)
    return wrong


def _hunt(place: Path, mutant: Mutant, schedules: int | None) -> tuple[Mutant, list[Verdict]]:
    """Plant one bug in a copy of its own; what each of its tests says."""
    tree = _copy(Path(tempfile.mkdtemp(dir=place)) / "tree")
    file = tree / mutant.file
    try:
        text = planted(mutant, file.read_text())
        if file.suffix == ".py":
            compile(text, mutant.file, "exec")
    except (ValueError, SyntaxError) as error:
        return mutant, [Verdict(False, "NOT PLANTED", 0.0, str(error))]
    file.write_text(text)
    verdicts = [_judge(tree, test) for test in mutant.tests]
    if mutant.crashes:
        told = f"crash points: {mutant.crashes[-1]}"
        verdicts.append(_play(tree, told, _CRASHES, mutant.crashes))
    if schedules and mutant.simulated:
        told = f"the simulator, within {schedules} schedules"
        verdicts.append(_play(tree, told, _SIMULATOR, ("--schedules", str(schedules))))
    shutil.rmtree(tree.parent)
    return mutant, verdicts


def _judge(tree: Path, test: str) -> Verdict:
    began = time.monotonic()
    try:
        run = _pytest(tree, (test,), _PATIENCE, "-x")
    except subprocess.TimeoutExpired:
        return Verdict(True, f"{_shown(test)} (hangs)", time.monotonic() - began)
    seconds = time.monotonic() - began
    failed = _FAILED.findall(run.stdout)
    # 1: tests ran, and one has failed; nothing else means that the bug was noticed.
    if run.returncode == 1 and failed:
        return Verdict(True, _shown(failed[0]), seconds)
    return Verdict(False, f"NOT CAUGHT by {_shown(test)}", seconds, run.stdout[-3000:])


def _play(tree: Path, told: str, program: tuple[str, ...], words: tuple[str, ...]) -> Verdict:
    """Run a program of the tests' that says 1 when something was wrong."""
    began = time.monotonic()
    run = _run(tree, [*program, *words], None)
    seconds = time.monotonic() - began
    if run.returncode == 1 and "Traceback" not in run.stderr:
        return Verdict(True, told, seconds)
    output = run.stdout[-3000:] + run.stderr[-3000:]
    return Verdict(False, f"NOT CAUGHT by {told}", seconds, output)


def _pytest(
    tree: Path, tests: Sequence[str], patience: float, *options: str
) -> subprocess.CompletedProcess[str]:
    words = ["-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
    return _run(tree, [*words, *options, *tests], patience)


def _run(
    tree: Path, words: Sequence[str], patience: float | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=tree,
        env=_environment(tree),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )


def _environment(tree: Path) -> dict[str, str]:
    """In it ``guardrun`` is the copy's, for tests and for what they start; servers are fatal."""
    return {**os.environ, "PYTHONPATH": str(tree), "CI": "1"}


def _copy(to: Path) -> Path:
    for name in _NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, to / name)
    return to


def _shown(test: str) -> str:
    return test.removeprefix("tests/")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
