"""The TCP proxy that fails on purpose, as a process of its own: ``proxy.py`` starts and tells it.

It understands so much of PostgreSQL's frontend/backend protocol 3 that it knows which SQL a client
is about to have executed, and when the server has answered that. It knows no TLS. Of any other
protocol it understands nothing, and passes on whatever comes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_SSL_REQUEST = 80877103
_GSSENC_REQUEST = 80877104
_CANCEL_REQUEST = 80877102
_CHUNK = 256 * 1024
_MOST_WAITING = 1024 * 1024
"""bytes that wait in one direction before its source is not read any more"""

_ENDS_TRANSACTION = re.compile(r"\s*(COMMIT|END|ROLLBACK|ABORT)\b(?!.*\bTO\b)", re.I | re.S)
_COMMIT = re.compile(r"\s*(COMMIT|END)\b", re.I)


@dataclass
class Trap:
    """What shall happen to the connection whose SQL matches, the ``count``-th time."""

    pattern: re.Pattern[str]
    when: str
    """``before`` the server gets it, or ``after`` it has executed it"""
    count: int
    then: str
    """``cut``, ``refuse`` (and no new connections), ``blackhole`` (nothing passes any more)"""

    def springs(self, sql: str, newest: int) -> bool:
        """Whether it matches a transaction's SQL so far, with something from ``newest`` on."""
        if self.count and any(found.end() > newest for found in self.pattern.finditer(sql)):
            self.count -= 1
            return not self.count
        return False


@dataclass
class _Asked:
    """Something that the server answers: the end of a batch (Query, Sync), or one Execute in it."""

    ends: bool
    trapped: bool


@dataclass
class Conversation:
    """One connection's messages: no I/O, only what may pass and whether the trap has sprung."""

    trap: Trap | None = None
    commits: int = 0
    sprung: bool = False
    opaque: bool = False
    """TLS, a request to cancel, or another protocol: nothing there to understand"""
    _client: bytearray = field(default_factory=bytearray)
    _server: bytearray = field(default_factory=bytearray)
    _started: bool = False
    _plain_answers: int = 0
    """single bytes that the server owes for requests of encryption"""
    _statements: dict[bytes, str] = field(default_factory=dict)
    _portals: dict[bytes, str] = field(default_factory=dict)
    _asked: deque[_Asked] = field(default_factory=deque)
    _transaction: str = ""
    _withhold: bool = False

    def from_client(self, data: bytes) -> bytes:
        """What of it may pass to the server now; ``sprung`` says that nothing more may."""
        self._client += data
        passed = bytearray()
        while not self.sprung and (frame := self._next_from_client()):
            self._read_client(frame)
            if not self.sprung:
                passed += frame
        return bytes(passed)

    def from_server(self, data: bytes) -> bytes:
        """What of it may pass to the client now; ``sprung`` says that nothing more may."""
        self._server += data
        passed = bytearray()
        while not self.sprung and (frame := self._next_from_server()):
            self._read_server(frame)
            if not self.sprung and not self._withhold:
                passed += frame
        return bytes(passed)

    def _next_from_client(self) -> bytes:
        if self.opaque:
            return _take(self._client, len(self._client))
        if self._started:
            return _take_message(self._client)
        if len(self._client) < 4:
            return b""
        return _take(self._client, struct.unpack_from("!I", self._client)[0])

    def _next_from_server(self) -> bytes:
        if self.opaque:
            return _take(self._server, len(self._server))
        if self._plain_answers:
            return _take(self._server, 1)
        return _take_message(self._server)

    def _read_client(self, frame: bytes) -> None:
        if self.opaque:
            return
        if not self._started:
            (code,) = struct.unpack_from("!I", frame, 4)
            if code in (_SSL_REQUEST, _GSSENC_REQUEST):
                self._plain_answers += 1
            elif code == _CANCEL_REQUEST:
                self.opaque = True
            else:
                self._started = True
            return
        body = frame[5:]
        match frame[:1]:
            case b"Q":
                self._asked.append(_Asked(True, self._executes(_text(body))))
            case b"P":
                name, sql, _ = body.split(b"\0", 2)
                self._statements[name] = sql.decode(errors="replace")
            case b"B":
                portal, name, _ = body.split(b"\0", 2)
                self._portals[portal] = self._statements.get(name, "")
            case b"E":
                bound = self._portals.get(body.split(b"\0", 1)[0], "")
                self._asked.append(_Asked(False, self._executes(bound)))
            case b"S" | b"F":
                self._asked.append(_Asked(True, False))

    def _executes(self, sql: str) -> bool:
        """Note a statement; whether it is the one to be cut off after."""
        newest = len(self._transaction)
        self._transaction += sql + ";\n"
        springs = self.trap is not None and self.trap.springs(self._transaction, newest)
        if _COMMIT.match(sql):
            self.commits += 1
        if _ENDS_TRANSACTION.match(sql):
            self._transaction = ""
        if springs and self.trap is not None and self.trap.when == "before":
            self.sprung = True
        return springs

    def _read_server(self, frame: bytes) -> None:
        if self.opaque:
            return
        if self._plain_answers:
            self._plain_answers -= 1
            self.opaque = frame in (b"S", b"G")
            return
        if self._asked and self._asked[0].ends and self._asked[0].trapped:
            self._withhold = True
        match frame[:1]:
            case b"C" | b"I" | b"s":  # an Execute is answered by one of these, or by an error
                if self._asked and not self._asked[0].ends:
                    self._withhold |= self._asked.popleft().trapped
            case b"E":
                while self._asked and not self._asked[0].ends:
                    self._withhold |= self._asked.popleft().trapped
            case b"Z":
                while self._asked:
                    answered = self._asked.popleft()
                    self._withhold |= answered.trapped
                    if answered.ends:
                        break
                if frame[5:] == b"I" and not self._asked:
                    self._transaction = ""
                self.sprung = self._withhold
                return
        # Outside of a transaction block only the batch's end commits; where the client asked by
        # Flush, and sent no Sync yet, there is no end to wait for.
        self.sprung = self._withhold and not any(asked.ends for asked in self._asked)


def _take(buffer: bytearray, size: int) -> bytes:
    if len(buffer) < size:
        return b""
    taken = bytes(buffer[:size])
    del buffer[:size]
    return taken


def _take_message(buffer: bytearray) -> bytes:
    if len(buffer) < 5:
        return b""
    return _take(buffer, 1 + struct.unpack_from("!I", buffer, 1)[0])


def _text(body: bytes) -> str:
    return body.rstrip(b"\0").decode(errors="replace")


@dataclass
class _Flow:
    """One direction of a connection."""

    name: str
    source: socket.socket
    sink: socket.socket
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    """(when it may pass, bytes)"""
    ended: bool = False
    """the source sends no more"""
    shut: bool = False

    def add(self, data: bytes, due: float) -> None:
        if data:
            self.waiting.append((due, data))

    @property
    def size(self) -> int:
        return sum(len(data) for _, data in self.waiting)


class _Link:
    """A client, its connection to the server, and what they say."""

    def __init__(self, client: socket.socket, server: socket.socket, talk: Conversation) -> None:
        self.client = client
        self.server = server
        self.up = _Flow("to_server", client, server)
        self.down = _Flow("to_client", server, client)
        self.talk = talk

    def reset(self) -> None:
        """Close both ends by RST, as a firewall or a dead host's successor does."""
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()


class Process:
    """The proxy: one loop, told by lines on stdin, which ends with them."""

    def __init__(self, port: int, upstream: str, upstream_port: int, opaque: bool) -> None:
        self.opaque = opaque
        self.port = port
        self.upstream = upstream
        self.upstream_port = upstream_port
        self.listener: socket.socket | None = None
        self.links: list[_Link] = []
        self.lost: list[_Link] = []
        """open, but what the trap swallowed is missing in them: they can't go on"""
        self.trap: Trap | None = None
        self.held: set[str] = set()
        self.lag = {"to_server": 0.0, "to_client": 0.0}
        self.opened = 0
        self.commits = 0
        self.fired = 0

    # What it can be told. Every answer is sent when the fault is there.

    def accept(self) -> None:
        """Listen (again)."""
        if self.listener is None:
            self.listener = socket.socket()
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind(("127.0.0.1", self.port))
            self.listener.listen(512)
            self.listener.setblocking(False)

    def refuse(self) -> None:
        """Refuse new connections; those that are there stay."""
        if self.listener is not None:
            for client in self._arrived():
                _Link(client, socket.socket(), Conversation()).reset()
            self.listener.close()
            self.listener = None

    def cut(self) -> None:
        """Reset all connections, also those that nobody has taken up yet."""
        for client in self._arrived():
            self.opened += 1
            _Link(client, socket.socket(), Conversation()).reset()
        for link in (*self.links, *self.lost):
            self._forget(link)

    def blackhole(self, direction: str) -> None:
        """Let nothing pass, in one direction or in both."""
        self.held |= {direction} if direction != "both" else {"to_server", "to_client"}

    def resume(self) -> None:
        """Let everything pass again, also what waited."""
        self.held.clear()
        for link in self.lost:
            self._forget(link)

    def delay(self, seconds: float, direction: str) -> None:
        """Let everything pass so much later, in one direction or in both."""
        self.lag |= dict.fromkeys(self.lag if direction == "both" else (direction,), seconds)

    def cut_at(self, pattern: str, when: str, count: int, then: str) -> None:
        """Set the trap."""
        self.trap = Trap(re.compile(pattern, re.I | re.S), when, count, then)
        for link in self.links:
            link.talk.trap = self.trap

    def stats(self) -> dict[str, int]:
        """What there was so far."""
        return {
            "opened": self.opened,
            "open": len(self.links) + len(self.lost),
            "commits": self.commits + sum(link.talk.commits for link in (*self.links, *self.lost)),
            "fired": self.fired,
        }

    # The loop.

    def run(self) -> None:
        """Answer and pass on until stdin ends."""
        commands = bytearray()
        while True:
            ready = self._wait()
            for link in list(self.links):
                self._move(link, ready)
            if self.listener is not None and self.listener.fileno() in ready and not self.held:
                for client in self._arrived():
                    self._connect(client)
            if 0 in ready:
                data = os.read(0, 65536)
                if not data:
                    return
                commands += data
                while b"\n" in commands:
                    line, _, commands = commands.partition(b"\n")
                    self._obey(json.loads(line))

    def _obey(self, command: dict[str, Any]) -> None:
        name = command.pop("do")
        answer = getattr(self, name)(**command)
        print(json.dumps(answer), flush=True)

    def _wait(self) -> dict[int, int]:
        now = time.monotonic()
        events: dict[int, int] = {0: select.POLLIN}
        nearest: float | None = None
        if self.listener is not None and not self.held:
            events[self.listener.fileno()] = select.POLLIN
        for flow in self._flows():
            if flow.name in self.held:
                continue
            if not flow.ended and flow.size < _MOST_WAITING:
                events[flow.source.fileno()] = events.get(flow.source.fileno(), 0) | select.POLLIN
            if flow.waiting:
                due = flow.waiting[0][0]
                if due <= now:
                    sink = flow.sink.fileno()
                    events[sink] = events.get(sink, 0) | select.POLLOUT
                else:
                    nearest = due if nearest is None else min(nearest, due)
        poll = select.poll()
        for descriptor, mask in events.items():
            poll.register(descriptor, mask)
        timeout = None if nearest is None else max(0.0, nearest - now) * 1000 + 1
        return dict(poll.poll(timeout))

    def _flows(self) -> Iterator[_Flow]:
        for link in self.links:
            yield link.up
            yield link.down

    def _arrived(self) -> Iterator[socket.socket]:
        while self.listener is not None:
            try:
                client, _ = self.listener.accept()
            except BlockingIOError:
                return
            yield client

    def _connect(self, client: socket.socket) -> None:
        self.opened += 1
        family = socket.AF_UNIX if self.upstream.startswith("/") else socket.AF_INET
        server = socket.socket(family)
        link = _Link(client, server, Conversation(self.trap, opaque=self.opaque))
        for end in (client, server):
            end.setblocking(False)
            if end.family != socket.AF_UNIX:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address: Any = (self.upstream, self.upstream_port)
        if family == socket.AF_UNIX:
            address = f"{self.upstream}/.s.PGSQL.{self.upstream_port}"
        if server.connect_ex(address) in (0, errno.EINPROGRESS):
            self.links.append(link)
        else:
            link.reset()

    def _forget(self, link: _Link) -> None:
        link.reset()
        self.commits += link.talk.commits
        self.links = [other for other in self.links if other is not link]
        self.lost = [other for other in self.lost if other is not link]

    def _move(self, link: _Link, ready: dict[int, int]) -> None:
        try:
            self._read(link.up, ready, link)
            self._read(link.down, ready, link)
            self._write(link.up)
            self._write(link.down)
        except OSError:
            self._forget(link)
            return
        if link.talk.sprung:
            self._fire(link)
        elif link.up.shut and link.down.shut:
            self._forget(link)

    def _read(self, flow: _Flow, ready: dict[int, int], link: _Link) -> None:
        if flow.ended or flow.name in self.held or link.talk.sprung:
            return
        if not ready.get(flow.source.fileno(), 0) & (select.POLLIN | select.POLLHUP):
            if ready.get(flow.source.fileno(), 0) & select.POLLERR:
                flow.source.recv(1)
            return
        with contextlib.suppress(BlockingIOError):
            data = flow.source.recv(_CHUNK)
            flow.ended = not data
            talk = link.talk
            passed = talk.from_client(data) if flow is link.up else talk.from_server(data)
            flow.add(passed, time.monotonic() + self.lag[flow.name])

    def _write(self, flow: _Flow) -> None:
        if flow.name in self.held:
            return
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            while flow.waiting and flow.waiting[0][0] <= now:
                due, data = flow.waiting.popleft()
                rest = data
                try:
                    rest = data[flow.sink.send(data) :]
                finally:
                    if rest:
                        flow.waiting.appendleft((due, rest))
        if flow.ended and not flow.waiting and not flow.shut:
            flow.shut = True
            flow.sink.shutdown(socket.SHUT_WR)

    def _fire(self, link: _Link) -> None:
        assert self.trap is not None
        self.fired += 1
        then, self.trap = self.trap.then, None
        for other in self.links:
            other.talk.trap = None
        if then == "blackhole":
            self.blackhole("both")
            self.links.remove(link)
            self.lost.append(link)
            return
        if then == "refuse":
            self.refuse()
        self._forget(link)


def main() -> None:
    """Be a proxy: PORT UPSTREAM UPSTREAM_PORT PROTOCOL."""
    port, upstream, upstream_port, protocol = sys.argv[1:]
    process = Process(int(port), upstream, int(upstream_port), protocol != "postgresql")
    try:
        process.accept()
    except OSError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    print(json.dumps(None), flush=True)
    process.run()


if __name__ == "__main__":
    main()
