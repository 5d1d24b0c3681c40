"""``migrate``: create or upgrade the schema of a ledger in Postgres."""

from __future__ import annotations

import click

from guardrun import kernel
from guardrun.commands import objects, stores
from guardrun.model import LedgerSpec

_LONGEST = 3600.0
"""s; what a migration does to a large ledger takes its time"""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def migrate(spec: LedgerSpec, as_json: bool) -> None:
    """Create the schema guardrun in Postgres, or bring it up to date; never asks.

    A ledger in an SQLite file needs no migration: every run sees to it.
    """
    if stores.scheme(spec) == "sqlite":
        if as_json:
            objects.write_lines([_fields(None, None, ())])
        else:
            click.echo("the ledger is an SQLite file, which needs no migration")
        return
    from guardrun.postgres import schema as postgres_schema

    planned = stores.patiently(spec, lambda due: postgres_schema.pending(spec.url, due))
    if planned.names and not as_json:
        before = f"from schema {planned.before}" if planned.before else "from nothing"
        click.echo(f"migrating {before} to schema {planned.after}: {', '.join(planned.names)}")
    done = stores.patiently(
        spec, lambda _: postgres_schema.migrate(spec.url, kernel.now() + _LONGEST)
    )
    if as_json:
        objects.write_lines([_fields(done.before, done.after, done.names)])
    elif done.names:
        click.echo(f"done: the ledger has schema {done.after}")
    else:
        click.echo(f"nothing to do: the ledger has schema {done.after}")


def _fields(before: int | None, after: int | None, names: tuple[str, ...]) -> dict[str, object]:
    return {"from": before, "to": after, "applied": names}
