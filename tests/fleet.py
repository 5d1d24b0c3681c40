"""Hosts whose ledger is in Postgres: what their tests share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from support import Host, eventually


@dataclass(frozen=True)
class FleetHost(Host):
    """One host of a fleet: its own state directory, the fleet's ledger."""

    @property
    def url(self) -> str:
        return self.env["GUARDRUN_LEDGER_URL"]

    def rows(
        self, query: str = "SELECT * FROM guardrun.runs ORDER BY started_at, job_id"
    ) -> list[dict[str, Any]]:
        """Rows of the ledger."""
        return ask(self.url, query)

    def key(self, key: str) -> dict[str, Any]:
        """What the ledger says of one key."""
        (row,) = (
            row for row in self.rows("SELECT * FROM guardrun.key_states") if row["key"] == key
        )
        return row

    def left(self, key: str) -> float:
        """For how many seconds the claim of a key is good, by the server's own clock."""
        (row,) = ask(
            self.url,
            "SELECT extract(epoch FROM claim_until - clock_timestamp())::float AS s"
            "  FROM guardrun.keys WHERE key = %s",
            key,
        )
        return float(row["s"])

    def spooled(self) -> list[Path]:
        """The outcomes that wait on this host."""
        return sorted((self.state / "spool").glob("*/*.json"))


def fleet_host(root: Path, url: str, **env: str) -> FleetHost:
    """A host with this ledger, whose schema is made."""
    root.mkdir(exist_ok=True)
    host = FleetHost(root, {"GUARDRUN_LEDGER_URL": url, **env})
    made = host.run("migrate")
    assert made.code == 0, made
    return host


def ask(url: str, query: str, *values: object) -> list[dict[str, Any]]:
    """Rows of one query, by a connection of its own."""
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as db:
        cursor = db.execute(query, values)
        return list(cursor) if cursor.description else []


@contextlib.contextmanager
def transaction(url: str) -> Iterator[psycopg.Connection[Any]]:
    """An open transaction of somebody else's, rolled back at the end."""
    with psycopg.connect(url) as db:
        yield db
        db.rollback()


def settled(host: FleetHost, job_id: str) -> dict[str, Any]:
    """A run's row, once it is not running any more."""

    def found() -> dict[str, Any] | None:
        rows = [row for row in host.rows() if str(row["job_id"]) == job_id]
        return rows[0] if rows and rows[0]["result"] != "running" else None

    return eventually(found, 20, "the end of a run in the ledger")
