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
_PORT = "5432"


def address(url: str, environ: Mapping[str, str]) -> str:
    """The ledger's URL with what names the place alone: no user, no password, no options.

    The same for every way to write it down, but for names that only a resolver knows to be one.
    Where no database is named, libpq means the one that is called as the user is.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        return url
    authority, slash, path = rest.partition("/")
    # A login may hold what looks like a query; that of a URL that was read holds no @ or /.
    login, _, host = authority.rpartition("@")
    base, _, query = (host + slash + path).partition("?")
    places, _, database = base.partition("/")
    named = {name: environ[variable] for name, variable in _WHERE.items() if environ.get(variable)}
    if places:
        pairs = [_host_and_port(place) for place in places.split(",")]
        named["host"] = ",".join(host for host, _ in pairs)
        if any(port for _, port in pairs):
            named["port"] = ",".join(port for _, port in pairs)
        named.pop("hostaddr", None)
    if database:
        named["dbname"] = database
    user = login.partition(":")[0] or environ.get("PGUSER", "")
    for word in query.split("&"):
        name, _, value = word.partition("=")
        if name == "user":
            user = value
        if name in _WHERE and value:
            named[name] = value.replace("%2F", "/").replace("%2f", "/")
    hosts = named.get("hostaddr", named.get("host", "")).lower().split(",")
    ports = named.get("port", "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    where = ",".join(f"{host}:{port or _PORT}" for host, port in zip(hosts, ports, strict=False))
    service = named.get("service")
    # What the service's file says of it is for libpq to find.
    database = named.get("dbname", "" if service else user)
    shown = f"postgresql://{where}/{database}"
    return f"{shown}?service={service}" if service else shown


def _host_and_port(place: str) -> tuple[str, str]:
    """Split ``host:port``; an IPv6 address is in brackets."""
    head, bracket, tail = place.rpartition("]")
    host, _, port = tail.partition(":")
    return head + bracket + host, port


def spool_name(place: str) -> str:
    """The name of a ledger's directory in the spool; ``place`` is its address."""
    scheme = place.partition(":")[0]
    return f"{scheme}-{sha256(place.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
