"""How long a lock takes from one run to the next, while others wait as well."""

from __future__ import annotations

import os
import select
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench import proc, process, subjects
from bench.mark import PATIENCE, Marks, Stuck
from bench.scene import Scene
from bench.stats import Row, Section
from bench.subjects import Subject

_RELEASES = b'"run_finished"'
"""in guardrun's last line of a run; releasing the lock is what it does next"""


class Handoff(NamedTuple):
    """One handoff, in ms up to the next COMMAND's first instruction."""

    from_release: float
    from_end: float
    """of the COMMAND before"""


def queue_up(directory: Path, waiters: int) -> None:
    """Wait until so many are in the queues of the locks in ``directory``. Raises Stuck."""
    due = time.monotonic() + PATIENCE
    while proc.flock_queue(directory) != waiters:
        if time.monotonic() > due:
            raise Stuck(f"{waiters} waiters never queue up for the locks in {directory}")
        time.sleep(0.002)


class _Chain:
    """A lock with one holder and always as many waiters as were asked for.

    The holder's COMMAND ends when it is told to. When that happens the last waiter to come has
    joined the queue, so nothing else goes on during a handoff.
    """

    def __init__(self, scene: Scene, subject: Subject, waiters: int) -> None:
        self._scene = scene
        self._subject = subject
        self._waiters = waiters
        self._directory = scene.directory("handoff")
        self._marks = Marks(self._directory)
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._running: list[process.Process] = []
        self._join()
        (said,) = self._marks.wait("s")
        self._command = os.pidfd_open(said.pid)  # it is at the gate, so this pid is its own
        for _ in range(waiters):
            self._join()
        queue_up(self._directory, waiters)

    def _join(self) -> None:
        command = (self._scene.tool.path, self._marks.out, self._marks.gate)
        self._running.append(
            self._scene.start(self._subject, command, self._directory, self._write)
        )

    def handoff(self) -> Handoff:
        """Let the holder's COMMAND end, and see when the next one starts; then fill up."""
        self._drain()
        poll = select.poll()
        poll.register(self._marks, select.POLLIN)
        poll.register(self._read, select.POLLIN)
        self._marks.let_go()
        ended = released = started = 0
        while not started:
            if not poll.poll(PATIENCE * 1000):
                raise Stuck(f"{self._subject.name}: nobody gets the lock")
            if _RELEASES in self._drain() and not released:
                released = self._scene.tool.clock()
            for mark in self._marks.read():
                if mark.what == "e":
                    ended = mark.at
                else:
                    os.close(self._command)
                    started, self._command = mark.at, os.pidfd_open(mark.pid)
        self._running = [one for one in self._running if not one.over()]
        self._join()
        queue_up(self._directory, self._waiters)
        # flock(1) does nothing between the end of its COMMAND and the release.
        since = released if self._subject.guardrun else ended
        return Handoff((started - since) / 1e6, (started - ended) / 1e6)

    def _drain(self) -> bytes:
        try:
            return os.read(self._read, 1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Stop them all."""
        due = time.monotonic() + PATIENCE
        for running in self._running:
            running.send(signal.SIGTERM)
        try:  # flock(1) leaves its COMMAND alone
            signal.pidfd_send_signal(self._command, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(self._command)
        while self._running:
            self._drain()
            self._running = [one for one in self._running if not one.over()]
            if time.monotonic() > due:
                raise Stuck(f"{self._subject.name}: waiters that cannot be stopped")
            time.sleep(0.005)
        self._marks.close()
        os.close(self._read)
        os.close(self._write)


def measure(scene: Scene, compared: Sequence[Subject], waiters: int, rounds: int) -> list[Section]:
    """Hand over one lock of each subject in turn, with so many waiters at each."""
    chains = [_Chain(scene, subject, waiters) for subject in compared]
    found: dict[str, list[Handoff]] = defaultdict(list)
    for _ in range(rounds):
        for subject, chain in zip(compared, chains, strict=True):
            found[subject.name].append(chain.handoff())
    for chain in chains:
        chain.close()
    process.bury_orphans()
    from_release, from_end = [], []
    for subject in compared:
        samples = found[subject.name]
        budget = subjects.HANDOFF if subject.guardrun else None
        from_release.append(Row(subject.name, tuple(one.from_release for one in samples), budget))
        from_end.append(Row(subject.name, tuple(one.from_end for one in samples)))
    return [
        _section(f"handoff, {waiters} waiters: lock released → next COMMAND starts", from_release),
        _section(f"handoff, {waiters} waiters: COMMAND ends → next COMMAND starts", from_end),
    ]


def _section(title: str, rows: Sequence[Row]) -> Section:
    flock = next((row for row in rows if row.subject == "flock"), None)
    base = flock.median if flock else None
    return Section(title, "ms", tuple(rows), base, "flock" if flock else "")
