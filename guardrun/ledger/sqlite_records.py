"""Reading the embedded ledger for people: never writes, never waits for a running job."""

from __future__ import annotations

import itertools
import os
import time

from guardrun import sql
from guardrun.ledger.live import LiveFile
from guardrun.ledger.records import AttemptRecord, JobRecord, KeyRecord, RunFacts, run_record
from guardrun.ledger.rows import CUT_OFF
from guardrun.ledger.sqlite_file import (
    SCHEMA,
    connect,
    driver,
    open_for_writing,
    path_of,
    unavailable,
    version,
)
from guardrun.ledger.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping
    from typing import Any

    from guardrun.ledger.records import Filter, RunRecord

_SQL = sql.statements("sqlite", "records")
_WHOLE = 36
_PATIENCE = 5.0
"""s to wait for a process that opens or closes the file; running jobs do not stand in the way"""


def open_file(url: str) -> SqliteRecords | None:
    """Open the file of ``sqlite:///PATH``; ``None`` when it is missing or still empty."""
    path = path_of(url)
    if not os.path.exists(path):
        return None
    try:
        db = connect(path, "ro", _PATIENCE)
    except driver.Error as error:
        raise unavailable(path, error) from error
    try:
        found = version(db, path)
    except BaseException as error:
        db.close()
        if isinstance(error, driver.Error):
            raise unavailable(path, error) from error
        raise
    if found == SCHEMA:
        return SqliteRecords(path, db)
    db.close()
    return SqliteRecords(path, open_for_writing(path)) if found else None


class SqliteRecords:
    """``Records`` over one file."""

    def __init__(self, path: str, db: sqlite3.Connection) -> None:
        self._path = path
        self._db = db
        self._live = LiveFile(os.path.join(os.path.dirname(path), "runs.live"))

    def runs(self, wanted: Filter) -> Iterator[RunRecord]:
        """Runs, newest first, read as they are asked for."""
        conditions, values = _conditions(wanted)
        for record in self._select(conditions, values):
            if wanted.result in (None, record.result):
                yield record

    def find(self, part: str) -> tuple[str, ...]:
        """Up to three job_ids that begin or end with ``part``."""
        values = {"part": plain(part)}
        found = {row[0] for row in self._rows(_SQL["find_prefix"], values)}
        if len(part) < _WHOLE:  # ends have no index
            found |= {row[0] for row in self._rows(_SQL["find_suffix"], values)}
        return tuple(sorted(found))[:3]

    def run(self, job_id: str) -> RunRecord | None:
        """One run."""
        return next(self._select(["by_id"], {"job_id": job_id}), None)

    def attempts(self, job_id: str) -> tuple[AttemptRecord, ...]:
        """The attempts of a run, first to last."""
        rows = self._rows(_SQL["attempts"], {"job_id": job_id})
        return tuple(AttemptRecord(*row) for row in rows)

    def output(self, job_id: str) -> tuple[bytes, bytes] | None:
        """What a run wrote, if it was captured."""
        for stdout, stderr in self._rows(_SQL["output"], {"job_id": job_id}):
            return stdout, stderr
        return None

    def jobs(self, since: float) -> tuple[JobRecord, ...]:
        """Every job; of budgets what was spent after ``since``."""
        rows = self._rows(_SQL["jobs"], {"since": round(since * 1e6)})
        return tuple(JobRecord(*row) for row in rows)

    def latest(self, job: str, since: float, last: int) -> tuple[RunFacts, ...]:
        """The newest ``last`` runs of a job that started at ``since`` or later, newest first."""
        values = {"job": plain(job), "since": round(since * 1e6), "last": last}
        found = [RunFacts(*row) for row in self._rows(_SQL["latest_runs"], values)]
        return tuple(
            self._run_facts(facts) if facts.result == "running" else facts for facts in found
        )

    def _run_facts(self, facts: RunFacts) -> RunFacts:
        """A run that the ledger has as running, as it is."""
        record = self.run(facts.job_id)
        if record is None:
            return facts
        return facts._replace(
            result=record.result,
            duration=record.duration,
            lock_wait=record.lock_wait,
            attempts=record.attempts,
            lockless=record.lock is not None and not record.held,
        )

    def keys(self, state: str | None, limit: int) -> Iterator[KeyRecord]:
        """Keys, the latest claimed first; at most ``limit``, 0 for all."""
        where = "all" if state is None else _STATES.get(state, "by_state")
        # Whether a key still runs is not for SQL to say, so those are counted here.
        most = limit if limit and where != "unfinished" else -1
        found = self._select_keys(where, {"state": state, "limit": most})
        wanted = (record for record in found if state in (None, record.state))
        return itertools.islice(wanted, limit or None)

    def key(self, key: str) -> KeyRecord | None:
        """One key."""
        return next(self._select_keys("by_key", {"key": plain(key), "limit": 1}), None)

    def close(self) -> None:
        """Let go of the connection."""
        self._live.close()
        self._db.close()

    def _select_keys(self, where: str, values: Mapping[str, object]) -> Iterator[KeyRecord]:
        statement = _SQL["keys"].format(where=_SQL[where].strip())
        for row in self._rows(statement, {**values, "now": round(time.time() * 1e6)}):
            record = KeyRecord(*row)
            if record.state == "running" and not self._live.is_alive(record.job_id):
                record = self._key_cut_off(record)
            yield record

    def _select(self, conditions: list[str], values: Mapping[str, object]) -> Iterator[RunRecord]:
        where = "\n   AND ".join(_SQL[name].strip() for name in conditions)
        for row in self._rows(_SQL["runs"].format(where=where), values):
            record = run_record(row)
            if record.result == "running" and not self._live.is_alive(record.job_id):
                record = self._cut_off(record)
            yield record

    def _cut_off(self, record: RunRecord) -> RunRecord:
        """A run that is not alive: told as interrupted, and left for the next run to mark."""
        statement = _SQL["runs"].format(where=_SQL["by_id"])
        row = self._read_again(statement, {"job_id": record.job_id})
        now = record if row is None else run_record(row)
        if now.result != "running":
            return now
        return now._replace(result="interrupted", reason=CUT_OFF)

    def _key_cut_off(self, record: KeyRecord) -> KeyRecord:
        """A key whose run is not alive: told as interrupted, unless somebody else has it by now."""
        statement = _SQL["keys"].format(where=_SQL["by_key"].strip())
        values = {"key": record.key, "limit": 1, "now": round(time.time() * 1e6)}
        row = self._read_again(statement, values)
        now = record if row is None else KeyRecord(*row)
        if (now.state, now.job_id) != ("running", record.job_id):
            return now
        return now._replace(state="interrupted")

    def _read_again(self, statement: str, values: Mapping[str, object]) -> tuple[Any, ...] | None:
        # The run may have ended between our snapshot and the question whether it is alive. It
        # commits before it stops being alive, so a snapshot that is younger than the answer
        # decides; hence another connection.
        try:
            db = connect(self._path, "ro", _PATIENCE)
            try:
                row: tuple[Any, ...] | None = db.execute(statement, values).fetchone()
            finally:
                db.close()
        except driver.Error as error:
            raise unavailable(self._path, error) from error
        return row

    def _rows(self, statement: str, values: Mapping[str, object]) -> Iterator[tuple[Any, ...]]:
        try:
            # Not "yield from": an abandoned generator would close the cursor after the connection.
            for row in self._db.execute(statement, values):  # noqa: UP028
                yield row
        except driver.Error as error:
            raise unavailable(self._path, error) from error


def _conditions(wanted: Filter) -> tuple[list[str], dict[str, object]]:
    """The WHERE clause: names of fragments, and the values in them."""
    names: list[str] = []
    values: dict[str, object] = {}
    for name, text in (("job", wanted.job), ("key", wanted.key), ("result", wanted.result)):
        if text is not None:
            names.append(_FRAGMENTS.get(text, f"by_{name}") if name == "result" else f"by_{name}")
            values[name] = plain(text)
    for name, instant in (("since", wanted.since), ("until", wanted.until)):
        if instant is not None:
            names.append(name)
            values[name] = round(instant * 1e6)
    if wanted.for_good:
        names.append("for_good")
    return names or ["all"], values


_FRAGMENTS = {"success": "by_success", "interrupted": "by_interrupted"}

_STATES = {"running": "unfinished", "interrupted": "unfinished"}
