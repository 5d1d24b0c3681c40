"""What was measured, on what, and under which circumstances: the lines above the table."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench import proc
from bench.scene import IN_MEMORY, Scene, sync_time

_EACH = 50
"""MiB that one takes, rounded up"""


def load() -> float:
    """The load average of the last minute."""
    return os.getloadavg()[0]


def bears() -> int:
    """How many guardruns can wait at once for a lock in a store, in half of the memory left."""
    return max(int(proc.memory_available() / 2 / _EACH), 2)


def facts(scene: Scene, before: float, missing: Sequence[str]) -> list[str]:
    """One line each; ``before`` is the load before the benchmark began, ``missing`` are peers."""
    kind = proc.filesystem(scene.place)
    memory = " (in memory: syncs cost nothing here, name a disk with --place)"
    cores = len(os.sched_getaffinity(0))
    noisy = " (busy: read the ratios, or come back later)" if before >= cores / 2 else ""
    versions = [_said(scene, program, "--version") for program in (scene.guardrun, scene.python)]
    disk = f"{kind}{memory if kind in IN_MEMORY else ''}"
    now = datetime.datetime.now(datetime.UTC)
    return [
        f"{', '.join(versions)}, Linux {platform.release()}, {cores} cores, {_processor()}",
        f"state and locks on {disk}, write and fsync {sync_time(scene.place):.2f} ms",
        f"COMMAND: {scene.tool.kind}",
        f"load before {before:.2f}{noisy}; {now:%Y-%m-%d %H:%M} UTC",
        f"peers not installed: {', '.join(missing) or 'none'}",
    ]


def _said(scene: Scene, *words: str) -> str:
    done = subprocess.run(words, env=scene.env, capture_output=True, text=True, check=False)
    return done.stdout.strip() or f"{words[0]}: exit {done.returncode}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
