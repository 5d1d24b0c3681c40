"""Leases in etcd (3.4 or newer), over its JSON gateway: entries in the order in which they came.

Promises: of a lock's entries the first ``slots`` have its places, so nobody is ever given one too
many: an entry that is among the first stays there until it goes, and new ones come in behind. An
entry goes with its own lease in etcd, by etcd's own clock. Who waits watches the one before it, so
a handoff costs as many requests for a hundred waiters as for two. The fence is the revision in
which the place was taken: it grows for as long as the cluster keeps its data.

What a majority has not said does not count: a renewal writes a key before it asks the leader to
extend the lease, because one that has been cut off, and does not know it yet, would extend it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from guardrun import kernel
from guardrun.errors import ConfigError
from guardrun.locks.etcd_keys import ALIVE, ENTRY, HOLD, PREFIX, Detail, beyond, coded, key
from guardrun.locks.etcd_session import Session
from guardrun.locks.etcd_watch import Watches, target
from guardrun.locks.etcd_words import (
    all_of,
    compare,
    delete,
    deleted,
    found,
    get,
    held,
    last_key,
    put,
    records,
)
from guardrun.locks.lease import LONGEST_HOLD, check
from guardrun.model import Grant, Holder, Place, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from guardrun.locks.etcd_keys import Record
    from guardrun.locks.etcd_words import Word
    from guardrun.model import LeaseRequest

_ASK_AGAIN = 3.0
"""s; what a waiter relies on when its watch has ended without a word"""
_ALIVE = 9
"""s that a waiter keeps its place in the queue without asking again"""
_SHOW = 1.0
"""s after which one that asks again shows that it still waits"""
_ASK_SOON = 0.5
_AT_ONCE = 0.001
_MOST_HOLDERS = 16
_PAGE = 1000
"""keys that are read at once"""


class _Seat(NamedTuple):
    """A waiter's own entry."""

    created: int
    shown_at: float
    """when its lease was extended, on CLOCK_BOOTTIME, or a bit earlier"""


class _Taken(NamedTuple):
    """What we remember of a place, beside what the cluster knows."""

    hold_over_at: float
    """on CLOCK_BOOTTIME, or a bit later"""


class _State(NamedTuple):
    """What a lock's keys say to one who wants a place."""

    revision: int
    mine: Record | None
    ahead: list[Record]
    """of the entries before mine so many as there are places; without one of my own: of all"""
    before: Record | None
    """the one right before mine"""
    waiters: int
    """before mine; 2 stands for more as well"""
    holds: list[Record]

    def taken(self) -> dict[str, Record]:
        """By token: who has a place, or is to get one before me."""
        return {one.token: one for one in (*self.holds, *self.ahead)}


class EtcdLeases:
    """The ``LeaseStore`` port over the cluster at ``url``.

    Nothing is connected before it is needed; after a failure the next call asks the next member.
    """

    def __init__(self, url: str) -> None:
        self._session = Session(url)
        self._seats: dict[str, _Seat] = {}
        self._taken: dict[str, _Taken] = {}
        self._watches = Watches(self._session)

    # ------------------------------------------------------------ the port

    @property
    def fence_durable(self) -> bool | None:
        """A majority has every revision on disk before it is told of."""
        return True

    @property
    def awaited(self) -> bool:
        """A connection is made in a millisecond: none is kept for that."""
        return False

    def acquire(self, wanted: LeaseRequest, wait: bool, due: float) -> Grant | Waiting:
        """Take a place; with ``wait``, a no means to be in the queue.

        Raises ``ConfigError`` for another number of slots than the lock has.
        """
        check(wanted)
        state = self._read(wanted, due)
        while True:
            if state.mine is not None and state.mine.granted:
                if self.renew(wanted, due):
                    self._forget_seat(wanted.token)
                    return self._grant(wanted, state.mine)
                # What is there by our name is about to lapse, or is not ours.
                return Waiting(_holders(state), _ASK_SOON)
            self._agree(wanted, state)
            if len(state.taken()) < wanted.slots:
                granted = self._take(wanted, state, due)
                if granted is not None:
                    return granted
            elif not wait:
                return Waiting(_holders(state), _ASK_AGAIN)
            elif state.mine is None:
                state = self._sit_down(wanted, due)
                continue
            elif not self._keeps_seat(wanted, state.mine, due):
                return Waiting(_holders(state), _ASK_SOON)
            else:
                awaits = target(wanted.lock, wanted.slots, state.before)
                missed = self._watches.begin(wanted.token, awaits, state.revision + 1, due)
                again = _AT_ONCE if missed else _ASK_AGAIN
                return Waiting(_holders(state), again, ahead=state.waiters)
            state = self._read(wanted, due)

    def leave(self, wanted: LeaseRequest, due: float) -> None:
        """Stop waiting: the queue goes on without us."""
        self._watches.stop(wanted.token)
        self._seats.pop(wanted.token, None)
        entry, alive = key(wanted.lock, ENTRY, wanted.token), key(wanted.lock, ALIVE, wanted.token)
        waits = [compare(alive, "CREATE", "EQUAL", 0)]
        said = self._session.transact(due, wanted.lock, waits, [delete(entry)])
        self._revoke(deleted(said), due)

    def renew(self, wanted: LeaseRequest, due: float) -> bool:
        """Extend the lease to a full ttl from now; False: it is not ours, or not any more."""
        check(wanted)
        entry, alive = key(wanted.lock, ENTRY, wanted.token), key(wanted.lock, ALIVE, wanted.token)
        while True:
            sign = {"key": coded(alive), "ignore_lease": True}
            then = [get(entry), {"request_put": sign}]
            said = self._session.transact(due, wanted.lock, held(entry, alive), then)
            mine = next(iter(records(said)), None)
            if not said.get("succeeded") or mine is None or mine.detail is None:
                return False
            # By the connection of that write: its member knows of no older leader than the one that
            # has just had it written.
            lasts = self._session.extend(mine.lease, due)
            if lasts == 0 or lasts >= wanted.ttl:
                return lasts > 0
            self._move(wanted, mine, due)

    def release(self, wanted: LeaseRequest, due: float) -> bool:
        """Give the place back and wake who is next; False: it was not ours, nothing changed."""
        entry, alive, hold = (key(wanted.lock, kind, wanted.token) for kind in (ENTRY, ALIVE, HOLD))
        taken = self._taken.get(wanted.token)
        ended = [entry, alive]
        if taken is not None and kernel.now() >= taken.hold_over_at:
            ended.append(hold)  # etcd's own clock has whole seconds
        said = self._session.transact(
            due, wanted.lock, held(entry, alive), [delete(one) for one in ended]
        )
        if not said.get("succeeded"):
            return False
        self._taken.pop(wanted.token, None)
        self._revoke(deleted(said), due)
        return True

    def wake_fd(self) -> int | None:
        """What is readable when it is worth asking again; ``None``: only ``ask_again`` counts."""
        return self._watches.fileno()

    def loss_fd(self) -> int | None:
        """Nothing tells: only the ttl counts."""
        return None

    def drain(self) -> None:
        """Read what made it readable; never blocks. Whatever it was, it means: ask again."""
        self._watches.drain()

    def holders(self, lock: str, due: float) -> tuple[Place, ...]:
        """The places of a lock that are taken, the oldest first."""
        then = [all_of(key(lock, kind)) for kind in (ENTRY, HOLD)]
        told = records(self._session.transact(due, lock, [], then))
        return tuple(sorted(self._places(told, due), key=lambda place: place.since))

    def locks(self, due: float) -> Iterator[Place]:
        """All that are taken in this store, by a walk over its keys."""
        first, told = PREFIX, []
        while True:
            page = {"key": coded(first), "range_end": coded(beyond(PREFIX)), "limit": _PAGE}
            said = self._session.ask(due, "kv/range", page)
            told += found(said)
            if not said.get("more"):
                break
            first = last_key(said) + b"\0"
        yield from self._places(told, due)

    def take_away(self, lock: str, token: str, due: float) -> bool:
        """End one holding, whoever has it; False: there is none.

        The fence rises with that: every change of the cluster has a revision of its own.
        """
        all_its = [delete(key(lock, kind, token)) for kind in (ENTRY, ALIVE, HOLD)]
        self._revoke(ended := deleted(self._session.transact(due, lock, [], all_its)), due)
        return bool(ended)

    def idle(self) -> None:
        """Let go of connections until they are needed again; those that wait to be woken stay."""
        self._session.close()

    def close(self) -> None:
        """Let go of everything."""
        self._watches.close()
        self._session.close()

    # ------------------------------------------------------------ taking a place

    def _read(self, wanted: LeaseRequest, due: float) -> _State:
        return self._look(wanted, [], [], due)

    def _look(
        self, wanted: LeaseRequest, only_if: list[Word], then: list[Word], due: float
    ) -> _State:
        """Do this, and read what comes of it; of that, no more than is needed."""
        lock = wanted.lock
        entries = all_of(key(lock, ENTRY))["request_range"] | {"sort_target": "CREATE"}
        seat = self._seats.get(wanted.token)
        if seat is not None:
            entries["max_create_revision"] = seat.created
        reads = [
            get(key(lock, ENTRY, wanted.token)),
            {"request_range": entries | {"sort_order": "ASCEND", "limit": wanted.slots + 1}},
            {"request_range": entries | {"sort_order": "DESCEND", "limit": 3}},
            all_of(key(lock, HOLD)),
        ]
        asked_at = kernel.now()
        said = self._session.transact(due, lock, only_if, [*then, *reads], reads)
        answers = said["responses"][-len(reads) :]
        own, first, last, holds = (found(one["response_range"]) for one in answers)
        mine = own[0] if own else None
        if seat is not None and (mine is None or mine.created != seat.created):
            # It has lapsed. What was read goes only as far as it was.
            self._forget_seat(wanted.token)
            return self._read(wanted, due)
        if seat is None and mine is not None and not mine.granted:
            fresh = bool(then) and said.get("succeeded", False)
            self._seats[wanted.token] = _Seat(mine.created, asked_at if fresh else 0.0)
            if not fresh:  # others came behind it, and were read as well
                return self._read(wanted, due)
        before = [one for one in last if one.token != wanted.token][:2] if mine else []
        places = {one.token for one in first[: wanted.slots]}
        return _State(
            int(said["header"]["revision"]),
            mine,
            [one for one in first if one.token != wanted.token][: wanted.slots],
            before[0] if before else None,
            sum(one.token not in places for one in before),
            holds,
        )

    @staticmethod
    def _agree(wanted: LeaseRequest, state: _State) -> None:
        for one in state.taken().values():
            if one.detail is not None and one.detail.slots != wanted.slots:
                raise ConfigError(
                    f"the lock {wanted.lock!r} is in use with --slots {one.detail.slots}, and "
                    f"asked for with --slots {wanted.slots}: all its users have to give the same"
                )

    def _take(self, wanted: LeaseRequest, state: _State, due: float) -> Grant | None:
        """Take the place that is there for us; ``None``: somebody was faster, or we have lapsed."""
        lease = self._session.new_lease(wanted.ttl, due)
        hold = 0
        if wanted.min_hold:
            hold = self._session.new_lease(min(wanted.min_hold, LONGEST_HOLD), due)
        detail = _detail(wanted, self._session.now).written()
        entry, alive, kept = (key(wanted.lock, kind, wanted.token) for kind in (ENTRY, ALIVE, HOLD))
        if state.mine is None:
            # Since we looked nobody has come; whoever has gone has left only more places.
            entries = key(wanted.lock, ENTRY)
            unchanged = compare(entries, "MOD", "LESS", state.revision + 1)
            only_if = [unchanged | {"range_end": coded(beyond(entries))}]
        else:
            # Nor have we: a request that comes late, when another has taken the place for us, would
            # put it back on its own lease, which nobody extends, and change the fence.
            only_if = [compare(entry, "MOD", "EQUAL", state.mine.modified)]
        then = [put(entry, lease, detail), put(alive, lease)]
        if hold:
            then.append(put(kept, hold, detail))
        said = self._session.transact(due, wanted.lock, only_if, [*then, get(entry)])
        if not said.get("succeeded"):
            self._session.end({lease, hold} - {0}, due)
            return None
        self._forget_seat(wanted.token)
        self._taken[wanted.token] = _Taken(kernel.now() + wanted.min_hold)
        (mine,) = records(said)
        return self._grant(wanted, mine)

    @staticmethod
    def _grant(wanted: LeaseRequest, mine: Record) -> Grant:
        since = mine.detail and mine.detail.since
        return Grant(wanted.lock, mine.fence, since or 0.0)

    def _sit_down(self, wanted: LeaseRequest, due: float) -> _State:
        """Be the last in the queue."""
        lease = self._session.new_lease(_ALIVE, due)
        entry = key(wanted.lock, ENTRY, wanted.token)
        only_if = [compare(entry, "CREATE", "EQUAL", 0)]
        detail = _detail(wanted, None).written()
        return self._look(wanted, only_if, [put(entry, lease, detail)], due)

    def _keeps_seat(self, wanted: LeaseRequest, mine: Record, due: float) -> bool:
        """Show that we still wait; False: that was too late."""
        seat, now = self._seats[wanted.token], kernel.now()
        if now - seat.shown_at < _SHOW:
            return True
        if self._session.extend(mine.lease, due) == 0:
            return False
        self._seats[wanted.token] = seat._replace(shown_at=now)
        return True

    def _forget_seat(self, token: str) -> None:
        self._seats.pop(token, None)
        self._watches.stop(token)

    # ------------------------------------------------------------ what it stands on

    def _move(self, wanted: LeaseRequest, mine: Record, due: float) -> None:
        """Attach what is ours to a lease that is long enough: one cannot be made longer."""
        assert mine.detail is not None
        lease = self._session.new_lease(wanted.ttl, due)
        entry, alive = key(wanted.lock, ENTRY, wanted.token), key(wanted.lock, ALIVE, wanted.token)
        detail = mine.detail._replace(fence=mine.fence).written()
        only_if = [compare(entry, "LEASE", "EQUAL", mine.lease)]
        then = [put(entry, lease, detail), put(alive, lease)]
        said = self._session.transact(due, wanted.lock, only_if, then)
        self._session.end({mine.lease if said.get("succeeded") else lease}, due)

    def _revoke(self, records: Iterable[Record], due: float) -> None:
        """End the leases of what was deleted."""
        self._session.end({one.lease for one in records if one.lease}, due)

    def _places(self, records: Iterable[Record], due: float) -> Iterator[Place]:
        """What is taken; of an entry and the hold beside it the longer one counts."""
        taken: dict[tuple[str, str], list[Record]] = {}
        for one in records:
            if one.kind in (ENTRY, HOLD) and one.granted:
                taken.setdefault((one.lock, one.token), []).append(one)
        for (lock, token), both in taken.items():
            left = max(self._session.left(one.lease, due) for one in both)
            first = both[0]
            detail = first.detail or _UNKNOWN
            if left >= 0:
                yield Place(
                    lock,
                    detail.owner,
                    detail.job_id,
                    token,
                    first.fence,
                    detail.since or 0.0,
                    left,
                    detail.slots,
                    first.kind == HOLD,
                )


_UNKNOWN = Detail("?", "", 1, 0.0, None)
"""what somebody has written over by hand"""


def _detail(wanted: LeaseRequest, since: float | None) -> Detail:
    return Detail(wanted.owner, wanted.job_id, wanted.slots, since, None)


def _holders(state: _State) -> tuple[Holder, ...]:
    details = [one.detail for one in state.taken().values() if one.granted]
    told = [Holder(one.owner, one.job_id, one.since) for one in details if one is not None]
    return tuple(told[:_MOST_HOLDERS])
