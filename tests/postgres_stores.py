"""The ledger in Postgres under test: a database of its own for every test."""

from __future__ import annotations

import atexit
import functools
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import servers
from ledgers import Clock

from guardrun import kernel
from guardrun.ledger.postgres import PostgresLedger
from guardrun.ledger.records import Filter, RunRecord, run_record
from guardrun.ledger.rows import CUT_OFF
from guardrun.ledger.text import plain
from guardrun.model import Run
from guardrun.postgres.schema import migrate


def due(seconds: float = 10.0) -> float:
    """A moment on CLOCK_BOOTTIME."""
    return kernel.now() + seconds


def patient(url: str) -> str:
    """The same URL, for a machine so busy that a login takes its time."""
    return f"{url}{'&' if '?' in url else '?'}connect_timeout=25"


@functools.cache
def _template() -> str:
    """The name of a database with the schema in it, to be copied; one for each test process."""
    url = servers.database(servers.postgres_url())
    migrate(url, due(60))
    atexit.register(servers.drop_database, url)
    return urlsplit(url).path.removeprefix("/")


_PASSING = """
UPDATE guardrun.keys
   SET claimed_at = claimed_at - {0}, finished_at = finished_at - {0},
       expires_at = expires_at - {0};
UPDATE guardrun.completions SET completed_at = completed_at - {0};
UPDATE guardrun.budgets SET spent_at = spent_at - {0};
"""

_RUNS = """
SELECT job_id::text, job, host, username, pid, owner, argv, fingerprint, lock, key, needs, path,
       (extract(epoch FROM started_at) * 1000000)::bigint,
       (extract(epoch FROM enqueued_at) * 1000000)::bigint,
       (extract(epoch FROM finished_at) * 1000000)::bigint, duration_us,
       CASE WHEN dead THEN 'interrupted' ELSE result END, exit_code, command_code, signal,
       CASE WHEN dead THEN %s ELSE reason END, attempts, held, lock_wait_us, fencing_token,
       lease_lost, held_by, stale
  FROM (SELECT *, result = 'running' AND alive_until <= clock_timestamp() AS dead
          FROM guardrun.runs) AS seen
 ORDER BY started_at DESC, id DESC
"""


@dataclass
class PostgresClock(Clock):
    """A clock for a store whose own cannot be set: what lies behind is moved back instead.

    Claims are not: whoever lives renews them.
    """

    url: str = ""

    def pass_by(self, seconds: float) -> None:
        super().pass_by(seconds)
        with psycopg.connect(self.url) as connection:
            connection.execute(_PASSING.format(f"interval '{seconds!r} seconds'"))


@dataclass
class PostgresStore:
    """One database with a ledger in it."""

    directory: Path
    opened: list[PostgresLedger] = field(default_factory=list)

    kind = "postgres"
    tick = 60.0
    crowd = 30

    def __post_init__(self) -> None:
        server = servers.postgres_url()
        self.database = f"t{secrets.token_hex(8)}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {self.database} TEMPLATE {_template()}")
        self.url = servers.in_database(server, self.database)
        """the superuser's"""
        self.clock: Clock = PostgresClock(url=self.url)

    @property
    def place(self) -> str:
        """What ``opener`` needs to open it in another process."""
        return patient(self.url)

    def open(self, claim_ttl: float = 900.0) -> PostgresLedger:
        """A ledger of its own, in the same database."""
        ledger = PostgresLedger(self.place, self.clock, claim_ttl)
        self.opened.append(ledger)
        return ledger

    def at(self, instant: float) -> Any:
        """About that moment on the server's clock, which is now when the test's is ``clock()``."""
        return pytest.approx(time.time() + instant - self.clock(), abs=20)

    def vanish(
        self, ledger: PostgresLedger, run: Run, others: Sequence[Run] = ()
    ) -> PostgresLedger:
        """Have nobody renew a run until its time is over."""
        assert run not in others
        ledger.close()
        self.sql(
            "UPDATE guardrun.keys SET claim_until = clock_timestamp() WHERE token = %s", run.token
        )
        self.sql(
            "UPDATE guardrun.runs SET alive_until = clock_timestamp() WHERE job_id = %s",
            run.job_id,
        )
        return self.open()

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """What the superuser is told, committed."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def runs(self, wanted: Filter | None = None) -> list[RunRecord]:
        """What is recorded, newest first."""
        found = [run_record(row) for row in self.sql(_RUNS, CUT_OFF)]
        for name in ("key", "job", "result"):
            value = getattr(wanted or Filter(), name)
            if value is not None:
                found = [record for record in found if getattr(record, name) == plain(value)]
        return found

    def row(self, of: Run) -> RunRecord:
        """What is recorded of one run."""
        (found,) = (record for record in self.runs() if record.job_id == of.job_id)
        return found

    def attempts(self, of: Run) -> int:
        """How many attempts of a run are recorded."""
        return len(self.sql("SELECT number FROM guardrun.attempts WHERE job_id = %s", of.job_id))

    def close(self) -> None:
        """Close what was opened here, and drop the database."""
        for ledger in self.opened:
            ledger.close()
        servers.drop_database(self.url)


@dataclass
class PgBouncerStore(PostgresStore):
    """The same, through PgBouncer in transaction mode."""

    @property
    def place(self) -> str:
        return patient(servers.pgbouncer_url(self.url))
