"""``history``: what ran, newest first; ``show``: one run with its attempts and output."""

from __future__ import annotations

import base64
import itertools
import shlex
import time
from collections.abc import Iterator

import click
from rich.table import Table
from rich.text import Text

from guardrun import units
from guardrun.commands import objects, table
from guardrun.commands.values import instant
from guardrun.errors import GuardrunError
from guardrun.ledger.records import AttemptRecord, Filter, Records, RunRecord, open_records
from guardrun.model import LedgerSpec

RESULTS = (
    "running",
    "success",
    "failed",
    "skipped_duplicate",
    "timeout",
    "lock_busy",
    "lease_lost",
    "precondition_failed",
    "interrupted",
    "store_unavailable",
)
SHORT = 8
_LEAST = 6
RUN_COLUMNS = (
    ("RUN", SHORT),
    ("STARTED", 19),
    ("TOOK", 6),
    ("RESULT", 19),
    ("EXIT", 5),
    ("JOB", None),
)
_ATTEMPT_COLUMNS = (
    ("ATTEMPT", 7),
    ("STARTED", 19),
    ("TOOK", 6),
    ("RESULT", 11),
    ("EXIT", 5),
    ("REASON", None),
)


class NoSuchRun(GuardrunError):
    """No run, or more than one, goes by that name."""

    exit_code = 1


@click.command()
@click.option("--limit", type=click.IntRange(0), default=50, show_default=True, help="0 for all.")
@click.option("--job", metavar="NAME", help="Only runs of this job.")
@click.option("--key", metavar="KEY", help="Only runs with this idempotency key.")
@click.option("--result", type=click.Choice(RESULTS), metavar="RESULT", help="Only these.")
@click.option(
    "--since",
    metavar="WHEN",
    callback=instant,
    help="Started then or later: RFC 3339, or DURATION ago.",
)
@click.option(
    "--until", metavar="WHEN", callback=instant, help="Started earlier: RFC 3339, or DURATION ago."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def history(
    spec: LedgerSpec,
    limit: int,
    job: str | None,
    key: str | None,
    result: str | None,
    since: float | None,
    until: float | None,
    as_json: bool,
) -> None:
    """Show what ran, newest first."""
    records = open_records(spec)
    try:
        found = records.runs(Filter(job, key, result, since, until)) if records else iter(())
        wanted = itertools.islice(found, limit or None)
        if as_json:
            objects.write_lines(run_fields(record) for record in wanted)
        else:
            none = "no such runs" if records else "no runs yet"
            table.write(RUN_COLUMNS, map(run_row, wanted), none)
    finally:
        if records:
            records.close()


@click.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def show(spec: LedgerSpec, run: str, as_json: bool) -> None:
    """Show one run with its attempts and its captured output.

    RUN is its job_id, or the beginning or the end of it, six characters or more.
    """
    records = open_records(spec)
    if records is None:
        raise NoSuchRun(f"there is no run {units.shown(run)}: nothing has been recorded yet")
    try:
        record = find_run(records, run)
        attempts = records.attempts(record.job_id)
        output = records.output(record.job_id)
    finally:
        records.close()
    if as_json:
        objects.write_lines([_whole(record, attempts, output)])
    else:
        _print_run(record, attempts, output)


def find_run(records: Records, part: str) -> RunRecord:
    """The run whose job_id begins or ends with ``part``; raises ``NoSuchRun``."""
    asked = part.lower()
    if len(asked) < _LEAST:
        raise NoSuchRun(
            f"{units.shown(part)} is too short to name a run: give {_LEAST} characters or more"
        )
    found = records.find(asked)
    if len(found) > 1:
        raise NoSuchRun(f"more than one run is called {units.shown(part)}: {', '.join(found)}")
    record = records.run(found[0]) if found else None
    if record is None:
        raise NoSuchRun(f"there is no run {units.shown(part)}: guardrun history lists them")
    return record


# ---------------------------------------------------------------- for programs


def run_fields(record: RunRecord) -> dict[str, object]:
    """A run under the names of the log; what does not apply is null."""
    lag = None if record.enqueued_at is None else record.started_at - record.enqueued_at
    return {
        "job_id": record.job_id,
        "job": record.job,
        "result": record.result,
        "exit_code": record.exit_code,
        "signal": objects.signal(record.signal),
        "started_at": objects.rfc3339(record.started_at),
        "finished_at": objects.rfc3339(record.finished_at),
        "duration_ms": objects.milliseconds(record.duration),
        "idempotency_key": record.key,
        "lock": record.lock,
        "lock_owner": record.owner if record.held else None,
        "fencing_token": record.fence,
        "lock_wait_ms": objects.milliseconds(record.lock_wait),
        "queue_lag_ms": objects.milliseconds(lag),
        "attempts": record.attempts,
        "reason": record.reason,
        "held_by": objects.holder(record.held_by),
        "lease_lost": record.lease_lost,
        "command": [objects.unicode(word) for word in record.argv],
    }


def _whole(
    record: RunRecord,
    attempts: tuple[AttemptRecord, ...],
    output: tuple[bytes, bytes] | None,
) -> dict[str, object]:
    whole = run_fields(record) | {
        "command_exit_code": record.command_code,
        "host": record.host,
        "user": record.user,
        "pid": record.pid,
        "owner": record.owner,
        "needs": [objects.unicode(key) for key in record.needs],
        "job_path": list(record.path),
        "enqueued_at": objects.rfc3339(record.enqueued_at),
        "claim_lost": record.stale,
        "attempts": [
            {
                "attempt": attempt.number,
                "started_at": objects.rfc3339(attempt.started_at),
                "duration_ms": objects.milliseconds(attempt.duration),
                "result": attempt.result,
                "exit_code": attempt.exit_code,
                "signal": objects.signal(attempt.signal),
                "reason": attempt.reason,
            }
            for attempt in attempts
        ],
        "stdout": None,
        "stderr": None,
    }
    for stream, data in zip(("stdout", "stderr"), output or (), strict=False):
        whole[stream] = data.decode("utf-8", "backslashreplace")
        try:
            data.decode()
        except UnicodeDecodeError:
            whole[f"{stream}_base64"] = base64.b64encode(data).decode()
    return whole


# ---------------------------------------------------------------- for people


def run_row(record: RunRecord) -> tuple[str | Text, ...]:
    """A run in ``RUN_COLUMNS``."""
    return (
        record.job_id[-SHORT:],
        table.local_time(record.started_at),
        table.took(_duration(record)),
        table.result_text(record.result),
        _exit(record.exit_code, record.signal),
        table.printable(record.job),
    )


def _duration(record: RunRecord) -> int | None:
    if record.result == "running":
        return int(time.time() * 1e6) - record.started_at
    return record.duration


def _exit(code: int | None, signum: int | None) -> str:
    if signum is not None:
        return units.signal_name(signum).removeprefix("SIG")
    return "" if code is None else str(code)


def _print_run(
    record: RunRecord,
    attempts: tuple[AttemptRecord, ...],
    output: tuple[bytes, bytes] | None,
) -> None:
    console = table.console()
    table.write_facts(_facts(record))
    if attempts:
        console.print()
        console.print(_attempt_table(attempts, console.width))
    for stream, data in zip(("stdout", "stderr"), output or (), strict=False):
        if data:
            console.print()
            console.print(Text(f"{stream} (the last {len(data)} bytes)", "bold"))
            console.print(table.printable_lines(data).rstrip("\n"), soft_wrap=True)


def _facts(record: RunRecord) -> Iterator[tuple[str, str | Text]]:
    yield "run", record.job_id
    yield "job", table.printable(record.job)
    yield "result", table.result_text(record.result)
    yield "command", table.printable(shlex.join(record.argv))
    yield "started", table.local_time(record.started_at)
    if record.finished_at is not None:
        yield "finished", table.local_time(record.finished_at)
    duration = _duration(record)
    if duration is not None:
        yield "took", units.format_duration(round(duration / 1e6, 3))
    if record.exit_code is not None:
        yield "exit code", str(record.exit_code)
    if record.command_code not in (None, record.exit_code):
        yield "COMMAND's", str(record.command_code)
    if record.signal is not None:
        yield "signal", units.signal_name(record.signal)
    if record.lock_wait is not None:
        yield "waited", units.format_duration(round(record.lock_wait / 1e6, 3))
    if record.fence is not None:
        yield "fence", str(record.fence)
    if record.held_by is not None:
        yield "held by", table.printable(record.held_by.owner)
    if record.lease_lost:
        yield "lease", "lost"
    if record.stale:
        yield "claim", "lost: another run had the key when this one ended"
    for name, text in (("reason", record.reason), ("lock", record.lock), ("key", record.key)):
        if text is not None:
            yield name, table.printable(text)
    for key in record.needs:
        yield "needs", table.printable(key)
    yield "by", table.printable(f"{record.user}, {record.owner}")


def _attempt_table(attempts: tuple[AttemptRecord, ...], wide: int) -> Table:
    made = table.table(_ATTEMPT_COLUMNS, wide, header=True)
    for attempt in attempts:
        made.add_row(
            str(attempt.number),
            table.local_time(attempt.started_at),
            table.took(attempt.duration),
            table.result_text(attempt.result),
            _exit(attempt.exit_code, attempt.signal),
            table.printable(attempt.reason or ""),
        )
    return made
