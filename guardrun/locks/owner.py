"""The process that an owner names (``host:pid:job_id``), if it is alive on this host.

A pid alone proves nothing: it may be another process's by now, or be counted in another container.
But a job_id holds the moment at which its run began (RFC 9562, section 5.7), when that pid was its
guardrun's. So a guardrun with this pid that was started before then is the same process.
"""

from __future__ import annotations

import os
import time

from guardrun import kernel

_STEP = 10.0
"""s that the wall clock may have been set forward since"""
_START = 19
"""starttime in /proc/PID/stat, counted from the state: proc_pid_stat(5)"""
_ENDED = frozenset({b"Z", b"X"})


def living(owner: str) -> int | None:
    """The pid of the run's guardrun; ``None``: it is not on this host, or cannot be proved."""
    host, _, rest = owner.partition(":")
    pid, _, job_id = rest.partition(":")
    begun = _begun(job_id)
    if host != os.uname().nodename or not (pid.isascii() and pid.isdigit()) or begun is None:
        return None
    started = _started(int(pid))
    if started is None or started > kernel.now() - (time.time() - begun) + _STEP:
        return None
    return int(pid)


def _begun(job_id: str) -> float | None:
    """When a run began, in seconds since 1970."""
    digits = job_id.replace("-", "")
    try:
        return (int(digits, 16) >> 80) / 1000 if len(digits) == 32 else None
    except ValueError:
        return None


def _started(pid: int) -> float | None:
    """When a guardrun that is alive was started, on CLOCK_BOOTTIME; ``None``: there is none."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"guardrun" not in file.read():
                return None
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if len(fields) <= _START or fields[0] in _ENDED:
        return None
    return int(fields[_START]) / os.sysconf("SC_CLK_TCK")
