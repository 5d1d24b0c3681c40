"""Where all items of a pool wait: one poll(2) for many runs, in one process and one thread.

A run waits in one place only, its loop. In a pool that place hands over to the hub, which goes on
with whichever run has something to do: the six steps of ``run.py`` are the same code here as for a
single run. What holds a run's place meanwhile is a greenlet, a stack of its own; nothing happens
at the same time as anything else, and nobody is interrupted anywhere but where it waits.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from greenlet import getcurrent, greenlet

from guardrun import kernel
from guardrun.lean import NamedTuple
from guardrun.supervisor.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from guardrun.pool.commits import Commits
    from guardrun.report.log import Log
    from guardrun.supervisor.loop import Terminal, Woken

_PATIENCE = 2
"""rounds in which somebody else had something to do, before what is to be committed is"""


class _Sleep(NamedTuple):
    """What one item waits for."""

    item: greenlet
    interests: Sequence[tuple[int, int]]
    due: float


class Hub:
    """The pool's own loop; ``signals`` are those that it reads, for itself and for its items."""

    def __init__(self, signals: frozenset[int]) -> None:
        self._signals = kernel.SignalFd(signals)
        self._timer = kernel.Timer()
        self._main = getcurrent()
        self._asleep: dict[ItemLoop, _Sleep] = {}
        self._parked: list[tuple[greenlet, Callable[[], bool]]] = []
        self._unread: list[kernel.Signal] = []
        self._commits: Commits | None = None
        self._passed_over = 0
        self._told = False

    def start(self, body: Callable[[], None]) -> None:
        """Begin something that will wait now and then; what it raises is the pool's end."""
        greenlet(body, self._main).switch()

    def park(self, until: Callable[[], bool]) -> None:
        """Let the others go on, until something that one of them does has come true."""
        while not until():
            self._parked.append((getcurrent(), until))
            self._main.switch()

    def tell(self, loops: Iterable[ItemLoop], taken: kernel.Signal) -> None:
        """Let some items hear of a signal: the next ``wait`` wakes them at once."""
        for loop in loops:
            loop.told.append(taken)
            self._told = True

    def wait(self, interests: Sequence[tuple[int, int]], due: float) -> Woken:
        """Wait as a loop does, for the pool itself, while its items go on.

        Also returns, with nothing, when an item has done something.
        """
        busy = self._commits is not None and self._commits.waiting()
        # Or one that could not hear when it was told, because it was being committed.
        told = self._told or any(loop.told for loop in self._asleep)
        found, ready = self._poll(interests, 0.0 if busy or told else due)
        self._told = False
        woken = self._go_on(found)
        if busy and self._commits is not None:
            self._passed_over += 1
            if not woken or self._passed_over >= _PATIENCE:
                self._passed_over = 0
                self._commits.commit()
        self._go_on_parked()
        signals, self._unread = self._unread, []
        return ready, signals

    def _poll(
        self, interests: Sequence[tuple[int, int]], due: float
    ) -> tuple[dict[int, int], dict[int, int]]:
        """What is ready for anybody, and what of that the pool itself has asked for."""
        wanted = {self._signals.fd: select.POLLIN, self._timer.fd: select.POLLIN}
        for asked in (interests, *[sleep.interests for sleep in self._asleep.values()]):
            for fd, events in asked:
                wanted[fd] = wanted.get(fd, 0) | events
        poll = select.poll()
        for fd, events in wanted.items():
            poll.register(fd, events)
        self._timer.set(min([due, *[sleep.due for sleep in self._asleep.values()]]))
        found = dict(poll.poll(0 if due == 0.0 else None))
        if found.pop(self._signals.fd, 0):
            self._unread += self._signals.read()
        return found, {fd: found[fd] for fd, _ in interests if fd in found}

    def _go_on(self, found: dict[int, int]) -> bool:
        """Wake every item that has something to do; whether there was one."""
        now = kernel.now()
        woken = False
        for loop, sleep in list(self._asleep.items()):
            ready = {fd: found[fd] for fd, _ in sleep.interests if fd in found}
            if ready or loop.told or now >= sleep.due:
                del self._asleep[loop]
                signals, loop.told = loop.told, []
                woken = True
                sleep.item.switch((ready, signals))
        return woken

    def _go_on_parked(self) -> None:
        went_on = True
        while went_on:  # what one of them does may be what another waits for
            went_on = False
            parked, self._parked = self._parked, []
            for item, until in parked:
                if until():
                    went_on = True
                    item.switch()
                else:
                    self._parked.append((item, until))

    # ------------------------------------------------------------ for the items

    def sleep(self, loop: ItemLoop, interests: Sequence[tuple[int, int]], due: float) -> Woken:
        """Wait, as one item; the others go on."""
        self._asleep[loop] = _Sleep(getcurrent(), interests, due)
        woken: Woken = self._main.switch()
        return woken

    def unread(self) -> Sequence[kernel.Signal]:
        """The signals that came and that the pool has not heard of yet; don't wait."""
        self._unread += self._signals.read()
        return self._unread

    def look_after(self, commits: Commits) -> None:
        """Have ``commits`` done whenever nobody has anything else to do."""
        self._commits = commits


class PoolLoop(Loop):
    """The pool's own loop: while it waits, its items go on."""

    def __init__(self, hub: Hub, terminal: Terminal, log: Log) -> None:
        super().__init__(terminal, log)
        self._hub = hub

    def turn(self, interests: Sequence[tuple[int, int]], due: float) -> Woken:
        """Wait once, as ``wait`` does, and no longer than until some item has done something."""
        ready, signals, _ = self._round(interests, due)
        return ready, signals

    def _poll(self, interests: Sequence[tuple[int, int]], due: float) -> Woken:
        return self._hub.wait(interests, due)

    def stop_signal(self) -> int | None:
        return _first(self._hub.unread(), self.terminal)


class ItemLoop(Loop):
    """One item's loop: while it waits, the pool goes on."""

    def __init__(self, hub: Hub, terminal: Terminal, log: Log) -> None:
        super().__init__(terminal, log)
        self._hub = hub
        self.told: list[kernel.Signal] = []
        """signals for this item, to be read when it wakes"""

    def _poll(self, interests: Sequence[tuple[int, int]], due: float) -> Woken:
        return self._hub.sleep(self, interests, due)

    def stop_signal(self) -> int | None:
        return _first((*self.told, *self._hub.unread()), self.terminal)


def _first(signals: Sequence[kernel.Signal], terminal: Terminal) -> int | None:
    """The first of them that tells to stop."""
    return next((taken.number for taken in signals if taken.number in terminal.stops), None)
