"""Makes a process that was just forked independent of the job around it."""

from __future__ import annotations

import os
import signal


def detach(kept: frozenset[int]) -> None:
    """Make the process, just forked, independent of the job's terminal, signals and files.

    Of its descriptors only ``kept`` stay open: a keeper that outlives the run for a moment must
    not hold its host lock, nor the pipe somebody reads its output from.
    """
    os.setsid()
    for signum in _IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in kept:
            try:
                os.close(fd)
            except OSError:  # the listing's own
                pass


_IGNORED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)
