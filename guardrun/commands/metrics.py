"""``metrics``: what ledger, locks and spool come to, for Prometheus."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import click

from guardrun.commands import exposition, holdings, stores
from guardrun.commands.exposition import JobState, LedgerState, LocksState, SpoolState
from guardrun.commands.flush import elsewhere
from guardrun.commands.stores import LockStores
from guardrun.commands.values import duration
from guardrun.errors import GuardrunError, StoreUnavailable, UsageError
from guardrun.ledger import aggregates
from guardrun.ledger.records import JobRecord, RunFacts, open_records
from guardrun.ledger.spool import open_spool
from guardrun.model import LedgerSpec
from guardrun.report.textfile import replace

_MOST_RUNS = 1000
"""of a job that are read, so that a ledger of a million runs answers as fast as a small one"""


@click.command()
@click.option("--textfile", "path", metavar="PATH", help="Write this file (….prom), by rename.")
@click.option(
    "--since",
    "window",
    metavar="DURATION",
    default="1h",
    show_default=True,
    callback=duration,
    help="The window metrics are about runs that began so long ago at most.",
)
@click.option("--lease-url", metavar="URL", help="Use this lease store.")
@click.pass_obj
def metrics(where: LockStores, path: str | None, window: float) -> None:
    """Print metrics of runs, locks and spool in Prometheus' text format.

    A store that is down is told as such; after that it is exit code 69.
    """
    stores.scheme(where.ledger)
    where = stores.within(where, None)
    if path is not None and not path.endswith(".prom"):
        raise UsageError("--textfile: node_exporter reads files that end in .prom, and no other")
    failures: dict[str, StoreUnavailable] = {}
    ledger = _ledger(where.ledger, window, failures)
    locks = [state for scope in holdings.SCOPES if (state := _locks(where, scope, failures))]
    up = {"ledger": "ledger" not in failures}
    if where.lease_url is not None:
        up["leases"] = "leases" not in failures
    text = exposition.render(up, ledger, locks, _spool(where.ledger))
    if path is None:
        sys.stdout.buffer.write(text)
    else:
        _write(path, text)
    for failure in failures.values():
        raise failure


def _ledger(
    spec: LedgerSpec, window: float, failures: dict[str, StoreUnavailable]
) -> LedgerState | None:
    """What the ledger tells; ``None`` where it does not, or has nothing yet."""
    since = time.time() - window
    try:
        records = open_records(spec)
        if records is None:
            return None
        try:
            jobs = sorted(records.jobs(since))
            shown = jobs[: exposition.MOST_JOBS]
            states = [_job(one, records.latest(one.job, since, _MOST_RUNS)) for one in shown]
        finally:
            records.close()
    except StoreUnavailable as error:
        failures["ledger"] = error
        return None
    return LedgerState(window, _MOST_RUNS, states, len(jobs) - len(shown))


def _job(job: JobRecord, runs: Sequence[RunFacts]) -> JobState:
    retries = sum(max(run.attempts - 1, 0) for run in runs)
    return JobState(aggregates.tally(job, runs), retries)


def _locks(
    where: LockStores, scope: str, failures: dict[str, StoreUnavailable]
) -> LocksState | None:
    """What is held; ``None`` where there is no store of them, or it does not answer."""
    try:
        if scope == holdings.HOST:
            found = holdings.read_host(where)
        elif where.lease_url is None:
            return None
        else:
            found = holdings.read_leases(where)
    except StoreUnavailable as error:
        failures["leases"] = error
        return None
    ages = [holdings.age(one) or 0.0 for one in found]
    return LocksState(scope, len(found), max(ages, default=0.0))


def _spool(spec: LedgerSpec) -> SpoolState:
    spool = open_spool(spec, os.environ)
    waiting = spool.entries()
    others = sum(other.waiting for other in elsewhere(spec))
    oldest = 0.0
    for path in waiting[:1]:
        try:
            oldest = max(time.time() - os.stat(path).st_mtime, 0.0)
        except FileNotFoundError:  # recorded meanwhile
            continue
    return SpoolState(len(waiting) + others, len(spool.damaged()), oldest)


def _write(path: str, text: bytes) -> None:
    """Put the file in its place. Raises ``GuardrunError`` where it cannot be written."""
    directory, name = os.path.split(os.path.abspath(path))
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            replace(fd, name, text)
        finally:
            os.close(fd)
    except OSError as error:
        raise GuardrunError(f"--textfile: cannot write {path}: {error.strerror}") from None
