"""Processes under measurement: start them, wait for them, leave none."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Mapping

from bench import proc
from bench.mark import PATIENCE, Stuck

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of every orphan below: what they used is counted, and none is left."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


class Process:
    """A child in a session of its own, as cron would have started it."""

    def __init__(
        self,
        words: list[str],
        env: Mapping[str, str],
        stdout: int,
        stderr: int,
        clock: Callable[[], int],
        stdin: str = os.devnull,
    ) -> None:
        self.words = words
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, stdin, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, stdout, 1),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ]
        ignored_here = (signal.SIGPIPE, signal.SIGXFSZ)
        self.begun = clock()
        self.pid = os.posix_spawn(
            words[0], words, env, file_actions=actions, setsid=True, setsigdef=ignored_here
        )
        self.pidfd = os.pidfd_open(self.pid)
        self._clock = clock
        self._status: int | None = None

    def wait(self) -> int:
        """Wait for its end; the clock's reading then. Raises Stuck, and for a failure as well."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if not poll.poll(PATIENCE * 1000):
            raise Stuck(f"{' '.join(self.words)}: still running after {PATIENCE:.0f} s")
        ended = self._clock()
        if self.reap() != 0:
            raise Stuck(f"{' '.join(self.words)}: wait status {self._status}, not 0")
        return ended

    def reap(self) -> int:
        """Collect it, however it ended: its wait status."""
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)
            os.close(self.pidfd)
        return self._status

    def over(self) -> bool:
        """Whether it has ended; then it is collected."""
        poll = select.poll()
        if self._status is None:
            poll.register(self.pidfd, select.POLLIN)
            if not poll.poll(0):
                return False
            self.reap()
        return True

    def send(self, signum: int) -> None:
        """Signal it, unless it is over."""
        if self._status is None:
            signal.pidfd_send_signal(self.pidfd, signum)


def bury_orphans() -> None:
    """Wait until no child is left, whoever's it was. Raises Stuck."""
    due = time.monotonic() + PATIENCE
    while time.monotonic() < due:
        if _none_left():
            return
        time.sleep(0.001)
    left = sorted(pid for pid, parent in proc.parents().items() if parent == os.getpid())
    raise Stuck(f"processes are left that nobody ends: {', '.join(map(str, left))}")


def kill_all() -> None:
    """Kill whatever this program has started, and all that came of it, until nothing is left.

    Only own children are signalled, whose pids can't be another's before they are collected; by
    their deaths their children become ours.
    """
    while not _none_left():
        for pid, parent in proc.parents().items():
            if parent == os.getpid():
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _none_left() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return True
    return False


def cpu_used() -> float:
    """CPU seconds, user and system, of all children that have been waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
