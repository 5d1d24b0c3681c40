"""``why``: the last runs of a job, explained in sentences."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import click
from rich.text import Text

from guardrun import units
from guardrun.commands import history, objects, table
from guardrun.ledger.records import Filter, Records, RunRecord, open_records
from guardrun.model import Holder, LedgerSpec


@click.command()
@click.argument("job")
@click.option("--limit", type=click.IntRange(0), default=5, show_default=True, help="0 for all.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def why(spec: LedgerSpec, job: str, limit: int, as_json: bool) -> None:
    """Say in sentences what became of the last runs of JOB, and why."""
    records = open_records(spec)
    try:
        found = records.runs(Filter(job=job)) if records else iter(())
        told = list(itertools.islice(found, limit or None))
        told = [_with_success(records, run) for run in told] if records else told
    finally:
        if records:
            records.close()
    if not told:
        raise history.NoSuchRun(
            f"the ledger has no run of a job {units.shown(job)}: it was never started, or has "
            "another name (guardrun stats lists them) or another ledger"
        )
    if as_json:
        objects.write_lines(
            history.run_fields(run) | {"explanation": sentence(run, "utc")} for run in told
        )
    else:
        _print(told)


def _with_success(records: Records, run: RunRecord) -> RunRecord:
    """A skipped duplicate with whose success it would have repeated, if the key still says so."""
    if run.result != "skipped_duplicate" or run.held_by or run.key is None:
        return run
    key = records.key(run.key)
    if key is None or key.finished_at is None or key.finished_at > run.started_at:
        return run
    return run._replace(held_by=Holder(key.owner, key.job_id, key.finished_at / 1e6))


def _print(told: list[RunRecord]) -> None:
    console = table.console()
    for number, run in enumerate(told):
        text = sentence(run, "local")
        begin = "before that: " if number else ""
        console.print(Text(table.printable(begin + text)), soft_wrap=not console.is_terminal)


def sentence(run: RunRecord, zone: str) -> str:
    """What became of a run, in one sentence; times in ``zone``, ``local`` or ``utc``."""
    at = run.started_at if run.finished_at is None else run.finished_at
    clauses = [f"{_HAPPENED[run.result]} {_moment(at, zone)}", *_reasons(run, zone)]
    return ": ".join(clauses) + f" (run {run.job_id[-history.SHORT :]})"


_HAPPENED = {
    "running": "running since",
    "success": "succeeded at",
    "failed": "failed at",
    "skipped_duplicate": "skipped at",
    "timeout": "stopped for a time limit at",
    "lock_busy": "skipped at",
    "lease_lost": "stopped for its lost lease or claim at",
    "precondition_failed": "refused at",
    "interrupted": "interrupted, started at",
    "store_unavailable": "not run, for a store that is down, at",
}


def _reasons(run: RunRecord, zone: str) -> Iterator[str]:
    if run.result == "lock_busy":
        yield _busy(run, zone)
    elif run.result == "skipped_duplicate":
        by = f",{_by(run.held_by, zone)}" if run.held_by else ""
        yield f"key {run.key} had already succeeded{by}"
    elif run.result == "running":
        yield f"by {run.user} on {run.host}, process {run.pid}"
    elif run.attempts:
        tried = "one attempt" if run.attempts == 1 else f"{run.attempts} attempts"
        took = "" if run.duration is None else f" in {table.took(run.duration)}"
        yield tried + took
        if run.reason:
            yield run.reason
    elif run.reason:
        yield run.reason


_WORTH_A_WORD = 1000
"""microseconds of waiting; it takes some to be refused"""


def _busy(run: RunRecord, zone: str) -> str:
    lockless = run.lock is not None and not run.held
    what = f"lock {run.lock}" if lockless else f"key {run.key}"
    wait = run.lock_wait if lockless else None
    waited = f", waited {table.took(wait)}" if wait and wait >= _WORTH_A_WORD else ""
    if run.held_by is None:
        return f"{what}: {run.reason}{waited}" if run.reason else f"{what} was busy{waited}"
    return f"{what} held{_by(run.held_by, zone, 'since')}{waited}"


def _by(holder: Holder | None, zone: str, when: str = "at") -> str:
    if holder is None:
        return ""
    owner = holder.owner
    whose = ""
    if holder.job_id:
        owner = owner.removesuffix(f":{holder.job_id}")
        whose = f", run {holder.job_id[-history.SHORT :]}"
    since = "" if holder.since is None else f" {when} {_moment(round(holder.since * 1e6), zone)}"
    return f" by {owner}{since}{whose}"


def _moment(instant: int, zone: str) -> str:
    """A moment: for people the time alone where it is today's."""
    if zone == "utc":
        return units.rfc3339(instant / 1e6)
    told = table.local_time(instant)
    today = table.local_time(round(time.time() * 1e6))[:10]
    return told.removeprefix(f"{today} ")
