"""How long a lock takes from one run to the next, while others wait as well."""

from __future__ import annotations

import os
import select
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import process, subjects
from bench.mark import PATIENCE, Marks, Stuck
from bench.scene import Scene
from bench.stats import Row, Section
from bench.subjects import Subject

_RELEASES = b'"run_finished"'
"""in guardrun's last line of a run; releasing the lock is what it does next"""
_AT_ONCE = 8
"""waiters that are started at the same time: many more would wait for each other, and give up"""
_SETTLED = 0.05
"""s for what a waiter still does once it is in the queue: some look again before they wait"""


class Handoff(NamedTuple):
    """One handoff, in ms up to the next COMMAND's first instruction."""

    from_release: float | None
    """``None``: nobody said when that was"""
    from_end: float
    """of the COMMAND before"""


def queue_up(
    subject: Subject, directory: Path, waiters: int, meanwhile: Callable[[], object] = tuple
) -> None:
    """Wait until so many wait for the lock that ``directory`` stands for. Raises Stuck."""
    before, due = -1, 0.0
    while (found := subject.queue(directory)) != waiters:
        if found != before:
            before, due = found, time.monotonic() + PATIENCE
        if time.monotonic() > due:
            raise Stuck(f"{subject.name}: {found} wait for {directory.name}, and not {waiters}")
        meanwhile()
        time.sleep(0.002)
    time.sleep(_SETTLED)


class Chain:
    """A lock with one holder and as many waiters as were asked for.

    The holder's COMMAND ends when it is told to. When that happens the last waiter to come has
    joined the queue, so nothing else goes on during a handoff.
    """

    def __init__(self, scene: Scene, subject: Subject, waiters: int) -> None:
        self._scene = scene
        self._subject = subject
        self._waiters = 0
        self._directory = scene.directory("handoff")
        self._marks = Marks(self._directory)
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._running: list[process.Process] = []
        self._start()
        (said,) = self._marks.wait("s")
        self._command = os.pidfd_open(said.pid)  # it is at the gate, so this pid is its own
        while self._waiters < waiters:
            self.join(min(_AT_ONCE, waiters - self._waiters))

    def _start(self) -> None:
        command = (self._scene.tool.path, self._marks.out, self._marks.gate)
        self._running.append(
            self._scene.start(self._subject, command, self._directory, self._write)
        )

    def join(self, more: int = 1) -> None:
        """Have so many more waiters in the queue."""
        for _ in range(more):
            self._start()
        self._waiters += more
        # What so many write while they wait is more than a pipe holds.
        queue_up(self._subject, self._directory, self._waiters, self._drain)

    def handoff(self) -> Handoff:
        """Let the holder's COMMAND end, and see when the next one starts."""
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
        self._waiters -= 1
        # What only runs COMMAND under a lock does nothing between its end and the release.
        since = released if self._subject.guardrun else ended
        from_release = (started - since) / 1e6 if since else None
        return Handoff(from_release, (started - ended) / 1e6)

    def settle(self) -> None:
        """Wait until the one that held the lock before is gone."""
        due = time.monotonic() + PATIENCE
        while len(self._running) > self._waiters + 1:
            self._running = [one for one in self._running if not one.over()]
            if time.monotonic() > due:
                raise Stuck(f"{self._subject.name}: a holder that does not end")
            self._drain()
            time.sleep(0.001)

    def _drain(self) -> bytes:
        try:
            return os.read(self._read, 1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Stop them all, the holder last: nobody gets the lock any more."""
        due = time.monotonic() + PATIENCE
        for running in self._running[::-1]:
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
    chains = [Chain(scene, subject, waiters) for subject in compared]
    found: dict[str, list[Handoff]] = defaultdict(list)
    for _ in range(rounds):
        for subject, chain in zip(compared, chains, strict=True):
            found[subject.name].append(chain.handoff())
            chain.settle()
            chain.join()
    for chain in chains:
        chain.close()
    process.bury_orphans()
    from_release, from_end = [], []
    for subject in compared:
        samples = found[subject.name]
        budget = subjects.HANDOFF if subject.guardrun else None
        from_release.append(Row(subject.name, releases(samples), budget))
        from_end.append(Row(subject.name, tuple(one.from_end for one in samples)))
    return [
        _section(f"handoff, {waiters} waiters: lock released → next COMMAND starts", from_release),
        _section(f"handoff, {waiters} waiters: COMMAND ends → next COMMAND starts", from_end),
    ]


def releases(found: Sequence[Handoff]) -> tuple[float, ...]:
    """Ms from those releases that are known."""
    return tuple(one.from_release for one in found if one.from_release is not None)


def _section(title: str, rows: Sequence[Row]) -> Section:
    flock = next((row for row in rows if row.subject == "flock"), None)
    base = flock.median if flock else None
    return Section(title, "ms", tuple(rows), base, "flock" if flock else "")
