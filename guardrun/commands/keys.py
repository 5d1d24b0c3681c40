"""``keys``: idempotency keys, what blocks and what does not; ``keys show``, ``keys forget``."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator

import click
from rich.text import Text

from guardrun import units
from guardrun.commands import objects, stores, table
from guardrun.commands.history import RUN_COLUMNS, SHORT, run_fields, run_row
from guardrun.errors import GuardrunError, UsageError
from guardrun.ledger.records import (
    KEY_STATES,
    Filter,
    KeyRecord,
    RunRecord,
    forget_key,
    open_records,
)
from guardrun.model import LedgerSpec

_COLUMNS = (
    ("STATE", 11),
    ("SINCE", 19),
    ("BLOCKS", 9),
    ("RUN", SHORT),
    ("KEY", None),
)
_LAST = 10
"""runs that ``keys show`` tells of"""
_BLOCKS = {"running": True, "succeeded": True, "expired": False, "failed": False}
"""An interrupted key blocks whoever says ``--on-interrupted stop``, and nobody else."""


class NoSuchKey(GuardrunError):
    """The ledger has never heard of the key."""

    exit_code = 1


class NotForgotten(GuardrunError):
    """The key is as it was, because a person said so or somebody else was faster."""

    exit_code = 1


class KeyHeld(GuardrunError):
    """A run holds the key."""

    exit_code = 75


@click.group(invoke_without_command=True)
@click.option("--limit", type=click.IntRange(0), default=50, show_default=True, help="0 for all.")
@click.option("--state", type=click.Choice(KEY_STATES), metavar="STATE", help="Only these.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def keys(context: click.Context, limit: int, state: str | None, as_json: bool) -> None:
    """Show the idempotency keys, the latest claimed first."""
    if context.invoked_subcommand is not None:
        raise UsageError(f"options come later: guardrun keys {context.invoked_subcommand} …")
    records = open_records(context.obj)
    try:
        found = records.keys(state, limit) if records else iter(())
        if as_json:
            objects.write_lines(map(_fields, found))
        else:
            table.write(_COLUMNS, map(_row, found), "no such keys" if records else "no keys yet")
    finally:
        if records:
            records.close()


@keys.command()
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def show(spec: LedgerSpec, key: str, as_json: bool) -> None:
    """Show one key, whether it blocks, and its last runs."""
    record, runs = _read(spec, key)
    if as_json:
        whole: dict[str, object] = {"runs": [run_fields(run) for run in runs]}
        objects.write_lines([_fields(record) | whole])
        return
    table.write_facts(_facts(record))
    if runs:
        table.console().print()
        table.write(RUN_COLUMNS, map(run_row, runs), "")


@keys.command()
@click.argument("key")
@click.option("--force", is_flag=True, help="Do not ask.")
@click.pass_obj
def forget(spec: LedgerSpec, key: str, force: bool) -> None:
    """Let a key block no longer: its next run executes COMMAND.

    Refused while a run holds the key.
    """
    record, _ = _read(spec, key)
    name = units.shown(objects.unicode(key))
    if record.state == "running":
        raise _held(record)
    if record.state in ("failed", "expired"):
        click.echo(f"the key {name} does not block: there is nothing to forget")
        return
    if not force:
        _ask(record, name)
    if not stores.patiently(spec, lambda _: forget_key(spec, record)):
        now, _ = _read(spec, key)
        if now.state == "running":
            raise _held(now)
        raise NotForgotten(f"the key {name} {_NOW[now.state]} meanwhile: nothing changed")
    click.echo(f"the key {name} blocks no longer: its next run executes COMMAND")


_HAS = {"succeeded": "has succeeded", "interrupted": "was interrupted"}
_NOW = _HAS | {"failed": "has failed", "expired": "has expired"}


def _ask(record: KeyRecord, name: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError("forgetting a key asks first, and there is no terminal: give --force")
    when = table.local_time(_since(record))
    question = f"The key {name} {_HAS[record.state]} ({when}). Let it run again?"
    if not click.confirm(question, err=True):
        raise NotForgotten("nothing was changed")


def _held(record: KeyRecord) -> KeyHeld:
    since = table.local_time(record.claimed_at)
    return KeyHeld(
        f"the key is held by {record.owner} since {since}: "
        "let that run end, or stop it, and try again"
    )


def _read(spec: LedgerSpec, key: str) -> tuple[KeyRecord, tuple[RunRecord, ...]]:
    """The key and its last runs."""
    records = open_records(spec)
    name = units.shown(objects.unicode(key))
    if records is None:
        raise NoSuchKey(f"there is no key {name}: nothing has been recorded yet")
    try:
        record = records.key(key)
        if record is None:
            raise NoSuchKey(f"there is no key {name}: guardrun keys lists them")
        runs = tuple(itertools.islice(records.runs(Filter(key=key)), _LAST))
    finally:
        records.close()
    return record, runs


def _fields(record: KeyRecord) -> dict[str, object]:
    return {
        "idempotency_key": record.key,
        "state": record.state,
        "blocks": _BLOCKS.get(record.state),
        "job_id": record.job_id,
        "owner": objects.unicode(record.owner),
        "fingerprint": record.fingerprint,
        "claimed_at": objects.rfc3339(record.claimed_at),
        "claim_until": objects.rfc3339(record.claim_until),
        "finished_at": objects.rfc3339(record.finished_at),
        "expires_at": objects.rfc3339(record.expires_at),
    }


def _since(record: KeyRecord) -> int:
    """When it got into its state."""
    moment = record.expires_at if record.state == "expired" else record.finished_at
    return record.claimed_at if moment is None else moment


def _row(record: KeyRecord) -> tuple[str | Text, ...]:
    return (
        table.result_text(record.state),
        table.local_time(_since(record)),
        _blocks(record),
        record.job_id[-SHORT:],
        table.printable(record.key),
    )


def _blocks(record: KeyRecord) -> str:
    if record.state == "succeeded":
        if record.expires_at is None:
            return "forever"
        return table.took(record.expires_at - int(time.time() * 1e6))
    return {"running": "yes", "interrupted": "with stop"}.get(record.state, "no")


def _facts(record: KeyRecord) -> Iterator[tuple[str, str | Text]]:
    yield "key", table.printable(record.key)
    yield "state", table.result_text(record.state)
    yield "blocks", _sentence(record)
    yield "claimed", table.local_time(record.claimed_at)
    if record.finished_at is not None:
        yield "finished", table.local_time(record.finished_at)
    yield "by", table.printable(record.owner)
    yield "fingerprint", record.fingerprint


def _sentence(record: KeyRecord) -> str:
    until = record.claim_until if record.state == "running" else record.expires_at
    when = "" if until is None else table.local_time(until)
    return {
        "running": f"until {when}, or later if it is renewed" if when else "while its run is alive",
        "succeeded": f"until {when}" if when else "forever",
        "expired": f"no more since {when}",
        "interrupted": "only a run with --on-interrupted stop",
    }.get(record.state, "no")
