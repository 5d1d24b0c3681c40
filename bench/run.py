"""``make bench``: measure guardrun beside its peers, and print one table. See README.md."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # bench/ is a package beside guardrun's, and not installed with it
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import crash, handoff, machine, memory, process, scene, startup, subjects, table
from bench.mark import Stuck
from bench.scene import Scene, Unusable
from bench.stats import Section


@dataclass(frozen=True)
class Rounds:
    """How often each thing is measured."""

    startup: int
    memory: int
    handoff: int
    crash: int
    waiters: tuple[int, ...]
    idle: float
    """s"""


DEFAULT = Rounds(startup=25, memory=3, handoff=25, crash=10, waiters=(2, 50), idle=5.0)
QUICK = Rounds(startup=2, memory=1, handoff=3, crash=1, waiters=(2,), idle=0.5)


def measure(here: Scene, found: Sequence[subjects.Subject], rounds: Rounds) -> Iterator[Section]:
    """Every section of the table, as soon as it is known."""
    guardruns = subjects.guardruns(here.guardrun)
    yield from startup.measure(here, [*found, *guardruns], rounds.startup)
    full = [subject for subject in guardruns if subject.full]
    yield from memory.measure(here, [*found, *full], rounds.memory, rounds.idle)
    locks = [subject for subject in found if subject.name == "flock"]
    locks += subjects.waiters(here.guardrun)
    for waiters in rounds.waiters:
        yield from handoff.measure(here, locks, waiters, rounds.handoff)
    yield from crash.measure(here, locks, rounds.crash)


def main() -> int:
    given = _arguments()
    before = machine.load()
    process.adopt_orphans()
    try:
        with scene.directory(given.place) as name:
            try:
                facts, sections = _measure_in(Path(name), given, before)
            finally:
                process.kill_all()
    except (Unusable, Stuck) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(table.text(sections), facts[-1], sep="\n")
    if given.markdown:
        given.markdown.write_text(_page(facts, sections))
    return 0


def _measure_in(
    place: Path, given: argparse.Namespace, before: float
) -> tuple[list[str], list[Section]]:
    guardrun = given.guardrun or scene.install(place)
    here = Scene.lay(place, str(Path(guardrun).absolute()))
    found, missing = subjects.peers()
    facts = machine.facts(here, before, missing)
    print(*facts, "", sep="\n", flush=True)
    begun = time.monotonic()
    sections = _collect(here, measure(here, found, QUICK if given.quick else DEFAULT))
    facts.append(f"measured in {time.monotonic() - begun:.0f} s")
    return facts, sections


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: does it work at all?")
    parser.add_argument(
        "--guardrun", metavar="PATH", help="an installed guardrun (default: install this one)"
    )
    parser.add_argument(
        "--markdown", metavar="FILE", type=Path, help="write the table to FILE as well"
    )
    parser.add_argument(
        "--place", metavar="DIR", help="where ledger and locks are (default: a disk)"
    )
    return parser.parse_args()


def _collect(here: Scene, measured: Iterator[Section]) -> list[Section]:
    """Gather the sections, and say on a terminal how far it is."""
    sections = []
    try:
        for section in measured:
            sections.append(section)
            if sys.stderr.isatty():
                print(f"\r\033[K{section.title}", end="", file=sys.stderr, flush=True)
    except Stuck as error:
        raise Stuck(f"{error} (last line on stderr: {here.complaint()!r})") from None
    finally:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
    return sections


def _page(facts: Sequence[str], sections: Sequence[Section]) -> str:
    lines = ["# Results", "", "Written by `make bench`; `README.md` says how to read it.", ""]
    lines += [f"- {fact}" for fact in facts]
    return "\n".join(lines) + "\n\n" + table.markdown(sections)


if __name__ == "__main__":
    sys.exit(main())
