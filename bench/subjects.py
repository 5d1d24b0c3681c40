"""What is measured: guardrun in its settings, and the tools that do a part of its work.

In the words of a subject ``@`` stands for a number that no other run has, and ``{locks}`` for the
directory of its locks. A setting with other stores is one more ``Subject`` in ``guardruns``.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from bench.stats import Budget

# The budgets of the design: B is `python -I -c pass`.
START = Budget(5, relative=True, aim=4)
WHOLE = Budget(8, relative=True)
RSS = Budget(20)
PSS = Budget(60)
WAKEUPS = Budget(0)
HANDOFF = Budget(10)
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
    """host lock, key and SQLite: what the budgets of time are about"""
    ledger: str = ""
    """URL of its ledger, where that is not the file; it goes through the environment, because an
    option with a password in it is refused"""

    def line(self, number: int, locks: str, command: Sequence[str]) -> list[str]:
        """Its command line for run ``number``."""
        words = (word.replace("@", str(number)).replace("{locks}", locks) for word in self.words)
        return [*words, *command]


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
        path = shutil.which(program)
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
