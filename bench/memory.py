"""Memory, wake-ups and CPU of those who only wait: for COMMAND, or for the lock."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench import proc, process, subjects
from bench.handoff import queue_up
from bench.mark import Marks
from bench.scene import Scene
from bench.stats import Budget, Row, Section
from bench.subjects import Subject

_REST, _SETTLED = 0.4, 1.5
"""s without a wake-up, after which a subject has come to rest (a keeper lets go of its connection
0.25 s after it was last used); s for those that never do"""
_COMMAND, _LOCK = "while COMMAND runs", "while it waits for the lock"


@dataclass(frozen=True)
class _Holder:
    """One subject that waits for its COMMAND, which waits at the gate."""

    running: process.Process
    marks: Marks
    pids: tuple[int, ...]
    """the subject's own processes"""

    @classmethod
    def begin(cls, scene: Scene, subject: Subject) -> _Holder:
        # Locks of its own, so that all can run at the same time.
        directory = scene.directory("memory")
        marks = Marks(directory)
        command = (scene.tool.path, marks.out, marks.gate)
        running = scene.start(subject, command, locks=directory)
        (said,) = marks.wait("s")
        return cls(running, marks, _family(running, without=said.pid))

    def end(self) -> None:
        self.marks.let_go()
        self.running.wait()
        self.marks.close()


@dataclass(frozen=True)
class _Waiter:
    """One subject that waits for the lock, which another one holds."""

    running: process.Process
    holder: process.Process
    marks: Marks
    pids: tuple[int, ...]

    @classmethod
    def begin(cls, scene: Scene, subject: Subject) -> _Waiter:
        directory = scene.directory("memory")
        marks = Marks(directory)
        command = (scene.tool.path, marks.out, marks.gate)
        holder = scene.start(subject, command, locks=directory)
        marks.wait("s")
        running = scene.start(subject, command, locks=directory)
        queue_up(subject, directory, 1)
        return cls(running, holder, marks, _family(running, without=0))

    def end(self) -> None:
        self.marks.let_go()
        self.holder.wait()
        self.marks.wait("s")
        self.marks.let_go()
        self.running.wait()
        self.marks.close()


_Idle = _Holder | _Waiter


def _family(running: process.Process, without: int) -> tuple[int, ...]:
    """All its processes, once none is added any more."""
    found: list[int] = []
    while found != (found := sorted(proc.family(running.pid, without))):
        time.sleep(_REST / 4)
    return tuple(found)


@dataclass(frozen=True)
class _Use:
    """What a subject's processes have used since they exist, or use per second."""

    wakeups: float
    cpu: float
    """ms"""

    @classmethod
    def of(cls, idle: _Idle) -> _Use:
        pids = idle.pids
        return cls(sum(map(proc.wakeups, pids)), sum(map(proc.cpu, pids)))

    def until(self, later: _Use, seconds: float) -> _Use:
        """How much more it was ``later``, per second."""
        return _Use((later.wakeups - self.wakeups) / seconds, (later.cpu - self.cpu) / seconds)


def measure(
    scene: Scene,
    holders: Sequence[Subject],
    waiters: Sequence[Subject],
    rounds: int,
    windows: int,
    seconds: float,
) -> list[Section]:
    """Measure memory one by one, in turn, and then what all use in the same seconds."""
    rss, held, processes = _memory(scene, _Holder, holders, rounds)
    _, waited, more = _memory(scene, _Waiter, waiters, 1)
    return [
        _section(
            f"memory {_COMMAND}: RSS of the process that was started",
            "MiB",
            holders,
            rss,
            subjects.RSS,
        ),
        _section(f"memory {_COMMAND}: {_PSS}", "MiB", holders, held, subjects.PSS, processes),
        _section(f"memory {_LOCK}: PSS of all processes", "MiB", waiters, waited, None, more),
        *_idle(scene, holders, waiters, windows, seconds),
    ]


_PSS = "PSS of all processes but COMMAND's"

_Samples = dict[str, list[float]]


def _section(
    title: str,
    unit: str,
    compared: Sequence[Subject],
    samples: _Samples,
    budget: Budget | None,
    processes: dict[str, int] | None = None,
) -> Section:
    """``budget`` is guardrun's; how many ``processes`` of each were measured is a remark."""
    rows = []
    for subject in compared:
        count = (processes or {}).get(subject.name)
        remark = f"{count} process{'es' if count > 1 else ''}" if count else ""
        own = budget if subject.guardrun else None
        rows.append(Row(subject.name, tuple(samples[subject.name]), own, remark))
    return Section(title, unit, tuple(rows))


def _wakeups(
    when: str, compared: Sequence[Subject], samples: _Samples, budget: Budget | None
) -> Section:
    rows = [
        Row(
            one.name,
            tuple(samples[one.name]),
            budget if one.guardrun and not one.restless else None,
            one.restless if budget else "",
        )
        for one in compared
    ]
    return Section(f"wake-ups {when}", "1/s", tuple(rows))


# ---------------------------------------------------------------- memory


def _memory(
    scene: Scene, kind: type[_Holder] | type[_Waiter], compared: Sequence[Subject], rounds: int
) -> tuple[_Samples, _Samples, dict[str, int]]:
    """RSS of the first process of each, PSS of all, and how many they are."""
    rss: _Samples = defaultdict(list)
    pss: _Samples = defaultdict(list)
    processes: dict[str, int] = {}
    for _ in range(rounds):
        for subject in compared:
            idle = kind.begin(scene, subject)
            _settle([idle])
            rss[subject.name].append(proc.rss(idle.running.pid))
            pss[subject.name].append(sum(map(proc.pss, idle.pids)))
            processes[subject.name] = len(idle.pids)
            idle.end()
            process.bury_orphans()
    return rss, pss, processes


def _settle(idle: Iterable[_Idle]) -> None:
    """Wait until they have done what they do after COMMAND's start."""
    every = list(idle)
    due = time.monotonic() + _SETTLED
    before, rest = -1.0, due
    while time.monotonic() < min(rest, due):
        now = sum(_Use.of(one).wakeups for one in every)
        if now != before:
            before, rest = now, time.monotonic() + _REST
        time.sleep(_REST / 20)


# ---------------------------------------------------------------- wake-ups and CPU


def _idle(
    scene: Scene,
    holders: Sequence[Subject],
    waiters: Sequence[Subject],
    windows: int,
    seconds: float,
) -> list[Section]:
    """Look at all for some windows of so many seconds: what happens now and then is in p99."""
    idle: list[_Idle] = [_Holder.begin(scene, one) for one in holders]
    idle += [_Waiter.begin(scene, one) for one in waiters]
    _settle(idle)
    rates = _rates(idle, windows, seconds)
    for one in idle:
        one.end()
    process.bury_orphans()
    times, first = f"{windows} times {seconds:g} s", len(holders)
    return [
        *_uses(f"{_COMMAND}, {times}", holders, rates[:first], subjects.WAKEUPS),
        *_uses(f"{_LOCK}, {times}", waiters, rates[first:], None),
    ]


def _rates(idle: Sequence[_Idle], windows: int, seconds: float) -> list[list[_Use]]:
    """What each has used per second, in each window."""
    rates: list[list[_Use]] = [[] for _ in idle]
    before, begun = [_Use.of(one) for one in idle], time.monotonic()
    for _ in range(windows):
        time.sleep(seconds)
        after, ended = [_Use.of(one) for one in idle], time.monotonic()
        for found, earlier, later in zip(rates, before, after, strict=True):
            found.append(earlier.until(later, ended - begun))
        before, begun = after, ended
    return rates


def _uses(
    when: str, compared: Sequence[Subject], rates: Sequence[Sequence[_Use]], budget: Budget | None
) -> Iterator[Section]:
    names = [subject.name for subject in compared]
    woken = [[use.wakeups for use in found] for found in rates]
    used = [[use.cpu for use in found] for found in rates]
    wakeups, cpu = (dict(zip(names, samples, strict=True)) for samples in (woken, used))
    yield _wakeups(when, compared, wakeups, budget)
    yield _section(f"CPU {when}", "ms/s", compared, cpu, None)
