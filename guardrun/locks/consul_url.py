"""What the URL of a Consul says: agents, a datacenter, a namespace, and what TLS needs."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import unquote

from guardrun.errors import ConfigError
from guardrun.locks.members import TLS, Place, parameters, places, split, tls
from guardrun.locks.stores import CONSUL

_PORT = 8500
_TLS_PORT = 8501
_WHERE = {"datacenter": "dc", "namespace": "ns"}
"""a parameter of ours: that of the HTTP API"""
TOKEN = "CONSUL_HTTP_TOKEN"
TOKEN_FILE = "CONSUL_HTTP_TOKEN_FILE"


class Agents(NamedTuple):
    """All of it."""

    members: tuple[Place, ...]
    token: str | None
    where: dict[str, str]
    """what each request is told of datacenter and namespace"""


def read(url: str) -> Agents:
    """Read a URL. Raises ``ConfigError``, which does not show it: what is a token in it?"""
    try:
        return _read(url)
    except ValueError:
        raise ConfigError(
            "the lease store's URL cannot be read: write consul://TOKEN@HOST:PORT,HOST:PORT"
            "?datacenter=NAME&namespace=NAME, or consuls:// for TLS with "
            "?cacert=FILE&cert=FILE&key=FILE, and %40 for @, %3A for :, %2F for / in a token"
        ) from None


def token(url: str) -> str | None:
    """Who we are to Consul: as the URL says, else as for the program ``consul``.

    There a file that is named wins over a token that is given; it is read anew each time, because
    whoever renews tokens writes them there. Raises ``ConfigError``.
    """
    given = read(url).token
    if given is not None:
        return given
    path = os.environ.get(TOKEN_FILE)
    if not path:
        return _checked(os.environ.get(TOKEN, ""), f"${TOKEN}")
    try:
        with open(path, encoding="ascii") as file:
            said = file.read()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is no token"
        raise ConfigError(f"${TOKEN_FILE}: {path!r}: {why}") from None
    return _checked(said, f"${TOKEN_FILE}, {path!r},")


def _checked(said: str, source: str) -> str | None:
    """A token without the newline after it; what no header can hold would be shown by http.client.

    Raises ``ConfigError``.
    """
    token = said.strip()
    if not _fits(token):
        raise ConfigError(f"{source} has a character that no token can have")
    return token or None


def _fits(token: str) -> bool:
    return token.isascii() and token.isprintable()


def _read(url: str) -> Agents:
    parts = split(url)
    if parts.fragment or parts.path not in ("", "/") or parts.scheme not in CONSUL:
        raise ValueError
    login, at, hosts = parts.netloc.rpartition("@")
    if "@" in login or ":" in login or bool(at) != bool(login) or not _fits(unquote(login)):
        raise ValueError
    given = parameters(parts.query, (*TLS, *_WHERE))
    secured = parts.scheme == "consuls"
    where = {_WHERE[name]: value for name, value in given.items() if name in _WHERE}
    port = _TLS_PORT if secured else _PORT
    found = places(hosts, port, tls(given, secured))
    return Agents(found, unquote(login) if at else None, where)
