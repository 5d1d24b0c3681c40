"""What URLs of a cluster have in common: its members, and what TLS needs."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from urllib.parse import SplitResult

TLS = ("cacert", "cert", "key")
"""as etcdctl calls them"""


class Tls(NamedTuple):
    """Files for TLS; ``None``: the system's authorities, and no certificate of our own."""

    cacert: str | None = None
    cert: str | None = None
    key: str | None = None


class Place(NamedTuple):
    """One member."""

    host: str
    port: int
    tls: Tls | None


def split(url: str) -> SplitResult:
    """A URL's parts; brackets in it stay escaped until ``places`` reads each host by itself.

    Newer versions of Python take an address in brackets for a mistake that does not come first.
    """
    return urlsplit(url.replace("[", "%5B").replace("]", "%5D"))


def places(hosts: str, port: int, tls: Tls | None) -> tuple[Place, ...]:
    """The members that a URL names, by commas. Raises ``ValueError``."""
    return tuple(_place(host, port, tls) for host in hosts.split(","))


def parameters(query: str, known: Collection[str]) -> dict[str, str]:
    """What a URL's query says, each once. Raises ``ValueError`` for what is not known."""
    found: dict[str, str] = {}
    for word in query.split("&") if query else ():
        name, _, value = word.partition("=")
        if name not in known or name in found or not value or "@" in value:
            raise ValueError
        found[name] = unquote(value)
    return found


def tls(given: dict[str, str], wanted: bool) -> Tls | None:
    """What a URL's parameters say of TLS; without it they are none. Raises ``ValueError``."""
    files = {name: given[name] for name in TLS if name in given}
    if (files and not wanted) or ("key" in files and "cert" not in files):
        raise ValueError
    return Tls(**files) if wanted else None


def _place(text: str, port: int, tls: Tls | None) -> Place:
    parts = urlsplit("//" + text.replace("%5B", "[").replace("%5D", "]"))
    if not parts.hostname or "@" in text:
        raise ValueError
    return Place(parts.hostname, port if parts.port is None else parts.port, tls)
