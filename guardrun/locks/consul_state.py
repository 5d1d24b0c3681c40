"""What a lock's keys in Consul say to one who wants a place, or looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from guardrun.errors import ConfigError
from guardrun.locks.consul_keys import PLACE, Detail
from guardrun.model import Grant, Holder, Place, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardrun.locks.consul_keys import Record
    from guardrun.model import LeaseRequest

_ASK_AGAIN = 3.0
"""s; what a waiter relies on when its watch has ended without a word"""
_DELAY_PASSES = 1.0
"""s; nothing tells when a lock-delay is over"""
_MOST_HOLDERS = 16

DELAYED = "its last holder's session was invalidated, and Consul's lock-delay is not over"
HELD_BACK = "its last run has ended, and --min-hold keeps it taken"


class State(NamedTuple):
    """What a lock's keys say to one who wants a place."""

    mine: Record | None
    """the place that is ours"""
    taken: dict[int, Record]
    """by number; also those that only a lock-delay keeps"""
    left: dict[int, Record]
    """by number: what is written in places that nobody has"""
    before: Record | None
    """the waiter right before us"""
    ahead: int
    """waiters before us; of them one is enough to know of where one place is wanted"""

    def free(self, slots: int) -> list[int]:
        """The places that nobody has."""
        return [number for number in range(slots) if number not in self.taken]


def place(one: Record, now: float) -> Place:
    """What is told of one that is taken, at that moment of Consul's clock."""
    detail = one.detail or _UNKNOWN
    lapses = min(detail.renewed - now, 0.0) + detail.ttl
    kept = min(detail.since - now, 0.0) + detail.hold
    left = detail.delay
    if one.session:
        left = max(kept, 0.0) if detail.released else max(lapses, kept, 0.0)
    return Place(
        one.lock,
        detail.owner,
        detail.job_id,
        one.token,
        one.fence,
        detail.since,
        left,
        detail.slots,
        detail.released or not one.session,
        not one.session,
    )


_UNKNOWN = Detail("", "?", "", 1, float("inf"))
"""what somebody has written over by hand"""


def holds(place: Record, token: str) -> bool:
    """Whether a place is that run's."""
    detail = place.detail
    ours = place.kind == PLACE and bool(place.session) and place.token == token
    return ours and detail is not None and not detail.released


def own_place(places: Iterable[Record], token: str) -> Record | None:
    """The place that is that run's.

    Of two it is the one that was taken first. The other one was asked for before that, carried out
    after it, and is known to nobody: it is left to lapse.
    """
    ours = (place for place in places if holds(place, token))
    return min(ours, key=lambda place: place.fence, default=None)


def agree(wanted: LeaseRequest, state: State) -> None:
    """Raise ``ConfigError`` for another number of slots than the lock has."""
    for one in state.taken.values():
        if one.detail is not None and one.detail.slots != wanted.slots:
            raise ConfigError(
                f"the lock {wanted.lock!r} is in use with --slots {one.detail.slots}, and "
                f"asked for with --slots {wanted.slots}: all its users have to give the same"
            )


def grant(wanted: LeaseRequest, mine: Record) -> Grant:
    """The same again as when it was granted."""
    return Grant(wanted.lock, mine.fence, mine.detail.since if mine.detail else 0.0)


def holders(state: State) -> tuple[Holder, ...]:
    """Some of those whose places are taken."""
    details = [one.detail for one in state.taken.values() if one.detail is not None]
    told = [Holder(one.owner, one.job_id, one.since) for one in details]
    return tuple(told[:_MOST_HOLDERS])


def waiting(state: State, delayed: set[int]) -> Waiting:
    """A no, and what keeps the lock taken when it is no run."""
    lost = delayed or any(not one.session for one in state.taken.values())
    kept = [one.detail for one in state.taken.values() if one.session]
    runs = any(one is None or not one.released for one in kept)
    reason = None if runs or not (lost or kept) else DELAYED if lost else HELD_BACK
    ahead = 0 if state.ahead == 0 else None
    return Waiting(holders(state), _DELAY_PASSES if lost else _ASK_AGAIN, reason, ahead)
