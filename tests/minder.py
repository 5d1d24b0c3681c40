"""The parent of one test server: it starts it when told, and leaves nothing of it behind.

Run as a program, in a session of its own. The first line of stdin is the order (``Order``), every
later one a command; every line is answered by one on stdout. It ends, with the server and its
directory, when its owner has ended, however that came about, or by SIGTERM.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE = 5.0
"""seconds for a server to end at the end, before it is killed"""
_SHUTDOWN = 30.0
"""the same for one that shall start again"""

_libc = ctypes.CDLL(None, use_errno=True)


class Order(NamedTuple):
    """What to run, and for whom."""

    owner: int
    """the pid that it lives for"""
    directory: str
    """made at the start, removed at the end"""
    session: str
    """the one above it, when that is the session's: goes with the last server in it"""
    user: int | None
    """who the server runs as, when we are root"""
    group: int | None
    files: dict[str, str]
    """name in the directory: content"""
    prepare: list[list[str]]
    """command lines that come before the first start"""
    run: list[str]
    """the server's command line"""
    last: str
    """the signal that ends it at the end"""
    image: str = ""
    """run it in a container of this, by testcontainers"""
    inside: int = 0
    """its port in the container"""
    environment: dict[str, str] = {}  # noqa: RUF012  never changed
    """the container's"""


def _descendants(pid: int) -> Iterator[int]:
    """All processes below ``pid``, parents first."""
    waiting = [pid]
    while waiting:
        of = waiting.pop()
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{of}/task/{of}/children").read_text().split()
            waiting.extend(map(int, children))
            yield from map(int, children)


def _tell(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def _none_left(within: float) -> bool:
    """Reap until there is no child, adopted ones included: ECHILD is the kernel's own proof."""
    deadline = time.monotonic() + within
    while True:
        try:
            reaped, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if not reaped:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)


class Minder:
    """One server, from its directory's making to its removal."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.directory = Path(order.directory)
        self.server = 0

    def _spawn(self, words: list[str], **pipes: Any) -> subprocess.Popen[bytes]:
        rights: dict[str, Any] = {}
        if self.order.user is not None:
            rights = {"user": self.order.user, "group": self.order.group, "extra_groups": []}
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            cwd=self.directory,
            # A change of user clears it, so it is set after that, as preexec_fn is.
            preexec_fn=self._die_with_us,  # noqa: PLW1509  there are no threads
            **pipes,
            **rights,
        )

    def _die_with_us(self) -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.Signals[self.order.last])

    def prepare(self) -> dict[str, Any]:
        """Make the directory and what belongs there."""
        self.directory.mkdir(0o700)
        for name, content in self.order.files.items():
            path = self.directory / name
            path.touch(0o600)
            path.write_text(content)
        if self.order.user is not None:
            for path in (self.directory, *self.directory.iterdir()):
                os.chown(path, self.order.user, self.order.group or 0)
        for words in self.order.prepare:
            process = self._spawn(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said, _ = process.communicate()
            if process.returncode:
                return {"error": f"{words[0]}: {said.decode(errors='replace').strip()}"}
        return {}

    def start(self) -> dict[str, Any]:
        """Start the server; what an earlier one left is killed first."""
        self._clear(0)
        with (self.directory / "log").open("ab") as log:
            self.server = self._spawn(self.order.run, stdout=log, stderr=log).pid
        return {"pid": self.server}

    def stop(self, signum: str) -> dict[str, Any]:
        """End the server by this signal, and wait until nothing of it is left."""
        _tell(self.server, signal.Signals[signum])
        self._clear(_SHUTDOWN)
        self.server = 0
        return {}

    def _clear(self, patience: float) -> None:
        while not _none_left(patience):
            for pid in _descendants(os.getpid()):
                _tell(pid, signal.SIGKILL)

    def end(self) -> None:
        """End the server, also one that is stopped by SIGSTOP, and remove the directory."""
        if self.server:
            _tell(self.server, signal.Signals[self.order.last])
        for pid in _descendants(os.getpid()):
            _tell(pid, signal.SIGCONT)
        self._clear(_PATIENCE)
        shutil.rmtree(self.directory, ignore_errors=True)


class ContainerMinder:
    """The same for a server in a container; testcontainers has a reaper if we are killed."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.container: Any = None

    def prepare(self) -> dict[str, Any]:
        """Make the directory for what the session says of the server."""
        Path(self.order.directory).mkdir(0o700)
        return {}

    def start(self) -> dict[str, Any]:
        """Start the container; where its port is for us."""
        testcontainers = importlib.import_module("testcontainers.core.container")
        container = testcontainers.DockerContainer(self.order.image)
        container.with_envs(**self.order.environment).with_command(self.order.run)
        self.container = container.with_exposed_ports(self.order.inside).start()
        return {
            "pid": 0,
            "host": self.container.get_container_host_ip(),
            "port": int(self.container.get_exposed_port(self.order.inside)),
        }

    def stop(self, signum: str) -> dict[str, Any]:
        """Nobody stops a shared server."""
        return {"error": f"no {signum} for a container"}

    def end(self) -> None:
        """Remove container and directory."""
        if self.container is not None:
            self.container.stop()
        shutil.rmtree(self.order.directory, ignore_errors=True)


def _answer(answer: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(answer), flush=True)


def _serve(minder: Minder | ContainerMinder, pidfd: int) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(pidfd, selectors.EVENT_READ)
        _answer(minder.prepare())
        selector.register(sys.stdin, selectors.EVENT_READ)
        while not any(key.fd == pidfd for key, _ in selector.select()):
            match sys.stdin.readline().split():
                case ["start"]:
                    _answer(minder.start())
                case ["stop", signum]:
                    _answer(minder.stop(signum))
                case []:  # nobody gives orders any more; the owner may live on
                    selector.unregister(sys.stdin)


def main() -> None:
    """Mind one server."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    order = Order(**json.loads(sys.stdin.readline()))
    try:
        pidfd = os.pidfd_open(order.owner)
    except ProcessLookupError:
        return
    minder = ContainerMinder(order) if order.image else Minder(order)
    try:
        _serve(minder, pidfd)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        minder.end()
        # While the owner lives, its workers rely on the session's directory.
        if order.session and select.select([pidfd], [], [], 0)[0]:
            with contextlib.suppress(OSError):
                os.rmdir(order.session)


if __name__ == "__main__":
    main()
