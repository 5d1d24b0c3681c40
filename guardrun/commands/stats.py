"""``stats``: what the runs of each job amount to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import click
from rich.text import Text

from guardrun.commands import objects, table
from guardrun.commands.values import instant
from guardrun.ledger.aggregates import JobNumbers, Spread, Window, per_job
from guardrun.ledger.records import open_records
from guardrun.model import LedgerSpec

_LAST = 1000
_COLUMNS = (
    ("RUNS", 5),
    ("OK", 6),
    ("P50", 6),
    ("P99", 6),
    ("WAIT99", 6),
    ("LAG99", 6),
    ("BUSY", 5),
    ("DUP", 5),
    ("TRY99", 5),
    ("LAST OK", 7),
    ("JOB", None),
)


@click.command()
@click.option("--job", metavar="NAME", help="Only this job, and all there is to say of it.")
@click.option(
    "--since",
    metavar="WHEN",
    callback=instant,
    help="Only runs started then or later: RFC 3339, or DURATION ago.",
)
@click.option(
    "--last",
    type=click.IntRange(1, 1_000_000),
    default=_LAST,
    show_default=True,
    help="Of each job the newest N runs; more take longer.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def stats(spec: LedgerSpec, job: str | None, since: float | None, last: int, as_json: bool) -> None:
    """Show per job: runs, success, durations, waits, retries, lock failures, duplicates."""
    records = open_records(spec)
    window = Window(since or 0.0, last, job)
    try:
        found = per_job(records, window) if records else ()
    finally:
        if records:
            records.close()
    if as_json:
        objects.write_lines(map(_fields, found))
    elif job is not None and found:
        table.write_facts(_facts(found[0]))
    else:
        now = time.time()
        table.write(_COLUMNS, (_row(one, now) for one in found), "no such runs")
        if found:
            click.echo(_legend(window))


# ---------------------------------------------------------------- for programs


def _fields(job: JobNumbers) -> dict[str, object]:
    return {
        "job": job.job,
        "runs": job.runs,
        "results": job.results,
        "success_rate": job.success_rate,
        "first_started_at": objects.rfc3339(job.first_at),
        "last_started_at": objects.rfc3339(job.last_at),
        "last_success_at": objects.rfc3339(job.last_success_at),
        "duration_ms": _spread(job.duration, objects.milliseconds),
        "lock_wait_ms": _spread(job.lock_wait, objects.milliseconds),
        "queue_lag_ms": _spread(job.queue_lag, objects.milliseconds),
        "retries": _spread(job.retries, int),
        "lock_failures": job.lock_failures,
        "duplicate_skips": job.duplicate_skips,
        "budget_spent": job.budget_spent,
    }


def _spread(spread: Spread | None, unit: Callable[[int], object]) -> dict[str, object] | None:
    if spread is None:
        return None
    known, *values = spread
    names = ("p50", "p90", "p99", "max")
    return {"runs": known} | dict(zip(names, map(unit, values), strict=True))


# ---------------------------------------------------------------- for people


def _row(job: JobNumbers, now: float) -> tuple[str | Text, ...]:
    rate = job.success_rate
    return (
        str(job.runs),
        "" if rate is None else Text(_percent(rate), "green" if rate == 1 else "yellow"),
        table.took(job.duration.p50 if job.duration else None),
        table.took(job.duration.p99 if job.duration else None),
        table.took(job.lock_wait.p99 if job.lock_wait else None),
        table.took(job.queue_lag.p99 if job.queue_lag else None),
        str(job.lock_failures),
        str(job.duplicate_skips),
        str(job.retries.p99) if job.retries else "",
        "never" if job.last_success_at is None else _ago(job.last_success_at, now),
        table.printable(job.job),
    )


def _percent(rate: float) -> str:
    """A rate to the tenth of a percent; what is not all of it never reads 100%."""
    return "100%" if rate == 1 else f"{min(round(rate * 100, 1), 99.9)}%"


def _ago(at: int, now: float) -> str:
    return table.took(round(now * 1e6) - at)


def _legend(window: Window) -> str:
    since = f" since {table.local_time(round(window.since * 1e6))}" if window.since else ""
    return (
        f"\nEach job's newest {window.last} runs{since}.\n"
        "OK: successes among runs that were not refused; 50, 99: percentiles; WAIT: for\n"
        "the lock; LAG: since it was due; BUSY: lock not got; DUP: key had succeeded;\n"
        "TRY: retries; LAST OK: so long ago."
    )


def _facts(job: JobNumbers) -> Iterator[tuple[str, str | Text]]:
    yield "job", table.printable(job.job)
    yield "runs", str(job.runs)
    for result, count in sorted(job.results.items(), key=lambda item: (-item[1], item[0])):
        yield "", Text.assemble(f"{count:>7} ", table.result_text(result))
    if job.success_rate is not None:
        yield "success rate", f"{_percent(job.success_rate)} of what was not refused and has ended"
    for name, spread in (
        ("duration", job.duration),
        ("lock wait", job.lock_wait),
        ("queue lag", job.queue_lag),
    ):
        if spread:
            yield name, _told(spread, table.took)
    if job.retries:
        yield "retries", _told(job.retries, str)
    yield "lock failures", str(job.lock_failures)
    yield "duplicates", str(job.duplicate_skips)
    yield "budget spent", str(job.budget_spent)
    for name, at in (
        ("first start", job.first_at),
        ("last start", job.last_at),
        ("last success", job.last_success_at),
    ):
        yield name, "never" if at is None else table.local_time(at)


def _told(spread: Spread, shown: Callable[[int], str]) -> str:
    known, *values = spread
    p50, p90, p99, most = map(shown, values)
    return f"p50 {p50}, p90 {p90}, p99 {p99}, max {most} (runs: {known})"
