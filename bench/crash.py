"""What ``kill -9`` of the one that guards COMMAND leaves behind, and for how long."""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench import process, subjects
from bench.handoff import queue_up
from bench.mark import Marks
from bench.scene import Scene
from bench.stats import Budget, Row, Section
from bench.subjects import Subject

_LONG = 1.0
"""s, then nobody waits any more for a tree to die"""

# COMMAND: three processes, one of them in a session of its own where there is setsid(1).
_TREE = '{setsid} "$@" & "$@" & exec "$@"'


class Takeover(NamedTuple):
    """Ms from ``kill -9``; ``None``: not within ``_LONG``."""

    dead: float | None
    """until the last process of COMMAND was"""
    next_start: float | None
    """until COMMAND of the run that waited for the lock started"""


def measure(scene: Scene, compared: Sequence[Subject], rounds: int) -> list[Section]:
    """Kill each of the subjects once per round, in turn."""
    found: dict[str, list[Takeover]] = {subject.name: [] for subject in compared}
    for _ in range(rounds):
        for subject in compared:
            # Once is enough to show which tools leave the tree alone.
            if subject.guardrun or not found[subject.name]:
                found[subject.name].append(_takeover(scene, subject))
    dead, following = [], []
    for subject in compared:
        budget = subjects.TAKEOVER if subject.guardrun else None
        taken = found[subject.name]
        dead.append(_row(subject.name, [one.dead for one in taken], None))
        following.append(_row(subject.name, [one.next_start for one in taken], budget))
    return [
        Section("kill -9 → all three processes of COMMAND are dead", "ms", tuple(dead)),
        Section("kill -9 → COMMAND of the next holder starts", "ms", tuple(following)),
    ]


def _row(name: str, samples: Sequence[float | None], budget: Budget | None) -> Row:
    known = tuple(sample for sample in samples if sample is not None)
    late = len(samples) - len(known)
    remark = f"{late} of {len(samples)}: not within {_LONG:g} s" if late else ""
    return Row(name, known, budget, remark)


def _takeover(scene: Scene, subject: Subject) -> Takeover:
    directory = scene.directory("crash")
    first, second = Marks(directory, "first"), Marks(directory, "second")
    script = _TREE.format(setsid=shutil.which("setsid") or "")
    mark = scene.tool.path
    holder = scene.start(
        subject, ("/bin/sh", "-c", script, "sh", mark, first.out, first.gate), directory
    )
    tree = [os.pidfd_open(said.pid) for said in first.wait("s", 3)]
    heir = scene.start(subject, (mark, second.out), directory)
    queue_up(subject, directory, 1)
    killed = scene.tool.clock()
    holder.send(signal.SIGKILL)
    dead, started = _watch(scene, tree, second)
    for pidfd in tree:  # what was left alive, so that the lock gets free
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(pidfd)
    holder.reap()
    if started is None:  # it could wait for a ttl that nobody renews
        heir.send(signal.SIGKILL)
        heir.reap()
    else:
        heir.wait()
    process.bury_orphans()
    first.close()
    second.close()
    return Takeover(_since(killed, dead), _since(killed, started))


def _watch(scene: Scene, tree: Sequence[int], heir: Marks) -> tuple[int | None, int | None]:
    """When the last of ``tree`` has died, and when the heir's COMMAND has started."""
    poll = select.poll()
    for fd in (*tree, heir.fileno()):
        poll.register(fd, select.POLLIN)
    alive = set(tree)
    dead = started = None
    due = time.monotonic() + _LONG
    while (alive or started is None) and time.monotonic() < due:
        for fd, _ in poll.poll(_LONG * 1000):
            if fd not in alive:
                started = next((said.at for said in heir.read()), started)
                continue
            poll.unregister(fd)
            alive.remove(fd)
            if not alive:
                dead = scene.tool.clock()
    return dead, started


def _since(begun: int, at: int | None) -> float | None:
    return None if at is None else (at - begun) / 1e6
