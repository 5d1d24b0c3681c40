"""What the ledger tells people and reports: values, the same from every kind of ledger.

Not for the run path.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from guardrun.errors import ConfigError
from guardrun.model import Holder, LedgerSpec


class Filter(NamedTuple):
    """Which runs to tell of; ``since`` and ``until`` (exclusive) in seconds since 1970."""

    job: str | None = None
    key: str | None = None
    result: str | None = None
    since: float | None = None
    until: float | None = None


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

    def close(self) -> None:
        """Let go of the connection."""


def open_records(spec: LedgerSpec) -> Records | None:
    """Open a ledger for reading; ``None`` when nothing has been recorded yet, nothing is made.

    Raises ``StoreUnavailable``, and ``ConfigError`` for a ledger that keeps nothing.
    """
    scheme = spec.url.partition(":")[0]
    if scheme == "sqlite":
        from guardrun.ledger.sqlite_records import open_file

        return open_file(spec.url)
    raise ConfigError(
        f"the ledger is {scheme}: which keeps no runs; name another with --ledger-url"
    )
