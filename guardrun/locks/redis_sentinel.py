"""The way to a primary that Redis Sentinel looks after: every connect asks where it is now.

Promises: whoever we talk to has said itself, when we came, that it is the primary. Declines: to
know better than the sentinels: who is cut off together with an old primary goes on there until
that one hears of its successor.

Source of the steps: "Guidelines for Redis clients with support for Redis Sentinel" (redis.io).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote

from guardrun import kernel
from guardrun.errors import StoreUnavailable
from guardrun.locks.redis_connection import Connection, make, unavailable, unreadable
from guardrun.locks.stores import address

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMES = ("redis+sentinel", "rediss+sentinel")

_PORT = "26379"
_LOGIN = ("sentinel_username", "sentinel_password")


class Guided:
    """What ``Connection`` is, to the server that the sentinels of ``url`` name when it is made.

    Raises ``ConfigError`` for a URL that cannot be read.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        scheme, _, rest = url.partition("://")
        self._scheme = scheme.removesuffix("+sentinel")
        place, _, query = rest.partition("?")
        self._login, at, names = place.rpartition("@")
        hosts, _, path = names.partition("/")
        self._service, _, self._number = path.partition("/")
        self._query = "&".join(pair for pair in query.split("&") if _name(pair) not in _LOGIN)
        # A password with an unescaped @, /, ? or # would be taken for something else, and shown.
        split = any(sign in self._login for sign in "@/") or ("@" in query and not at)
        if split or "#" in url or not (self._service and all(hosts.split(","))):
            raise unreadable()
        tls = "&".join(pair for pair in query.split("&") if _name(pair).startswith("ssl_"))
        given = dict(parse_qsl(query))
        user, password = (quote(given.get(name, ""), safe="") for name in _LOGIN)
        login = f"{user}:{password}@" if user or password else ""
        self._sentinels = [
            f"{self._scheme}://{login}{_with_port(host)}?{tls}" for host in hosts.split(",")
        ]
        for sentinel in self._sentinels:
            make(sentinel)
        make(self._at("localhost", "1"))
        self._to: Connection | None = None

    @property
    def where(self) -> str:
        """The URL of the primary it was made to, without secrets; nothing before that."""
        return "" if self._to is None else self._to.where

    def ask(self, due: float, *commands: Sequence[str | bytes | int]) -> list[Any]:
        """As ``Connection.ask``."""
        if self._to is None or not self._to.is_open():
            self._to = self._found(due)
        return self._to.ask(due, *commands)

    def is_open(self) -> bool:
        """Whether there is one, as far as is known."""
        return self._to is not None and self._to.is_open()

    def fileno(self) -> int | None:
        """What is readable when the server says something."""
        return None if self._to is None else self._to.fileno()

    def discard(self) -> None:
        """Throw away what has come in; closes the connection when that was its end."""
        if self._to is not None:
            self._to.discard()

    def close(self) -> None:
        """Let go of it."""
        if self._to is not None:
            self._to.close()

    def _found(self, due: float) -> Connection:
        """A connection to the primary; whose word did not lead to one is asked last from now on."""
        failures: list[str] = []
        for left in range(len(self._sentinels), 0, -1):
            try:
                return self._follow(self._sentinels[0], left, due)
            except StoreUnavailable as failure:
                failures.append(str(failure))
                self._sentinels.append(self._sentinels.pop(0))
        raise StoreUnavailable(
            f"the lease store {address(self._url)}: no sentinel leads to its primary: "
            + "; ".join(dict.fromkeys(failures))
        )

    def _follow(self, sentinel: str, left: int, due: float) -> Connection:
        """Ask one sentinel and go where it says, in its share of the time of ``left`` of them."""
        asked = Connection(sentinel, "the sentinel")
        try:
            question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", unquote(self._service))
            (said,) = asked.ask(_part(due, left + 1), question)
        finally:
            asked.close()
        if isinstance(said, Exception):
            raise unavailable(sentinel, said, what="the sentinel")
        if said is None:
            raise StoreUnavailable(
                f"the sentinel {address(sentinel)}: it knows no {self._service}; "
                "check the name of the service in the URL"
            )
        primary = self._at(*(word.decode("utf-8", "replace") for word in said))
        found = Connection(primary)
        (role,) = found.ask(_part(due, min(left, 2)), ("ROLE",))
        if isinstance(role, list) and role[0] == b"master":
            return found
        found.close()
        if isinstance(role, Exception):
            raise unavailable(primary, role)
        raise StoreUnavailable(
            f"the sentinel {address(sentinel)}: it names {found.where}, which is no primary; "
            "try again when the failover is over"
        )

    def _at(self, host: str, port: str) -> str:
        """The URL of a server of the service."""
        name = f"[{host}]" if ":" in host else quote(host, safe="")
        login = f"{self._login}@" if self._login else ""
        return f"{self._scheme}://{login}{name}:{port}/{self._number}?{self._query}"


def _part(due: float, parts: int) -> float:
    """The end of the first of so many equal parts of the time that is left."""
    now = kernel.now()
    return now + (due - now) / parts


def _name(pair: str) -> str:
    return unquote(pair.partition("=")[0])


def _with_port(host: str) -> str:
    return host if ":" in host.rpartition("]")[2] else f"{host}:{_PORT}"
