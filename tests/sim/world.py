"""One simulated schedule: true time, the heap of events to come, and chance."""

from __future__ import annotations

import heapq
import random
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent

from .machine import Hooks, Host, Process, Program


class World:
    """One schedule: true time, the events to come, and chance."""

    def __init__(self, seed: int, trace: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 0.0
        self.hosts: list[Host] = []
        self.sites: dict[str, Any] = {}
        """who answers HTTP, by the host's name"""
        self.hub = getcurrent()
        self.current: Program | None = None
        self.closed = False
        self.hooks: Hooks
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.lag = 0.0
        """how likely a system call is to be delayed"""
        self._trace = trace
        self.timeline: list[str] = []
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._events = 0
        self._pid = 100
        self._fd = 10
        self._programs: list[Program] = []
        self.on_start: Callable[[Program], None] = lambda _: None

    # ------------------------------------------------------------ events

    def at(self, when: float, do: Callable[..., object], *arguments: Any) -> None:
        """Do it then, or now if that is over."""
        self._events += 1
        heapq.heappush(self._heap, (when, self._events, do, arguments))

    def after(self, seconds: float, do: Callable[..., object], *arguments: Any) -> None:
        """Do it so many seconds from now."""
        self.at(self.now + seconds, do, *arguments)

    def run(self, until: float, done: Callable[[], bool]) -> None:
        """Let things happen until ``done``, something is wrong, or it is too late."""
        heap = self._heap
        while heap and not self.violations and not done():
            when, _, do, arguments = heapq.heappop(heap)
            if when > until:
                self.now = until
                return
            self.now = max(self.now, when)
            do(*arguments)

    def close(self) -> None:
        """Unwind what every process was doing; nothing of it has an effect any more."""
        self.closed = True
        for program in self._programs:
            if program.greenlet:
                program.greenlet.throw()
        self._programs.clear()
        self._heap.clear()

    def latency(self) -> float:
        """s until something that is ready runs: mostly nothing, now and then a busy machine."""
        drawn = self.rng.random()
        return drawn * 0.0005 if drawn < 0.97 else (drawn - 0.97) * 0.5

    def draw_lag(self) -> int:
        """After how many system calls one of them is delayed."""
        return 1 << 30 if not self.lag else 1 + int(self.rng.expovariate(self.lag))

    # ------------------------------------------------------------ processes

    def wake(self, program: Process) -> None:
        """Have it look again, soon."""
        assert isinstance(program, Program)
        if not program.scheduled and not program.dead:
            program.scheduled = True
            self.at(self.now + self.latency(), self._woken, program)

    def _woken(self, program: Program) -> None:
        program.scheduled = False
        self.resume(program)

    def resume(self, program: Program) -> None:
        """Let it run now, if it may."""
        if program.dead or not program.sleeping:
            return
        if program.stopped or program.host.suspended:
            program.missed = True
            return
        self.current = program
        program.greenlet.switch()
        self.current = None

    def started(self, program: Program) -> None:
        """A process has come to be; it runs soon."""
        self._programs.append(program)
        self.on_start(program)
        self.wake(program)

    def fault(self, program: Program, error: BaseException) -> None:
        """Code under test has raised what nobody caught."""
        frames = traceback.extract_tb(error.__traceback__)[1:]
        where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
        self.violate(f"{program!r} raised {error!r} in {where}")

    def new_pid(self) -> int:
        self._pid += 1
        return self._pid

    def new_fd(self) -> int:
        self._fd += 1
        return self._fd

    # ------------------------------------------------------------ what is told of it

    def tell(self, who: object, what: str) -> None:
        """Note what happened, for people."""
        if self._trace:
            self.timeline.append(f"{self.now:12.6f} {who!s:24} {what}")

    @property
    def tracing(self) -> bool:
        """Whether anybody reads what is told."""
        return self._trace

    def violate(self, what: str) -> None:
        """Note that a rule was broken; the schedule ends here."""
        self.violations.append(what)
        self.tell("VIOLATION", what)
