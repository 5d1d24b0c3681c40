"""Runs that are cut off by the death of one of their processes, each in a world of its own."""

from __future__ import annotations

import itertools
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from crash_truth import Facts, ended_as_expected, goes_on, is_complete, is_true, keeps
from fleet import FleetHost, ask
from lease_fleet import LEASE
from support import GUARDRUN, Host, busy_ledger, finish

TRACER = Path(__file__).parent / "tracer.py"
_ENDED = 30.0
"""s that a run may take which nothing disturbs"""

NOTE = 'echo "$GUARDRUN_JOB_ID" >>"${0%/*}/done"'
"""What COMMAND does last: its own record of having come to its end."""

_HOG = """
# Has the ledger's write lock from now on, for as long as guardrun is there.
import os, select, sqlite3, sys
ready, told = os.pipe()
if os.fork():
    os.close(told)
    sys.exit(os.read(ready, 1) != b"!")
run = select.poll()
run.register(os.pidfd_open(int(os.environ["GUARDRUN_LOCK_OWNER"].split(":")[-2])), select.POLLIN)
db = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
db.execute("BEGIN IMMEDIATE")
os.write(told, b"!")
os.close(told)
run.poll()
"""


class Point(NamedTuple):
    """One death, and what was wrong after it."""

    role: str
    at: int
    step: str | None
    """the step that was not taken; ``None``: there was no n-th"""
    stage: str
    problems: tuple[str, ...]
    steps: Mapping[str, Sequence[str]] = MappingProxyType({})
    """those that each role has taken"""


def _nothing(*_: object) -> None:
    """Nothing has to happen."""


@dataclass(frozen=True)
class Scene:
    """One kind of run, and the world in which it is cut off."""

    name: str
    roles: tuple[str, ...]
    options: tuple[str, ...] = ()
    locked: bool = False
    """with a lock of its own, named like the key"""
    url: str | None = None
    """of the ledger; ``None``: the embedded one"""
    lease_url: str | None = None
    before: Callable[[Host, str], None] = _nothing
    """what has happened in that world, for this key, when the run begins"""
    act: str = ""
    """what COMMAND does at last, in the run that is cut off"""
    lapses: Callable[[str], None] = _nothing
    """let what nobody is left to give back lapse"""
    keys: Iterator[int] = field(default_factory=itertools.count)

    def play(self, root: Path, role: str, at: int) -> Point:
        """Kill ``role`` at its ``at``-th step, run the same line again, and look."""
        key = f"{self.name}/{next(self.keys)}"
        host = self._host(root)
        try:
            self.before(host, key)
            earlier = self.facts(host, key)
            lock = ("--lock", key) if self.locked else ()
            words = ("--key", key, *lock, *self.options, "--", host.job)
            report = root / "report"
            tracer = (sys.executable, str(TRACER), str(report), role, str(at), *GUARDRUN)
            env = {"ACT": f"{NOTE}; {self.act}"}
            traced = finish(host.start(*words, program=tracer, env=env), 120)
            if traced.code != 0:
                return Point(role, at, None, "nothing", (f"it did not end: {traced}",))
            told = json.loads(report.read_text())
            before = self.facts(host, key)
            if role == "host":
                self.lapses(key)
            again = host.run(*words, env={"ACT": NOTE}, timeout=_ENDED)
            after = self.facts(host, key)
        finally:
            host.close()
        problems = (
            *ended_as_expected(role, told, before),
            *keeps(earlier, before),
            *is_true(before),
            *goes_on(before, again, after),
            *is_complete(after),
        )
        if problems:
            problems = (*problems, f"before: {before}", f"again: {again}", f"after: {after}")
        return Point(role, at, told["struck"], before.stage, problems, told["steps"])

    def _host(self, root: Path) -> Host:
        env = {} if self.lease_url is None else {"GUARDRUN_LEASE_URL": self.lease_url}
        if self.url is None:
            return Host(root, env)
        return FleetHost(root, {"GUARDRUN_LEDGER_URL": self.url, **env})

    def facts(self, host: Host, key: str) -> Facts:
        """Everything that is known of the key now; changes nothing."""

        def rows(query: str) -> list[dict[str, Any]]:
            try:
                return host.rows(query)
            except sqlite3.OperationalError as error:  # it died before it had made any
                if "no such table" in str(error):
                    return []
                raise

        schema = "" if self.url is None else "guardrun."
        states = "keys" if self.url is None else "guardrun.key_states"
        runs = rows(
            "SELECT CAST(job_id AS text) AS job_id, result, exit_code, finished_at, token, stale,"
            f" attempts FROM {schema}runs WHERE key = '{key}' ORDER BY started_at"
        )
        attempts = rows(
            "SELECT CAST(tried.job_id AS text) AS job_id, number, tried.result, tried.exit_code"
            f" FROM {schema}attempts AS tried JOIN {schema}runs USING (job_id)"
            f" WHERE key = '{key}' ORDER BY tried.job_id, number"
        )
        keys = rows(
            f"SELECT state, CAST(job_id AS text) AS job_id FROM {states} WHERE key = '{key}'"
        )
        done = host.root / "done"
        return Facts(
            host.executions(),
            done.read_text().split() if done.exists() else [],
            {row["job_id"]: row for row in runs},
            attempts,
            keys[0] if keys else None,
            [path.stem for path in (host.state / "spool").glob("*/*.json")],
        )


# ---------------------------------------------------------------- all of them

_LOCAL = ("supervisor", "backstop", "warden", "host")
_FAR = ("supervisor", "keeper", "backstop", "warden")
_LONG = ("--claim-ttl", "1h")
"""Nobody can wait for such a claim to lapse: it has to be given back."""


def _warm(host: Host, key: str) -> None:  # noqa: ARG001
    """A ledger that has been used before."""
    assert host.run("--log-to", "none", "--key", "an earlier one", "--", "true").code == 0


def _spooled(host: Host, key: str) -> None:
    """A success of this key that the ledger did not take."""
    process = host.hold("--key", key, "--record-wait", "10ms", env={"ACT": f"cat; {NOTE}"})
    with busy_ledger(host):
        told = finish(process)
    assert "outcome_spooled" in told.events, told


def local_scenes(hog: Path) -> list[Scene]:
    """Runs whose ledger is the embedded one; ``hog``: where to put a program they need."""
    hog.write_text(_HOG)
    hold = f'exec {sys.executable} -IS {hog} "$GUARDRUN_STATE_DIR/ledger.sqlite3"'
    return [
        Scene("sqlite, first run", _LOCAL),
        Scene("sqlite", _LOCAL, before=_warm),
        Scene("sqlite, host lock", _LOCAL, locked=True, before=_warm),
        Scene(
            "sqlite, into the spool",
            ("supervisor", "host"),
            ("--record-wait", "50ms"),
            locked=True,
            before=_warm,
            act=hold,
        ),
        Scene("sqlite, from the spool", ("supervisor", "host"), before=_spooled),
    ]


def lease_scenes(redis_url: str) -> list[Scene]:
    """Runs with the embedded ledger, and a lease."""
    name = "sqlite, lease in redis"
    return [Scene(name, _FAR, LEASE, locked=True, lease_url=redis_url, before=_warm)]


def far_scenes(url: str, redis_url: str) -> list[Scene]:
    """Runs whose ledger is in this database, which has the schema."""

    def lapses(key: str) -> None:
        ask(url, "UPDATE guardrun.keys SET claim_until = clock_timestamp() WHERE key = %s", key)
        ask(url, "UPDATE guardrun.runs SET alive_until = clock_timestamp() WHERE key = %s", key)
        ask(
            url,
            "UPDATE guardrun.lease_holders SET expires_at = '-infinity' WHERE lease_id IN"
            " (SELECT id FROM guardrun.leases WHERE name = %s)",
            key,
        )

    def far(name: str, roles: tuple[str, ...], *options: str, **more: Any) -> Scene:
        return Scene(f"postgres{name}", roles, (*_LONG, *options), url=url, **more)

    all_roles = (*_FAR, "host")
    return [
        far("", all_roles, lapses=lapses),
        far(", host lock", all_roles, locked=True, lapses=lapses),
        far(", lease there", all_roles, *LEASE, locked=True, lease_url=url, lapses=lapses),
        far(", lease in redis", _FAR, *LEASE, locked=True, lease_url=redis_url),
    ]
