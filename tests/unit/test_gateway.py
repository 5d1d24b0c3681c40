"""What stands where a member of a cluster should be, or before one."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from guardrun import kernel
from guardrun.errors import StoreUnavailable
from guardrun.locks import consul_session, etcd_session
from guardrun.locks.consul_watch import Target, Watches

ABORT = struct.pack("ii", 1, 0)
"""close(2) sends a reset then"""
HTTP = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}"


@contextlib.contextmanager
def answering(text: str, breaks: threading.Event | None = None) -> Iterator[int]:
    """A server that says this to whoever says something, and ends the connection; its port.

    With ``breaks`` not before that, and by a reset.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    made, _ = server.accept()
                    with made:
                        made.recv(65536)
                        made.sendall(text.encode())
                        if breaks is not None:
                            breaks.wait(10)
                            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SSH-2.0-OpenSSH_9.2\r\n", "no HTTP is spoken there"),
        *((HTTP.format(len(one), one), "no answer of") for one in ("{}", "[]", "null", "hello")),
    ],
    ids=["ssh", "object", "list", "null", "text"],
)
@pytest.mark.parametrize("scheme", ["etcd", "consul"])
def test_another_server(scheme: str, text: str, says: str) -> None:
    """It is its own failure, in words: the next question goes to the next member."""
    with answering(text) as port, answering(text) as other:
        url = f"{scheme}://127.0.0.1:{port},127.0.0.1:{other}"
        session = {"etcd": etcd_session, "consul": consul_session}[scheme].Session(url)
        with contextlib.closing(session), pytest.raises(StoreUnavailable, match=says):
            session.signs("lock", kernel.now() + 5)
        assert session.where == 1


def test_a_stream_after_which_the_connection_is_closed() -> None:
    """A proxy that keeps no connection passes a watch on all the same, and its end is noticed."""
    first = '{"result":{"header":{"revision":"1"},"created":true}}\n'
    head = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with (
        answering(f"{head}{len(first):x}\r\n{first}\r\n") as port,
        contextlib.closing(etcd_session.Session(f"etcd://127.0.0.1:{port}")) as session,
        contextlib.closing(session.listen(kernel.now() + 5, "lock", {})) as wire,
    ):
        assert not wire.overheard()
        select.select([wire], [], [])
        assert wire.take() is None


def test_a_stream_that_breaks_right_after_its_beginning() -> None:
    """That is something to ask again for, and no fault of ours."""
    first = '{"result":{"header":{"revision":"1"},"created":true}}\n'
    said = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{len(first):x}\r\n{first}"
    with (
        answering(said, breaks := threading.Event()) as port,
        contextlib.closing(etcd_session.Session(f"etcd://127.0.0.1:{port}")) as session,
        contextlib.closing(session.listen(kernel.now() + 5, "lock", {})) as wire,
    ):
        breaks.set()
        select.select([wire], [], [])
        assert wire.overheard()
        assert wire.take() is None


def test_a_watch_that_is_refused() -> None:
    """It is not begun anew at once: who waits would ask without end a server that has too much."""
    text = "HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\n\r\n"
    with (
        answering(text) as port,
        contextlib.closing(consul_session.Session(f"consul://127.0.0.1:{port}")) as session,
        contextlib.closing(Watches(session)) as watches,
    ):
        watches.begin("t", Target("k", False), 7, kernel.now() + 5)
        while (fd := watches.fileno()) is not None:
            select.select([fd], [], [])
            watches.drain()
        assert not watches.begin("t", Target("k", False), 7, kernel.now() + 5)
        assert watches.fileno() is None
        watches.begin("t", Target("k", False), 8, kernel.now() + 5)
        assert watches.fileno() is not None
