"""``migrate``: create or upgrade the schema of ledger and leases in Postgres."""

from __future__ import annotations

import os
from typing import NamedTuple

import click

from guardrun import kernel
from guardrun.address import address
from guardrun.commands import objects, stores
from guardrun.locks.stores import database_url

_LONGEST = 3600.0
"""s; what a migration does to a large ledger takes its time"""
_POSTGRES = "postgresql"


class _Database(NamedTuple):
    """One database that keeps something of ours, and what that is, for people."""

    url: str
    store: str


@click.command()
@click.option("--lease-url", metavar="URL", help="Use this lease store.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a database.")
@click.pass_obj
def migrate(found: stores.LockStores, as_json: bool) -> None:
    """Create the schema guardrun in the Postgres of ledger and leases, or bring it up to date.

    Never asks. A ledger in an SQLite file needs no migration: every run sees to it.
    """
    databases = _databases(found)
    if not databases and stores.scheme(found.ledger) == "sqlite":
        if as_json:
            objects.write_lines([_fields(None, None, ())])
        else:
            click.echo("the ledger is an SQLite file, which needs no migration")
    for database in databases:
        _migrate(found, database, as_json)


def _databases(found: stores.LockStores) -> list[_Database]:
    """The ledger's, and that of the leases unless it is the same one."""
    databases = []
    if found.ledger.url.startswith(_POSTGRES + ":"):
        databases.append(_Database(found.ledger.url, "ledger"))
    leases = database_url(found.lease_url or "")
    known = [address(database.url, os.environ) for database in databases]
    if leases.startswith(_POSTGRES + ":") and address(leases, os.environ) not in known:
        databases.append(_Database(leases, "lease store"))
    return databases


def _migrate(found: stores.LockStores, database: _Database, as_json: bool) -> None:
    from guardrun.postgres import schema as postgres_schema

    url, store = database
    planned = stores.patiently(found, lambda due: postgres_schema.pending(url, due, store))
    if planned.names and not as_json:
        before = f"from schema {planned.before}" if planned.before else "from nothing"
        click.echo(f"migrating {before} to schema {planned.after}: {', '.join(planned.names)}")
    done = stores.patiently(
        found,
        lambda _: postgres_schema.migrate(url, kernel.now() + _LONGEST, store),
    )
    if as_json:
        objects.write_lines([_fields(done.before, done.after, done.names)])
    elif done.names:
        click.echo(f"done: the {store} has schema {done.after}")
    else:
        click.echo(f"nothing to do: the {store} has schema {done.after}")


def _fields(before: int | None, after: int | None, names: tuple[str, ...]) -> dict[str, object]:
    return {"from": before, "to": after, "applied": names}
