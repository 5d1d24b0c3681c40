"""What a lease store is: the ``LeaseStore`` port as pure decisions of a server's clock.

The simulator runs on it, and state machines compare the real stores with it. All instants are
seconds since 1970 by the server's clock, given as ``now``; nothing here reads one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from guardrun.errors import ConfigError
from guardrun.model import Grant, Holder, LeaseRequest, Place, Waiting


@dataclass
class Held:
    """One place that is taken."""

    token: str
    owner: str
    job_id: str
    since: float
    fence: int
    lapses: float
    """when the lease is over unless it is renewed"""
    holds: float
    """its not-before time: until then the place stays taken, whatever becomes of the lease"""
    released: bool = False
    """the lease has ended; only the not-before time is left"""

    @property
    def until(self) -> float:
        """When the place is free."""
        return self.holds if self.released else max(self.lapses, self.holds)


@dataclass
class _Lock:
    slots: int = 1
    fence: int = 0
    places: list[Held] = field(default_factory=list)
    queue: list[str] = field(default_factory=list)
    """tokens, first come first"""
    alive: dict[str, float] = field(default_factory=dict)
    """token of a waiter → until when it counts as one"""


class LeaseModel:
    """All locks of one server. ``woken`` collects the tokens that it would tell to ask again."""

    def __init__(self, alive: float = 9.0, ask_again: float = 3.0) -> None:
        self._alive = alive
        self._ask_again = ask_again
        self._locks: dict[str, _Lock] = {}
        self.woken: list[str] = []

    def acquire(self, wanted: LeaseRequest, wait: bool, now: float) -> Grant | Waiting:
        """Take a place, or (``wait``) be in the queue; the same token gets the same grant again.

        Raises ``ConfigError`` for another number of slots than the lock has while it is taken.
        """
        lock = self._locks.setdefault(wanted.lock, _Lock())
        self._clean(lock, now, wanted.token)
        if lock.places and lock.slots != wanted.slots:
            raise ConfigError(f"the lock has {lock.slots} slots, not {wanted.slots}")
        mine = self._ours(lock, wanted.token, now)
        if mine is not None:
            mine.lapses = now + wanted.ttl
            self._unqueue(lock, wanted.token)
            return Grant(wanted.lock, mine.fence, mine.since)
        for late in lock.places:  # its lease is over, its not-before time is not
            late.released = late.released or late.token == wanted.token
        queued = wanted.token in lock.queue
        ahead = lock.queue.index(wanted.token) if queued else len(lock.queue)
        free = wanted.slots - len(lock.places)
        if ahead < free:
            lock.slots = wanted.slots
            lock.fence = max(lock.fence + 1, _microseconds(now))
            held = Held(
                wanted.token,
                wanted.owner,
                wanted.job_id,
                now,
                lock.fence,
                now + wanted.ttl,
                now + wanted.min_hold,
            )
            lock.places.append(held)
            self._unqueue(lock, wanted.token)
            return Grant(wanted.lock, held.fence, held.since)
        if wait:
            if not queued:
                lock.queue.append(wanted.token)
            lock.slots = wanted.slots
            lock.alive[wanted.token] = now + self._alive
        return Waiting(self._holders(lock), self._pause(lock, ahead, free, now))

    def renew(self, wanted: LeaseRequest, now: float) -> bool:
        """Extend the lease to a full ttl from now; False: it is not ours, or not any more."""
        lock = self._locks.get(wanted.lock)
        mine = None if lock is None else self._ours(lock, wanted.token, now)
        if mine is None:
            return False
        mine.lapses = now + wanted.ttl
        return True

    def release(self, wanted: LeaseRequest, now: float) -> bool:
        """Give the place back; its not-before time stays. False: it was not ours."""
        lock = self._locks.get(wanted.lock)
        if lock is None:
            return False
        self._clean(lock, now, "")
        mine = self._ours(lock, wanted.token, now)
        if mine is None:
            return False
        mine.released = True
        self._clean(lock, now, "")
        self._wake(lock, "")
        return True

    def leave(self, wanted: LeaseRequest, now: float) -> None:
        """Stop waiting."""
        lock = self._locks.get(wanted.lock)
        if lock is None:
            return
        self._clean(lock, now, wanted.token)
        if self._unqueue(lock, wanted.token):
            self._wake(lock, "")

    def take_away(self, name: str, token: str, now: float) -> bool:
        """End one holding, its not-before time too, and raise the fence; False: there is none."""
        lock = self._locks.get(name)
        if lock is None:
            return False
        self._clean(lock, now, "")
        left = [held for held in lock.places if held.token != token]
        if len(left) == len(lock.places):
            return False
        lock.places = left
        lock.fence = max(lock.fence + 1, _microseconds(now))
        self._wake(lock, "")
        return True

    def holders(self, name: str, now: float) -> tuple[Place, ...]:
        """The places that are taken, the oldest first; changes nothing."""
        lock = self._locks.get(name)
        if lock is None:
            return ()
        return tuple(
            Place(
                name,
                held.owner,
                held.job_id,
                held.token,
                held.fence,
                held.since,
                held.until - now,
                lock.slots,
                held.released or held.lapses <= now,
            )
            for held in sorted(lock.places, key=lambda held: held.since)
            if held.until > now
        )

    def waiters(self, name: str, now: float) -> tuple[str, ...]:
        """Tokens of those who wait, first come first."""
        lock = self._locks.get(name)
        if lock is None:
            return ()
        return tuple(token for token in lock.queue if lock.alive[token] > now)

    def awaited(self, name: str, token: str, now: float) -> bool:
        """Whether anybody but ``token`` waits."""
        return any(other != token for other in self.waiters(name, now))

    def lapses(self, name: str, token: str, now: float) -> float | None:
        """When the token's lease ends unless it is renewed; ``None``: it has none."""
        lock = self._locks.get(name)
        mine = None if lock is None else self._ours(lock, token, now)
        return None if mine is None else mine.lapses

    def forget(self) -> None:
        """Lose everything, as a server that did not write it down does when it is started anew."""
        self._locks.clear()

    # ------------------------------------------------------------ decisions' parts

    def _ours(self, lock: _Lock, token: str, now: float) -> Held | None:
        for held in lock.places:
            if held.token == token and not held.released and held.lapses > now:
                return held
        return None

    def _clean(self, lock: _Lock, now: float, asking: str) -> None:
        """Let leases run out and dead waiters go."""
        places = [held for held in lock.places if held.until > now]
        gone = [token for token in lock.queue if lock.alive[token] <= now]
        changed = len(places) != len(lock.places) or bool(gone)
        lock.places = places
        for token in gone:
            self._unqueue(lock, token)
        if changed:
            self._wake(lock, asking)

    def _wake(self, lock: _Lock, asking: str) -> None:
        free = lock.slots - len(lock.places)
        self.woken.extend(token for token in lock.queue[: max(free, 0)] if token != asking)

    def _unqueue(self, lock: _Lock, token: str) -> bool:
        lock.alive.pop(token, None)
        if token not in lock.queue:
            return False
        lock.queue.remove(token)
        return True

    def _holders(self, lock: _Lock) -> tuple[Holder, ...]:
        return tuple(Holder(held.owner, held.job_id, held.since) for held in lock.places)

    def _pause(self, lock: _Lock, ahead: int, free: int, now: float) -> float:
        """s; nobody tells of a lease that runs out: who would get its place comes to look."""
        ends = sorted(held.until for held in lock.places)
        nth = max(ahead - free, 0)
        return (
            min(self._ask_again, max(ends[nth] - now, 0.0)) if nth < len(ends) else self._ask_again
        )


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
