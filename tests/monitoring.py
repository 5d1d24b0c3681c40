"""What the tests of metrics and monitors share: Prometheus' tool, and a monitor to be pinged."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from support import eventually


def promtool() -> str:
    """Where promtool is; skips where it is not, but not in CI."""
    found = shutil.which("promtool")
    if found is None:
        assert not os.environ.get("CI"), "promtool is not installed"
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    return found


class Call(NamedTuple):
    """One request that came in."""

    method: str
    path: str
    """with its query"""
    body: bytes
    authorization: str | None
    at: float
    """on CLOCK_BOOTTIME"""


@dataclass
class Monitor:
    """An HTTP server of the test's own; ``behaviour`` says how it answers from now on."""

    behaviour: str = "answer"
    """``answer``, ``fail`` (500), ``refuse`` (404), ``hang`` or ``reset``"""
    calls: list[Call] = field(default_factory=list)
    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Where a job's own check is."""
        return f"{self.scheme}://{self.host}:{self.port}/ping/secret-check"

    def paths(self, number: int) -> list[str]:
        """The paths of the first so many calls, once they have come."""
        eventually(lambda: len(self.calls) >= number, what="the monitor is called")
        return [call.path for call in self.calls]


@contextlib.contextmanager
def monitor(certified: Path | None = None) -> Iterator[Monitor]:
    """Run one for as long as the block lasts; by TLS, with a certificate from that directory."""
    made = Monitor()

    class Handler(BaseHTTPRequestHandler):
        def _take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            authorization = self.headers.get("Authorization")
            at = time.clock_gettime(time.CLOCK_BOOTTIME)
            made.calls.append(Call(self.command, self.path, body, authorization, at))
            if made.behaviour == "hang":
                made.released.wait(60)
            if made.behaviour in ("hang", "reset"):
                self.close_connection = True
                return
            status = {"answer": 200, "fail": 500, "refuse": 404}[made.behaviour]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"OK")

        do_GET = do_POST = _take

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.port = server.server_address[1]
    if certified is not None:
        made.scheme, made.host = "https", "localhost"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certified / "cert", certified / "key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.released.set()
        server.shutdown()
        server.server_close()
