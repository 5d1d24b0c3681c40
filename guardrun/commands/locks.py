"""``locks``: who holds what, and for how long."""

from __future__ import annotations

import click

from guardrun.commands import holdings, objects, stores
from guardrun.commands.stores import LockStores
from guardrun.commands.values import duration
from guardrun.errors import StoreUnavailable

_FOUND = 1


@click.command()
@click.option(
    "--older-than",
    "limit",
    metavar="DURATION",
    callback=duration,
    help="Only those held for longer; exits 1 when there is one.",
)
@click.option(
    "--scope", type=click.Choice(holdings.SCOPES), metavar="SCOPE", help="Only locks of this scope."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--lease-url", metavar="URL", help="Use this lease store.")
@click.pass_obj
def locks(where: LockStores, limit: float | None, scope: str | None, as_json: bool) -> int:
    """Show the locks that are held now, the oldest first, and who holds them.

    Those of this user on this host, and those in the lease store if there is one; lock files
    (--lock-file) are not among them.
    """
    where = stores.within(where, scope)
    found = holdings.read_host(where)
    failure: StoreUnavailable | None = None
    try:
        found = holdings.oldest_first([*found, *holdings.read_leases(where)])
    except StoreUnavailable as error:
        failure = error  # what is known is told first
    if limit is not None:
        found = [one for one in found if (holdings.age(one) or 0.0) > limit]
    if as_json:
        objects.write_lines(map(holdings.fields, found))
    elif found or failure is None:
        none = "no lock is held" if limit is None else "no lock has been held for so long"
        holdings.write(found, none)
    if failure is not None:
        raise failure
    return _FOUND if found and limit is not None else 0
