"""``dead``: what failed for good, and waits for a person."""

from __future__ import annotations

import itertools

import click

from guardrun.commands import history, objects, table
from guardrun.commands.values import instant
from guardrun.ledger.records import dead_runs, open_records
from guardrun.model import LedgerSpec


@click.command()
@click.option("--limit", type=click.IntRange(0), default=50, show_default=True, help="0 for all.")
@click.option("--job", metavar="NAME", help="Only runs of this job.")
@click.option(
    "--since",
    metavar="WHEN",
    callback=instant,
    help="Started then or later: RFC 3339, or DURATION ago.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def dead(spec: LedgerSpec, limit: int, job: str | None, since: float | None, as_json: bool) -> None:
    """Show the runs that failed for good, newest first.

    Those that ended badly, and that no later success has made good: of the same key, or, where the
    run had none, of the same job. Refused runs are not among them.
    """
    records = open_records(spec)
    try:
        runs = dead_runs(records, job, since) if records else iter(())
        found = itertools.islice(runs, limit or None)
        if as_json:
            objects.write_lines(history.run_fields(record) for record in found)
        else:
            rows = map(history.run_row, found)
            table.write(history.RUN_COLUMNS, rows, "no run has failed for good")
    finally:
        if records:
            records.close()
