"""What the tests of ledger, spool and history share: runs, outcomes, a clock, and the stores."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from guardrun.ledger.records import Filter, RunRecord, open_records
from guardrun.ledger.sqlite import SqliteLedger
from guardrun.model import Attempt, Claim, KeySpec, LedgerSpec, Outcome, Refusal, Run
from guardrun.ports import Ledger

NOON = 1_795_003_200.0
"""2026-11-18T12:00:00Z, in seconds since 1970"""


@dataclass
class Clock:
    """A clock that goes on when it is told to."""

    time: float = NOON

    def __call__(self) -> float:
        return self.time

    def pass_by(self, seconds: float) -> None:
        """Go on."""
        self.time += seconds


def job_id(at: float = NOON) -> str:
    """A UUIDv7 of that moment: RFC 9562."""
    bits = int.from_bytes(os.urandom(10), "big")
    fixed = (0x7 << 76) | (0b10 << 62)
    random = ((bits >> 62) & 0xFFF) << 64 | bits & ((1 << 62) - 1)
    return str(uuid.UUID(int=int(at * 1000) << 80 | fixed | random))


def make_run(key: str | None = None, **fields: Any) -> Run:
    """A run that nobody else is."""
    own = fields.pop("job_id", None) or job_id(fields.get("started_at", NOON))
    given: dict[str, Any] = {
        "job": "backup",
        "host": "h",
        "user": "u",
        "pid": 1,
        "argv": ("pg_dump", "main"),
        "fingerprint": "f" * 64,
        "started_at": NOON,
    }
    token = None if key is None else os.urandom(16).hex()
    return Run(own, owner=f"h:1:{own}", key=key, token=token, **(given | fields))


def ended(
    run: Run, claim: Claim | Refusal | None, result: str = "success", **fields: Any
) -> Outcome:
    """An outcome of a run that executed COMMAND once."""
    code = {"success": 0, "failed": 1, "timeout": 124}.get(result, 75)
    given: dict[str, Any] = {
        "exit_code": code,
        "command_code": code,
        "finished_at": run.started_at + 1.5,
        "duration": 1.5,
        "attempts": (Attempt(1, run.started_at + 0.25, 1.25, result, code),),
    }
    assert not isinstance(claim, Refusal)
    return Outcome(run, result, claim=claim, **(given | fields))


def refused(run: Run, result: str = "lock_busy", **fields: Any) -> Outcome:
    """An outcome of a run that executed nothing."""
    return ended(run, None, result, **({"attempts": (), "command_code": None} | fields))


def claimed(answer: Claim | Refusal) -> Claim:
    """The claim; fails on a refusal."""
    assert isinstance(answer, Claim), answer
    return answer


def refusal(answer: Claim | Refusal) -> Refusal:
    """The refusal; fails on a claim."""
    assert isinstance(answer, Refusal), answer
    return answer


def run_key(ledger: Ledger, key: str, result: str = "success", **fields: Any) -> Run:
    """Begin and end a run with a key."""
    run = make_run(key, **{name: fields.pop(name) for name in list(fields) if name in Run._fields})
    assert ledger.finish(ended(run, claimed(ledger.begin(run, KeySpec(key))), result, **fields))
    return run


class Store(Protocol):
    """What the contract suite needs of a ledger under test; every ``open`` is another process's
    view of it."""

    kind: str
    """what ``opener`` opens"""
    tick: float
    """s; two moments on the test's clock have to be this far apart to be told from each other"""
    crowd: int
    """how many processes may come at once"""
    clock: Clock

    @property
    def place(self) -> str:
        """What ``opener`` needs to open it in another process."""

    def open(self) -> Any:
        """A ledger of its own."""

    def at(self, instant: float) -> Any:
        """What the ledger tells of this moment on the test's clock."""

    def vanish(self, ledger: Any, run: Run, others: Sequence[Run] = ()) -> Any:
        """Have a run's processes be gone for as long as it takes to notice, those of ``others``
        not; a ledger to go on with."""

    def runs(self, wanted: Filter | None = None) -> list[RunRecord]:
        """What is recorded, newest first."""

    def row(self, of: Run) -> RunRecord:
        """What is recorded of one run."""

    def attempts(self, of: Run) -> int:
        """How many attempts of a run are recorded."""

    def close(self) -> None:
        """Close what was opened here."""


@dataclass
class SqliteStore:
    """One embedded ledger."""

    directory: Path
    clock: Clock = field(default_factory=Clock)
    opened: list[SqliteLedger] = field(default_factory=list)

    kind = "sqlite"
    tick = 0.001
    crowd = 100

    @property
    def path(self) -> Path:
        return self.directory / "ledger.sqlite3"

    @property
    def place(self) -> str:
        """What ``opener`` needs to open it in another process."""
        return str(self.path)

    @property
    def spec(self) -> LedgerSpec:
        return LedgerSpec(f"sqlite://{self.path}", str(self.directory))

    def open(self, keep: float = 90 * 86400.0) -> SqliteLedger:
        """A ledger of its own, on the same file."""
        ledger = SqliteLedger(str(self.path), self.clock, keep)
        self.opened.append(ledger)
        return ledger

    def at(self, instant: float) -> Any:
        """The test's clock is the ledger's."""
        return instant

    def vanish(self, ledger: SqliteLedger, run: Run, others: Sequence[Run] = ()) -> SqliteLedger:
        """Have a run's descriptors be closed; ``others`` live on in processes of their own."""
        assert run not in others
        ledger.close()
        fresh = self.open()
        for other in others:
            fresh.live.hold(other.job_id)
        return fresh

    def runs(self, wanted: Filter | None = None) -> list[RunRecord]:
        """What is recorded, newest first."""
        records = open_records(self.spec)
        if records is None:
            return []
        try:
            return list(records.runs(wanted or Filter()))
        finally:
            records.close()

    def row(self, of: Run) -> RunRecord:
        """What is recorded of one run."""
        (found,) = (record for record in self.runs() if record.job_id == of.job_id)
        return found

    def attempts(self, of: Run) -> int:
        """How many attempts of a run are recorded."""
        records = open_records(self.spec)
        assert records is not None
        try:
            return len(records.attempts(of.job_id))
        finally:
            records.close()

    def close(self) -> None:
        """Close what was opened here."""
        for ledger in self.opened:
            ledger.close()


def opener(kind: str, place: str) -> Ledger:
    """Open a store by what a worker process was given on its command line."""
    if kind == "sqlite":
        return SqliteLedger(place, Clock())
    from guardrun.ledger.postgres import PostgresLedger

    return PostgresLedger(place, Clock())


_PREAMBLE = """
import os, random, sys, time
from guardrun.errors import StoreUnavailable
from guardrun.model import Budget, Claim, KeySpec
from ledgers import NOON, Clock, ended, make_run, opener

def insist(call):
    # What the caller of a ledger does about a store that is busy: jittered retries.
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except StoreUnavailable as error:
            if time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0, 0.05))

ledger = opener(*sys.argv[1:3])
print("ready", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def workers(
    store: Store, number: int, script: str, *words: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes that have opened the store and wait for a line on stdin to run ``script``.

    In it ``ledger`` is the store, ``insist`` retries while it is busy.
    """
    place = Path(__file__).parent
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _PREAMBLE + script, store.kind, store.place, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{place.parent}:{place}"},
        )
        for _ in range(number)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def release(started: list[subprocess.Popen[str]]) -> None:
    """Let them all go at once."""
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def answers(started: list[subprocess.Popen[str]]) -> list[str]:
    """Let them all go, and collect what each says."""
    release(started)
    found = [process.communicate(timeout=120)[0].strip() for process in started]
    assert all(process.returncode == 0 for process in started)
    return found
