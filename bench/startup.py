"""Time to COMMAND's start, whole run of ``true``, CPU seconds of that run."""

from __future__ import annotations

import os
import shutil
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from bench import process, subjects
from bench.mark import Marks
from bench.remotes import CONSUL
from bench.scene import Scene
from bench.stats import Budget, Row, Section
from bench.subjects import Subject

_ALONE = Subject("COMMAND alone")


def measure(
    scene: Scene, local: Sequence[Subject], remote: Sequence[Subject], rounds: int
) -> list[Section]:
    """Run everything once per round, in turn, so that noise hits all alike.

    The first round is not counted: it makes the ledger, and fills the caches. ``remote`` are those
    whose lock is in a store; they take so long that every other round is without them.
    """
    compared = [*local, *remote]
    bare = Subject("B: python -I -c pass", (scene.python, "-I", "-c", "pass"))
    starts: dict[str, list[float]] = defaultdict(list)
    wholes: dict[str, list[float]] = defaultdict(list)
    used: dict[str, list[float]] = defaultdict(list)
    stage = _Stage(scene)
    for number in range(rounds + 1):
        counted = number > 0
        whole, cpu = stage.whole(bare, ())
        if counted:
            wholes[bare.name].append(whole)
            used[bare.name].append(cpu)
        for subject in (_ALONE, *local, *(remote if number % 2 == 0 else ())):
            start = stage.start(subject)
            whole, cpu = stage.whole(subject, (stage.true,))
            if counted:
                starts[subject.name].append(start)
                wholes[subject.name].append(whole)
                used[subject.name].append(cpu)
    stage.close()
    base = statistics.median(wholes[bare.name])
    return [
        _section("time to COMMAND's start", (_ALONE, *local), starts, subjects.START, base),
        *_beside_consul(remote, starts),
        _section("whole run of `true`", (bare, _ALONE, *compared), wholes, subjects.WHOLE, base),
        Section(
            "CPU time of that run, user and system, all processes",
            "ms",
            tuple(Row(name, tuple(samples)) for name, samples in used.items()),
            statistics.median(used[bare.name]),
            "B's",
        ),
    ]


def _section(
    title: str,
    compared: Sequence[Subject],
    samples: Mapping[str, Sequence[float]],
    budget: Budget,
    base: float | None,
    base_name: str = "B",
) -> Section:
    """``budget`` is that of the full settings of guardrun with this base."""
    rows = []
    for subject in compared:
        judged = subject.full and (base_name != "B" or not subject.is_remote)
        rows.append(Row(subject.name, tuple(samples[subject.name]), budget if judged else None))
    return Section(title, "ms", tuple(rows), base, base_name if base else "")


def _beside_consul(
    remote: Sequence[Subject], starts: Mapping[str, Sequence[float]]
) -> Iterator[Section]:
    if remote:
        base = statistics.median(starts[CONSUL]) if CONSUL in starts else None
        title = "time to COMMAND's start, lock in a store on this machine"
        yield _section(title, remote, starts, subjects.REMOTE_START, base, CONSUL)


class _Stage:
    """What stays the same from run to run."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._marks = Marks(scene.directory("startup"))
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self.true = shutil.which("true") or "/bin/true"

    def start(self, subject: Subject) -> float:
        """Ms from just before the start of ``subject`` to the first instruction of COMMAND."""
        command = (self._scene.tool.path, self._marks.out)
        running = self._run(subject, command)
        (begun,) = self._marks.wait("s")
        running.wait()
        self._clear()
        return (begun.at - running.begun) / 1e6

    def whole(self, subject: Subject, command: Sequence[str]) -> tuple[float, float]:
        """Ms from just before the start of ``subject`` to its end; CPU ms of all its processes."""
        before = process.cpu_used()
        running = self._run(subject, command)
        ended = running.wait()
        self._clear()
        return (ended - running.begun) / 1e6, (process.cpu_used() - before) * 1000

    def _run(self, subject: Subject, command: Sequence[str]) -> process.Process:
        return self._scene.start(subject, command, stdout=self._write)

    def _clear(self) -> None:
        process.bury_orphans()
        try:
            os.read(self._read, 65536)
        except BlockingIOError:
            pass

    def close(self) -> None:
        self._marks.close()
        os.close(self._read)
        os.close(self._write)
