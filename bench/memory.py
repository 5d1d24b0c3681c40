"""Memory and wake-ups of those who only wait for COMMAND."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench import proc, process, subjects
from bench.mark import Marks
from bench.scene import Scene
from bench.stats import Row, Section
from bench.subjects import Subject

_REST, _SETTLED = 0.4, 1.5
"""s without a wake-up, after which a subject has come to rest (a keeper lets go of its connection
0.25 s after it was last used); s for those that never do"""


@dataclass(frozen=True)
class _Run:
    """One subject that waits for its COMMAND, which waits at the gate."""

    running: process.Process
    marks: Marks
    pids: tuple[int, ...]
    """the subject's own processes"""

    @classmethod
    def begin(cls, scene: Scene, subject: Subject) -> _Run:
        # Locks of its own, so that all can run at the same time.
        directory = scene.directory("memory")
        marks = Marks(directory)
        command = (scene.tool.path, marks.out, marks.gate)
        running = scene.start(subject, command, locks=directory)
        (said,) = marks.wait("s")
        return cls(running, marks, tuple(proc.family(running.pid, without=said.pid)))

    def wakeups(self) -> int:
        return sum(proc.wakeups(pid) for pid in self.pids)

    def end(self) -> None:
        self.marks.let_go()
        self.running.wait()
        self.marks.close()


def _settle(runs: Iterable[_Run]) -> None:
    """Wait until they have done what they do after COMMAND's start."""
    due = time.monotonic() + _SETTLED
    before, rest = -1, due
    while time.monotonic() < min(rest, due):
        now = sum(run.wakeups() for run in runs)
        if now != before:
            before, rest = now, time.monotonic() + _REST
        time.sleep(_REST / 20)


def measure(
    scene: Scene, compared: Sequence[Subject], rounds: int, seconds: float
) -> list[Section]:
    """Measure memory one by one, in turn, and then the wake-ups of all in the same seconds."""
    rss: dict[str, list[float]] = defaultdict(list)
    pss: dict[str, list[float]] = defaultdict(list)
    processes: dict[str, int] = {}
    for _ in range(rounds):
        for subject in compared:
            run = _Run.begin(scene, subject)
            _settle([run])
            rss[subject.name].append(proc.rss(run.running.pid))
            pss[subject.name].append(sum(proc.pss(pid) for pid in run.pids))
            processes[subject.name] = len(run.pids)
            run.end()
            process.bury_orphans()
    woken = _wakeups(scene, compared, seconds)
    ours = {subject.name for subject in compared if subject.guardrun}
    return [
        Section(
            "memory while COMMAND runs: RSS of the process that was started",
            "MiB",
            tuple(
                Row(name, tuple(samples), subjects.RSS if name in ours else None)
                for name, samples in rss.items()
            ),
        ),
        Section(
            "memory while COMMAND runs: PSS of all processes but COMMAND's",
            "MiB",
            tuple(
                Row(
                    name,
                    tuple(samples),
                    subjects.PSS if name in ours else None,
                    f"{processes[name]} process{'es' if processes[name] > 1 else ''}",
                )
                for name, samples in pss.items()
            ),
        ),
        Section(
            f"wake-ups while COMMAND runs, all processes but COMMAND's, over {seconds:g} s",
            "1/s",
            tuple(
                Row(name, (rate,), subjects.WAKEUPS if name in ours else None)
                for name, rate in woken.items()
            ),
        ),
    ]


def _wakeups(scene: Scene, compared: Sequence[Subject], seconds: float) -> dict[str, float]:
    runs = {subject.name: _Run.begin(scene, subject) for subject in compared}
    _settle(runs.values())
    before = {name: run.wakeups() for name, run in runs.items()}
    begun = time.monotonic()
    time.sleep(seconds)
    after = {name: run.wakeups() for name, run in runs.items()}
    lasted = time.monotonic() - begun
    for run in runs.values():
        run.end()
    process.bury_orphans()
    return {name: (after[name] - before[name]) / lasted for name in runs}
