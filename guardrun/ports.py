"""What a run needs from the world. Backends satisfy these by shape; none of them inherits.

Common rules: a *no* is a value, an unreachable store is ``StoreUnavailable``. A backend neither
sleeps, retries, nor logs: all of that happens once, above it.
Imported by type checkers only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

from guardrun.model import (
    Budget,
    Busy,
    Claim,
    Event,
    Grant,
    KeySpec,
    LeaseRequest,
    Outcome,
    Place,
    Recorded,
    Refusal,
    Run,
    Waiting,
)

Emit = Callable[[Event], None]


class Rng(Protocol):
    """Where jitter comes from; ``random.Random`` is one."""

    def uniform(self, low: float, high: float, /) -> float:
        """A number from ``low`` to ``high``."""


class Lock(Protocol):
    """One lock, for one run."""

    def acquire(self, run: Run, due: float) -> Grant | Busy:
        """Take the lock, waiting until ``due`` (CLOCK_BOOTTIME) at the latest."""

    def assure(self) -> bool:
        """Whether COMMAND may be started under it; renews it first where it is old."""

    def lost(self) -> bool:
        """Whether it was lost, and COMMAND runs on all the same (``--on-lease-loss warn``)."""

    def release(self) -> None:
        """Give up what ``acquire`` got; does nothing when that was nothing."""


class LeaseStore(Protocol):
    """One store of leases; used by one process, one call at a time."""

    @property
    def fence_durable(self) -> bool | None:
        """Whether the fence survives a crash of the server; ``None`` while nobody has told us."""

    @property
    def awaited(self) -> bool:
        """Whether somebody is known to wait for what we hold, and a warm connection helps them."""

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

    def loss_fd(self) -> int | None:
        """What is readable when what is held may be lost: ``renew`` tells; ``None``: nothing is."""

    def drain(self) -> None:
        """Read what made these readable; never blocks."""

    def holders(self, lock: str, due: float) -> tuple[Place, ...]:
        """The places of a lock that are taken, the oldest first."""

    def locks(self, due: float) -> Iterator[Place]:
        """All that are taken in this store."""

    def take_away(self, lock: str, token: str, due: float) -> bool:
        """End one holding, whoever has it, and raise the fence; False: there is none."""

    def idle(self) -> None:
        """Let go of connections until they are needed again; one that waits to be woken stays."""

    def close(self) -> None:
        """Let go of everything."""


class Ledger(Protocol):
    """Durable truth about runs and keys.

    ``due`` (CLOCK_BOOTTIME) is when the caller stops waiting for an answer: ``StoreUnavailable``.
    """

    def prepare(self, due: float, /) -> None:
        """Get ready for ``begin``, until ``due`` at the latest; what fails is for it to tell."""

    def begin(self, run: Run, key: KeySpec, due: float = ..., /) -> Claim | Refusal:
        """Check ``run.needs``, claim ``run.key`` and store the run as running: one transaction.

        When this returns a claim, it is durable. A refusal stores nothing. Repeating it after a
        lost answer changes nothing: the claim is recognised by ``run.token``.
        """

    def spend_retry(self, run: Run, budget: Budget, due: float = ..., /) -> bool:
        """Count one retry of ``run.job`` if the budget has one left: atomic over all runs."""

    def finish(self, outcome: Outcome, due: float = ..., /) -> bool:
        """Store run, attempts and the key's state in one transaction.

        A compare-and-set: False when the run's claim is no longer its own; then the run's row
        is completed and the key is left alone. Repeating it changes nothing.
        """

    def watch(self, job_id: str) -> Child:
        """Start waiting until asking for the key that this run holds may have another answer."""

    def stored_output(self, key: str, due: float = ..., /) -> tuple[bytes, bytes] | None:
        """What the run that succeeded for ``key`` wrote, if it was captured."""

    def close(self) -> None:
        """Let go of connections and descriptors."""


class RunLedger(Ledger, Protocol):
    """A ledger as a run sees it: somebody takes care of the claim while the run does other work.

    ``begin`` has the spool's outcomes recorded before it claims.
    """

    @property
    def prompt(self) -> float:
        """s that a run which can do without the ledger waits for it before COMMAND starts."""

    @property
    def retry_cap(self) -> float:
        """s; the longest that asking once more is put off."""

    def record(self, outcome: Outcome, due: float, /) -> Recorded:
        """As ``finish``; the lock's lease, if it is kept in the same place, ends with it."""

    def announce(self, run: Run, key: KeySpec, due: float, /) -> Claim | Refusal:
        """As ``begin``, for a run that can do without: what takes long happens beside COMMAND."""

    def assure(self) -> bool:
        """Whether COMMAND may be started under the claim; renews it first where it is old."""


class RemoteLedger(Ledger, Protocol):
    """A ledger behind a network, as its keeper sees it: a claim is good for a while only."""

    def renew(self, run: Run, due: float, /) -> bool:
        """Extend the claim (without a key: the run's row); False when it is not ours any more."""

    def finish_and_release(self, outcome: Outcome, wanted: LeaseRequest, due: float, /) -> Recorded:
        """As ``finish``; the same transaction sees whether the lease is ours, and gives it back."""

    def interrupt(self, run: Run, due: float, /) -> None:
        """Record that the run was cut off, and nothing of COMMAND is alive."""

    def give_back(self, run: Run, due: float, /) -> None:
        """Record that the run is over, and free the key: nothing was executed under its claim."""

    def idle(self) -> None:
        """Let go of the connection until it is needed again."""


class Child(Protocol):
    """A wait in a process of its own; ``fileno()`` is readable when it is over."""

    def fileno(self) -> int: ...

    def cancel(self) -> None:
        """End it, whether it is over or not."""


class Tended(Protocol):
    """A process that the loop looks after while it waits for something else."""

    def fileno(self) -> int:
        """Readable when ``ready`` is to be called; -1 when there is no such process."""

    def overdue_at(self) -> float:
        """When ``check`` is to be called (CLOCK_BOOTTIME)."""

    def ready(self) -> bool:
        """Read what it says; whether that is worth a look at what it holds."""

    def check(self) -> None: ...

    def release(self) -> None:
        """The run is over: it may end."""


class Waiter(Protocol):
    """What the supervisor's loop offers to those who must wait."""

    def pause(self, fds: Sequence[int], due: float) -> Collection[int]:
        """Wait until one of ``fds`` is readable or ``due`` (CLOCK_BOOTTIME) has come.

        Returns the readable ones. Raises ``ToldToStop`` and ``DeadlineReached``.
        """

    def check(self) -> None:
        """Raise what ``pause`` would raise now; don't wait."""
