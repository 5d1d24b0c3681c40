"""Descriptors of simulated processes: timers, signals, sockets, polls; and who is calling."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

from greenlet import GreenletExit

from .machine import File, Process, Program
from .world import World

_FULL = 200
"""packets in one direction of a socket; then who sends waits"""


class Now:
    """The world that is being simulated."""

    world: World


def current() -> Program:
    """The process that makes this call; it may not come back from it."""
    program = Now.world.current
    assert program is not None
    if Now.world.closed:
        raise GreenletExit
    return program


def calling() -> Program:
    program = current()
    program.step()
    return program


def affording() -> Program:
    """The same, for a call that needs a descriptor or a process more."""
    program = calling()
    if program.starved:
        program.starved = False
        program.run.faulted.add(program.role)
        raise OSError(errno.EMFILE, "Too many open files")
    return program


def find(program: Program, pid: int) -> Process:
    found = program.host.processes.get(pid)
    if found is None:
        raise ProcessLookupError(errno.ESRCH, "No such process")
    return found


def opened(program: Program, fd: int) -> File:
    found = program.fds.get(fd)
    if found is None:
        raise OSError(errno.EBADF, "Bad file descriptor")
    return found


class TimerFile(File):
    """timerfd on CLOCK_BOOTTIME."""

    def __init__(self) -> None:
        super().__init__()
        self._due = float("inf")
        self._armed = 0

    def set(self, program: Program, due: float) -> None:
        self._due = due
        self._armed += 1
        if due != float("inf"):
            world = program.world
            world.at(program.host.when(due), self._fire, world, self._armed)

    def _fire(self, world: World, armed: int) -> None:
        if armed == self._armed:
            self.notify(world)

    def events(self, process: Process) -> int:
        return select.POLLIN if process.host.boottime() >= self._due else 0


class SignalFile(File):
    """signalfd: what is pending for whoever looks at it."""

    def __init__(self, signals: Collection[int]) -> None:
        super().__init__()
        self.signals = frozenset(signals)

    def events(self, process: Process) -> int:
        return select.POLLIN if process.pending & self.signals else 0


class PidFile(File):
    """pidfd."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process
        process.watchers.append(self)

    def events(self, process: Process) -> int:  # noqa: ARG002
        return select.POLLIN if self.process.dead else 0


class SocketFile(File):
    """One end of a socket pair of packets."""

    def __init__(self) -> None:
        super().__init__()
        self.peer: SocketFile
        self.packets: list[bytes] = []
        self.reset = False
        """the peer was closed with packets of ours unread: said once"""
        self.open = True

    def events(self, process: Process) -> int:  # noqa: ARG002
        found = select.POLLIN if self.packets or self.reset else 0
        return found if self.peer.open else found | select.POLLIN | select.POLLHUP

    def closed(self) -> None:
        self.open = False
        self.peer.reset = bool(self.packets)
        self.peer.notify(Now.world)
        for waiting in tuple(self.waiters):
            Now.world.wake(waiting)


class Socket:
    """What ``socketpair`` returns; which process has it open is the processes' business."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def sendmsg(
        self, buffers: Sequence[bytes], ancillary: Sequence[Any] = (), flags: int = 0
    ) -> None:
        assert not ancillary, "leases and remote claims have no descriptors"
        program = calling()
        end = opened(program, self._fd)
        assert isinstance(end, SocketFile)
        peer = end.peer
        if len(peer.packets) >= _FULL and peer.open:
            if flags & socket.MSG_DONTWAIT:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            program.wait(lambda: len(peer.packets) < _FULL or not peer.open, (peer,))
        if not peer.open:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        peer.packets.append(b"".join(buffers))
        peer.notify(program.world)

    def recvmsg(self, size: int, ancillary: int, flags: int) -> tuple[bytes, list[Any], int, None]:  # noqa: ARG002
        program = calling()
        end = opened(program, self._fd)
        assert isinstance(end, SocketFile)
        program.wait(lambda: end.events(program), (end,))
        if end.reset:
            end.reset = False
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        if not end.packets:
            return b"", [], 0, None
        packet = end.packets.pop(0)
        if len(end.packets) == _FULL - 1:
            end.notify(program.world)
        return packet, [], 0, None

    def close(self) -> None:
        calling().close(self._fd)


def socketpair(family: int, kind: int) -> tuple[Socket, Socket]:  # noqa: ARG001
    program = affording()
    one, other = SocketFile(), SocketFile()
    one.peer, other.peer = other, one
    return Socket(program.open(one)), Socket(program.open(other))


SOCKET = SimpleNamespace(
    socketpair=socketpair,
    **{
        name: getattr(socket, name)
        for name in (
            *("AF_UNIX", "SOCK_SEQPACKET", "SOL_SOCKET", "SCM_RIGHTS"),
            *("CMSG_SPACE", "MSG_CTRUNC", "MSG_CMSG_CLOEXEC", "MSG_DONTWAIT"),
        )
    },
)


class Poll:
    """select.poll."""

    def __init__(self) -> None:
        self._wanted: dict[int, int] = {}

    def register(self, fd: int, events: int = 0) -> None:
        self._wanted[fd] = events

    def unregister(self, fd: int) -> None:
        del self._wanted[fd]

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        program = calling()
        table = program.fds
        entries = [
            (fd, table.get(fd), events | select.POLLHUP) for fd, events in self._wanted.items()
        ]

        def check() -> list[tuple[int, int]]:
            found = []
            for fd, file, events in entries:
                if file is None:
                    found.append((fd, select.POLLNVAL))
                elif told := file.events(program) & events:
                    found.append((fd, told))
            return found

        if timeout == 0:
            return check()
        due = None if timeout is None else program.host.awake() + timeout / 1000
        files = [file for _, file, _ in entries if file is not None]
        found: list[tuple[int, int]] = program.wait(check, files, awake_due=due) or []
        return found


class EpollFile(File):
    """Readable when one of its files is."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[int, File] = {}

    def events(self, process: Process) -> int:
        ready = any(file.events(process) for file in self.files.values())
        return select.POLLIN if ready else 0


class Epoll:
    """select.epoll."""

    def __init__(self) -> None:
        self._file = EpollFile()
        self._fd = affording().open(self._file)

    def fileno(self) -> int:
        return self._fd

    def register(self, fd: int, events: int) -> None:
        assert events == select.EPOLLIN
        file = self._file.files[fd] = opened(calling(), fd)
        file.pollers[self._file] = None

    def unregister(self, fd: int) -> None:
        calling()
        self._file.files.pop(fd).pollers.pop(self._file)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        program = calling()
        assert timeout == 0
        files = self._file.files.items()
        return [(fd, select.EPOLLIN) for fd, file in files if file.events(program)]

    def close(self) -> None:
        calling().close(self._fd)


def open_socket(file: File) -> int:
    """socket(2), for a file that knows by itself what is said over it."""
    return affording().open(file)


SELECT = SimpleNamespace(
    poll=Poll,
    epoll=Epoll,
    **{name: getattr(select, name) for name in ("POLLIN", "POLLOUT", "POLLHUP", "EPOLLIN")},
)
