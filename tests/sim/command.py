"""A simulated COMMAND: a tree of processes that works for a while, and may not want to end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any

from .machine import Host, Process, Program

_DYING = 0.005
"""s that SIGKILL takes mostly; what sits in the kernel takes twenty times that"""


@dataclass(frozen=True)
class Habits:
    """How one process of COMMAND behaves; times in seconds."""

    works: float
    code: int
    crashes: bool
    """it ends by a signal of its own"""
    deaf: bool
    """it ignores what asks it to stop"""
    tidies: float
    """how long it takes to end when it was asked to"""
    child_after: float | None
    """when it starts a child in a session of its own"""
    restless: bool
    """where it is asked to stop, it starts another first"""


def draw_habits(rng: Random, works: float, failing: float, deaf: float) -> Habits:
    """Draw a behaviour: most end well, some fail, some ignore TERM or leave something behind."""
    return Habits(
        works,
        code=rng.choice((1, 75)) if rng.random() < failing else 0,
        crashes=rng.random() < failing / 3,
        deaf=rng.random() < deaf,
        tidies=rng.choice((0.0, 0.01, 0.3, 2.0)) * rng.random(),
        child_after=rng.uniform(0, works) if rng.random() < 0.3 else None,
        restless=rng.random() < 0.05,
    )


class CommandProcess(Process):
    """One process of COMMAND's tree, driven by events and not by code."""

    role = "command"

    def __init__(
        self,
        host: Host,
        parent: Process,
        run: Any,
        env: Mapping[str, str],
        habits: Habits,
        main: bool,
    ) -> None:
        super().__init__(host, parent, run)
        self.close_all()
        self.group = self.pid
        self.env = env
        self.habits = habits
        self.main = main
        """COMMAND itself, and not a child of it"""
        self.asked = False
        """it was told to stop"""
        self.by_itself = False
        """it has ended by its own exit, and nobody had asked it to"""
        self.daemon: bool = isinstance(parent, CommandProcess) and parent.daemon
        """COMMAND has ended by itself and left it running: its own business"""
        self._late: list[tuple[Any, ...]] = []
        """what it would have done while it was stopped"""
        self.world.hooks.lives(self)  # type: ignore[attr-defined]
        self._after(habits.works, "end")
        if habits.child_after is not None:
            self._after(habits.child_after, "branch")
        self._after(self.world.rng.random() * habits.works, "write")

    def take(self, signum: int) -> None:
        if signum not in (SIGTERM, SIGINT) or self.asked:
            return
        self.asked = True
        if self.habits.restless:
            self._branch(Habits(30.0, 0, False, True, 0.0, None, False))
        if not self.habits.deaf:
            self._after(self.habits.tidies, "end")

    def signal(self, signum: int) -> None:
        if signum == SIGKILL:
            self.asked = True
            drawn = self.world.rng.random()
            self.world.after(drawn * _DYING * (20 if drawn > 0.8 else 1), self.die, SIGKILL)
        else:
            super().signal(signum)

    def go_on(self) -> None:
        late, self._late = self._late, []
        for what in late:
            self._do(*what)

    def _after(self, seconds: float, what: str) -> None:
        self.world.after(seconds, self._do, what)

    def _do(self, what: str) -> None:
        if self.dead:
            return
        if self.stopped or self.host.suspended:
            self._late.append((what,))
        elif what == "end":
            self._end()
        elif what == "branch":
            works = self.world.rng.expovariate(0.2)
            self._branch(draw_habits(self.world.rng, works, 0.0, 0.3))
        else:
            self.world.hooks.writes(self)  # type: ignore[attr-defined]

    def _end(self) -> None:
        self.by_itself = not self.asked and not self.habits.crashes
        tidied = self.asked and self.habits.tidies > 0
        signalled = self.habits.crashes or (self.asked and not tidied)
        self.die(SIGTERM if signalled else self.habits.code << 8)

    def _branch(self, habits: Habits) -> None:
        CommandProcess(self.host, self, self.run, self.env, habits, main=False)


def spawn(caller: Program, env: Mapping[str, str]) -> CommandProcess:
    """Start COMMAND as the child of ``caller``, its warden."""
    run = caller.run
    habits: Habits = run.draw_habits()
    return CommandProcess(caller.host, caller, run, env, habits, main=True)
