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

from bench import (
    crash,
    each,
    handoff,
    ledger,
    machine,
    memory,
    process,
    remotes,
    scene,
    startup,
    store_handoff,
    stores,
    subjects,
    table,
)
from bench.mark import Stuck
from bench.remotes import Remotes
from bench.scene import Scene, Unusable
from bench.stats import Section
from bench.stores import Stores
from bench.subjects import Subject
from guardrun.errors import GuardrunError


@dataclass(frozen=True)
class Rounds:
    """How often each thing is measured."""

    startup: int
    memory: int
    handoff: int
    crash: int
    waiters: tuple[int, ...]
    """for a lock of this host"""
    store_handoff: int
    crowd: tuple[int, int]
    """for a lock in a store: few, and as many as there is memory for"""
    windows: int
    idle: float
    """s, each"""
    runs: tuple[int, ...]
    """that the ledgers hold; the first holds none"""
    pairs: int
    queries: int
    items: int
    pools: int


DEFAULT = Rounds(
    startup=16,
    memory=2,
    handoff=25,
    crash=6,
    waiters=(2, 50),
    store_handoff=15,
    crowd=(2, 100),
    windows=5,
    idle=3.0,
    runs=(0, 100_000, 1_000_000),
    pairs=200,
    queries=7,
    items=1000,
    pools=5,
)
QUICK = Rounds(
    startup=2,
    memory=1,
    handoff=3,
    crash=1,
    waiters=(2,),
    store_handoff=3,
    crowd=(2, 4),
    windows=1,
    idle=0.5,
    runs=(0, 1000),
    pairs=10,
    queries=1,
    items=40,
    pools=1,
)


def measure(
    here: Scene,
    found: Sequence[Subject],
    kept: Stores,
    remote: Remotes,
    rounds: Rounds,
) -> Iterator[Section]:
    """Every section of the table, as soon as it is known."""
    server = kept.postgres
    guardruns = subjects.guardruns(here.guardrun, server.ledger(here, "bench") if server else "")
    stored = [*remote.peers, *remote.whole]
    yield from startup.measure(here, [*found, *guardruns], stored, rounds.startup)
    whole = [subject for subject in guardruns if subject.full or subject.ledger]
    locks = [subject for subject in found if subject.name == "flock"]
    locks += subjects.waiters(here.guardrun)
    yield from memory.measure(
        here,
        [*found, *whole, *stored],
        [*locks, *stored],
        rounds.memory,
        rounds.windows,
        rounds.idle,
    )
    for waiters in rounds.waiters:
        yield from handoff.measure(here, locks, waiters, rounds.handoff)
    bare = [*remote.peers, *remote.bare]
    with_key = [subject for subject in remote.whole if subject.full]
    few, many = rounds.crowd
    crowd = few, min(many, machine.bears())
    yield from store_handoff.measure(
        here, [*bare, *with_key], bare, crowd, rounds.store_handoff, rounds.idle
    )
    yield from crash.measure(here, [*locks, *bare, *with_key], rounds.crash)
    yield from each.measure(here, server, rounds.items, rounds.pools)
    yield from ledger.measure(here, server, rounds.runs, rounds.pairs, rounds.queries)


def main() -> int:
    given = _arguments()
    before = machine.load()
    try:
        with scene.directory(given.place) as name:
            kept = stores.start(Path(name).parent)
            process.adopt_orphans()
            try:
                facts, sections = _measure_in(Path(name), given, kept, before)
            finally:
                process.kill_all()
    except (Unusable, Stuck, GuardrunError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(table.text(sections), facts[-1], sep="\n")
    if given.markdown:
        given.markdown.write_text(_page(facts, sections))
    return 0


def _measure_in(
    place: Path,
    given: argparse.Namespace,
    kept: Stores,
    before: float,
) -> tuple[list[str], list[Section]]:
    guardrun = given.guardrun or scene.install(place)
    here = Scene.lay(place, str(Path(guardrun).absolute()))
    found, absent = subjects.peers()
    remote = remotes.find(here, kept)
    facts = machine.facts(here, before, [*absent, *each.missing(), *remote.missing, *kept.missing])
    facts[2:2] = kept.facts()
    print(*facts, "", sep="\n", flush=True)
    begun = time.monotonic()
    rounds = QUICK if given.quick else DEFAULT
    try:
        sections = _collect(here, measure(here, found, kept, remote, rounds))
    finally:
        remote.close()
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
