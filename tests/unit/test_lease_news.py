"""What the log is told of a lock's lease while COMMAND runs."""

from __future__ import annotations

from typing import Any

from guardrun.core.lease import Lease
from guardrun.model import Event
from guardrun.supervisor.lease_news import LeaseNews
from guardrun.term import Term


class Seen:
    """The guard's look at the term, and the log, of one run with ``--on-lease-loss warn``."""

    def __init__(self) -> None:
        self.term = Term("warn")
        self.names: list[str] = []

    def warn_at(self) -> float:
        return self.term.warn_at

    def half_at(self) -> float:
        return self.term.lock.half_at

    def emit(self, event: Event) -> None:
        self.names.append(event.name)


def test_a_certain_loss_is_no_renewal() -> None:
    """After the warning nothing is renewed, although a certain loss moves the term as well."""
    seen = Seen()
    both: Any = seen
    seen.term.lock.extend(Lease(60.0, 1000.0, 0.0), 1020.0, 1000.1)
    news = LeaseNews(both, both, 1, None)
    seen.term.lock.extend(Lease(60.0, 1015.0, 0.0), 1035.0, 1015.1)
    news.look(1016.0)
    news.look(seen.term.lock.term_at)
    seen.term.lock.lose(1090.0)
    news.look(1090.0)
    assert seen.names == ["lease_renewed", "lease_lost"]
