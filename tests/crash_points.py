"""What must hold after a guardrun's process has died at its n-th I/O step, for every n.

    python tests/crash_points.py [--jobs 2] [--every 1] [--seed N] [SCENE]...

A run with a key is traced (``tracer.py`` says what a step is), one of its processes is killed just
before its n-th step, and when nothing is left of it the same line is run once more: that one has to
end with a ledger that is complete, and agrees with what COMMAND has written down itself.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import servers
from fleet import FleetHost, ask, fleet_host
from lease_fleet import LEASE
from support import GUARDRUN, Host, Result, busy_ledger, finish

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


class Facts(NamedTuple):
    """What there is to know of one key."""

    executed: list[str]
    """job_ids, as COMMAND wrote them down when it began"""
    ended: list[str]
    """and when it had done"""
    runs: dict[str, dict[str, Any]]
    attempts: list[dict[str, Any]]
    key: dict[str, Any] | None
    spooled: list[str]
    """job_ids of outcomes that wait"""

    @property
    def succeeded(self) -> bool:
        """Whether a success is on record, or will be as soon as the spool is read."""
        return bool(self.spooled) or (self.key or {}).get("state") == "succeeded"

    @property
    def stage(self) -> str:
        """How far it got, as one of ``STAGES``."""
        if self.spooled:
            return "spooled"
        if self.succeeded:
            return "recorded"
        if self.executed:
            return "executed"
        return "claimed" if self.runs else "nothing"


STAGES = ("nothing", "claimed", "executed", "spooled", "recorded")


class Point(NamedTuple):
    """One death, and what was wrong after it."""

    role: str
    at: int
    step: str | None
    """the step that was not taken; ``None``: there was no n-th"""
    stage: str
    problems: tuple[str, ...]


def _nothing(*_: object) -> None:
    """Nothing has to happen."""


@dataclass(frozen=True)
class Scene:
    """One kind of run, and the world in which it is cut off."""

    name: str
    roles: tuple[str, ...]
    options: tuple[str, ...] = ()
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
            words = ("--key", key, *self.options, "--", host.job)
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
            *is_true(before),
            *goes_on(before, again, after),
            *is_complete(after),
        )
        if problems:
            problems = (*problems, f"before: {before}", f"again: {again}", f"after: {after}")
        return Point(role, at, told["struck"], before.stage, problems)

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


# ---------------------------------------------------------------- what must hold


def ended_as_expected(role: str, told: dict[str, Any], before: Facts) -> Iterator[str]:
    """Only a death of its own ends the supervisor; that of another is survived, or told of."""
    code = told["code"]
    if told["struck"] is None or role == "keeper":
        if code != 0:
            yield f"exit code {code}, and nothing of importance was killed"
    elif role in ("supervisor", "host"):
        if code != -9:
            yield f"exit code {code}: it was not killed"
    elif code not in (0, 70):  # a backstop that dies at its birth leaves no warden
        yield f"exit code {code} after the death of the {role}"
    if code == 0 and not before.succeeded:
        yield "exit code 0, and no success is on record"


def is_true(before: Facts) -> Iterator[str]:
    """D: nothing is executed without a claim on record, and no success is one that was none."""
    for job_id in before.executed:
        if before.runs.get(job_id, {}).get("token") is None:
            yield f"{job_id} was executed without a claim on record"
    successes = {job_id for job_id, row in before.runs.items() if row["result"] == "success"}
    for job_id in successes | set(before.spooled):
        if job_id not in before.ended:
            yield f"{job_id} is a success that COMMAND does not know of"
    if len(successes | set(before.spooled)) > 1:
        yield "more than one success"


def goes_on(before: Facts, again: Result, after: Facts) -> Iterator[str]:
    """T, O: what has ended stays as it is, and a recorded success is not executed again."""
    if again.code != 0:
        yield f"the next run: exit code {again.code}"
        return
    finished = again.finished
    if before.succeeded:
        if finished["result"] != "skipped_duplicate" or after.executed != before.executed:
            yield "what had succeeded was run again"
        if not before.spooled and after.key != before.key:
            yield "the key of a recorded success was changed"
    elif finished["result"] != "success":
        yield f"the next run: {finished['result']}"
    elif after.executed != [*before.executed, finished["job_id"]]:
        yield "the next run has succeeded, and not executed once"
    for job_id, row in before.runs.items():
        if row["finished_at"] is not None:
            if after.runs.get(job_id) != row:
                yield f"the terminal row of {job_id} was changed"
            if _tried(after, job_id) != _tried(before, job_id):
                yield f"the attempts of {job_id}, which had ended, were changed"
        elif job_id not in before.spooled and after.runs[job_id]["result"] != "interrupted":
            yield f"{job_id} was cut off, and is {after.runs[job_id]['result']}"


def is_complete(after: Facts) -> Iterator[str]:
    """Nothing waits, nothing runs, nothing that was executed is missing, one run has succeeded."""
    if after.spooled:
        yield f"{after.spooled} wait in the spool"
    results = Counter(row["result"] for row in after.runs.values())
    if results["running"]:
        yield "a run that is dead counts as running"
    if results["success"] != 1:
        yield f"{results['success']} successes"
    for job_id in after.executed:
        if job_id not in after.runs:
            yield f"{job_id} was executed, and is not on record"
    if after.key is None or after.key["state"] != "succeeded":
        yield f"the key is {after.key}"
    elif after.runs.get(after.key["job_id"], {}).get("result") != "success":
        yield "the key has succeeded by a run that has not"
    for job_id, row in after.runs.items():
        if row["attempts"] is not None and len(_tried(after, job_id)) != row["attempts"]:
            yield f"{job_id} has {len(_tried(after, job_id))} attempts of {row['attempts']}"


def _tried(facts: Facts, job_id: str) -> list[dict[str, Any]]:
    return [row for row in facts.attempts if row["job_id"] == job_id]


# ---------------------------------------------------------------- the scenes

_LOCAL = ("supervisor", "backstop", "warden", "host")
_FAR = ("supervisor", "keeper", "backstop", "warden")
_LOG = ("--claim-ttl", "1h")


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
    lock = ("--lock", "l")
    return [
        Scene("sqlite, first run", _LOCAL),
        Scene("sqlite", _LOCAL, before=_warm),
        Scene("sqlite, host lock", _LOCAL, lock, before=_warm),
        Scene(
            "sqlite, into the spool",
            ("supervisor", "host"),
            (*lock, "--record-wait", "50ms"),
            before=_warm,
            act=hold,
        ),
        Scene("sqlite, from the spool", ("supervisor", "host"), before=_spooled),
    ]


def lease_scenes(redis_url: str) -> list[Scene]:
    """Runs with the embedded ledger, and a lease."""
    options = (*LEASE, "--lock", "l")
    return [Scene("sqlite, lease in redis", _FAR, options, lease_url=redis_url, before=_warm)]


def far_scenes(url: str, redis_url: str) -> list[Scene]:
    """Runs whose ledger is in this database, which has the schema."""

    def lapses(key: str) -> None:
        ask(url, "UPDATE guardrun.keys SET claim_until = clock_timestamp() WHERE key = %s", key)
        ask(url, "UPDATE guardrun.runs SET alive_until = clock_timestamp() WHERE key = %s", key)
        ask(url, "UPDATE guardrun.lease_holders SET expires_at = '-infinity'")

    roles, lease = (*_FAR, "host"), (*LEASE, *_LOG, "--lock")
    return [
        Scene("postgres", roles, _LOG, url, lapses=lapses),
        Scene("postgres, host lock", roles, (*_LOG, "--lock", "l"), url, lapses=lapses),
        Scene("postgres, lease there", roles, (*lease, "one"), url, url, lapses=lapses),
        Scene("postgres, lease in redis", _FAR, (*lease, "other"), url, redis_url),
    ]


# ---------------------------------------------------------------- all of them


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
            # With a lock only one at a time, or they would be refused for each other.
            jobs = 1 if scene.lease_url else given.jobs
            for role in scene.roles:
                began = time.monotonic()
                points = play_all(scene, role, root, jobs, given.every, first)
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
