"""What the tests of ``guardrun each`` share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support import Result


def lines(*items: object) -> bytes:
    """An input of these items."""
    return b"".join(f"{item}\n".encode() for item in items)


def fed(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Give a pool these bytes, and no end of its input."""
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def summary(result: Result) -> dict[str, Any]:
    """The last line of a pool."""
    last = result.lines[-1]
    assert last["event"] == "each_finished", result
    return last


def counted(result: Result, *names: str) -> tuple[int, ...]:
    """These numbers of its last line."""
    last = summary(result)
    assert last["total"] == sum(
        last[name]
        for name in ("succeeded", "failed", "skipped_duplicate", "lock_busy", "interrupted")
    )
    return tuple(last[name] for name in names)


def said(result: Result) -> list[str]:
    """What the items wrote to stdout, line by line."""
    return [line for line in result.stdout.decode().splitlines() if not line.startswith("{")]


def children(pid: int) -> list[int]:
    """Pids of the children of a process."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wardens(pool: subprocess.Popen[bytes]) -> list[int]:
    """Pids of the wardens of a pool: each is the only child of a backstop."""
    return [warden for child in children(pool.pid) for warden in children(child)]


def peak(spans: Iterable[tuple[float, float]]) -> int:
    """How many of these spans of time have a moment in common, at the most."""
    known = list(spans)
    moments = sorted([(begin, 1) for begin, _ in known] + [(end, -1) for _, end in known])
    now = most = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most
