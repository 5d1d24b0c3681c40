"""The way to an etcd cluster by its JSON gateway: member after member, and errors for people.

A call goes to one member, and fails with it; the next call asks the next member. So no member's
silence takes more than the call's own time, and what two calls say came from the same member as
long as neither failed. What is refused for an old login is asked once more with a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardrun import kernel
from guardrun.errors import StoreUnavailable, UsageError
from guardrun.locks.etcd_url import read
from guardrun.locks.stores import address

if TYPE_CHECKING:
    from guardrun.locks.etcd_http import Said, Wire
    from guardrun.locks.etcd_url import Cluster

_OK = 200
_LONGEST_MESSAGE = 400

_OLD_LOGIN = ("invalid auth token", "revision of auth store is old", "revision in header is old")
"""a member that was started again knows none; rights that were changed make all of them old"""


class Refused(Exception):
    """The cluster says no: asking another member would not help."""


class Gateway:
    """A cluster, with at most one connection, made when it is needed.

    ``clock`` is what the member that answered last has for the time, in s since 1970.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._cluster: Cluster | None = None
        self._at = 0
        self._wire: Wire | None = None
        self._token: str | None = None
        self.clock: float | None = None
        try:  # while nobody waits for it yet: it takes longer than anything else here
            from guardrun.locks import etcd_http
        except ImportError:
            self._http: Any = None
        else:
            self._http = etcd_http

    @property
    def where(self) -> int:
        """Which member answers."""
        return self._at

    def ask(self, due: float, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request; when it raises ``StoreUnavailable``, it may have been carried out.

        Raises ``Refused`` for what the cluster refuses to do, which then was not done; also
        ``ConfigError`` for a URL that cannot be read, ``UsageError`` without the extra.
        """
        wire = self._wire
        try:
            if wire is None:
                wire = self._wire = self._connected(due)
            return self._answered(wire, due, path, body, stream=False)
        except BaseException as error:
            if not isinstance(error, Refused):
                self._fail()
            raise self._explained(error) from None

    def listen(self, due: float, body: dict[str, Any]) -> Wire:
        """A watch, on a connection of its own, to the member that answers now.

        Raises as ``ask``.
        """
        wire = None
        try:
            wire = self._connected(due)
            self._answered(wire, due, "watch", {"create_request": body}, stream=True)
            return wire
        except BaseException as error:
            if wire is not None:
                wire.close()
            if not isinstance(error, Refused):
                self._fail()
            raise self._explained(error) from None

    def refusal(self, refused: Refused, keys: str = "") -> StoreUnavailable:
        """What it means for people; ``keys`` is what the keys begin with that it may be about."""
        return unavailable(self._url, str(refused), keys)

    def close(self) -> None:
        """Let go of the connection."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def _fail(self) -> None:
        self.close()
        if self._cluster is not None:
            self._at = (self._at + 1) % len(self._cluster.members)

    def _explained(self, error: BaseException) -> BaseException:
        if self._http is not None and isinstance(error, self._http.FAILURES):
            return unavailable(self._url, _reason(error))
        return error

    # ------------------------------------------------------------ members

    def _connected(self, due: float) -> Wire:
        """A connection to the member whose turn it is, or to the first after it that takes one."""
        if self._http is None:
            raise UsageError(
                "--lease-url: leases in etcd need a package that is not installed: "
                "run pip install 'guardrun[etcd]'"
            )
        if self._cluster is None:
            self._cluster = read(self._url)
        members = self._cluster.members
        for tried in range(len(members)):
            left = due - kernel.now()
            share = due - left * (1 - 1 / (len(members) - tried))
            try:
                wire: Wire = self._http.Wire(members[self._at], share)
                return wire
            except self._http.FAILURES:
                if tried == len(members) - 1 or kernel.now() >= due:
                    raise
                self._at = (self._at + 1) % len(members)
        raise AssertionError(members)

    def _answered(
        self, wire: Wire, due: float, path: str, body: dict[str, Any], stream: bool
    ) -> dict[str, Any]:
        if self._cluster is not None and self._cluster.login is not None and self._token is None:
            self._log_in(wire, due)
        send = wire.listen if stream else wire.ask
        said = send(due, f"/v3/{path}", body, self._token)
        if self._token is not None and any(word in _message(said) for word in _OLD_LOGIN):
            self._log_in(wire, due)
            said = send(due, f"/v3/{path}", body, self._token)
        return self._checked(said)

    def _log_in(self, wire: Wire, due: float) -> None:
        assert self._cluster is not None
        assert self._cluster.login is not None
        name, password = self._cluster.login
        self._token = None
        body = {"name": name, "password": password}
        said = self._checked(wire.ask(due, "/v3/auth/authenticate", body, None))
        self._token = str(said.get("token", ""))

    def _checked(self, said: Said) -> dict[str, Any]:
        """The answer of a member that can give one; another's is its failure, not the cluster's."""
        message = _message(said)
        if said.status == _OK and not message:
            self.clock = said.clock
            return said.body
        if said.status >= 500 or any(word in message for word in _MEMBERS):
            raise OSError(message or f"HTTP status {said.status}")
        raise Refused(message or f"HTTP status {said.status}")


def _message(said: Said) -> str:
    """What is wrong; empty where nothing is."""
    error = said.body.get("error")
    if isinstance(error, dict):
        return str(error.get("message", error))
    if error is None:
        return str(said.body.get("message", "")) if said.status != _OK else ""
    return str(error)


def _reason(error: BaseException) -> str:
    """Why a connection failed, without the driver's objects around it."""
    cause = getattr(error, "reason", None)
    if isinstance(cause, BaseException):
        return _reason(cause)
    strerror = getattr(error, "strerror", None)
    return str(strerror or error) or type(error).__name__


# ---------------------------------------------------------------- errors

_MEMBERS = ("no leader", "leader changed", "request timed out", "server stopped", "not capable")
"""what one member says, and another may not"""

_TRY_AGAIN = "check the cluster and the way to it, then try again"
_BUSY = "check that the server is not stopped or overloaded, and the way to it"
_REMEDIES = (
    ("in time", _BUSY),
    ("timed out", _BUSY),
    ("timeout", _BUSY),
    ("refused", "check that the server runs there, and its port"),
    ("name or service", "check the host's name and the resolver"),
    ("name resolution", "check the host's name and the resolver"),
    ("no such file", "check the files that cacert, cert and key in the URL name"),
    ("certificate", "check the server's certificate, its name, and cacert, cert in the URL"),
    ("ssl", "check whether the server speaks TLS (etcds://) or not (etcd://)"),
    ("closed connection", "check that it runs, and whether it speaks TLS (etcds://) or not"),
    ("commonname", "use a certificate without a common name: the login tells who we are"),
    ("no leader", "check that more than half of the cluster's members run, and see each other"),
    ("not found", "leases need etcd 3.4 or newer, with enable-grpc-gateway"),
    ("user name is empty", "authentication is on: put user and password into the URL"),
    ("authentication is not enabled", "take user and password out of the URL"),
    ("authentication failed", "check the user and the password in the URL"),
    ("invalid user", "check the user and the password in the URL"),
    ("permission denied", "give the user a role with readwrite on the prefix guardrun/"),
    ("space exceeded", "its space quota is used up: compact, defragment, then disarm the alarm"),
    ("too many requests", "it is overloaded: look at its disk"),
)
"""what an error says, in lower case: what to do; the first that fits"""


def unavailable(url: str, said: str, keys: str = "") -> StoreUnavailable:
    """What an error means for people: what, why, what to do; without any password."""
    said = " ".join(said.replace("etcdserver: ", "").split())[:_LONGEST_MESSAGE].rstrip(". ")
    cluster = read(url)
    if cluster.login is not None and cluster.login.password:
        said = said.replace(cluster.login.password, "***")
    look = said.lower()
    remedy = next((remedy for word, remedy in _REMEDIES if word in look), _TRY_AGAIN)
    about = f" ({keys})" if keys else ""
    return StoreUnavailable(f"the lease store {address(url)}: {said}{about}; {remedy}")
