"""What a run needs from the world. Backends satisfy these by shape; none of them inherits.

Common rules: a *no* is a value, an unreachable store is ``StoreUnavailable``. A backend neither
sleeps, retries, nor logs: all of that happens once, above it.
Imported by type checkers only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from guardrun.model import Budget, Busy, Claim, Event, Grant, Holder, KeySpec, Outcome, Refusal, Run

Emit = Callable[[Event], None]


class Rng(Protocol):
    """Where jitter comes from; ``random.Random`` is one."""

    def uniform(self, low: float, high: float, /) -> float:
        """A number from ``low`` to ``high``."""


class Lock(Protocol):
    """One lock, for one run."""

    def acquire(self, run: Run, due: float) -> Grant | Busy:
        """Take the lock, waiting until ``due`` (CLOCK_BOOTTIME) at the latest."""

    def holders(self) -> tuple[Holder, ...]:
        """Who holds it now, as far as can be told."""

    def release(self) -> None:
        """Give up what ``acquire`` got; does nothing when that was nothing."""


class Ledger(Protocol):
    """Durable truth about runs and keys."""

    def prepare(self) -> None:
        """Open what ``begin`` will need, if that can be done now; what fails is for it to tell."""

    def begin(self, run: Run, key: KeySpec) -> Claim | Refusal:
        """Check ``run.needs``, claim ``run.key`` and store the run as running: one transaction.

        When this returns a claim, it is durable. A refusal stores nothing.
        """

    def spend_retry(self, run: Run, budget: Budget) -> bool:
        """Count one retry of ``run.job`` if the budget has one left: atomic over all runs."""

    def finish(self, outcome: Outcome) -> bool:
        """Store run, attempts and the key's state in one transaction.

        A compare-and-set: False when the run's claim is no longer its own; then the run's row
        is completed and the key is left alone. Repeating it changes nothing.
        """

    def watch(self, job_id: str) -> Child:
        """Start waiting for the end of the run that holds a key."""

    def stored_output(self, key: str) -> tuple[bytes, bytes] | None:
        """What the run that succeeded for ``key`` wrote, if it was captured."""

    def close(self) -> None:
        """Let go of connections and descriptors."""


class Child(Protocol):
    """A wait in a process of its own; ``fileno()`` is readable when it is over."""

    def fileno(self) -> int: ...

    def cancel(self) -> None:
        """End it, whether it is over or not."""


class Waiter(Protocol):
    """What the supervisor's loop offers to those who must wait."""

    def pause(self, fds: Sequence[int], due: float) -> Collection[int]:
        """Wait until one of ``fds`` is readable or ``due`` (CLOCK_BOOTTIME) has come.

        Returns the readable ones. Raises ``ToldToStop`` and ``DeadlineReached``.
        """

    def check(self) -> None:
        """Raise what ``pause`` would raise now; don't wait."""
