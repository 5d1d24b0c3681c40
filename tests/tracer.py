"""Runs guardrun as a debugger does, and kills one of its processes just before its n-th I/O step.

    python tests/tracer.py REPORT ROLE N PROGRAM [ARG]...

``ROLE`` is one of ``ROLES``; with ``N`` 0 nobody is killed. Ends when nothing is left of what was
started, however it hid: the kernel says so, because every process below is traced. ``REPORT`` gets
one JSON object: ``code`` of the supervisor (as of subprocess), ``struck`` (the step that was not
taken, or null), and ``steps`` by role. Nothing of the program is changed, wrapped or linked: a
seccomp(2) filter stops it at the calls in ``STEPS``, and whoever is killed in such a stop has not
made the call.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import struct
import sys
from dataclasses import dataclass, field

from guardrun import kernel

STEPS = {
    # What is left behind on a disk, in the order and as far as it got there.
    "openat": "with O_CREAT: a file is made",
    "write": "a file's content, a log line, a byte in a pipe",
    "pwrite64": "SQLite's log, index and database, and a lock's sidecar",
    "ftruncate": "a sidecar or SQLite's index gets its length",
    "fsync": "what was written is on the disk",
    "fdatasync": "likewise",
    "rename": "an outcome appears in the spool, whole",
    "renameat": "likewise",
    "renameat2": "likewise",
    "unlink": "an outcome leaves the spool",
    "unlinkat": "likewise",
    "mkdir": "a state directory, a lock directory or a spool is made",
    "mkdirat": "likewise",
    "chmod": "such a directory, or a file in it, becomes its user's alone",
    "fchmod": "likewise",
    "fchmodat": "likewise",
    # What others are kept out by.
    "flock": "a host lock is taken or given up",
    "fcntl": "with a lock: SQLite's own locks, and the liveness bytes",
    # What other processes and servers hear; a receipt counts because a socket that is closed with
    # something unread in it looks different from the other end.
    "connect": "a server hears of us",
    "sendto": "a statement or command goes to a server",
    "sendmsg": "one of guardrun's processes is told something, or given descriptors",
    "recvfrom": "a server's answer is taken",
    "recvmsg": "the word of one of guardrun's processes is taken",
    # Who lives.
    "clone": "a process is started",
    "clone3": "likewise",
    "fork": "likewise",
    "vfork": "likewise",
    "kill": "a process is ended",
    "pidfd_send_signal": "likewise",
    "exit_group": "the last thing that a process does",
}
"""Every call that counts as an I/O step, and why: it changes what is there after the process's
death, or what somebody else knows by then."""

SIGNS = ("setsid", "prctl")
"""By these a child of the supervisor shows what it is; they are no steps."""

ROLES = ("supervisor", "keeper", "backstop", "warden", "host")
"""``host``: everything is killed at once, when the supervisor comes to its n-th step."""

_NUMBERS = {
    "x86_64": """
        openat 257, write 1, pwrite64 18, ftruncate 77, fsync 74, fdatasync 75, rename 82,
        renameat 264, renameat2 316, unlink 87, unlinkat 263, mkdir 83, mkdirat 258, chmod
        90, fchmod 91, fchmodat 268, flock 73, fcntl 72, connect 42, sendto 44, sendmsg 46,
        recvfrom 45, recvmsg 47, clone 56, clone3 435, fork 57, vfork 58, kill 62,
        pidfd_send_signal 424, exit_group 231, setsid 112, prctl 157
    """,
    "aarch64": """
        openat 56, write 64, pwrite64 68, ftruncate 46, fsync 82, fdatasync 83, renameat 38,
        renameat2 276, unlinkat 35, mkdirat 34, fchmod 52, fchmodat 53, flock 32, fcntl 25,
        connect 203, sendto 206, sendmsg 211, recvfrom 207, recvmsg 212, clone 220, clone3
        435, kill 129, pidfd_send_signal 424, exit_group 94, setsid 157, prctl 167
    """,
}
"""From the kernel's syscall tables; a call that an architecture lacks is not in its line."""

PATIENCE = 90
"""s that all of it may take; then the tracer dies, and the kernel kills what it traces"""

_SEIZE, _CONT, _LISTEN, _SYSCALL_INFO = 0x4206, 7, 0x4208, 0x420E
_FORK, _VFORK, _CLONE, _SECCOMP, _STOP = 1, 2, 3, 7, 128
_OPTIONS = 1 << _FORK | 1 << _VFORK | 1 << _CLONE | 1 << _SECCOMP | 1 << 20  # PTRACE_O_EXITKILL
_ALL_CHILDREN = 0x40000000  # __WALL
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_LOCKS = (6, 7, 37, 38)  # F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def calls() -> dict[int, str]:
    """The numbers on this machine of all calls that are looked at."""
    pairs = (pair.split() for pair in _NUMBERS[platform.machine()].split(","))
    return {int(number): name for name, number in pairs}


def _ptrace(request: int, pid: int, address: int = 0, data: object = 0) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request:#x}: {os.strerror(number)}")


def _filter() -> bytes:
    """A BPF program that stops what it guards at the calls in question: seccomp(2)."""
    load, equal, any_bit, answer = 0x20, 0x15, 0x45, 0x06
    trace, allow = struct.pack("=HBBI", answer, 0, 0, 0x7FF00000), (answer, 0, 0, 0x7FFF0000)
    numbers = {name: number for number, name in calls().items()}
    open_at, control = numbers.pop("openat"), numbers.pop("fcntl")
    program = struct.pack("=HBBI", load, 0, 0, 0)
    for number in numbers.values():
        program += struct.pack("=HBBI", equal, 0, 1, number) + trace
    program += struct.pack("=HBBI", equal, 0, 4, open_at)
    program += struct.pack("=HBBI", load, 0, 0, 16 + 8 * 2)
    program += struct.pack("=HBBI", any_bit, 0, 1, os.O_CREAT) + trace
    program += struct.pack("=HBBI", *allow)
    program += struct.pack("=HBBI", equal, 0, 1 + 2 * len(_LOCKS), control)
    program += struct.pack("=HBBI", load, 0, 0, 16 + 8 * 1)
    for command in _LOCKS:
        program += struct.pack("=HBBI", equal, 0, 1, command) + trace
    return program + struct.pack("=HBBI", *allow)


def _become(words: list[str], seized: int) -> None:
    """Wait until we are traced, put the filter on, and become the program."""
    os.read(seized, 1)
    os.close(seized)
    program = _filter()
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
    no_new_privileges, seccomp, with_filter = 38, 22, 2
    zero = ctypes.c_ulong(0)
    if _libc.prctl(no_new_privileges, ctypes.c_ulong(1), zero, zero, zero) < 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if _libc.prctl(seccomp, ctypes.c_ulong(with_filter), head, zero, zero) < 0:
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")
    os.execvp(words[0], words)


@dataclass
class Tracer:
    """One traced guardrun, and whom of it to kill at which step."""

    role: str
    at: int
    supervisor: int
    roles: dict[int, str] = field(default_factory=dict)
    """of every process that is not reaped; a child of the supervisor has none until it shows it"""
    steps: dict[str, list[str]] = field(default_factory=dict)
    struck: str | None = None
    code: int | None = None

    def watch(self) -> None:
        """Let it run until nothing is left of it."""
        names = calls()
        self.roles[self.supervisor] = "supervisor"
        while True:
            try:
                pid, status = os.waitpid(-1, _ALL_CHILDREN)
            except ChildProcessError:
                return
            if not os.WIFSTOPPED(status):
                self.roles.pop(pid, None)
                if pid == self.supervisor:
                    self.code = os.waitstatus_to_exitcode(status)
                continue
            try:
                self._stopped(pid, status >> 16, os.WSTOPSIG(status), names)
            except ProcessLookupError:  # it has been killed meanwhile
                pass

    def _stopped(self, pid: int, event: int, signum: int, names: dict[int, str]) -> None:
        if event == _SECCOMP:
            info = (ctypes.c_uint64 * 11)()
            _ptrace(_SYSCALL_INFO, pid, ctypes.sizeof(info), info)
            if self._strikes(pid, names[info[3]], info[4]):
                return
        elif event == _STOP and signum == signal.SIGTRAP:
            if pid not in self.roles and not self._is_born(pid):
                return
        elif event == _STOP:
            _ptrace(_LISTEN, pid)
            return
        _ptrace(_CONT, pid, 0, 0 if event else signum)

    def _is_born(self, pid: int) -> bool:
        """See a process stop at its birth; whether it may live.

        Not from its parent's ptrace events: a parent that is killed while it forks has none.
        """
        of = self.roles.get(kernel.parent(pid), "")
        self.roles[pid] = {"supervisor": "", "backstop": "warden"}.get(of, "command")
        if self.role == "host" and self.struck is not None:
            os.kill(pid, signal.SIGKILL)
            return False
        return True

    def _strikes(self, pid: int, call: str, argument: int) -> bool:
        """Count a step, or learn what a process is; whether it was killed instead of going on."""
        role = self.roles.get(pid, "")
        if call in SIGNS:
            if role == "" and (call == "setsid" or argument == _SUBREAPER):
                self.roles[pid] = "keeper" if call == "setsid" else "backstop"
            return False
        steps = self.steps.setdefault(role, [])
        steps.append(_told(pid, call, argument))
        wanted = "supervisor" if self.role == "host" else self.role
        if self.struck is not None or role != wanted or len(steps) != self.at:
            return False
        self.struck = steps[-1]
        # Who would notice another one's death goes first; this one is stopped, and tells nobody.
        victims = [one for one in self.roles if one != pid] if self.role == "host" else []
        for victim in (*victims, pid):
            os.kill(victim, signal.SIGKILL)  # not reaped, and reaped by nobody but us
        return True


def _told(pid: int, call: str, argument: int) -> str:
    """A step for people: the call, and the file that it is about."""
    if call in _ABOUT_A_FILE:
        try:
            return f"{call} {os.path.basename(os.readlink(f'/proc/{pid}/fd/{argument}'))}"
        except OSError:
            pass
    return call


_ABOUT_A_FILE = frozenset(
    {"write", "pwrite64", "ftruncate", "fsync", "fdatasync", "fchmod", "flock", "fcntl"}
)


def main(report: str, role: str, at: str, *words: str) -> None:
    """Trace one guardrun, and tell of it."""
    assert role in ROLES
    signal.alarm(PATIENCE)
    seized, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(0)
            os.close(go)
            _become(list(words), seized)
        finally:
            os._exit(127)
    os.close(seized)
    _ptrace(_SEIZE, pid, 0, _OPTIONS)
    os.write(go, b"!")
    os.close(go)
    tracer = Tracer(role, int(at), pid)
    tracer.watch()
    told = {"code": tracer.code, "struck": tracer.struck, "steps": tracer.steps}
    with open(report, "w", encoding="utf-8") as file:
        json.dump(told, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
