"""Many items: ``guardrun each`` beside those that only execute, and those that keep a list."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

from bench import process
from bench.launcher import which
from bench.postgres import Server
from bench.scene import Scene
from bench.stats import Budget, Row, Section
from bench.subjects import Subject

HALF = Budget(0.5, relative=True)
"""of the time that its only peer takes which writes down what it has done"""
LISTED = "parallel --joblog"
_AT_A_TIME = 8
_PEERS = {
    "xargs -P": ("xargs", "-n", "1", "-P", str(_AT_A_TIME)),
    "parallel": ("parallel", "-j", str(_AT_A_TIME)),
    LISTED: ("parallel", "-j", str(_AT_A_TIME), "--joblog", "{locks}/joblog-@"),
}


def missing() -> list[str]:
    """The programs beside which it cannot be measured here."""
    return sorted({program for program, *_ in _PEERS.values() if which(program) is None})


def measure(scene: Scene, server: Server | None, items: int, rounds: int) -> list[Section]:
    """Work off so many items with each once per round, in turn.

    The first round is not counted: it makes the ledgers, and fills the caches.
    """
    listed = scene.place / "items"
    listed.write_text("".join(f"{number}\n" for number in range(items)))
    compared = [
        *_peers(),
        *_guardruns(scene.guardrun, server.ledger(scene, "each") if server else ""),
    ]
    took: dict[str, list[float]] = defaultdict(list)
    used: dict[str, list[float]] = defaultdict(list)
    command = (which("true") or "true",)
    for number in range(rounds + 1):
        for subject in compared:
            before = process.cpu_used()
            one = scene.start(subject, command, stdin=listed)
            whole = (one.wait() - one.begun) / 1e6
            process.bury_orphans()
            if number > 0:
                took[subject.name].append(whole / items)
                used[subject.name].append((process.cpu_used() - before) * 1000 / items)
    base = statistics.median(took[LISTED]) if LISTED in took else None
    title = f"{items:,} items with `true` as COMMAND, {_AT_A_TIME} at a time where nothing is said"
    return [
        Section(f"{title}: time", "ms an item", _rows(compared, took), base, LISTED),
        Section(
            f"{title}: CPU time, user and system, all processes",
            "ms an item",
            _rows(compared, used),
            statistics.median(used[LISTED]) if LISTED in used else None,
            LISTED,
        ),
    ]


def _rows(compared: Sequence[Subject], samples: dict[str, list[float]]) -> tuple[Row, ...]:
    return tuple(
        Row(one.name, tuple(samples[one.name]), HALF if one.full else None) for one in compared
    )


def _peers() -> list[Subject]:
    found = ((name, which(words[0]), words) for name, words in _PEERS.items())
    return [Subject(name, (path, *words[1:])) for name, path, words in found if path is not None]


def _guardruns(program: str, postgres: str) -> list[Subject]:
    def setting(name: str, *options: str, full: bool = False, ledger: str = "") -> Subject:
        at_a_time = () if "-P" in options else ("-P", str(_AT_A_TIME))
        words = (program, "each", *at_a_time, *options, "--")
        return Subject(f"guardrun each{name}", words, guardrun=True, full=full, ledger=ledger)

    key = ("--key", "bench-@-{item}")
    found = [
        setting(""),
        setting(" --key", *key, full=True),
        setting(" --key --log-to none", *key, "--log-to", "none", full=True),
        setting(" --key -P 2", *key, "-P", "2"),
        setting(" --key -P 20", *key, "-P", "20"),
    ]
    if postgres:
        found += [
            setting(", Postgres", ledger=postgres),
            setting(" --key, Postgres", *key, ledger=postgres),
        ]
    return found
