"""Ledgers that have seen so many runs, made in seconds instead of weeks."""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardrun.ledger.records import Records, open_records
from guardrun.ledger.sqlite import SqliteLedger
from guardrun.ledger.sqlite_file import open_for_writing
from guardrun.model import LedgerSpec

if TYPE_CHECKING:
    from guardrun.ledger.postgres import PostgresLedger

DAY = 86400.0
SPAN = 30 * DAY
"""s over which the runs are spread, up to now"""
_TABLES = ("runs", "attempts", "keys")
_REFUSALS_KEPT = 6 * DAY
"""s; a ledger prunes them after a week"""


def statements(dialect: str) -> dict[str, str]:
    """The statements of ``sql/DIALECT.sql``, by the names their ``-- name:`` lines give them."""
    text = (Path(__file__).parent / "sql" / f"{dialect}.sql").read_text(encoding="utf-8")
    _, *named = text.split("-- name: ")
    return {name: statement for name, _, statement in (part.partition("\n") for part in named)}


@dataclass(frozen=True)
class Filled:
    """A ledger with so many runs."""

    store: str
    runs: int
    url: str

    def open(self) -> SqliteLedger | PostgresLedger:
        """The ledger, as a run has it."""
        if self._is_file:
            return SqliteLedger(self._path, time.time)
        from guardrun.ledger.postgres import PostgresLedger

        return PostgresLedger(self.url, time.time)

    def records(self) -> Records:
        """The ledger, as ``guardrun history`` reads it."""
        records = open_records(LedgerSpec(self.url, os.path.dirname(self._path)))
        assert records is not None, self.url
        return records

    @property
    def _is_file(self) -> bool:
        return self.url.startswith("sqlite:")

    @property
    def _path(self) -> str:
        return self.url.removeprefix("sqlite://")


def sqlite(directory: Path, runs: int) -> Filled:
    """Make an embedded ledger there, in a directory that has none."""
    path = directory / "ledger.sqlite3"
    open_for_writing(str(path)).close()
    database = sqlite3.connect(path, isolation_level=None)
    try:
        # Nobody needs half of it.
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute("BEGIN")
        for name in _TABLES if runs else ():
            database.execute(statements("sqlite")[name], _values(runs))
        database.execute("COMMIT")
        database.execute("PRAGMA journal_mode = WAL")
    finally:
        database.close()
    # Else the kernel writes it out while something is measured.
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)
    return Filled("SQLite", runs, f"sqlite://{path}")


def postgres(url: str, runs: int) -> Filled:
    """Fill a database that has guardrun's schema, and nothing in it."""
    import psycopg

    texts = {name: text.encode() for name, text in statements("postgres").items()}
    with psycopg.connect(url, autocommit=True) as database:
        with database.transaction():
            for name in _TABLES if runs else ():
                database.execute(texts[name], _values(runs))
        database.execute(texts["settle"])
        database.execute(texts["checkpoint"])
    return Filled("Postgres", runs, url)


def _values(runs: int) -> dict[str, Any]:
    return {
        "runs": runs,
        "now": round(time.time() * 1e6),
        "spacing": round(SPAN * 1e6) // runs,
        "refusals_kept": round(_REFUSALS_KEPT * 1e6),
    }
