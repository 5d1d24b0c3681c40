"""What the ledger tells people and reports: values, the same from every kind of ledger.

Not for the run path.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from guardrun.errors import ConfigError
from guardrun.model import Holder, LedgerSpec


class Filter(NamedTuple):
    """Which runs to tell of; ``since`` and ``until`` (exclusive) in seconds since 1970."""

    job: str | None = None
    key: str | None = None
    result: str | None = None
    since: float | None = None
    until: float | None = None
    for_good: bool = False
    """only what no later success has made good: of its key, or, where it had none, of its job"""


class RunRecord(NamedTuple):
    """One run. Instants are microseconds since 1970, durations microseconds."""

    job_id: str
    job: str
    host: str
    user: str
    pid: int
    owner: str
    argv: tuple[str, ...]
    fingerprint: str
    lock: str | None
    key: str | None
    needs: tuple[str, ...]
    path: tuple[str, ...]
    started_at: int
    enqueued_at: int | None
    finished_at: int | None
    duration: int | None
    result: str
    """``running``, or as in contract section 5; ``interrupted`` where its processes are gone"""
    exit_code: int | None
    command_code: int | None
    signal: int | None
    reason: str | None
    attempts: int
    held: bool
    """the lock was its own"""
    lock_wait: int | None
    fence: int | None
    lease_lost: bool
    held_by: Holder | None
    stale: bool
    """when it finished, the key's claim was another run's"""


class AttemptRecord(NamedTuple):
    """One execution of COMMAND; units as in ``RunRecord``."""

    number: int
    started_at: int
    duration: int
    result: str
    exit_code: int | None
    signal: int | None
    reason: str | None


class JobRecord(NamedTuple):
    """One job."""

    job: str
    last_success_at: int | None
    """when its last successful run ended, whenever that was"""
    budget_spent: int
    """retries charged to ``--retry-budget`` that the ledger still counts"""


class RunFacts(NamedTuple):
    """What of a run counts in statistics; units as in ``RunRecord``."""

    job_id: str
    result: str
    started_at: int
    duration: int | None
    lock_wait: int | None
    queue_lag: int | None
    attempts: int
    lockless: bool
    """it wanted a lock and never had it"""


class KeyRecord(NamedTuple):
    """One key, as the ledger decides about it now; units as in ``RunRecord``."""

    key: str
    state: str
    """one of ``KEY_STATES``"""
    job_id: str
    """of the latest claim, as all that follows"""
    owner: str
    fingerprint: str
    claimed_at: int
    claim_until: int | None
    """until when the claim of a running key holds without another renewal; ``None`` where it holds
    as long as the run is alive"""
    finished_at: int | None
    expires_at: int | None
    """from then on a success does not block; ``None``: it does forever"""


KEY_STATES = ("running", "succeeded", "expired", "failed", "interrupted")
"""``expired``: succeeded, and its ``--key-ttl`` is over. A claim whose run is gone is
``interrupted``."""


class Records(Protocol):
    """What a ledger tells; every method raises ``StoreUnavailable``."""

    def runs(self, wanted: Filter) -> Iterator[RunRecord]:
        """Runs, newest first, read as they are asked for."""

    def find(self, part: str) -> tuple[str, ...]:
        """Up to three job_ids that begin or end with ``part``."""

    def run(self, job_id: str) -> RunRecord | None:
        """One run."""

    def attempts(self, job_id: str) -> tuple[AttemptRecord, ...]:
        """The attempts of a run, first to last."""

    def output(self, job_id: str) -> tuple[bytes, bytes] | None:
        """What a run wrote, if it was captured."""

    def jobs(self, since: float) -> tuple[JobRecord, ...]:
        """Every job; of budgets what was spent after ``since``."""

    def latest(self, job: str, since: float, last: int) -> tuple[RunFacts, ...]:
        """The newest ``last`` runs of a job that started at ``since`` or later, newest first."""

    def keys(self, state: str | None, limit: int) -> Iterator[KeyRecord]:
        """Keys, the latest claimed first; at most ``limit``, 0 for all."""

    def key(self, key: str) -> KeyRecord | None:
        """One key."""

    def close(self) -> None:
        """Let go of the connection."""


def run_record(row: tuple[Any, ...]) -> RunRecord:
    """A run from the columns of ``RunRecord``, with lists and objects as JSON text."""
    given = RunRecord(*row)
    held_by: Any = given.held_by
    return given._replace(
        argv=tuple(json.loads(row[6])),
        needs=tuple(json.loads(row[10])),
        path=tuple(json.loads(row[11])),
        held=bool(given.held),
        lease_lost=bool(given.lease_lost),
        held_by=None if held_by is None else Holder(**json.loads(held_by)),
        stale=bool(given.stale),
    )


def open_records(spec: LedgerSpec) -> Records | None:
    """Open a ledger for reading; ``None`` when nothing has been recorded yet, nothing is made.

    Raises ``StoreUnavailable``, and ``ConfigError`` for a ledger that keeps nothing.
    """
    scheme = spec.url.partition(":")[0]
    if scheme == "sqlite":
        from guardrun.ledger.sqlite_records import open_file

        return open_file(spec.url)
    if scheme == "postgresql":
        from guardrun.ledger.postgres_records import open_database

        return open_database(spec.url, spec.store_wait)
    raise keeps_nothing(scheme)


BAD = ("failed", "timeout", "lease_lost", "interrupted")
"""Results of runs that were not refused, and were no success."""


def dead_runs(records: Records, job: str | None, since: float | None) -> Iterator[RunRecord]:
    """The runs that failed for good, newest first, read as they are asked for."""
    # Each result has its own order in the index, so to merge them is to read no more than is told.
    lists = (records.runs(Filter(job, None, result, since, None, for_good=True)) for result in BAD)
    return heapq.merge(*lists, key=lambda record: record.started_at, reverse=True)


def forget_key(spec: LedgerSpec, seen: KeyRecord) -> bool:
    """Let a key block no longer, if nothing has happened to it since it was ``seen``.

    A success expires now; what was interrupted counts as failed. A compare-and-set: False, and
    nothing is changed, when the key is not as it was seen any more, or a run holds it.
    Raises ``StoreUnavailable``.
    """
    scheme = spec.url.partition(":")[0]
    if scheme == "sqlite":
        from guardrun.ledger import sqlite_forget

        return sqlite_forget.forget(spec.url, seen)
    if scheme == "postgresql":
        from guardrun.ledger.postgres_records import forget

        return forget(spec.url, spec.store_wait, seen)
    raise keeps_nothing(scheme)


def keeps_nothing(scheme: str) -> ConfigError:
    """What to say of the ledger ``none:``."""
    return ConfigError(f"the ledger is {scheme}: which keeps nothing; name one with --ledger-url")
