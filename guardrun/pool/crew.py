"""The processes around one running item, kept for the next one.

Every place of a pool has a warden and a backstop of its own, because only a subreaper of its own
can prove that nothing of *this* item is alive. Forking them costs as much as a short COMMAND, so
they stay as long as they are as good as new: what a daemon was left to, or what was seized, ends.
A keeper, where anything is remote, stays likewise, as long as it holds and owes nothing.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from guardrun import blocking, channel, kernel
from guardrun.supervisor.guard import Guard
from guardrun.term import Bond
from guardrun.warden import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from guardrun.keeper.link import Link
    from guardrun.supervisor.loop import Loop


class Children:
    """Which children of the pool's process are not a running COMMAND's."""

    def __init__(self) -> None:
        self.ours: set[int] = set(tree.children())
        """those that are ours, and those that items left running"""
        self.awaited: set[int] = set()
        """those whose end their guards wait for"""

    def leave(self) -> None:
        """What has come to us by now was left running by an item that ended normally."""
        self.ours.update(set(tree.children()) - blocking.WAITING)

    def reap(self) -> None:
        """Reap whatever has died and nobody waits for."""
        tree.bury(self.ours, self.awaited)
        tree.reap(frozenset(self.ours) | blocking.WAITING)


class StandingGuard(Guard):
    """A guard that stays when its run is over, if it can serve another."""

    def __init__(
        self, mask: frozenset[int], bond: Bond | None, children: Children, others: frozenset[int]
    ) -> None:
        super().__init__(None, mask, bond, set(), others)
        self._children = children
        self._spare = children.ours
        self._spare.add(self._backstop)
        children.awaited.add(self._backstop)
        self._idle = True

    def spawn(self, order: channel.Spawn, stdio: Sequence[int], held: Sequence[int]) -> None:
        self._idle = False
        super().spawn(order, stdio, held)

    def receive(self) -> tuple[object, ...] | None:
        word = super().receive()
        match word:
            case channel.NotStarted():
                self._idle = True
            case channel.Over(orphans=orphans):
                self._idle = orphans == 0
        return word

    def seize(self) -> None:
        waiting = set(blocking.WAITING)  # other items' own
        self._forget_backstop()
        self._spare |= waiting
        try:
            super().seize()
        finally:
            self._spare -= waiting

    def dismiss(self) -> None:
        """Stay."""

    def bury(self) -> None:
        """Stay."""

    @property
    def fit(self) -> bool:
        """Whether it can watch another COMMAND: both of its processes are there, and idle."""
        known = (self._backstop, self._pid) if self._pidfd >= 0 else (self._backstop,)
        there = all(kernel.stat(pid)[1] not in (b"Z", b"") for pid in known)
        return self._open and self._idle and there

    def part(self) -> None:
        """Let go of what an item left running, and end."""
        super().dismiss()
        super().bury()
        self._forget_backstop()
        self._children.leave()

    def _forget_backstop(self) -> None:
        self._spare.discard(self._backstop)
        self._children.awaited.discard(self._backstop)


class Standing:
    """A keeper, as the loop of one item tends it: it stays when that is over."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.fileno = link.fileno
        self.overdue_at = link.overdue_at
        self.ready = link.ready
        self.check = link.check

    def release(self) -> None:
        """Stay."""


class PoolBond:
    """What ties every COMMAND of a pool to the keeper of the lock that the pool holds."""

    def __init__(self, bond: Bond) -> None:
        self.term = bond.term
        (self._tether,) = bond.tethers
        self._wardens = 0

    def tie(self, own: Bond | None) -> Bond:
        """The bond of one more warden; ``own`` is with the keeper of its items, if there is one."""
        number, self._wardens = self._wardens, self._wardens + 1
        tether = self._tether.copy()
        if own is None:
            return Bond(self.term, (tether,), number)
        return Bond(own.term, (*own.tethers, tether), number)

    def count(self) -> None:
        """All wardens that have been tied are there: the keeper waits for the word of each."""
        self.term.execute(self._wardens)


class Crew:
    """What one place of the pool has, from one item to the next.

    ``connect`` starts a keeper, where anything is remote; ``pool`` is the bond with the keeper of
    the pool's own lock, if that is.
    """

    def __init__(
        self,
        mask: frozenset[int],
        children: Children,
        connect: Callable[[Loop], tuple[Link | None, Bond | None]],
        pool: PoolBond | None,
    ) -> None:
        self._mask = mask
        self._children = children
        self._connect = connect
        self._pool = pool
        self._guard: StandingGuard | None = None
        self._link: Link | None = None
        self._bond: Bond | None = None

    def keeper(self, loop: Loop) -> Link | None:
        """The keeper, where one is needed; it is started for the first item."""
        if self._bond is None:
            self._link, self._bond = self._connect(loop)
        return self._link

    def send(self, message: tuple[object, ...]) -> None:
        """Tell whoever watches COMMAND, if there is one."""
        if self._guard is not None:
            self._guard.send(message)

    def hire(self) -> Guard:
        """The processes that watch COMMAND. Raises GuardrunError."""
        if self._guard is None:
            bond = self._bond if self._pool is None else self._pool.tie(self._bond)
            others = _private() - _tethers(bond)
            self._guard = StandingGuard(self._mask, bond, self._children, others)
            if self._pool is not None:
                self._pool.count()
        return self._guard

    def tidy(self) -> None:
        """Between two items: keep what can serve another, and let the rest end."""
        link, guard = self._link, self._guard
        clean = link is None or (link.held is None and link.place is None and not link.owes)
        if not clean or (guard is not None and not guard.fit):
            self.end()

    def end(self) -> None:
        """Let go of all of it; the next item gets another."""
        guard, link = self._guard, self._link
        self._guard = self._link = self._bond = None
        if guard is not None:
            guard.part()
        if link is not None:
            link.release()


def _private() -> frozenset[int]:
    """The descriptors that no COMMAND inherits: locks, pipes and channels of other items too."""
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if fd > 2 and fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                found.append(fd)
        except OSError:  # the listing's own
            pass
    return frozenset(found)


def _tethers(bond: Bond | None) -> frozenset[int]:
    return frozenset() if bond is None else frozenset(end.fileno() for end in bond.tethers)
