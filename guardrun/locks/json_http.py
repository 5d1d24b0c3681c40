"""One HTTP connection to one member of a cluster that speaks JSON: urllib3, every wait bounded.

urllib3 does HTTP and TLS; its pool, its retries and its limits, which count each read anew, are not
used. Needs the extra ``etcd`` or ``consul``: imported only where a URL asks for it.
"""

from __future__ import annotations

import json
import socket
import time
from calendar import timegm
from collections.abc import Mapping
from email.utils import parsedate
from http.client import BadStatusLine, HTTPException, RemoteDisconnected
from typing import TYPE_CHECKING, Any, NamedTuple

from guardrun import kernel
from guardrun.locks.bounded import Bounded, dial
from guardrun.locks.lean_urllib3 import HTTPConnection, HTTPError, HTTPSConnection

if TYPE_CHECKING:
    from guardrun.locks.members import Place

_MOST = 65536
"""bytes that are read at once"""
_ALMOST = 0.999999
"""s"""
_NONE: Mapping[str, str] = {}


class Overdue(Exception):
    """The answer did not come in time."""


FAILURES = (Overdue, HTTPError, HTTPException, OSError, UnicodeError, ValueError)
"""whatever a connection may raise; each is its end. Those of http.client urllib3 translates
in its pool alone"""


class Said(NamedTuple):
    """What a member answers."""

    status: int
    text: bytes
    headers: Mapping[str, str]
    clock: float | None
    """s since 1970 by its own clock, which tells whole ones; within that second by ours"""

    def json(self) -> Any:
        """What the text says. Raises ``ValueError``: it is a proxy's, or another server's."""
        return json.loads(self.text)


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
        self._sock: Any = None
        """the last request's: http.client lets go of one that is to be closed after its answer"""
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

    def ask(
        self,
        due: float,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] = _NONE,
    ) -> Said:
        """One request and its whole answer."""
        self.send(due, method, path, body, headers)
        answer = self._answer()
        return _said(answer, answer.data)

    def listen(
        self, due: float, method: str, path: str, body: object, headers: Mapping[str, str]
    ) -> Said:
        """Begin a stream: its first line. What follows makes ``fileno`` readable."""
        self.send(due, method, path, body, headers, whole=False)
        answer = self._stream = self._answer()
        text = b""
        while b"\n" not in text and (more := answer.read1(_MOST)):
            text += more
        return _said(answer, text)

    def send(
        self,
        due: float,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] = _NONE,
        whole: bool = True,
    ) -> None:
        """One request, whose answer makes ``fileno`` readable."""
        self._made.due = due
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        self._made.request(method, path, data, {**kind, **headers}, preload_content=whole)
        self._sock = self._made.sock

    def _answer(self) -> Any:
        try:
            return self._made.getresponse()
        except RemoteDisconnected:
            raise
        except BadStatusLine:  # its text is whatever the server has said
            raise OSError("no HTTP is spoken there") from None

    def fileno(self) -> int:
        """Readable when the member says something."""
        return int(self._sock.fileno())

    def overheard(self) -> bool:
        """Whether more of a stream came with what was read of it, or it has broken since."""
        try:
            return self._stream is not None and bool(self._sock.buffered().strip())
        except OSError:
            return True

    def take(self) -> bytes | None:
        """Read what has come in, without waiting; ``None`` at its end."""
        taken: bytes | None = self._sock.take()
        return taken

    def close(self) -> None:
        """Let go of it."""
        self._made.close()
        if self._stream is not None:
            self._stream.close()


def _said(answer: Any, text: bytes) -> Said:
    return Said(answer.status, text, answer.headers, _clock(answer.headers.get("Date")))


def _clock(date: str | None) -> float | None:
    parsed = parsedate(date) if date else None
    if parsed is None:
        return None
    second = timegm(parsed)
    return min(max(time.time(), second), second + _ALMOST)
