"""What is measured: guardrun in its settings, and the tools that do a part of its work.

In the words of a subject ``@`` stands for a number that no other run has, ``{locks}`` for the
directory of its host locks, and ``{lock}`` for that directory's name, which is the name of its lock
where that is kept in a store. Those of a store on the network are in ``remotes``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import proc
from bench.launcher import which
from bench.stats import Budget

# The budgets of the design: B is `python -I -c pass`.
START = Budget(5, relative=True, aim=4)
WHOLE = Budget(8, relative=True)
RSS = Budget(20)
PSS = Budget(60)
WAKEUPS = Budget(0)
HANDOFF = Budget(10)
REMOTE_START = Budget(6, relative=True, aim=3)
"""as a multiple of what `consul lock` takes"""
REMOTE_HANDOFF = Budget(20)
TAKEOVER = Budget(500)
GROWN = Budget(1.3, relative=True)
QUERY = Budget(500)


@dataclass(frozen=True)
class Subject:
    """One way to run COMMAND."""

    name: str
    words: tuple[str, ...] = ()
    guardrun: bool = False
    full: bool = False
    """lock and key: what the budgets of time are about"""
    ledger: str = ""
    """URL of its ledger, where that is not the file; it goes through the environment, because an
    option with a password in it is refused"""
    environ: Mapping[str, str] = field(default_factory=dict)
    """what else it finds in its environment"""
    queue: Callable[[Path], int] = proc.flock_queue
    """how many of it wait for the lock that a directory stands for"""
    count: Callable[[], int] | None = None
    """what its store has been asked to do so far; ``None``: nobody counts that"""
    counted: str = ""
    """in what that is counted"""
    restless: str = ""
    """what wakes its processes again and again, where something has to"""

    @property
    def is_remote(self) -> bool:
        """Whether its lock is in a store."""
        return self.count is not None

    def line(self, number: int, locks: str, command: Sequence[str]) -> list[str]:
        """Its command line for run ``number``."""
        values = {"@": str(number), "{locks}": locks, "{lock}": Path(locks).name}
        return [*(_filled(word, values) for word in self.words), *command]

    def environment(self) -> dict[str, str]:
        """Its own part of the environment."""
        ledger = {"GUARDRUN_LEDGER_URL": self.ledger} if self.ledger else {}
        return {**ledger, **self.environ}


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


_PEERS = {
    "flock": ("flock", "{locks}/flock"),
    "chronic (moreutils)": ("chronic",),
    "sem --fg (GNU parallel)": ("sem", "--fg", "--id", "bench"),
    "timeout (coreutils)": ("timeout", "600"),
}


def peers() -> tuple[list[Subject], list[str]]:
    """The peers that are installed, and the names of those that are not."""
    found, missing = [], []
    for name, (program, *rest) in _PEERS.items():
        path = which(program)
        if path is None:
            missing.append(name)
        else:
            found.append(Subject(name, (path, *rest)))
    return found, missing


_LOCK, _KEY, _SILENT = ("--lock", "bench"), ("--key", "bench-@"), ("--log-to", "none")
_NO_LEDGER = ("--ledger-url", "none:")


def guardruns(program: str, postgres: str = "") -> list[Subject]:
    """The settings of guardrun that its start is measured with, the costly last.

    ``postgres`` is the URL of a ledger there; without it those settings are left out.
    """
    found = [
        _setting(program, ", no ledger", *_NO_LEDGER),
        _setting(program, ""),
        _setting(program, " --lock", *_LOCK),
        _setting(program, " --lock --key", *_LOCK, *_KEY, full=True),
        _setting(program, " --lock --key --log-to none", *_LOCK, *_KEY, *_SILENT, full=True),
    ]
    if postgres:
        found += [
            _setting(program, ", Postgres", ledger=postgres),
            _setting(program, " --lock --key, Postgres", *_LOCK, *_KEY, ledger=postgres),
        ]
    return found


def waiters(program: str) -> list[Subject]:
    """The settings of guardrun that its handoff is measured with."""
    wait = ("--wait", "forever")
    return [
        _setting(program, " --lock, no ledger", *wait, *_LOCK, *_NO_LEDGER),
        _setting(program, " --lock --key", *wait, *_LOCK, *_KEY, full=True),
    ]


def _setting(
    program: str, name: str, *options: str, full: bool = False, ledger: str = ""
) -> Subject:
    words = (program, *options, "--")
    return Subject(f"guardrun{name}", words, guardrun=True, full=full, ledger=ledger)
