"""Sockets whose every wait ends when told, also when the server is frozen; no signals, no threads.

For drivers that know only the limits of a socket: those count each read anew, by a clock that
stands still during suspend.
"""

from __future__ import annotations

import io
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_WAIT = 1.0
"""s; a socket's own clock stands still during suspend"""


class Bounded:
    """A socket as drivers use it; ``left`` tells the seconds that there are, or raises."""

    def __init__(self, sock: socket.socket, left: Callable[[], float]) -> None:
        self._sock = sock
        self._left = left
        self._patient = True
        self._open_streams = 0
        self._closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def settimeout(self, seconds: float | None) -> None:
        """Ours are the only limits."""

    def recv(self, *arguments: Any) -> bytes:
        return self._received(self._sock.recv, *arguments)  # type: ignore[no-any-return]

    def recv_into(self, *arguments: Any) -> int:
        return self._received(self._sock.recv_into, *arguments)  # type: ignore[no-any-return]

    def sendall(self, data: Any) -> None:
        self._sock.settimeout(self._left())
        self._sock.sendall(data)

    def makefile(self, *_mode: Any) -> io.BufferedReader[Any]:
        """A stream to read from, as http.client wants it."""
        self._stream = io.BufferedReader(_Stream(self))
        self._open_streams += 1
        return self._stream

    def close(self) -> None:
        """Close it as sockets do: what a stream still has to read can be read.

        http.client does so before it reads an answer after which the server closes.
        """
        self._closed = True
        if not self._open_streams:
            self._sock.close()

    def stream_closed(self) -> None:
        """A stream is done with it."""
        self._open_streams -= 1
        if self._closed:
            self.close()

    def buffered(self) -> bytes:
        """What the stream has read ahead, or could without waiting; it stays there."""
        self._patient = False
        try:
            return self._stream.peek()
        finally:
            self._patient = True

    def read_into(self, buffer: Any) -> int | None:
        """Read for the stream; ``None``: nothing has come, and we do not wait."""
        if self._patient:
            return self.recv_into(buffer)
        self._sock.settimeout(0)
        try:
            return self._sock.recv_into(buffer)
        except _NOTHING_MORE:
            return None

    def take(self) -> bytes | None:
        """Read all there is without waiting; ``None`` at the end of the stream."""
        self._sock.settimeout(0)
        data = b""
        try:
            while more := self._sock.recv(65536):
                data += more
        except _NOTHING_MORE:
            return data
        except OSError:
            pass
        return None

    def _received(self, receive: Any, *arguments: Any) -> Any:
        while True:
            self._sock.settimeout(min(self._left(), _LONGEST_WAIT))
            try:
                return receive(*arguments)
            except TimeoutError:
                pass


class _Stream(io.RawIOBase):
    def __init__(self, bounded: Bounded) -> None:
        self._bounded = bounded

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return self._bounded.read_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._bounded.stream_closed()


_NOTHING_MORE: tuple[type[OSError], ...] = (BlockingIOError,)
try:
    import ssl

    _NOTHING_MORE += (ssl.SSLWantReadError, ssl.SSLWantWriteError)
except ImportError:  # the drivers say what that means for TLS
    pass


def dial(host: str, port: int, left: Callable[[], float]) -> socket.socket:
    """Connect by TCP, with what is left of the time shared among a name's addresses."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = OSError("the name has no address")
    for number, (family, kind, protocol, _, where) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.settimeout(left() / (len(found) - number))
            sock.connect(where)
            sock.settimeout(left())
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure
