"""The lock port over a keeper, for leases: every wait is one of the supervisor's own loop.

The supervisor asks, again and again; the keeper only tells it when that is worth it. So one that
was stopped does not get a lock it could not use, and holds up nobody who waits behind it.
"""

from __future__ import annotations

import os
import select

from guardrun import kernel
from guardrun.errors import GuardrunError, StoreUnavailable
from guardrun.keeper import messages
from guardrun.model import AROUND_US, Busy, Grant, LeaseRequest
from guardrun.supervisor.retry import FIRST_ANSWER, insist

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

    from guardrun.keeper.link import Link
    from guardrun.model import LockSpec, Run, Waiting
    from guardrun.ports import Rng, Waiter

_STORE = "lease store"
_CAP = 1.0
"""s; the longest that asking once more is put off: a whole fleet may be asking"""
_ONE = 5.0
"""s that one question to the store may take"""
_GIVING = 3.0
"""s that a run which is over waits until the next one can have the lock; the keeper goes on"""
_LEAVING = 0.25
"""s; the same for one that never had it: whoever told it to stop waits for its end"""


class LeaseProxy:
    """The ``Lock`` port; an unreachable store counts as down after ``store_wait`` seconds."""

    def __init__(
        self, link: Link, spec: LockSpec, waiter: Waiter, rng: Rng, store_wait: float
    ) -> None:
        self._link = link
        self._spec = spec
        self._waiter = waiter
        self._rng = rng
        self._store_wait = store_wait
        self._token = os.urandom(16).hex()
        self._asked = False

    def acquire(self, run: Run, due: float) -> Grant | Busy:
        """Take the lock, in the order of its queue, until ``due``.

        Raises StoreUnavailable, and ConfigError when its holders use another number of slots.
        """
        wanted = self._request(run)
        try:
            return self._acquire(wanted, run, due)
        except GuardrunError:
            # Also when we are told to stop: who waits behind us must not wait for us.
            self._link.drop(messages.Give())
            raise

    def assure(self) -> bool:
        """As the port says."""
        return self._link.assure(self._waiter)

    def lost(self) -> bool:
        """As the port says."""
        return kernel.now() >= self._link.term.warn_at

    def release(self) -> None:
        """Give the lock back, so that a run which is started after this one's end finds it free.

        When the store does not answer, the keeper goes on trying.
        """
        if not self._asked or kernel.now() >= self._link.term.lock.term_at:
            return  # it is not worth waiting for: the store is far away, or has another holder
        patience = _LEAVING if self._link.place is None else _GIVING
        try:
            self._link.ask(_Deaf(), _STORE, messages.Give(), kernel.now() + patience)
        except GuardrunError:
            return
        self._asked = False
        self._link.place = None

    def _request(self, run: Run) -> LeaseRequest:
        assert run.lock is not None
        spec = self._spec
        return LeaseRequest(
            run.lock, run.owner, run.job_id, self._token, spec.slots, spec.ttl, spec.min_hold
        )

    def _acquire(self, wanted: LeaseRequest, run: Run, due: float) -> Grant | Busy:
        patience = self._store_wait
        self._asked = True
        # That our drivers take their time is not the store's fault.
        self._link.await_work(self._waiter, kernel.now() + max(patience, FIRST_ANSWER))
        while True:
            waits = kernel.now() < due
            acquire = messages.Acquire(wanted, waits, run.key is not None or bool(run.needs))
            answer = self._insist(acquire, kernel.now() + patience)
            if isinstance(answer, Grant):
                self._link.place = wanted
                return answer
            around = [holder for holder in answer.holders if holder.job_id in run.path]
            if waits and len(around) < wanted.slots:
                again = self._rng.uniform(answer.ask_again / 2, answer.ask_again)
                self._link.await_wake(self._waiter, min(due, kernel.now() + again))
                if kernel.now() < due:
                    continue
            if waits:
                self._leave()
            return Busy(answer.holders, AROUND_US if len(around) >= wanted.slots else answer.reason)

    def _insist(self, acquire: messages.Acquire, due: float) -> Grant | Waiting:
        first = kernel.now() + FIRST_ANSWER

        def ask(due: float) -> Any:
            limit = max(first, min(due, kernel.now() + _ONE))
            return self._link.ask(self._waiter, _STORE, acquire, limit)

        answer: Grant | Waiting = insist(self._waiter, self._rng, due, _CAP, ask)
        return answer

    def _leave(self) -> None:
        """Stop waiting at once, and not only when the run is over."""
        try:
            self._link.ask(self._waiter, _STORE, messages.Give(), kernel.now() + _GIVING)
            self._asked = False
        except StoreUnavailable:
            pass


class _Deaf:
    """A ``Waiter`` for the end of a run: signals wait until there is nothing left to do."""

    def pause(self, fds: Sequence[int], due: float) -> Collection[int]:
        """Wait until one of ``fds`` is readable or ``due`` (CLOCK_BOOTTIME) has come."""
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        return [fd for fd, _ in poll.poll(max(due - kernel.now(), 0.0) * 1000)]

    def check(self) -> None:
        """Go on."""
