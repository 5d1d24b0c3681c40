"""Reading the ledger in Postgres for people, and letting go of its keys.

Long lists are read in pages, each a short transaction that starts where the last one ended: a
reader that pauses keeps neither snapshot nor lock, and memory is bounded. Needs SELECT alone, and
``forget`` the rights of a run. Works through PgBouncer in transaction mode.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from typing import TYPE_CHECKING, Any

from guardrun import kernel, sql
from guardrun.digest import sha256
from guardrun.ledger.records import AttemptRecord, JobRecord, KeyRecord, RunFacts, run_record
from guardrun.ledger.rows import CUT_OFF, microseconds
from guardrun.ledger.text import plain
from guardrun.postgres.connection import connect, unavailable
from guardrun.postgres.lean_psycopg import errors
from guardrun.postgres.schema import check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from guardrun.ledger.records import Filter, RunRecord
    from guardrun.postgres.wire import Connection

    Values = Mapping[str, Any]

_SQL = sql.statements("postgres", "records")
_FIRST_PAGE, _PAGE = 100, 1000
_SHAPE = "00000000-0000-0000-0000-000000000000"
_HEX = frozenset("0123456789abcdef")


def open_database(url: str, patience: float) -> PostgresRecords:
    """Connect for reading; every answer is waited for ``patience`` seconds.

    Raises ``StoreUnavailable``, ``StoreOutdated`` when the schema is not the one this version
    knows, and ``ConfigError`` for a URL that cannot be read.
    """
    connection = connect(url, kernel.now() + patience)
    try:
        check(connection, url)
    except BaseException as error:
        connection.close()
        if isinstance(error, errors.Error):
            raise unavailable(url, error) from error
        raise
    return PostgresRecords(url, connection, patience)


def forget(url: str, patience: float, seen: KeyRecord) -> bool:
    """As ``records.forget_key``; waits for a transaction that is about to complete the key."""
    records = open_database(url, patience)
    try:
        return records.forget(seen)
    finally:
        records.close()


class PostgresRecords:
    """``Records`` over one database."""

    def __init__(self, url: str, connection: Connection, patience: float) -> None:
        self._url = url
        self._db = connection
        self._patience = patience

    def runs(self, wanted: Filter) -> Iterator[RunRecord]:
        """Runs, newest first, read as they are asked for."""
        conditions, values = _conditions(wanted)
        if "by_interrupted" not in conditions:
            return self._pages(conditions, values)
        # Each half has its own order in the index: together they would all have to be sorted.
        conditions.remove("by_interrupted")
        halves = (self._pages([*conditions, half], values) for half in ("by_result", "by_gone"))
        return heapq.merge(*halves, key=lambda record: record.started_at, reverse=True)

    def _pages(self, conditions: list[str], values: Values) -> Iterator[RunRecord]:
        page = _FIRST_PAGE
        while True:
            statement = _SQL["runs"].format(where=_where(conditions or ["all"]))
            rows = self._read(statement, {**values, "page": page})
            yield from map(_run, rows)
            if len(rows) < page:
                return
            last = rows[-1]
            if "before" not in conditions:
                conditions = [*conditions, "before"]
            values = {**values, "last_start": last[_STARTED_AT], "last_id": last[-1]}
            page = _PAGE

    def find(self, part: str) -> tuple[str, ...]:
        """Up to three job_ids that begin or end with ``part``."""
        found: set[str] = set()
        bounds = _bounds(part)
        if bounds is not None:
            rows = self._read(_SQL["find_prefix"], {"first": bounds[0], "last": bounds[1]})
            found = {row[0] for row in rows}
        if len(part) < len(_SHAPE):
            end = plain(part)
            rows = self._read(_SQL["find_suffix"], {"part": end, "length": len(end)})
            found |= {row[0] for row in rows}
        return tuple(sorted(found))[:3]

    def run(self, job_id: str) -> RunRecord | None:
        """One run."""
        statement = _SQL["runs"].format(where=_where(["by_id"]))
        rows = self._read(statement, {"job_id": job_id, "page": 1})
        return _run(rows[0]) if rows else None

    def attempts(self, job_id: str) -> tuple[AttemptRecord, ...]:
        """The attempts of a run, first to last."""
        rows = self._read(_SQL["attempts"], {"job_id": job_id})
        return tuple(AttemptRecord(*row) for row in rows)

    def output(self, job_id: str) -> tuple[bytes, bytes] | None:
        """What a run wrote, if it was captured."""
        for stdout, stderr in self._read(_SQL["output"], {"job_id": job_id}):
            return bytes(stdout), bytes(stderr)
        return None

    def jobs(self, since: float) -> tuple[JobRecord, ...]:
        """Every job; of budgets what was spent after ``since``."""
        rows = self._read(_SQL["jobs"], {"since": microseconds(since)})
        return tuple(JobRecord(*row) for row in rows)

    def latest(self, job: str, since: float, last: int) -> tuple[RunFacts, ...]:
        """The newest ``last`` runs of a job that started at ``since`` or later, newest first."""
        values = {"job": plain(job), "since": microseconds(since), "last": last}
        return tuple(RunFacts(*row) for row in self._read(_SQL["latest_runs"], values))

    def keys(self, state: str | None, limit: int) -> Iterator[KeyRecord]:
        """Keys, the latest claimed first; at most ``limit``, 0 for all."""
        if state is None:
            return itertools.islice(self._all_keys(), limit or None)
        if limit:
            return iter(self._keys("latest_of_state", {"state": state, "limit": limit}))
        return (record for record in self._all_keys() if record.state == state)

    def key(self, key: str) -> KeyRecord | None:
        """One key."""
        found = self._keys("one_key", {"key_id": _digest(key)})
        return found[0] if found else None

    def forget(self, seen: KeyRecord) -> bool:
        """Let a key block no longer, if nothing has happened to it since it was ``seen``."""
        which = {"key_id": _digest(seen.key)}
        with self._transaction("READ WRITE"):
            # Two statements: the second one sees what was committed while the first one waited.
            self._db.execute(_SQL["lock_key"], which)
            statement = _SQL["keys"].format(chosen=_SQL["one_key"].strip())
            found = self._db.execute(statement, which)
            if not found:
                return False
            now = KeyRecord(*found[0])
            if (now.state, now.job_id) != (seen.state, seen.job_id):
                return False
            change = "expire" if now.state == "succeeded" else "give_up"
            self._db.execute(_SQL[change], {**which, "finished_at": now.finished_at})
        return True

    def close(self) -> None:
        """Let go of the connection."""
        self._db.close()

    # ------------------------------------------------------------ transactions

    def _read(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        with self._transaction("READ ONLY"):
            return self._db.execute(statement, values)

    def _all_keys(self) -> Iterator[KeyRecord]:
        values: Values = {}
        page, chosen = _FIRST_PAGE, "latest"
        while True:
            found = self._keys(chosen, {**values, "page": page})
            yield from found
            if len(found) < page:
                return
            last = found[-1]
            values = {"last_claim": last.claimed_at, "last_id": _digest(last.key)}
            page, chosen = _PAGE, "earlier"

    def _keys(self, chosen: str, values: Values) -> list[KeyRecord]:
        statement = _SQL["keys"].format(chosen=_SQL[chosen].strip())
        return [KeyRecord(*row) for row in self._read(statement, values)]

    @contextlib.contextmanager
    def _transaction(self, access: str) -> Iterator[None]:
        self._db.due = kernel.now() + self._patience
        limits = {"milliseconds": str(round(self._patience * 1000))}
        try:
            self._db.batch((_SQL["begin"].format(access=access), {}), (_SQL["limits"], limits))
            yield
            self._db.execute("COMMIT")
        except errors.Error as error:
            self._db.close()
            raise unavailable(self._url, error) from error


def _conditions(wanted: Filter) -> tuple[list[str], dict[str, Any]]:
    """The WHERE clause: names of fragments, and the values in them."""
    names: list[str] = []
    values: dict[str, Any] = {}
    if wanted.job is not None:
        names.append("by_job")
        values["job"] = plain(wanted.job)
    if wanted.key is not None:
        names.append("by_key")
        values["key_id"] = _digest(wanted.key)
    if wanted.result is not None:
        names.append(_FRAGMENTS.get(wanted.result, "by_result"))
        values["result"] = plain(wanted.result)
    for name, instant in (("since", wanted.since), ("until", wanted.until)):
        if instant is not None:
            names.append(name)
            values[name] = microseconds(instant)
    if wanted.for_good:
        names.append("for_good")
    return names, values


_FRAGMENTS = {
    "success": "by_success",
    "running": "by_running",
    "interrupted": "by_interrupted",
}


def _where(names: list[str]) -> str:
    return "\n   AND ".join(_SQL[name].strip() for name in names)


_STARTED_AT = 12
"""where the start is among the columns of a run"""


def _run(row: tuple[Any, ...]) -> RunRecord:
    *columns, gone, _ = row
    record = run_record(tuple(columns))
    return record._replace(result="interrupted", reason=CUT_OFF) if gone else record


def _digest(key: str) -> bytes:
    return sha256(plain(key).encode()).digest()


def _bounds(part: str) -> tuple[str, str] | None:
    """The first and last UUID that begin with ``part``; ``None`` when none does."""
    fits = len(part) <= len(_SHAPE) and all(
        have == "-" if want == "-" else have in _HEX
        for have, want in zip(part, _SHAPE, strict=False)
    )
    if not fits:
        return None
    rest = _SHAPE[len(part) :]
    return part + rest, part + rest.replace("0", "f")
