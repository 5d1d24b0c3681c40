"""Which ledger a URL means, whoever connects and however: what its spool is kept under.

An outcome that waits for one ledger must never be recorded in another: the key it completes would
stay open where it counts.
"""

from __future__ import annotations

from guardrun.digest import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_WHERE = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "service": "PGSERVICE",
}
"""libpq's parameters that choose a database, and the variables that stand in for them"""


def address(url: str, environ: Mapping[str, str]) -> str:
    """The ledger's URL with what names the place alone: no user, no password, no options."""
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        return url
    authority, slash, path = rest.partition("/")
    # A login may hold what looks like a query; that of a URL that was read holds no @ or /.
    base, _, query = (authority.rpartition("@")[2] + slash + path).partition("?")
    given = [word.partition("=") for word in query.split("&")]
    chosen = {name: value for name, _, value in given if name in _WHERE}
    hosts, slash, database = base.partition("/")
    named = {"host": bool(hosts), "port": ":" in hosts.rpartition("]")[2], "dbname": bool(database)}
    for name, variable in _WHERE.items():
        if name not in chosen and not named.get(name) and environ.get(variable):
            chosen[name] = environ[variable]
    options = "&".join(f"{name}={chosen[name]}" for name in sorted(chosen))
    return f"postgresql://{hosts}{slash}{database}" + (f"?{options}" if options else "")


def spool_name(place: str) -> str:
    """The name of a ledger's directory in the spool; ``place`` is its address."""
    scheme = place.partition(":")[0]
    return f"{scheme}-{sha256(place.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
