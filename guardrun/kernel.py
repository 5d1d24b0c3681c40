"""The few Linux calls that Python 3.11 has no name for.

``ctypes`` (3 ms) rather than a compiled extension: the wheel stays pure Python. Every wrapper
raises ``OSError`` as the calls of ``os`` do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from guardrun.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_CLOEXEC = os.O_CLOEXEC
_NONBLOCK = os.O_NONBLOCK
_TIMER_ABSTIME = 1
"""the same for timerfd_settime(2) and timer_settime(2)"""
_SIGEVENT_SIZE = 64
_SIGEV_SIGNAL = 0
_SIGINFO_SIZE = 128
_SI_KERNEL = 0x80

CLOCK_BOOTTIME = time.CLOCK_BOOTTIME

_libc = ctypes.CDLL(None, use_errno=True)


def now() -> float:
    """Read CLOCK_BOOTTIME, in seconds: it goes on during suspend, and nobody can set it."""
    return time.clock_gettime(CLOCK_BOOTTIME)


def _call(name: str, *arguments: object) -> int:
    call = getattr(_libc, name, None)
    if call is None:  # before glibc 2.34 that is where timer_create is
        call = getattr(ctypes.CDLL("librt.so.1", use_errno=True), name)
    result: int = call(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _prctl(option: int, value: int) -> None:
    _call("prctl", option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3)


def fork(body: Callable[[], object]) -> int:
    """Fork a process that does ``body`` and nothing else; return its pid.

    It ends with status 0, or with 1 where ``body`` raises; nothing of the caller's goes on in it.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    return pid


def become_subreaper() -> None:
    """Become the parent of every orphan below this process; prctl(2), kept by no child."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that forked this process ends; ``parent`` is its pid.

    Only for helpers that hold nothing: the signal is not inherited by their children.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before prctl
        os._exit(0)


def leave_no_core() -> None:
    """Make the next fatal signal write no core file: COMMAND has already written its own."""
    _prctl(_PR_SET_DUMPABLE, 0)


def stat(pid: int) -> tuple[int, bytes]:
    """A process's parent and its state's letter; (0, b"") when it is gone or can't be read."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0, b""
    return int(fields[1]), fields[0]


def parent(pid: int) -> int:
    """The parent of ``pid``; 0 when there is no such process."""
    return stat(pid)[0]


def ancestors() -> frozenset[int]:
    """The processes around this one."""
    found: list[int] = []
    pid = os.getppid()
    while pid > 0 and pid not in found:
        found.append(pid)
        pid = parent(pid)
    return frozenset(found)


class Signal(NamedTuple):
    """A signal that came in."""

    number: int
    by_kernel: bool
    """What a terminal sends, the kernel sends, and always to its whole foreground group."""


class SignalFd:
    """Signals as something to poll for; block them first, and unblock them in what is spawned.

    Not handlers and a wakeup descriptor: only signalfd(2) says who sent a signal.
    """

    def __init__(self, signals: Iterable[int]) -> None:
        mask = ctypes.create_string_buffer(128)
        _libc.sigemptyset(mask)
        for signum in signals:
            _libc.sigaddset(mask, signum)
        self.fd = _call("signalfd", -1, mask, _CLOEXEC | _NONBLOCK)

    def read(self) -> list[Signal]:
        """What has come in since the last call."""
        try:
            data = os.read(self.fd, 32 * _SIGINFO_SIZE)
        except BlockingIOError:
            return []
        return [
            Signal(
                number=int.from_bytes(data[at : at + 4], sys.byteorder),
                by_kernel=int.from_bytes(data[at + 8 : at + 12], sys.byteorder) == _SI_KERNEL,
            )
            for at in range(0, len(data), _SIGINFO_SIZE)
        ]


class Timer:
    """One moment on CLOCK_BOOTTIME as something to poll for.

    The timeout of poll(2) itself stops during suspend, and would fire late after it.
    """

    def __init__(self) -> None:
        self.fd = _call("timerfd_create", CLOCK_BOOTTIME, _CLOEXEC | _NONBLOCK)
        self._due = float("inf")

    def set(self, due: float) -> None:
        """Become readable at ``due``; never, when that is infinite."""
        if due == self._due:
            return
        self._due = due
        _call("timerfd_settime", self.fd, _TIMER_ABSTIME, _expiry(due), None)


class Fuse:
    """One moment on CLOCK_BOOTTIME from which on this process does nothing more.

    The kernel kills it then, also when it is stopped, and before it comes to run again. A look at a
    clock before an act cannot do that: a process can be stopped between the two. No child has it.
    """

    def __init__(self) -> None:
        event = ctypes.create_string_buffer(_SIGEVENT_SIZE)  # sigval, signo, notify
        fields = (ctypes.c_int * 2).from_buffer(event, ctypes.sizeof(ctypes.c_void_p))
        fields[0], fields[1] = signal.SIGKILL, _SIGEV_SIGNAL
        self._timer = ctypes.c_void_p()
        _call("timer_create", CLOCK_BOOTTIME, event, ctypes.byref(self._timer))

    def set(self, due: float) -> None:
        """Be killed at ``due``; never, when that is infinite."""
        _call("timer_settime", self._timer, _TIMER_ABSTIME, _expiry(due), None)


def _expiry(due: float) -> ctypes.Array[ctypes.c_long]:
    """A struct itimerspec for ``due``; what disarms a timer, when that is infinite."""
    if due == float("inf"):
        seconds, nanoseconds = 0, 0
    else:
        seconds, nanoseconds = divmod(max(int(due * 1e9), 1), 1_000_000_000)
    return (ctypes.c_long * 4)(0, 0, seconds, nanoseconds)
