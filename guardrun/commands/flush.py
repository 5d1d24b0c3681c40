"""``flush``: record what waits in the spool."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import click

from guardrun import kernel
from guardrun.address import address, spool_name
from guardrun.commands import objects, stores, table
from guardrun.errors import StoreOutdated, StoreUnavailable
from guardrun.ledger.spool import NAME, Spool, open_spool
from guardrun.model import LedgerSpec

if TYPE_CHECKING:
    from guardrun.ports import Ledger

_LEFT = 1
_OUTPUT = 3600.0
"""s that much output on a slow link may take"""


class Elsewhere(NamedTuple):
    """What waits for another ledger."""

    ledger: str
    waiting: int


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def flush(spec: LedgerSpec, as_json: bool) -> int:
    """Record the outcomes that wait in the spool for this ledger.

    Exits 1 when some are left that only a person, or a newer version, can deal with.
    """
    stores.scheme(spec)
    spool = open_spool(spec, os.environ)
    recorded, newer = _flush(spec, spool)
    damaged = spool.damaged()
    others = elsewhere(spec)
    if as_json:
        named = [other._asdict() for other in others]
        found = {"recorded": recorded, "left": newer, "damaged": damaged, "elsewhere": named}
        objects.write_lines([found])
    else:
        _say(recorded, newer, damaged, others)
    return _LEFT if newer or damaged else 0


def _flush(spec: LedgerSpec, spool: Spool) -> tuple[int, int]:
    """(recorded, left): the ledger is opened only if something waits."""
    waiting = len(spool.entries())
    if not waiting and not spool.late():
        return 0, 0
    unreadable = len(spool.damaged())
    ledger = stores.open_ledger(spec)
    try:
        newer = _insist(spec, spool, ledger, waiting)
        spool.complete(ledger, kernel.now() + _OUTPUT)
    finally:
        ledger.close()
    # Counted by what is gone: some may have been recorded before a try that failed.
    return waiting - newer - (len(spool.damaged()) - unreadable), newer


def _insist(spec: LedgerSpec, spool: Spool, ledger: Ledger, waiting: int) -> int:
    """Replay what waits, as long as it becomes less; what only a newer version reads is left."""
    left = waiting
    while True:
        try:
            return stores.patiently(spec, lambda due: spool.flush(ledger, due))[1]
        except StoreUnavailable as error:
            before, left = left, len(spool.entries())
            if left >= before or isinstance(error, StoreOutdated):
                still = f"{_outcomes(left)} of {waiting} still waiting"
                raise type(error)(f"{error} ({still})") from error


def elsewhere(spec: LedgerSpec) -> list[Elsewhere]:
    """What waits for other ledgers in the spool of the same state directory."""
    root = os.path.join(spec.state_dir, "spool")
    own = spool_name(address(spec.url, os.environ))
    found = []
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except OSError:
        return []
    for name in names:
        path = os.path.join(root, name)
        waiting = len(Spool(path).entries())
        if name != own and waiting:
            found.append(Elsewhere(_named(path), waiting))
    return found


def _named(path: str) -> str:
    """The ledger that a spool belongs to."""
    try:
        with open(os.path.join(path, NAME), encoding="utf-8", errors="backslashreplace") as file:
            return file.readline().strip() or path
    except OSError:
        return path


def _say(recorded: int, newer: int, damaged: tuple[str, ...], others: list[Elsewhere]) -> None:
    click.echo(f"recorded {_outcomes(recorded)}" if recorded else "there was nothing to record")
    if newer:
        click.echo(f"left: {_outcomes(newer)} of a newer guardrun: upgrade this one")
    for path in damaged:
        click.echo(f"left: {table.printable(path)} cannot be read: look at it, then remove it")
    for other in others:
        where = table.printable(other.ledger)
        click.echo(f"another ledger: {_outcomes(other.waiting)} waiting for {where}")


def _outcomes(number: int) -> str:
    return "1 outcome" if number == 1 else f"{number} outcomes"
