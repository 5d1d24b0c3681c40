"""The system calls that guardrun makes, answered by simulated hosts.

Each class stands for a module as guardrun's code sees it. What is not simulated is not there:
an ``AttributeError`` says so, and nothing of the real machine is ever touched.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any

from .command import spawn
from .descriptors import (
    Now,
    PidFile,
    SignalFile,
    TimerFile,
    affording,
    calling,
    current,
    find,
    opened,
)
from .machine import Process, Program

_SIGINFO = 128
_PR_SET_CHILD_SUBREAPER = 36


# ---------------------------------------------------------------- processes


def fork(body: Callable[[], object]) -> int:
    """kernel.fork."""
    program = affording()
    role = {"be_backstop": "backstop", "be_warden": "warden"}.get(body.__name__, "keeper")
    return Program(program.host, program, program.run, role, body).pid


def detach(kept: frozenset[int]) -> None:
    """keeper.detach."""
    program = calling()
    program.group, program.blocked = program.pid, ()
    program.ignored = _ALL
    program.close_all(but=kept)


def stat(pid: int) -> tuple[int, bytes]:
    """kernel.stat."""
    found = calling().host.processes.get(pid)
    if found is None:
        return 0, b""
    state = b"Z" if found.dead else b"T" if found.stopped else b"S"
    return (1 if found.parent is None else found.parent.pid), state


def listed(pid: int) -> list[int]:
    """tree._listed."""
    found = calling().host.processes.get(pid)
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
        parent = calling().parent
        return 1 if parent is None else parent.pid

    def _exit(self, status: int) -> None:
        program = calling()
        program.die(status << 8)
        program.step()

    def urandom(self, size: int) -> bytes:
        return Now.world.rng.randbytes(size)

    def close(self, fd: int) -> None:
        program = calling()
        opened(program, fd)
        program.close(fd)

    def read(self, fd: int, size: int) -> bytes:  # noqa: ARG002
        program = calling()
        file = opened(program, fd)
        assert isinstance(file, SignalFile)
        taken = sorted(program.pending & file.signals)
        if not taken:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        program.pending -= file.signals
        return b"".join(
            struct.pack("=III", number, 0, 0).ljust(_SIGINFO, b"\0") for number in taken
        )

    def write(self, fd: int, data: bytes) -> int:
        program = calling()
        assert fd == 2
        program.world.fault(program, RuntimeError(data.decode()))
        return len(data)

    def pidfd_open(self, pid: int) -> int:
        program = affording()
        return program.open(PidFile(find(program, pid)))

    def kill(self, pid: int, signum: int) -> None:
        program = calling()
        find(program, pid).signal(signum)
        program.step()

    def killpg(self, group: int, signum: int) -> None:
        program = calling()
        members = [one for one in program.host.processes.values() if one.group == group]
        if not members:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        for member in members:
            member.signal(signum)
        program.step()

    def getpgid(self, pid: int) -> int:
        return find(calling(), pid).group

    def setpgid(self, pid: int, group: int) -> None:
        program = calling()
        assert pid == 0 and group == 0
        program.group = program.pid

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        program = calling()

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
        program = calling()
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
        caller = calling()
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
        calling().blocked = frozenset(signals)

    def pidfd_send_signal(self, fd: int, signum: int) -> None:
        program = calling()
        file = opened(program, fd)
        assert isinstance(file, PidFile)
        if file.process.pid not in program.host.processes:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        file.process.signal(signum)
        program.step()

    def sigtimedwait(self, signals: Collection[int], seconds: float) -> int | None:
        program = calling()

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
    program = affording() if name in ("timerfd_create", "signalfd") else calling()
    if name == "timerfd_create":
        return program.open(TimerFile())
    if name == "timerfd_settime":
        fd, _, value, _ = arguments
        file = opened(program, fd)
        assert isinstance(file, TimerFile)
        file.set(program, _due(value))
        return 0
    if name == "timer_create":
        return 0  # a process has one
    if name == "timer_settime":
        _, _, value, _ = arguments
        program.burn(_due(value))
        return 0
    if name == "signalfd":
        _, mask, _ = arguments
        bits = int.from_bytes(mask.raw, sys.byteorder)
        return program.open(SignalFile([at + 1 for at in range(64) if bits >> at & 1]))
    assert name == "prctl" and arguments[0] == _PR_SET_CHILD_SUBREAPER
    program.subreaper = True
    return 0


def _due(value: Sequence[int]) -> float:
    """The moment in a struct itimerspec."""
    _, _, seconds, nanoseconds = value
    return seconds + nanoseconds / 1e9 if seconds or nanoseconds else float("inf")
