"""The way to Consul by its HTTP API: what is asked, of which agent, and what its errors mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

from guardrun.locks import gateway
from guardrun.locks.consul_url import read, token
from guardrun.locks.gateway import Members, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardrun.errors import StoreUnavailable
    from guardrun.locks.json_http import Said, Wire
    from guardrun.locks.members import Place

_FINE = (200, 409)
"""409: a transaction's conditions are not met"""
_REFUSED = ("invalid session", "Invalid Session")
"""what is not the agent's fault, although it says 500"""
_HANDED_ON = "rpc error making call: "
"""before what a server has said to the agent that was asked, or to a server that does not lead"""


class Answer(NamedTuple):
    """What Consul says."""

    status: int
    body: Any
    """``None``: there is nothing of the kind"""
    changed: int
    """to wait for changes from"""


class Http:
    """Some agents, with at most one connection, made when it is needed.

    ``clock`` is what the agent that answered last had for the time, in s since 1970.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._token: str | None = None
        self._where: dict[str, str] = {}
        self._members = Members("consul", self._read, self.unavailable)
        self.clock: float | None = None

    @property
    def where(self) -> int:
        """Which agent answers."""
        return self._members.at

    def ask(
        self,
        due: float,
        method: str,
        path: str,
        body: object = None,
        **parameters: str,
    ) -> Answer:
        """One request; when it raises ``StoreUnavailable``, it may have been carried out.

        Raises ``Refused`` for what Consul refuses to do, which then was not done; also
        ``ConfigError`` for a URL or token that cannot be read, ``UsageError`` without the extra.
        """

        def answered(wire: Wire) -> Answer:
            said = wire.ask(due, method, self._path(path, parameters), body, self._headers())
            answer = _answer(said, path)
            self.clock = said.clock
            return answer

        return self._members.call(due, answered)

    def listen(self, due: float, path: str, **parameters: str) -> Wire:
        """A read that Consul answers later, on a connection of its own.

        Raises as ``ask``.
        """
        return self._members.begin(
            due,
            lambda wire: wire.send(due, "GET", self._path(path, parameters), None, self._headers()),
        )

    def unavailable(self, said: str, keys: str = "") -> StoreUnavailable:
        """What an error means for people; ``keys`` is what those begin with that it is about."""
        secret = self._token or read(self._url).token
        return gateway.unavailable(self._url, said, _REMEDIES, secret, keys)

    def close(self) -> None:
        """Let go of the connection."""
        self._members.close()

    def _read(self) -> tuple[Place, ...]:
        agents = read(self._url)
        self._where = agents.where
        return agents.members

    def _headers(self) -> dict[str, str]:
        self._token = token(self._url)
        return {} if self._token is None else {"X-Consul-Token": self._token}

    def _path(self, path: str, parameters: Mapping[str, str]) -> str:
        query = urlencode({**parameters, **self._where})
        return f"/v1/{quote(path)}" + (f"?{query}" if query else "")


def _answer(said: Said, path: str) -> Answer:
    """What an answer says. Raises ``Refused``, for an agent's own failure ``OSError``."""
    index = said.headers.get("X-Consul-Index", "")
    if said.status == 404 and (index or path.startswith("session/renew/")):
        return Answer(said.status, None, int(index or 0))
    message = " ".join(said.text.decode("utf-8", "replace").split()).replace(_HANDED_ON, "")
    if said.status in _FINE:
        try:
            answer = Answer(said.status, said.json(), int(index or 0))
        except ValueError:
            raise OSError(_NOT_CONSUL) from None
        if not _is_consuls(path, answer.body):
            raise OSError(_NOT_CONSUL)
        return answer
    if said.status >= 500 and not message.startswith(_REFUSED):
        raise OSError(message or f"HTTP status {said.status}")
    raise Refused(message or f"HTTP status {said.status}")


def _is_consuls(path: str, body: Any) -> bool:
    """Whether it has the shape of an answer to that; another server's has not."""
    name = _HOLDS.get(path)
    if name is not None:
        return isinstance(body, dict) and name in body
    return isinstance(body, list | bool) or not path.startswith(("kv/", "session/"))


_HOLDS = {"txn": "Results", "session/create": "ID"}
_NOT_CONSUL = "no answer of Consul's"

_REMEDIES = (
    ("no cluster leader", "check that more than half of its servers run, and see each other"),
    ("no known consul servers", "check that the agent has joined, and that a server runs"),
    ("acl not found", "this Consul does not know the token, or not any more"),
    ("permission denied", "give the token key_prefix guardrun/ write, and session_prefix write"),
    ("namespaces are", "take the namespace out of the URL"),
    ("no path to datacenter", "check the datacenter in the URL"),
    ("invalid session", "try again: the session that Consul gave us has been ended by hand"),
    ("too many requests", "raise the agent's limits, or let fewer runs wait on this host"),
    ("malformed http", "check that a Consul is there, and speaks TLS (consuls://) or not"),
    ("http status", "check that a Consul of version 1.8 or later answers there"),
    ("no answer of", "check that a Consul of version 1.8 or later answers there"),
)
