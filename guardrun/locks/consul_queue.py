"""Who waits for a lock in Consul: one key each, in the order in which they were made."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from guardrun import kernel
from guardrun.locks import consul_session
from guardrun.locks.consul_keys import PLACE, WAIT, Detail, key
from guardrun.locks.consul_session import Conflict
from guardrun.locks.consul_watch import Target, Watches

if TYPE_CHECKING:
    from guardrun.locks.consul_keys import Record
    from guardrun.locks.consul_session import Session
    from guardrun.locks.consul_state import State
    from guardrun.model import LeaseRequest

_ALIVE = 10.0
"""s of a waiter's session, the shortest that there is"""
_SHOW = 3.0
"""s after which one that asks again shows that it still waits"""
_COMES = 4.0
"""s in which a waiter comes whose turn it is; it asks more often than that"""


class _Seat(NamedTuple):
    """A waiter's own key."""

    created: int
    session: str
    shown_at: float
    """when its session was renewed, on CLOCK_BOOTTIME, or a bit earlier"""
    before: str | None
    """the key of the one right before it; empty: it is the first, ``None``: we have to look"""


class Queue:
    """The waiters of one process, by token: what each has written, and what it watches."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seats: dict[str, _Seat] = {}
        self._late: dict[str, tuple[str, float]] = {}
        """by waiter: who before it has not come, and when that is for too long"""
        self._watches = Watches(session)

    def has(self, token: str) -> bool:
        """Whether it waits, as far as we know."""
        return token in self._seats

    def session_of(self, token: str) -> str:
        """The session of its key."""
        return self._seats[token].session

    def fileno(self) -> int | None:
        """Readable when it is worth asking again."""
        return self._watches.fileno()

    def drain(self) -> None:
        """Read what made it readable."""
        self._watches.drain()

    def close(self) -> None:
        """Watch nothing any more."""
        self._watches.close()

    def leave(self, wanted: LeaseRequest, due: float) -> None:
        """Have it not wait."""
        self.forget(wanted.token)
        name = key(wanted.lock, WAIT, wanted.token)
        gone = self._session.read(due, wanted.lock, name)
        self._session.change(due, wanted.lock, consul_session.delete(name))
        self._session.end(due, *(one.session for one in gone if one.session))

    def read(self, wanted: LeaseRequest, due: float) -> tuple[list[Record], list[Record]]:
        """What is written of places, and of waiters before this one; without a seat: of all.

        Of the queue, where one place is wanted, no more than is needed.
        """
        lock, seat = wanted.lock, self._seats.get(wanted.token)
        own = key(lock, WAIT, wanted.token)
        queue = [key(lock, WAIT)]
        if wanted.slots == 1 and seat is not None and seat.before is not None:
            queue = [own, *([seat.before] if seat.before else [])]
        told = self._session.read(due, lock, key(lock, PLACE), *queue)
        waiters = _in_order(told)
        mine = next((one for one in waiters if one.key == own), None)
        if seat is not None and (mine is None or mine.created != seat.created):
            self.forget(wanted.token)  # it has lapsed
            return self.read(wanted, due)
        if seat is None and mine is not None:  # we were not told that we have it
            self._seats[wanted.token] = _Seat(mine.created, mine.session, 0.0, None)
            return self.read(wanted, due)
        ahead = [one for one in waiters if mine is None or one.created < mine.created]
        if seat is not None:
            if seat.before and not ahead:  # there may be others
                self._seats[wanted.token] = seat._replace(before=None)
                return self.read(wanted, due)
            before = ahead[-1].key if ahead else ""
            self._seats[wanted.token] = seat._replace(before=before)
        return [one for one in told if one.kind == PLACE], ahead

    def sit_down(self, wanted: LeaseRequest, due: float) -> None:
        """Be the last in the queue."""
        asked_at = kernel.now()
        session = self._session.new_or_longer(due, _ALIVE)
        detail = Detail(wanted.token, wanted.owner, wanted.job_id, wanted.slots, _ALIVE)
        written = consul_session.lock(
            key(wanted.lock, WAIT, wanted.token), session, detail.written()
        )
        with suppress(Conflict):  # somebody has ended that session already
            (mine,) = self._session.change(due, wanted.lock, written)
            self._seats[wanted.token] = _Seat(mine.created, session, asked_at, None)

    def keeps(self, token: str, due: float) -> bool:
        """Show that we still wait; False: that was too late."""
        seat, now = self._seats[token], kernel.now()
        if now - seat.shown_at < _SHOW:
            return True
        if not self._session.renew(due, seat.session):
            return False
        self._seats[token] = seat._replace(shown_at=now)
        return True

    def passes(self, wanted: LeaseRequest, free: bool, state: State, due: float) -> bool:
        """Pass over the first of the queue, which does not come although there is a place for it.

        Its session may live on: whoever was stopped, or whose host was lost, would keep all others
        from the lock for twenty seconds.
        """
        seat, now = self._seats[wanted.token], kernel.now()
        ahead: list[Record] = []
        if free and state.before is not None:
            queue = self._session.read(due, wanted.lock, key(wanted.lock, WAIT))
            ahead = [one for one in _in_order(queue) if one.created < seat.created]
        if len(ahead) != 1:
            self._late.pop(wanted.token, None)
            return False
        first = ahead[0]
        who, late_at = self._late.setdefault(wanted.token, (first.key, now + _COMES))
        if who != first.key:
            self._late[wanted.token] = first.key, now + _COMES
        if who != first.key or now < late_at:
            return False
        words = (consul_session.unchanged(first), consul_session.delete(first.key))
        with suppress(Conflict):  # it has come, or gone
            self._session.change(due, wanted.lock, *words)
            self._session.end(due, first.session)
        return True

    def watches(self, wanted: LeaseRequest, state: State, due: float) -> bool:
        """Watch what we wait for; False: it has changed already.

        That is the waiter right before us: that it gets a place, or leaves. The first one waits for
        its place; with several, for any of them.
        """
        if state.before is not None:
            target, index = Target(state.before.key, False), state.before.modified
        elif wanted.slots == 1 and 0 in state.taken:
            target, index = Target(state.taken[0].key, False), state.taken[0].modified
        else:
            places = key(wanted.lock, PLACE)
            target = Target(places, True)
            # What was deleted counts for the index as well, and no key tells of it.
            told, index = self._session.below(due, places)
            if {one.number: one for one in told} != state.taken | state.left:
                return False
        return not self._watches.begin(wanted.token, target, index, due)

    def forget(self, token: str) -> None:
        """It waits no more."""
        self._seats.pop(token, None)
        self._late.pop(token, None)
        self._watches.stop(token)


def _in_order(told: list[Record]) -> list[Record]:
    """Who waits, first come first; a key without a session is nobody's, somebody has freed it."""
    found = (one for one in told if one.kind == WAIT and one.session)
    return sorted(found, key=lambda one: one.created)
