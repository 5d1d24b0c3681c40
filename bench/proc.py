"""What /proc says of processes, locks and filesystems."""

from __future__ import annotations

import os
from pathlib import Path


def parents() -> dict[int, int]:
    """The parent of every process there is."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            found[int(name)] = int(fields[1])
    return found


def family(root: int, without: int) -> list[int]:
    """``root`` and everything below it, but for ``without`` and what is below that."""
    below: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        below.setdefault(parent, []).append(pid)
    found, left = [], [root]
    while left:
        pid = left.pop()
        if pid != without:
            found.append(pid)
            left += below.get(pid, [])
    return found


def _field(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise ValueError(f"{path} has no {name}")


def rss(pid: int) -> float:
    """Resident memory in MiB, shared pages in full."""
    return _field(f"/proc/{pid}/status", "VmRSS") / 1024


def pss(pid: int) -> float:
    """Resident memory in MiB, a page shared by n processes counted as 1/n."""
    return _field(f"/proc/{pid}/smaps_rollup", "Pss") / 1024


def memory_available() -> float:
    """What new processes can have of it, in MiB."""
    return _field("/proc/meminfo", "MemAvailable") / 1024


def wakeups(pid: int) -> int:
    """How often a process's threads have gone to sleep, and so were woken, since they exist."""
    return sum(
        _field(f"/proc/{pid}/task/{task}/status", "voluntary_ctxt_switches")
        for task in os.listdir(f"/proc/{pid}/task")
    )


def cpu(pid: int) -> float:
    """How long a process's threads have been on a CPU since they exist: ms."""
    return sum(
        int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0]) / 1e6
        for task in os.listdir(f"/proc/{pid}/task")
    )


def flock_queue(directory: Path) -> int:
    """How many processes wait in the kernel for a flock(2) on a file in ``directory``."""
    inodes = {str(file.stat().st_ino) for file in directory.iterdir()}
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sum(
        line[1:3] == ["->", "FLOCK"] and line[6].rpartition(":")[2] in inodes for line in lines
    )


def filesystem(path: Path) -> str:
    """The type of the filesystem that ``path`` is on."""
    real, best, kind = str(path.resolve()), "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where, _, what = line.partition(" - ")
        point = where.split()[4].replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, what.split()[0]
    return kind
