"""What guardrun asks of Linux by itself, because Python has no name for it."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

import pytest

from guardrun import kernel

_SOON = 0.2
_LONG = 30.0
"""s"""


def end_of(body: Callable[[], object]) -> int:
    """Have a process of its own do this, with every signal blocked, as a warden has; its status."""

    def blocked() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        body()

    pid = kernel.fork(blocked)
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_LONG * 1000):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            pytest.fail("it goes on")
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_fuse_kills_who_is_stopped() -> None:
    """At its moment: a process that is stopped then does not come to run again."""
    begun = kernel.now()

    def stop() -> None:
        kernel.Fuse().set(kernel.now() + _SOON)
        os.kill(os.getpid(), signal.SIGSTOP)

    assert end_of(stop) == -signal.SIGKILL
    assert kernel.now() - begun >= _SOON


def test_a_fuse_kills_who_comes_too_late() -> None:
    """One that is set when its moment is over acts at once."""
    assert end_of(lambda: kernel.Fuse().set(kernel.now() - _SOON)) == -signal.SIGKILL


def test_a_fuse_that_is_put_out_kills_nobody() -> None:
    """Once the act is done its moment passes like any other."""

    def go_on() -> None:
        fuse = kernel.Fuse()
        fuse.set(kernel.now() + _SOON)
        fuse.set(float("inf"))
        time.sleep(2 * _SOON)

    assert end_of(go_on) == 0


def test_a_fuse_is_nobody_elses() -> None:
    """What was started before its moment runs on, however it ends for who started it."""
    ends = os.pipe()

    def start() -> None:
        kernel.Fuse().set(kernel.now() + _SOON)
        os.posix_spawnp(
            "sh",
            ("sh", "-c", f"sleep {2 * _SOON}; echo alive"),
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, ends[1], 1)],
            setsigmask=(),
        )
        os.kill(os.getpid(), signal.SIGSTOP)

    assert end_of(start) == -signal.SIGKILL
    os.close(ends[1])
    with open(ends[0]) as pipe:
        assert pipe.read() == "alive\n"
