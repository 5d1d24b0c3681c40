"""Leases in Consul (1.8 or newer): a key for each place, locked by a session of the holder's own.

Promises: what a session has locked, Consul gives to no other, so nobody is ever given a place too
many. A session ends by Consul's own clock: never before its TTL, which is the lease's, and about as
long after it. Who waits watches the one before it, so a handoff costs as many requests for a
hundred waiters as for two. The fence is the index of the change by which the place was taken: it
grows for as long as the servers keep their data.

What a majority has not said does not count: a renewal writes the place before it has the session
renewed, because a leader that has been cut off, and does not know it yet, would renew it too.

A session that somebody ends by hand, or Consul with the node it belongs to, leaves a lock-delay on
the place: nobody gets it before its holder has found out by a renewal, and is dead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from guardrun import kernel
from guardrun.errors import StoreUnavailable
from guardrun.locks import consul_session
from guardrun.locks.consul_keys import PLACE, PREFIX, WAIT, Detail, key
from guardrun.locks.consul_queue import Queue
from guardrun.locks.consul_session import LONGEST_DELAY, Conflict, Session
from guardrun.locks.consul_state import State, agree, grant, holders, own_place, place, waiting
from guardrun.locks.lease import LONGEST_TTL, check
from guardrun.model import Grant, Place, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from guardrun.locks.consul_keys import Record
    from guardrun.model import LeaseRequest

_ASK_SOON = 0.5
_AT_ONCE = 0.001
_LASTS = 2.0
"""how many times its TTL a session lasts that nobody renews, in every version of Consul"""


class _Taken(NamedTuple):
    """What we remember of a place that is ours."""

    name: str
    session: str
    detail: Detail
    hold_over_at: float
    """on CLOCK_BOOTTIME, or a bit later"""


class ConsulLeases:
    """The ``LeaseStore`` port over the agents at ``url``.

    Nothing is connected before it is needed; after a failure the next call asks the next agent.
    """

    def __init__(self, url: str) -> None:
        self._session = Session(url)
        self._queue = Queue(self._session)
        self._taken: dict[str, _Taken] = {}
        self._unheard: dict[str, list[str]] = {}
        """by token: sessions that a place was asked for with, and no answer came"""

    # ------------------------------------------------------------ the port

    @property
    def fence_durable(self) -> bool | None:
        """A majority has every change on disk before it is told of."""
        return True

    @property
    def awaited(self) -> bool:
        """A connection is made in a millisecond: none is kept for that."""
        return False

    def acquire(self, wanted: LeaseRequest, wait: bool, due: float) -> Grant | Waiting:
        """Take a place; with ``wait``, a no means to be in the queue.

        Raises ``ConfigError`` for another number of slots than the lock has, ``UsageError`` for a
        ttl that this Consul does not allow.
        """
        check(wanted)
        delayed: set[int] = set()
        while True:
            state = self._state(wanted, *self._queue.read(wanted, due), due)
            if state.mine is not None:
                if self.renew(wanted, due):
                    self._queue.forget(wanted.token)
                    self._unheard.pop(wanted.token, None)
                    return grant(wanted, state.mine)
                # What is there by our name is about to lapse, or is not ours.
                return Waiting(holders(state), _ASK_SOON)
            agree(wanted, state)
            free = [one for one in state.free(wanted.slots) if one not in delayed]
            if len(free) > state.ahead:
                try:
                    return self._take(wanted, free[0], state, due)
                except Conflict as conflict:
                    if conflict.delayed:  # and nothing that tells whose it was
                        delayed.add(free[0])
            elif not wait:
                return waiting(state, delayed)
            elif not self._queue.has(wanted.token):
                self._queue.sit_down(wanted, due)
            elif not self._queue.keeps(wanted.token, due):
                return Waiting(holders(state), _ASK_SOON)
            elif self._queue.passes(wanted, bool(free), state, due):
                continue
            elif self._queue.watches(wanted, state, due):
                return waiting(state, delayed)
            else:
                return waiting(state, delayed)._replace(ask_again=_AT_ONCE)

    def leave(self, wanted: LeaseRequest, due: float) -> None:
        """Stop waiting: the queue goes on without us."""
        self._queue.leave(wanted, due)
        self._take_back(wanted.token, due)

    def renew(self, wanted: LeaseRequest, due: float) -> bool:
        """Extend the lease to a full ttl from now; False: it is not ours, or not any more."""
        check(wanted)
        for _ in range(2):
            mine = self._own(wanted, due)
            if mine is None:
                return False
            longer = wanted.ttl > mine.detail.ttl
            try:
                if longer:
                    self._move(wanted, mine, due)
                    return True
                detail = mine.detail._replace(renewed=self._session.now)
                written = consul_session.lock(mine.name, mine.session, detail.written())
                held = consul_session.held(mine.name, mine.session)
                self._session.change(due, wanted.lock, held, written)
            except Conflict:  # maybe it has another session by now, and we were not told
                self._taken.pop(wanted.token)
                continue
            # By the connection of that write: its agent knows of no older leader than the one that
            # has just had it written.
            return self._session.renew(due, mine.session)
        return False

    def release(self, wanted: LeaseRequest, due: float) -> bool:
        """Give the place back and wake who is next; False: it was not ours, nothing changed."""
        for _ in range(2):
            mine = self._own(wanted, due)
            if mine is None:
                return False
            try:
                # The key first: what a session still has at its end gets a lock-delay.
                if kernel.now() < mine.hold_over_at:
                    self._hold_back(wanted, mine, due)
                else:
                    held = consul_session.held(mine.name, mine.session)
                    self._session.change(due, wanted.lock, held, consul_session.delete(mine.name))
            except Conflict as conflict:
                if conflict.ended:  # that of --min-hold, which is over by Consul's clock
                    self._taken[wanted.token] = mine._replace(hold_over_at=kernel.now())
                else:  # maybe it has another session by now, and we were not told
                    self._taken.pop(wanted.token)
                continue
            self._taken.pop(wanted.token)
            over = kernel.now() >= mine.hold_over_at and mine.detail.keeps
            self._session.end(due, mine.session, *([mine.detail.keeps] if over else []))
            return True
        return False

    def wake_fd(self) -> int | None:
        """What is readable when it is worth asking again; ``None``: only ``ask_again`` counts."""
        return self._queue.fileno()

    def loss_fd(self) -> int | None:
        """Nothing tells: only the ttl counts."""
        return None

    def drain(self) -> None:
        """Read what made it readable; never blocks. Whatever it was, it means: ask again."""
        self._queue.drain()

    def holders(self, lock: str, due: float) -> tuple[Place, ...]:
        """The places of a lock that are taken, the oldest first."""
        told = self._session.read(due, lock, key(lock, PLACE))
        return tuple(sorted(self._places(told, due), key=lambda place: place.since))

    def locks(self, due: float) -> Iterator[Place]:
        """All that are taken in this store."""
        told, _ = self._session.below(due, PREFIX)
        yield from self._places(told, due)

    def take_away(self, lock: str, token: str, due: float) -> bool:
        """End one holding, whoever has it; False: there is none, or nothing but a lock-delay.

        The fence rises with that: every change of Consul's has an index of its own.
        """
        while True:
            told = self._session.read(due, lock, key(lock, PLACE))
            mine = next((one for one in told if one.token == token), None)
            if mine is None or not mine.session:
                return False
            ended = {mine.session, mine.detail.keeps if mine.detail else ""} - {""}
            words = (consul_session.unchanged(mine), consul_session.delete(mine.key))
            try:
                self._session.change(due, lock, *words)
            except Conflict:  # it has been renewed
                continue
            self._session.end(due, *ended)
            return True

    def idle(self) -> None:
        """Let go of connections until they are needed again; those that wait to be woken stay."""
        self._session.close()

    def close(self) -> None:
        """Let go of everything."""
        self._queue.close()
        self._session.close()

    # ------------------------------------------------------------ taking a place

    def _state(
        self, wanted: LeaseRequest, places: list[Record], ahead: list[Record], due: float
    ) -> State:
        taken: dict[int, Record] = {}
        left: dict[int, Record] = {}
        for one in places:
            (taken if self._session.is_taken(due, one) else left)[one.number] = one
        mine = own_place(places, wanted.token)
        return State(mine, taken, left, ahead[-1] if ahead else None, len(ahead))

    def _take(self, wanted: LeaseRequest, number: int, state: State, due: float) -> Grant:
        """Take a place that is free. Raises ``Conflict``: somebody was faster, or we have lapsed.

        Its key is made anew, so that the index of its creation is that of this change.
        """
        self._take_back(wanted.token, due)
        name, waits = key(wanted.lock, PLACE, number), key(wanted.lock, WAIT, wanted.token)
        # Our renewals come every quarter of the ttl; another is for their answers, and for dying.
        delay = min(max(wanted.ttl / 4 * 2, wanted.min_hold - wanted.ttl), LONGEST_DELAY)
        sessions = [self._session.new(due, wanted.ttl, delay, deletes=False)]
        since, hold_over_at = self._session.now, kernel.now() + wanted.min_hold
        if wanted.min_hold:
            keeps = min(wanted.min_hold / _LASTS, LONGEST_TTL)
            sessions.append(self._session.new_or_longer(due, keeps))
        detail = Detail(
            wanted.token,
            wanted.owner,
            wanted.job_id,
            wanted.slots,
            wanted.ttl,
            since,
            since,
            wanted.min_hold,
            delay,
            sessions[1] if wanted.min_hold else "",
        )
        words = [consul_session.lock(name, sessions[0], detail.written())]
        if number in state.left:
            left = state.left[number]
            words = [consul_session.unchanged(left), consul_session.delete(name), *words]
        else:
            words = [consul_session.absent(name), *words]
        if self._queue.has(wanted.token):
            own = consul_session.held(waits, self._queue.session_of(wanted.token))
            words = [own, consul_session.delete(waits), *words]
        try:
            said = self._session.change(due, wanted.lock, *words)
        except Conflict:
            self._session.end(due, *sessions)
            raise
        except StoreUnavailable:
            self._unheard[wanted.token] = sessions
            raise
        self._queue.forget(wanted.token)
        self._taken[wanted.token] = _Taken(name, sessions[0], detail, hold_over_at)
        return Grant(wanted.lock, said[-1].fence, since)

    def _take_back(self, token: str, due: float) -> None:
        """See that what was asked for, and not heard of, cannot be carried out any more.

        It may be on its way for long, and would find another place free when we have one.
        """
        self._session.destroy(due, *self._unheard.get(token, ()))
        self._unheard.pop(token, None)

    # ------------------------------------------------------------ what is ours

    def _own(self, wanted: LeaseRequest, due: float) -> _Taken | None:
        """What we hold, also when another process of this run took it."""
        token = wanted.token
        if token not in self._taken:
            told = self._session.read(due, wanted.lock, key(wanted.lock, PLACE))
            mine = own_place(told, token)
            if mine is None or mine.detail is None:
                return None
            detail = mine.detail
            rest = min(detail.since + detail.hold - self._session.now, detail.hold)
            over_at = kernel.now() + rest
            self._taken[token] = _Taken(mine.key, mine.session, detail, over_at)
        return self._taken[token]

    def _move(self, wanted: LeaseRequest, mine: _Taken, due: float) -> None:
        """Have a session that is long enough lock the place: one cannot be made longer."""
        session = self._session.new(due, wanted.ttl, mine.detail.delay, deletes=False)
        detail = mine.detail._replace(ttl=wanted.ttl, renewed=self._session.now)
        self._hand_over(wanted, mine, session, detail, due)
        self._taken[wanted.token] = mine._replace(session=session, detail=detail)
        self._session.end(due, mine.session)

    def _hold_back(self, wanted: LeaseRequest, mine: _Taken, due: float) -> None:
        """Have the session that ends with ``--min-hold`` lock the place."""
        detail = mine.detail._replace(released=True)
        self._hand_over(wanted, mine, mine.detail.keeps, detail, due)

    def _hand_over(
        self, wanted: LeaseRequest, mine: _Taken, session: str, detail: Detail, due: float
    ) -> None:
        self._session.change(
            due,
            wanted.lock,
            consul_session.held(mine.name, mine.session),
            consul_session.unlock(mine.name, mine.session),
            consul_session.lock(mine.name, session, detail.written()),
        )

    # ------------------------------------------------------------ what is told

    def _places(self, records: Iterable[Record], due: float) -> Iterator[Place]:
        for one in records:
            if one.kind == PLACE and self._session.is_taken(due, one):
                yield place(one, self._session.now)
