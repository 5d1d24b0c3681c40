"""A TCP proxy that fails on purpose, in front of a server: connections cut, refused, silent, late.

It is a process of its own (``proxy_process.py``). When a method returns, the fault is there.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from servers import at_port, endpoint, free_port


class Stats(NamedTuple):
    """What a proxy has seen so far."""

    opened: int
    """connections, also those that are closed"""
    open: int
    commits: int
    """COMMITs that clients sent"""
    fired: int
    """how often ``cut_at`` did its work"""


@dataclass
class Proxy:
    """One proxy; its faults last until it is told otherwise."""

    port: int
    process: subprocess.Popen[str]

    @classmethod
    @contextlib.contextmanager
    def start(cls, host: str, port: int, protocol: str = "postgresql") -> Iterator[Proxy]:
        """Run a proxy on 127.0.0.1, in front of that server; a host ``/…`` is a socket's place.

        ``cut_at``, and the commits of ``stats``, are for PostgreSQL's protocol alone.
        """
        proxy = cls._launch(host, port, protocol)
        try:
            yield proxy
        finally:
            proxy.process.communicate()

    @classmethod
    def before(cls, url: str) -> contextlib.AbstractContextManager[Proxy]:
        """The same, in front of the server of a URL, which is by TCP if it is not a Postgres."""
        scheme = url.partition(":")[0]
        if scheme == "postgresql":
            return cls.start(*endpoint(url))
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        return cls.start(parts.hostname, parts.port, scheme)

    @classmethod
    def _launch(cls, host: str, port: int, protocol: str) -> Proxy:
        for _ in range(5):  # somebody else may take the port between our look and its bind
            own = free_port()
            program = str(Path(__file__).with_name("proxy_process.py"))
            process = subprocess.Popen(
                [sys.executable, program, str(own), host, str(port), protocol],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            assert process.stdout is not None
            answer = json.loads(process.stdout.readline())
            if answer is None:
                return cls(own, process)
            process.communicate()
        raise RuntimeError(f"the proxy did not start: {answer['error']}")

    def _tell(self, do: str, **words: object) -> dict[str, int] | None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **words}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, int] | None = json.loads(self.process.stdout.readline())
        return answer

    def url_for(self, url: str) -> str:
        """The same URL, through the proxy."""
        return at_port(url, self.port)

    def cut(self) -> None:
        """Reset all connections now; new ones are taken."""
        self._tell("cut")

    def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        self._tell("refuse")

    def accept(self) -> None:
        """Take new connections again."""
        self._tell("accept")

    def blackhole(self, direction: Literal["to_server", "to_client", "both"] = "both") -> None:
        """Let nothing pass: connections stay, new ones are made, but nothing is answered."""
        self._tell("blackhole", direction=direction)

    def resume(self) -> None:
        """Let everything pass again, also what waited."""
        self._tell("resume")

    def delay(
        self, seconds: float, direction: Literal["to_server", "to_client", "both"] = "both"
    ) -> None:
        """Let everything pass so many seconds later, in one direction or in each."""
        self._tell("delay", seconds=seconds, direction=direction)

    def cut_at(
        self,
        pattern: str,
        when: Literal["before", "after"],
        count: int = 1,
        then: Literal["cut", "refuse", "blackhole"] = "cut",
    ) -> None:
        """Reset a connection at a statement: before the server has it, or after it is executed.

        ``pattern`` is looked for in all SQL of the transaction so far (case is ignored, ``.``
        matches line ends), and has to reach into its newest statement: ``insert into keys.*commit``
        is the COMMIT of a transaction with that statement. The ``count``-th time, over all
        connections, springs the trap, once. "After" means that the server's answer to the whole
        batch, up to Sync, was there, and did not get to the client. ``then`` does more than
        ``cut``: with ``refuse`` new connections are refused as well, with ``blackhole`` nothing
        passes any more, on any connection.
        """
        self._tell("cut_at", pattern=pattern, when=when, count=count, then=then)

    def stats(self) -> Stats:
        """What it has seen so far."""
        return Stats(**self._tell("stats") or {})
