"""What every lease store offers, and the values that go in and out: one protocol, many stores.

A lease is a place in a lock that the store takes back by itself after its ttl. Common rules, for
all stores:

- a *no* is a value; a store that cannot be reached is ``StoreUnavailable``, one line without any
  secret; a backend neither sleeps, retries, nor logs, and no call goes on after ``due``
  (CLOCK_BOOTTIME), also when the server is frozen;
- whatever a call that raised was doing may have happened: ``acquire``, ``renew``, ``release`` and
  ``leave`` may be repeated with the same token, and then change nothing more;
- time is the store's own; hosts need not agree about it;
- the fence of an acquisition is max(last + 1, the store's microseconds since 1970), also with
  several places, so that it grows even when the store has lost all it knew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from guardrun.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardrun.model import Grant, Holder

LONGEST_TTL = 86400.0
"""s"""
LONGEST_HOLD = 366 * 86400.0
"""s; ``--min-hold`` beyond that is cut off here"""


class LeaseRequest(NamedTuple):
    """What a run asks a store for."""

    lock: str
    """the lock's name, any text of up to 1024 characters"""
    owner: str
    """``host:pid:job_id``, for people"""
    job_id: str
    token: str
    """32 hex digits, drawn once per run: who has it may renew and release"""
    slots: int
    """places; as long as one of them is taken, another number is ``ConfigError``"""
    ttl: float
    """s"""
    min_hold: float = 0.0
    """s that the place stays taken from its acquisition on, even after its release"""


class Waiting(NamedTuple):
    """The lock is busy; with ``wait``, we are in its queue."""

    holders: tuple[Holder, ...]
    """some of them, where there are many; empty when the place is kept for others in the queue"""
    ask_again: float
    """s after which to ask again at the latest, even if nothing wakes us; the caller jitters it.

    Who does not ask for several times that long loses its place in the queue.
    """


class Held(NamedTuple):
    """One place that is taken, for ``locks`` and ``unlock``."""

    lock: str
    owner: str
    job_id: str
    token: str
    """what ``take_away`` wants"""
    fence: int
    since: float
    """s since 1970, by the store's clock"""
    expires_in: float
    """s until the place is free unless it is renewed"""
    slots: int
    released: bool = False
    """the run has ended; the place stays taken for ``min_hold`` alone"""


class LeaseStore(Protocol):
    """One store of leases; used by one process, one call at a time."""

    @property
    def fence_durable(self) -> bool | None:
        """Whether the fence survives a crash of the server; ``None`` while nobody has told us."""

    def acquire(self, wanted: LeaseRequest, wait: bool, due: float) -> Grant | Waiting:
        """Take a place, in one atomic step; the same token gets the same grant again.

        Waiters are served in the order they came, and who does not wait gets what none of them
        is entitled to. With ``wait``, a no means to be in the queue, or to stay in it.
        Raises ``ConfigError`` for another number of slots than the lock has.
        """

    def leave(self, wanted: LeaseRequest, due: float) -> None:
        """Stop waiting: the queue goes on without us."""

    def renew(self, wanted: LeaseRequest, due: float) -> bool:
        """Extend the lease to a full ttl from now; False: it is not ours, or not any more."""

    def release(self, wanted: LeaseRequest, due: float) -> bool:
        """Give the place back and wake who is next; False: it was not ours, nothing changed."""

    def wake_fd(self) -> int | None:
        """What is readable when it is worth asking again; ``None``: only ``ask_again`` counts.

        Ask for it anew after every ``acquire`` and ``drain``: it may be another one.
        """

    def drain(self) -> None:
        """Read what made it readable; never blocks."""

    def holders(self, lock: str, due: float) -> tuple[Held, ...]:
        """The places of a lock that are taken, the oldest first."""

    def locks(self, due: float) -> Iterator[Held]:
        """All that are taken in this store."""

    def take_away(self, lock: str, token: str, due: float) -> bool:
        """End one holding, whoever has it, and raise the fence; False: there is none."""

    def idle(self) -> None:
        """Let go of connections until they are needed again; one that waits to be woken stays."""

    def close(self) -> None:
        """Let go of everything."""


def check(wanted: LeaseRequest) -> None:
    """Refuse what no store can promise. Raises ``UsageError``."""
    if not 0 < wanted.ttl <= LONGEST_TTL:
        raise UsageError(f"--ttl {wanted.ttl:g}s: a lease lasts more than 0s and at most 24h")
    if wanted.slots < 1:
        raise UsageError(f"--slots {wanted.slots}: a lock has at least one place")
