"""The embedded ledger as a run uses it: with the spool of what it could not take before."""

from __future__ import annotations

from guardrun.ledger.sqlite import SqliteLedger
from guardrun.model import FOREVER, Recorded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from guardrun.ledger.spool import Spool
    from guardrun.ledger.sqlite_writer import Writer
    from guardrun.model import Claim, KeySpec, Outcome, Refusal, Run


class LocalLedger(SqliteLedger):
    """The ``RunLedger`` port: no call takes long, and a claim is held until we let go or are dead.

    A run that can do without the ledger waits ``prompt`` seconds for it all the same.
    """

    prompt = 1.0
    retry_cap = 0.1
    """A writer that holds SQLite's lock needs a few ms, and asking costs nothing but that."""

    def __init__(
        self,
        path: str,
        now: Callable[[], float],
        keep: float,
        spool: Spool,
        writer: Writer | None = None,
    ) -> None:
        super().__init__(path, now, keep, writer)
        self._spool = spool

    def begin(self, run: Run, key: KeySpec, due: float = FOREVER) -> Claim | Refusal:
        """Have the spool's outcomes recorded, then claim: what is in the spool decides as well."""
        self._spool.flush(self, due)
        self._spool.complete(self, due)  # nothing is slow here
        return super().begin(run, key, due)

    def record(self, outcome: Outcome, due: float) -> Recorded:
        """As ``finish``."""
        return Recorded(self.finish(outcome, due))

    def announce(self, run: Run, key: KeySpec, due: float) -> Claim | Refusal:
        """As ``begin``."""
        return self.begin(run, key, due)

    def assure(self) -> bool:
        """True."""
        return True
