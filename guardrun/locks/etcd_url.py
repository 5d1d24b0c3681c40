"""What the URL of an etcd cluster says: its members, a login, and what TLS needs."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote

from guardrun.errors import ConfigError
from guardrun.locks.members import TLS, Place, parameters, places, split, tls
from guardrun.locks.stores import ETCD

_PORT = 2379


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
    parts = split(url)
    if parts.fragment or parts.path not in ("", "/") or parts.scheme not in ETCD:
        raise ValueError
    user, at, hosts = parts.netloc.rpartition("@")
    name, colon, password = user.partition(":")
    if "@" in user or ":" in password or (at and not (name and colon)):
        raise ValueError
    login = Login(unquote(name), unquote(password)) if at else None
    secured = tls(parameters(parts.query, TLS), parts.scheme == "etcds")
    return Cluster(places(hosts, _PORT, secured), login)
