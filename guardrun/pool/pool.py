"""``guardrun each``: takes items on as places become free, and sees all of them to their end."""

from __future__ import annotations

import signal
import time
from collections import deque
from itertools import takewhile
from typing import TYPE_CHECKING

from guardrun import channel, kernel
from guardrun.core import policy
from guardrun.core.account import Ending
from guardrun.errors import GuardrunError
from guardrun.model import Counts
from guardrun.pool.crew import Crew
from guardrun.pool.lines import Pen, Turn
from guardrun.pool.work import begin, carry_out, new_loop
from guardrun.report import events
from guardrun.supervisor.loop import SUSPEND, suspend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from guardrun.model import EachSpec
    from guardrun.pool.crew import Children
    from guardrun.pool.hub import ItemLoop, PoolLoop
    from guardrun.pool.items import Items, Taken
    from guardrun.pool.lock import PoolLock
    from guardrun.pool.progress import Progress
    from guardrun.pool.work import Works

_NEVER = float("inf")
_LOST = 74
_STDOUT = 1
_FAREWELL = 1.0
"""s that a reader has to take what was written before we were told to stop"""
_KEPT = 64 << 20
"""bytes of output of items that are not to be written yet; then no new ones are taken"""
_BEHIND = 1000
"""items that have ended behind one that has not, with ``--keep-order``; likewise"""


class Pool:
    """One pool, from its first item to its last."""

    def __init__(
        self,
        spec: EachSpec,
        works: Works,
        loop: PoolLoop,
        items: Items,
        children: Children,
        new_crew: Callable[[], Crew],
        pens: dict[int, Pen],
        progress: Progress,
    ) -> None:
        self._spec = spec
        self._works = works
        self._loop = loop
        self._items = items
        self._children = children
        self._new_crew = new_crew
        self._pens = pens
        self._progress = progress
        self.counts = Counts()
        self.told: int | None = None
        """the signal that told us to stop"""
        self.lost = False
        """the lock that was held for all items"""
        self.fault: GuardrunError | None = None
        """what is wrong with the input"""
        self.busy: Ending | None = None
        """why there was no lock for it"""
        self._idle: list[Crew] = []
        self._running: dict[ItemLoop, tuple[Crew, Turn]] = {}
        self._keys: set[str | None] = set()
        """of items that are running"""
        self._turns: deque[Turn] = deque()
        self._stop_at = _NEVER
        self._farewell = _NEVER

    def work(self, lock: PoolLock | None) -> None:
        """Work off the input, or as much of it as is to be, under ``lock``.

        Raises what comes of taking the lock; by then no item has been taken.
        """
        if lock is not None:
            took = lock.take()
            if isinstance(took, Ending):
                self.busy = took
                return
            self._works = self._works._replace(lent=took)
        while True:
            self._take_on()
            self._progress.show(self.counts, len(self._running))
            if not self._running and (self._items.over or self._closed()) and self._said():
                break
            self._wait()
        self.lost = self._lock_is_gone()
        self._progress.hide()
        for crew in self._idle:
            crew.end()
        for pen in self._pens.values():
            pen.close()

    def _said(self) -> bool:
        """Whether all is written, or its reader was too slow: who told us to stop waits for us."""
        if self.told is not None and self._farewell == _NEVER:
            self._farewell = kernel.now() + _FAREWELL
        return not self._unwritten() or kernel.now() >= self._farewell

    def _closed(self) -> bool:
        """Whether no new items are to be taken."""
        stopped = self.told is not None or self.fault is not None or self._lock_is_gone()
        return stopped or self._unheard() or self.counts.failed >= self._spec.halt_after

    def _unheard(self) -> bool:
        """Whether nobody reads our stdout any more: what is not begun is for another time."""
        return self._pens[_STDOUT].broken

    def _lock_is_gone(self) -> bool:
        return self._works.lent is not None and self._works.lent.gone

    def _has_room(self) -> bool:
        behind = len(self._turns) < _BEHIND and sum(turn.size for turn in self._turns) < _KEPT
        return len(self._running) < self._spec.parallel and behind and not self._closed()

    def _take_on(self) -> None:
        while self._has_room():
            try:
                taken = self._items.take()
            except GuardrunError as error:
                self.fault = error
                return
            if taken is None:
                return
            self._begin(taken)

    def _wait(self) -> None:
        reading = self._items.interests() if self._has_room() else ()
        writing = [interest for pen in self._pens.values() for interest in pen.interests()]
        turn = self._turns[0].interests() if self._turns else []
        due = min(self._stop_at, self._farewell, self._progress.due())
        ready, signals = self._loop.turn([*reading, *writing, *turn], due)
        for taken in signals:
            self._heed(taken)
        if any(fd in ready for fd, _ in reading):
            try:
                self._items.read()
            except GuardrunError as error:
                self.fault = error
        for pen in self._pens.values():
            if any(fd in ready for fd, _ in pen.interests()):
                pen.ready()
        self._pass_on()
        if kernel.now() >= self._stop_at:
            self._stop_at = _NEVER
            self._stop(self._running)

    # ------------------------------------------------------------ one item

    def _begin(self, taken: Taken) -> None:
        self.counts = self.counts._replace(total=self.counts.total + 1)
        turn = Turn(self._pens, first=not self._turns or not self._spec.keep_order)
        self._turns.append(turn)
        loop = new_loop(self._works)
        crew = self._idle.pop() if self._idle else self._new_crew()
        self._running[loop] = crew, turn
        self._works.hub.start(lambda: self._serve(taken, loop, crew, turn))

    def _serve(self, taken: Taken, loop: ItemLoop, crew: Crew, turn: Turn) -> None:
        result = "failed"
        begun = begin(self._works, taken, loop)
        if begun is not None:
            plan, me = begun
            key = me.key
            # The same key twice in one input: the second one finds out what the first did.
            self._works.hub.park(
                lambda: bool(loop.told) or (key not in self._keys and self._may_ask(turn))
            )
            if key is not None:
                self._keys.add(key)
            result = carry_out(self._works, plan, me, taken, loop, crew, turn)
            self._keys.discard(key)
        self.counts = self.counts.plus(result)
        del self._running[loop]
        self._idle.append(crew)
        turn.done = True
        self._pass_on()

    def _may_ask(self, turn: Turn) -> bool:
        """Whether an item may ask for lock and key now.

        In the order of the input, if that is kept: or the last slot could be had by one that waits
        to write behind one that waits for a slot.
        """
        if not self._spec.keep_order:
            return True
        before = takewhile(lambda other: other is not turn, self._turns)
        return all(other.begun or other.done for other in before)

    # ------------------------------------------------------------ what they write

    def _pass_on(self) -> None:
        """Let whoever is first write, and those who have written all go."""
        if not self._spec.keep_order:
            for turn in [turn for turn in self._turns if turn.over]:
                turn.close()
                self._turns.remove(turn)
            return
        while self._turns:
            first = self._turns[0]
            first.come()
            if not first.over:
                break
            first.close()
            self._turns.popleft()

    def _unwritten(self) -> bool:
        return bool(self._turns) or any(pen.interests() for pen in self._pens.values())

    # ------------------------------------------------------------ signals

    def _heed(self, taken: kernel.Signal) -> None:
        if taken.number in self._loop.terminal.stops:
            if self.told is None:
                self.told = taken.number
                self._stop_at = kernel.now() + self._works.plan.exec.kill_after
                # What waits, for its lock or key, is as good as new: it must not begin now.
                self._stop(loop for loop, (_, turn) in self._running.items() if not turn.begun)
            else:
                self._stop_at = _NEVER
                self._stop(self._running)
        elif taken.number == signal.SIGCHLD:
            self._children.reap()
        else:
            self._pass(taken.number)
            if taken.number in SUSPEND:
                self._progress.hide()
                suspend(taken)
                self._pass(int(signal.SIGCONT))  # an enum cannot be sent

    def _stop(self, loops: Iterable[ItemLoop]) -> None:
        assert self.told is not None
        # An item has no terminal: HUP would only be passed on to its COMMAND, which may ignore it.
        signum = int(signal.SIGTERM) if self.told == signal.SIGHUP else self.told
        self._works.hub.tell(loops, kernel.Signal(signum, by_kernel=False))

    def _pass(self, signum: int) -> None:
        for crew, _ in self._running.values():
            crew.send(channel.Pass(signum))

    # ------------------------------------------------------------ the end

    def finished(self, took: float) -> int:
        """Say what became of it all; the exit code, where no signal ended it."""
        counts, reason, level = self.counts, None, "info"
        done = counts.succeeded + counts.skipped_duplicate
        if self.fault is not None:
            reason, level = str(self.fault), "error"
        elif self.busy is not None:
            reason, level = self.busy.reason, "warning"
        elif self.told is not None:
            reason, level = "told to stop", "warning"
        elif self.lost:
            reason, level = policy.LEASE_LOST, "error"
        elif self._unheard():
            reason, level = "nobody reads what the items write any more", "error"
        elif counts.failed >= self._spec.halt_after:
            reason, level = f"halted after {counts.failed} failures", "error"
        elif done < counts.total:
            level = "error"
        self._works.log.emit(events.each_finished(time.time(), counts, level, reason, took))
        if self.fault is not None:
            return self.fault.exit_code
        if self.busy is not None:
            return self.busy.exit_code
        if self.lost:
            return _LOST
        whole = done == counts.total and self.told is None and not self._unheard()
        return 0 if whole else 1
