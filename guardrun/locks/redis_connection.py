"""One connection to a Redis server: every wait ends when told, and errors are for people.

redis-py does the URL, TLS, the login and the wire format; its pool, its retries and its clients,
which wait for as long as they like, are not used. Every single read, write and connect is bounded
by ``Connection.due``, without signals or threads, also when the server is frozen.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from guardrun import kernel
from guardrun.errors import ConfigError, StoreUnavailable
from guardrun.locks.bounded import Bounded, dial
from guardrun.locks.lean_redis import NoBackoff, Retry, connection, exceptions
from guardrun.locks.stores import address

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST_MESSAGE = 400

_OURS = (
    *("socket_timeout", "socket_connect_timeout", "retry_on_timeout", "retry_on_error", "timeout"),
    *("health_check_interval", "max_connections", "protocol", "decode_responses", "encoding"),
    *("encoding_errors", "legacy_responses", "socket_read_size"),
)
"""redis-py's options in a URL that are decided here"""


class Overdue(exceptions.TimeoutError):
    """The answer did not come in time."""


class Connection:
    """A connection that is made when it is needed, and closed by whatever goes wrong with it."""

    def __init__(self, url: str, what: str = "the lease store") -> None:
        self._url = url
        self._what = what
        self._made: Any = None

    @property
    def where(self) -> str:
        """The URL of the server it is made to, without secrets."""
        return address(self._url)

    def ask(self, due: float, *commands: Sequence[str | bytes | int]) -> list[Any]:
        """Send commands at once; the answers, where an error of the server's is one too.

        When this raises, any of them may have been carried out. Raises ``StoreUnavailable``, and
        ``ConfigError`` for a URL that cannot be read.
        """
        try:
            made = self._connected(due)
            for command in commands:
                made.send_command(*command, check_health=False)
            return [self._answer(made) for _ in commands]
        except (exceptions.RedisError, OSError, UnicodeError) as error:
            self.close()
            raise unavailable(self._url, error, what=self._what) from None

    def is_open(self) -> bool:
        """Whether there is one, as far as is known."""
        return self._made is not None

    def fileno(self) -> int | None:
        """What is readable when the server says something."""
        made = self._made
        return None if made is None else made.bounded.fileno()

    def discard(self) -> None:
        """Throw away what has come in; closes the connection when that was its end."""
        if self._made is not None and self._made.bounded.take() is None:
            self.close()

    def close(self) -> None:
        """Let go of it."""
        made, self._made = self._made, None
        if made is not None:
            made.disconnect()

    def _connected(self, due: float) -> Any:
        if self._made is not None:
            self._made.due = due
            return self._made
        self._made = made = make(self._url)
        made.due = due
        try:
            made.connect()
        except TypeError:  # a key for TLS without its certificate, say
            self.close()
            raise unreadable() from None
        if not made.password:
            # A server that wants one hangs up on a long command without saying why.
            made.send_command("PING", check_health=False)
            made.read_response()
        return made

    @staticmethod
    def _answer(made: Any) -> Any:
        try:
            return made.read_response()
        except exceptions.ResponseError as error:
            return error


class _Timed:
    """What makes a connection of redis-py's one whose every wait ends at ``due``."""

    due: float
    bounded: Bounded
    socket_timeout: float | None
    socket_connect_timeout: float | None

    def left(self) -> float:
        """Seconds until ``due``. Raises ``Overdue``."""
        left = self.due - kernel.now()
        if left <= 0:
            raise Overdue("no answer in time")
        return left

    def _connect(self) -> Any:
        # A TLS handshake is read by the socket's own limit.
        self.socket_timeout = self.socket_connect_timeout = self.left()
        self.bounded = Bounded(super()._connect(), self.left)  # type: ignore[misc]
        return self.bounded


class _Dial(connection.Connection):
    """TCP, with what is left of the time shared among a name's addresses."""

    def _connect(self) -> socket.socket:
        return dial(self.host, self.port, self.left)  # type: ignore[attr-defined]


class _Tcp(_Timed, _Dial):
    pass


class _Tls(_Timed, connection.SSLConnection, _Dial):
    pass


class _Unix(_Timed, connection.UnixDomainSocketConnection):
    pass


_KINDS: dict[str, Any] = {"redis": _Tcp, "rediss": _Tls, "unix": _Unix}


# ---------------------------------------------------------------- the URL


def _options(url: str) -> tuple[Any, dict[str, Any]]:
    """What kind of connection a URL means, and its options."""
    try:
        parts = urlsplit(url)
        options: dict[str, Any] = dict(connection.parse_url(url))  # type: ignore[no-untyped-call]
    except ValueError:  # its text may hold a piece of the password
        raise unreadable() from None
    # A password with an unescaped @, / or # would be taken for something else, and shown.
    rest = parts.fragment + ("" if parts.scheme == "unix" else parts.path)
    split = "@" in rest or ("@" in parts.query and "@" not in parts.netloc)
    number = parts.path.strip("/")
    if split or parts.netloc.count("@") > 1 or parts.fragment:
        raise unreadable()
    if parts.scheme == "unix" and not number:
        raise unreadable()
    if parts.scheme != "unix" and number and not number.isdigit():
        raise unreadable()
    options = {name: value for name, value in options.items() if name not in _OURS}
    options.pop("connection_class", None)
    if parts.scheme == "rediss":
        options.setdefault("ssl_check_hostname", True)  # not so in redis-py 5
    return _KINDS[parts.scheme], options | {"protocol": 2, "retry": Retry(NoBackoff(), 0)}


def make(url: str) -> Any:
    """A connection of redis-py's, not connected. Raises ``ConfigError``."""
    kind, options = _options(url)
    if hasattr(connection, "DriverInfo"):
        options["driver_info"] = None  # else it looks its version up, which takes 15 ms
    try:
        made = kind(**options)
    except (TypeError, ValueError):  # it does not know one of them, or what it says
        raise unreadable() from None
    # Nobody reads them on the server, and each costs a round trip.
    made.driver_info = made.lib_name = made.lib_version = None
    return made


def unreadable() -> ConfigError:
    """The error for a URL that cannot be read: it is not shown, for what is a password in it?"""
    return ConfigError(
        "the lease store's URL cannot be read: write redis://USER:PASSWORD@HOST:PORT/NUMBER, "
        "rediss:// for TLS, redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/NUMBER, "
        "or unix:///PATH/OF/SOCKET?db=NUMBER, "
        "and %40 for @, %3A for :, %2F for /, %3F for ?, %23 for # in names and passwords"
    )


# ---------------------------------------------------------------- errors

_TRY_AGAIN = "check the server and the way to it, then try again"
_REMEDIES = (
    ("in time", "check that the server is not stopped or overloaded, and the way to it"),
    ("timed out", "check that the server is not stopped or overloaded, and the way to it"),
    ("timeout", "check that the server is not stopped or overloaded, and the way to it"),
    ("refused", "check that the server runs there, and its port"),
    ("no such file", "check that the server runs there, and the path of its socket"),
    ("name or service", "check the host's name and the resolver"),
    ("name resolution", "check the host's name and the resolver"),
    ("certificate", "check the server's certificate, its name, and ssl_ca_certs in the URL"),
    ("ssl", "check whether the server speaks TLS (rediss://) or not (redis://)"),
    ("max number of clients", "raise maxclients on the server, or try again later"),
    ("wrongtype", "somebody has overwritten a key %s: delete it, then try again"),
    ("read only", "name the primary: leases cannot be kept in a replica"),
    ("readonly", "name the primary: leases cannot be kept in a replica"),
    ("oom", "its memory is full: raise maxmemory, or remove keys"),
    ("used memory", "its memory is full: raise maxmemory, or remove keys"),
    ("loading", "it has just been started: try again when it has read its data"),
    ("misconf", "it cannot save its data: look at its log and its disk"),
    ("masterdown", "name the primary: leases cannot be kept in a replica"),
    ("moved", "leases need one server: Redis Cluster is not supported"),
    ("cluster", "leases need one server: Redis Cluster is not supported"),
    ("wrongpass", "check the user and the password in the URL"),
    ("invalid username", "check the user and the password in the URL"),
    ("invalid password", "check the user and the password in the URL"),
    ("authentication", "check the user and the password in the URL"),
    ("auth", "check the user and the password in the URL"),
    ("noperm", "give the user the rights that docs/redis.md lists"),
    ("permission", "give the user the rights that docs/redis.md lists"),
    ("can't run this command", "give the user the rights that docs/redis.md lists"),
    ("db index", "check the number of the database in the URL"),
)
"""what an error says, in lower case: what to do; the first that fits"""

_CODES: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.MovedError, "MOVED"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.AuthenticationError, "AUTH"),
)
"""the words that redis-py takes away from the front of a message"""


def unavailable(
    url: str, error: Exception, keys: str = "", what: str = "the lease store"
) -> StoreUnavailable:
    """What an error means for people: what, why, what to do; without any password.

    ``keys`` is what the keys begin with that it may be about, ``what`` what is at ``url``.
    """
    said = _one_line(str(error)) or type(error).__name__
    for secret in _secrets(url):
        said = said.replace(secret, "***")
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "")
    look = f"{code} {said}".lower()
    remedy = next((remedy for word, remedy in _REMEDIES if word in look), _TRY_AGAIN)
    return StoreUnavailable(f"{what} {address(url)}: {said}; {remedy.replace('%s', keys)}")


def _one_line(text: str) -> str:
    # Redis 6 and 7 say differently where in a script it happened; nobody can do anything with it.
    text = re.sub(r"^ERR |Error running script \(call to \w+\): |@user_script: ?\d+: ?-?", "", text)
    text = re.sub(r",? ?script: [0-9a-f]{40}, on @user_script:\d+\.?", "", text)
    return " ".join(text.split())[:_LONGEST_MESSAGE].rstrip(". ")


def _secrets(url: str) -> list[str]:
    """All that may be a password in the URL, as written and as meant; the longest first."""
    found = {url.partition("://")[2].rpartition("@")[0].partition(":")[2]}
    for word in url.partition("?")[2].split("&"):
        name, _, value = word.partition("=")
        if unquote(name).endswith("password"):
            found.add(value)
    found |= {unquote(secret) for secret in found}
    return sorted(found - {""}, key=len, reverse=True)
