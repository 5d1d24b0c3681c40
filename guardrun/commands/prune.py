"""``prune``: forget what is old."""

from __future__ import annotations

import os
import sys

import click

from guardrun.commands import objects, stores
from guardrun.commands.values import duration
from guardrun.ledger.sqlite_file import path_of
from guardrun.model import LedgerSpec

_BATCH = 1000
"""rows of a kind in one transaction: few enough that nobody waits for them"""


@click.command()
@click.option(
    "--older-than",
    "age",
    metavar="DURATION",
    required=True,
    callback=duration,
    help="Delete runs that started longer ago, and keys that have not blocked for so long.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def prune(spec: LedgerSpec, age: float, as_json: bool) -> None:
    """Delete old runs and keys; never a running one, nor a key that still blocks."""
    gone = _prune(spec, age)
    if as_json:
        objects.write_lines([{"pruned": gone}])
    else:
        click.echo(f"deleted {gone} rows" if gone else "there is nothing that old")


def _prune(spec: LedgerSpec, age: float) -> int:
    if stores.scheme(spec) == "sqlite" and not os.path.lexists(path_of(spec.url)):
        return 0
    ledger = stores.open_ledger(spec)
    shown = sys.stderr.isatty()
    gone = 0
    try:
        while found := stores.patiently(spec, lambda _: ledger.prune(age, age, _BATCH)):
            gone += found
            if shown:
                click.echo(f"\r{gone} deleted …", err=True, nl=False)
    finally:
        if shown and gone:
            click.echo("\r\x1b[K", err=True, nl=False)
        ledger.close()
    return gone
