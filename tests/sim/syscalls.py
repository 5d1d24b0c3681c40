"""The system calls that guardrun makes, answered by simulated hosts.

Each class stands for a module as guardrun's code sees it. What is not simulated is not there:
an ``AttributeError`` says so, and nothing of the real machine is ever touched.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any

from greenlet import GreenletExit

from .command import spawn
from .machine import File, Process, Program, World

_SIGINFO = 128
_PR_SET_CHILD_SUBREAPER = 36
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


def _calling() -> Program:
    program = current()
    program.step()
    return program


def _affording() -> Program:
    """The same, for a call that needs a descriptor or a process more."""
    program = _calling()
    if program.starved:
        program.starved = False
        program.run.faulted.add(program.role)
        raise OSError(errno.EMFILE, "Too many open files")
    return program


def _find(program: Program, pid: int) -> Process:
    found = program.host.processes.get(pid)
    if found is None:
        raise ProcessLookupError(errno.ESRCH, "No such process")
    return found


def _file(program: Program, fd: int) -> File:
    found = program.fds.get(fd)
    if found is None:
        raise OSError(errno.EBADF, "Bad file descriptor")
    return found


# ---------------------------------------------------------------- descriptors


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
        program = _calling()
        end = _file(program, self._fd)
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
        program = _calling()
        end = _file(program, self._fd)
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
        _calling().close(self._fd)


def _socketpair(family: int, kind: int) -> tuple[Socket, Socket]:  # noqa: ARG001
    program = _affording()
    one, other = SocketFile(), SocketFile()
    one.peer, other.peer = other, one
    return Socket(program.open(one)), Socket(program.open(other))


SOCKET = SimpleNamespace(
    socketpair=_socketpair,
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
        program = _calling()
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
        self._fd = _affording().open(self._file)

    def fileno(self) -> int:
        return self._fd

    def register(self, fd: int, events: int) -> None:
        assert events == select.EPOLLIN
        file = self._file.files[fd] = _file(_calling(), fd)
        file.pollers[self._file] = None

    def unregister(self, fd: int) -> None:
        _calling()
        self._file.files.pop(fd).pollers.pop(self._file)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        program = _calling()
        assert timeout == 0
        files = self._file.files.items()
        return [(fd, select.EPOLLIN) for fd, file in files if file.events(program)]

    def close(self) -> None:
        _calling().close(self._fd)


def open_socket(file: File) -> int:
    """socket(2), for a file that knows by itself what is said over it."""
    return _affording().open(file)


SELECT = SimpleNamespace(
    poll=Poll,
    epoll=Epoll,
    **{name: getattr(select, name) for name in ("POLLIN", "POLLOUT", "POLLHUP", "EPOLLIN")},
)


# ---------------------------------------------------------------- processes


def fork(body: Callable[[], object]) -> int:
    """kernel.fork."""
    program = _affording()
    role = {"be_backstop": "backstop", "be_warden": "warden"}.get(body.__name__, "keeper")
    return Program(program.host, program, program.run, role, body).pid


def detach(kept: frozenset[int]) -> None:
    """keeper.detach."""
    program = _calling()
    program.group, program.blocked = program.pid, ()
    program.ignored = _ALL
    program.close_all(but=kept)


def stat(pid: int) -> tuple[int, bytes]:
    """kernel.stat."""
    found = _calling().host.processes.get(pid)
    if found is None:
        return 0, b""
    state = b"Z" if found.dead else b"T" if found.stopped else b"S"
    return (1 if found.parent is None else found.parent.pid), state


def listed(pid: int) -> list[int]:
    """tree._listed."""
    found = _calling().host.processes.get(pid)
    return [] if found is None else list(found.children)


class _Os:
    P_PID, P_ALL = os.P_PID, os.P_ALL
    WEXITED, WSTOPPED, WNOHANG, WNOWAIT = os.WEXITED, os.WSTOPPED, os.WNOHANG, os.WNOWAIT
    CLD_EXITED = os.CLD_EXITED
    POSIX_SPAWN_DUP2 = os.POSIX_SPAWN_DUP2
    waitstatus_to_exitcode = staticmethod(os.waitstatus_to_exitcode)
    environ: Mapping[str, str] = MappingProxyType({})
    path = SimpleNamespace(exists=lambda path: path == "/proc/self/stat")

    def getpid(self) -> int:
        return current().pid

    def getppid(self) -> int:
        parent = _calling().parent
        return 1 if parent is None else parent.pid

    def _exit(self, status: int) -> None:
        program = _calling()
        program.die(status << 8)
        program.step()

    def urandom(self, size: int) -> bytes:
        return Now.world.rng.randbytes(size)

    def close(self, fd: int) -> None:
        program = _calling()
        _file(program, fd)
        program.close(fd)

    def read(self, fd: int, size: int) -> bytes:  # noqa: ARG002
        program = _calling()
        file = _file(program, fd)
        assert isinstance(file, SignalFile)
        taken = sorted(program.pending & file.signals)
        if not taken:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        program.pending -= file.signals
        return b"".join(
            struct.pack("=III", number, 0, 0).ljust(_SIGINFO, b"\0") for number in taken
        )

    def write(self, fd: int, data: bytes) -> int:
        program = _calling()
        assert fd == 2
        program.world.fault(program, RuntimeError(data.decode()))
        return len(data)

    def pidfd_open(self, pid: int) -> int:
        program = _affording()
        return program.open(PidFile(_find(program, pid)))

    def kill(self, pid: int, signum: int) -> None:
        program = _calling()
        _find(program, pid).signal(signum)
        program.step()

    def killpg(self, group: int, signum: int) -> None:
        program = _calling()
        members = [one for one in program.host.processes.values() if one.group == group]
        if not members:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        for member in members:
            member.signal(signum)
        program.step()

    def getpgid(self, pid: int) -> int:
        return _find(_calling(), pid).group

    def setpgid(self, pid: int, group: int) -> None:
        program = _calling()
        assert pid == 0 and group == 0
        program.group = program.pid

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        program = _calling()

        def look() -> Process | bool:
            mine = [one for one in program.children.values() if pid in (-1, one.pid)]
            if not mine:
                raise ChildProcessError(errno.ECHILD, "No child processes")
            return next((one for one in mine if one.dead), False)

        found = look()
        if not found and not options & os.WNOHANG:
            watched = [PidFile(one) for one in program.children.values() if pid in (-1, one.pid)]
            found = program.wait(look, watched)
        if not isinstance(found, Process):
            return 0, 0
        found.reaped()
        return found.pid, found.status

    def waitid(self, kind: int, pid: int, options: int) -> SimpleNamespace | None:
        program = _calling()
        assert options & os.WNOHANG
        mine = [one for one in program.children.values() if kind == os.P_ALL or one.pid == pid]
        if not mine:
            raise ChildProcessError(errno.ECHILD, "No child processes")
        for one in mine:
            if options & os.WEXITED and one.dead:
                assert options & os.WNOWAIT
                killed = one.status & 0x7F
                return SimpleNamespace(si_code=os.CLD_KILLED if killed else os.CLD_EXITED)
            if options & os.WSTOPPED and one.stopped and not one.stop_seen:
                one.stop_seen = True
                return SimpleNamespace(si_code=os.CLD_STOPPED)
        return None

    def posix_spawnp(
        self, _path: str, _argv: Sequence[str], env: Mapping[str, str], **how: Any
    ) -> int:
        caller = _calling()
        assert how["setpgroup"] == 0
        return spawn(caller, env).pid


_ALL = frozenset(map(int, signal.valid_signals()))


class _Signal:
    SIGTERM, SIGINT, SIGQUIT, SIGHUP = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP
    SIGKILL, SIGSTOP, SIGCONT, SIGCHLD = (
        *(signal.SIGKILL, signal.SIGSTOP),
        *(signal.SIGCONT, signal.SIGCHLD),
    )
    SIGPIPE, SIGXFSZ = signal.SIGPIPE, signal.SIGXFSZ
    SIG_SETMASK = signal.SIG_SETMASK

    def valid_signals(self) -> frozenset[int]:
        return _ALL

    def pthread_sigmask(self, how: int, signals: Collection[int]) -> None:
        assert how == signal.SIG_SETMASK
        _calling().blocked = frozenset(signals)

    def pidfd_send_signal(self, fd: int, signum: int) -> None:
        program = _calling()
        file = _file(program, fd)
        assert isinstance(file, PidFile)
        if file.process.pid not in program.host.processes:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        file.process.signal(signum)
        program.step()

    def sigtimedwait(self, signals: Collection[int], seconds: float) -> int | None:
        program = _calling()

        def look() -> int:
            return next(iter(program.pending & set(signals)), 0)

        found: int | None = program.wait(look, awake_due=program.host.awake() + seconds)
        if found:
            program.pending.discard(found)
        return found


class _Time:
    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME

    def time(self) -> float:
        return current().host.wall()

    def clock_gettime(self, clock: int) -> float:
        assert clock == time.CLOCK_BOOTTIME
        return current().host.boottime()


OS, SIGNAL, TIME = _Os(), _Signal(), _Time()


def call(name: str, *arguments: Any) -> int:
    """kernel._call: by ctypes on a real machine."""
    program = _affording() if name in ("timerfd_create", "signalfd") else _calling()
    if name == "timerfd_create":
        return program.open(TimerFile())
    if name == "timerfd_settime":
        fd, _, value, _ = arguments
        _, _, seconds, nanoseconds = value
        file = _file(program, fd)
        assert isinstance(file, TimerFile)
        file.set(program, seconds + nanoseconds / 1e9 if seconds or nanoseconds else float("inf"))
        return 0
    if name == "signalfd":
        _, mask, _ = arguments
        bits = int.from_bytes(mask.raw, sys.byteorder)
        return program.open(SignalFile([at + 1 for at in range(64) if bits >> at & 1]))
    assert name == "prctl" and arguments[0] == _PR_SET_CHILD_SUBREAPER
    program.subreaper = True
    return 0
