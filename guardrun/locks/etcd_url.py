"""What the URL of an etcd cluster says: its members, a login, and what TLS needs."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from guardrun.errors import ConfigError
from guardrun.locks.stores import ETCD

_PORT = 2379
_TLS = ("cacert", "cert", "key")
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


class Login(NamedTuple):
    """A user of etcd's."""

    name: str
    password: str


class Cluster(NamedTuple):
    """All of it."""

    members: tuple[Place, ...]
    login: Login | None


def read(url: str) -> Cluster:
    """Read a URL. Raises ``ConfigError``, which does not show it: what is a password in it?"""
    try:
        return _read(url)
    except ValueError:
        raise ConfigError(
            "the lease store's URL cannot be read: write etcd://USER:PASSWORD@HOST:PORT,HOST:PORT, "
            "or etcds:// for TLS with ?cacert=FILE&cert=FILE&key=FILE, "
            "and %40 for @, %3A for :, %2F for /, %3F for ?, %23 for # in names and passwords"
        ) from None


def _read(url: str) -> Cluster:
    parts = urlsplit(url)
    if parts.fragment or parts.path not in ("", "/") or parts.scheme not in ETCD:
        raise ValueError
    user, at, hosts = parts.netloc.rpartition("@")
    name, colon, password = user.partition(":")
    if "@" in user or ":" in password or (at and not (name and colon)):
        raise ValueError
    login = Login(unquote(name), unquote(password)) if at else None
    files = _files(parts.query)
    if parts.scheme == "etcd" and files:
        raise ValueError
    if "key" in files and "cert" not in files:
        raise ValueError
    tls = Tls(**files) if parts.scheme == "etcds" else None
    return Cluster(tuple(_place(host, tls) for host in hosts.split(",")), login)


def _files(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in query.split("&") if query else ():
        name, _, value = word.partition("=")
        if name not in _TLS or name in found or not value or "@" in value:
            raise ValueError
        found[name] = unquote(value)
    return found


def _place(text: str, tls: Tls | None) -> Place:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or "@" in text:
        raise ValueError
    return Place(parts.hostname, _PORT if parts.port is None else parts.port, tls)
