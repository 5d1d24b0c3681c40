"""The way to an etcd cluster by its JSON gateway.

What is refused for an old login is asked once more with a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardrun.locks import gateway
from guardrun.locks.etcd_url import read
from guardrun.locks.gateway import Members, Refused

if TYPE_CHECKING:
    from guardrun.errors import StoreUnavailable
    from guardrun.locks.etcd_url import Cluster
    from guardrun.locks.json_http import Said, Wire
    from guardrun.locks.members import Place

__all__ = ["Gateway", "Refused", "unavailable"]

_OK = 200

_NOT_ETCD = "no answer of etcd's"
_OLD_LOGIN = ("invalid auth token", "revision of auth store is old", "revision in header is old")
"""a member that was started again knows none; rights that were changed make all of them old"""


class Gateway:
    """A cluster, with at most one connection, made when it is needed.

    ``clock`` is what the member that answered last has for the time, in s since 1970.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._cluster: Cluster | None = None
        self._members = Members("etcd", self._read, lambda said: unavailable(url, said))
        self._token: str | None = None
        self.clock: float | None = None

    @property
    def where(self) -> int:
        """Which member answers."""
        return self._members.at

    def ask(self, due: float, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request; when it raises ``StoreUnavailable``, it may have been carried out.

        Raises ``Refused`` for what the cluster refuses to do, which then was not done; also
        ``ConfigError`` for a URL that cannot be read, ``UsageError`` without the extra.
        """
        return self._members.call(due, lambda wire: self._answered(wire, due, path, body))

    def listen(self, due: float, body: dict[str, Any]) -> Wire:
        """A watch, on a connection of its own, to the member that answers now.

        Raises as ``ask``.
        """
        create = {"create_request": body}
        return self._members.begin(
            due, lambda wire: self._answered(wire, due, "watch", create, stream=True)
        )

    def refusal(self, refused: Refused, keys: str = "") -> StoreUnavailable:
        """What it means for people; ``keys`` is what the keys begin with that it may be about."""
        return unavailable(self._url, str(refused), keys)

    def close(self) -> None:
        """Let go of the connection."""
        self._members.close()

    def _read(self) -> tuple[Place, ...]:
        self._cluster = read(self._url)
        return self._cluster.members

    # ------------------------------------------------------------ one member

    def _answered(
        self, wire: Wire, due: float, path: str, body: dict[str, Any], stream: bool = False
    ) -> dict[str, Any]:
        if self._cluster is not None and self._cluster.login is not None and self._token is None:
            self._log_in(wire, due)
        try:
            return self._checked(self._send(wire, due, path, body, stream))
        except Refused as refused:
            if self._token is None or not any(word in str(refused) for word in _OLD_LOGIN):
                raise
            self._log_in(wire, due)
            return self._checked(self._send(wire, due, path, body, stream))

    def _send(self, wire: Wire, due: float, path: str, body: object, stream: bool) -> Said:
        send = wire.listen if stream else wire.ask
        headers = {} if self._token is None else {"Authorization": self._token}
        return send(due, "POST", f"/v3/{path}", body, headers)

    def _log_in(self, wire: Wire, due: float) -> None:
        assert self._cluster is not None
        assert self._cluster.login is not None
        name, password = self._cluster.login
        self._token = None
        body = {"name": name, "password": password}
        said = self._checked(self._send(wire, due, "auth/authenticate", body, stream=False))
        self._token = str(said.get("token", ""))

    def _checked(self, said: Said) -> dict[str, Any]:
        """The answer of a member that can give one; another's is its failure, not the cluster's."""
        body = _body(said)
        message = _message(said.status, body)
        if said.status == _OK and not message:
            if "header" not in body:  # every answer of etcd's has one
                raise OSError(_NOT_ETCD)
            self.clock = said.clock
            return body
        if said.status >= 500 or any(word in message for word in _MEMBERS):
            raise OSError(message or f"HTTP status {said.status}")
        raise Refused(message or f"HTTP status {said.status}")


def _body(said: Said) -> dict[str, Any]:
    """What a JSON object says; of a stream's message what is in its envelope."""
    try:
        body = said.json()
    except ValueError:  # a proxy, or another server altogether
        return {} if said.status == _OK else {"error": said.text.decode("utf-8", "replace")}
    if not isinstance(body, dict):
        return {}
    result = body.get("result", body)
    return result if isinstance(result, dict) else body


def _message(status: int, body: dict[str, Any]) -> str:
    """What is wrong; empty where nothing is."""
    error = body.get("error")
    if isinstance(error, dict):
        return str(error.get("message", error))
    if error is None:
        return str(body.get("message", "")) if status != _OK else ""
    return str(error)


# ---------------------------------------------------------------- errors

_MEMBERS = ("no leader", "leader changed", "request timed out", "server stopped", "not capable")
"""what one member says, and another may not"""

_REMEDIES = (
    ("commonname", "use a certificate without a common name: the login tells who we are"),
    (_NOT_ETCD, "check that an etcd of version 3.4 or newer answers there"),
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
    """What an error means for people, and what keys it is about; without any password."""
    login = read(url).login
    said = said.replace("etcdserver: ", "")
    return gateway.unavailable(url, said, _REMEDIES, login and login.password, keys)
