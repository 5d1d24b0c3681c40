"""One HTTP connection to one member of an etcd cluster: urllib3, with every wait bounded.

urllib3 does HTTP and TLS; its pool, its retries and its limits, which count each read anew, are not
used. Needs the extra ``etcd``: imported only where a URL asks for it.
"""

from __future__ import annotations

import json
import socket
import time
from calendar import timegm
from email.utils import parsedate
from typing import TYPE_CHECKING, Any, NamedTuple

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from guardrun import kernel
from guardrun.locks.bounded import Bounded, dial

if TYPE_CHECKING:
    from guardrun.locks.etcd_url import Place

_MOST = 65536
"""bytes that are read at once"""
_ALMOST = 0.999999
"""s"""


class Overdue(Exception):
    """The answer did not come in time."""


FAILURES = (Overdue, HTTPError, OSError, UnicodeError, ValueError)
"""whatever a connection may raise; each is its end"""


class Said(NamedTuple):
    """What a member answers."""

    status: int
    body: dict[str, Any]
    clock: float | None
    """s since 1970 by its own clock, which tells whole ones; within that second by ours"""


class _Timed:
    """What makes a connection of urllib3's one whose every wait ends at ``due``."""

    due: float
    host: str
    port: int
    sock: Any

    def left(self) -> float:
        """Seconds until ``due``. Raises ``Overdue``."""
        left = self.due - kernel.now()
        if left <= 0:
            raise Overdue("no answer in time")
        return left

    def _new_conn(self) -> socket.socket:
        # A TLS handshake is bounded by the socket's own limit, which is set here.
        return dial(self.host, self.port, self.left)

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock = Bounded(self.sock, self.left)


class _Plain(_Timed, HTTPConnection):
    pass


class _Tls(_Timed, HTTPSConnection):
    pass


class Wire:
    """The connection; whatever goes wrong with it is its end."""

    def __init__(self, place: Place, due: float) -> None:
        self._made: Any
        self._stream: Any = None
        """an answer that goes on: it must not be collected before the connection"""
        if place.tls is None:
            self._made = _Plain(place.host, place.port)
        else:
            self._made = _Tls(
                place.host,
                place.port,
                cert_reqs="CERT_REQUIRED",
                ca_certs=place.tls.cacert,
                cert_file=place.tls.cert,
                key_file=place.tls.key,
            )
        self._made.due = due
        try:
            self._made.connect()
        except BaseException:
            self._made.close()
            raise

    def ask(self, due: float, path: str, body: dict[str, Any], token: str | None) -> Said:
        """One request and its whole answer; of a stream the first message is the body."""
        answer = self._send(due, path, body, token, whole=True)
        text: bytes = answer.data
        return Said(answer.status, _body(text), _clock(answer.headers.get("Date")))

    def listen(self, due: float, path: str, body: dict[str, Any], token: str | None) -> Said:
        """Begin a stream: its first message. What follows makes ``fileno`` readable."""
        answer = self._stream = self._send(due, path, body, token, whole=False)
        text = b""
        while b"\n" not in text and (more := answer.read1(_MOST)):
            text += more
        return Said(answer.status, _body(text), _clock(answer.headers.get("Date")))

    def _send(
        self, due: float, path: str, body: dict[str, Any], token: str | None, whole: bool
    ) -> Any:
        self._made.due = due
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = token
        data = json.dumps(body, separators=(",", ":")).encode()
        self._made.request("POST", path, data, headers, preload_content=whole)
        return self._made.getresponse()

    def fileno(self) -> int:
        """Readable when the member says something."""
        return int(self._made.sock.fileno())

    def overheard(self) -> bool:
        """Whether more of a stream came with what was read of it."""
        return bool(self._made.sock.buffered().strip())

    def take(self) -> bytes | None:
        """Read what has come in, without waiting; ``None`` at its end."""
        taken: bytes | None = self._made.sock.take()
        return taken

    def close(self) -> None:
        """Let go of it."""
        self._made.close()


def _body(text: bytes) -> dict[str, Any]:
    """What a JSON object says; of a stream's message what is in its envelope."""
    try:
        said = json.loads(text)
    except ValueError:  # a proxy, or another server altogether
        return {"error": text.decode("utf-8", "replace")}
    if not isinstance(said, dict):
        return {"error": "no answer of etcd's"}
    result = said.get("result", said)
    return result if isinstance(result, dict) else said


def _clock(date: str | None) -> float | None:
    parsed = parsedate(date) if date else None
    if parsed is None:
        return None
    second = timegm(parsed)
    return min(max(time.time(), second), second + _ALMOST)
