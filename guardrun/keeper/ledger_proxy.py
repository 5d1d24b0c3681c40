"""The ledger port over a keeper: every wait is one of the supervisor's own loop."""

from __future__ import annotations

from guardrun.errors import StoreUnavailable
from guardrun.keeper import messages
from guardrun.ledger.nap import Nap
from guardrun.model import FOREVER, Claim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from guardrun.keeper.link import Link
    from guardrun.model import Budget, KeySpec, Outcome, Recorded, Refusal, Run
    from guardrun.ports import Rng, Waiter

_FIRST_NAP, _LONGEST_NAP = 0.5, 4.0
"""s; nobody tells when a key far away becomes free, so waiting means to ask now and then"""


class LedgerProxy:
    """The ``RunLedger`` port; raises what the keeper's ledger raised, or StoreUnavailable."""

    prompt = 0.0
    retry_cap = 1.0
    """A whole fleet may be asking."""

    def __init__(self, link: Link, waiter: Waiter, rng: Rng) -> None:
        self._link = link
        self._waiter = waiter
        self._rng = rng
        self._nap = _FIRST_NAP

    def prepare(self, due: float) -> None:
        """Wait until the keeper has loaded its drivers."""
        try:
            self._link.await_work(self._waiter, due)
        except StoreUnavailable:
            pass  # whoever asks next is told

    def begin(self, run: Run, key: KeySpec, due: float = FOREVER) -> Claim | Refusal:
        """As the port says; the keeper records first what waits in the spool."""
        said: Claim | Refusal = self._ask(messages.Begin(run, key), due)
        if isinstance(said, Claim):
            self._link.held = run
        return said

    def announce(self, run: Run, key: KeySpec, due: float) -> Claim:  # noqa: ARG002
        """Go on at once; the row is stored when the keeper gets to it."""
        self._link.tell(messages.Note(run, key))
        self._link.held = run
        return Claim(token=None)

    def spend_retry(self, run: Run, budget: Budget, due: float = FOREVER) -> bool:
        """As the port says."""
        return bool(self._ask(messages.SpendRetry(run, budget), due))

    def finish(self, outcome: Outcome, due: float = FOREVER) -> bool:
        """As the port says."""
        return self.record(outcome, due).claim

    def record(self, outcome: Outcome, due: float) -> Recorded:
        """As the port says; without what COMMAND printed where that finds no room on its way."""
        size = sum(map(len, outcome.captured or ()))
        self._link.owes = True
        recorded: Recorded
        try:
            recorded = self._ask(messages.Finish(outcome), due, size)
        except OSError:  # ulimit -f, say: a message of that size is a file in memory
            recorded = self._ask(messages.Finish(outcome._replace(captured=None)), due)
        self._link.owes, self._link.held = False, None
        return recorded

    def assure(self) -> bool:
        """Whether what is held is good for half its time; it is renewed first if not."""
        return self._link.assure(self._waiter)

    def watch(self, job_id: str) -> Nap:  # noqa: ARG002
        """Wait a while, jittered, longer each time."""
        nap = Nap(self._rng.uniform(self._nap / 2, self._nap))
        self._nap = min(2 * self._nap, _LONGEST_NAP)
        return nap

    def stored_output(self, key: str, due: float = FOREVER) -> tuple[bytes, bytes] | None:
        """As the port says."""
        found: tuple[bytes, bytes] | None = self._ask(messages.StoredOutput(key), due)
        return found

    def close(self) -> None:
        """Nothing to let go of: the keeper ends with the run."""

    def _ask(self, asked: tuple[object, ...], due: float, size: int = 0) -> Any:
        return self._link.ask(self._waiter, "ledger", asked, due, size)
