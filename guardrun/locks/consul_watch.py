"""What a waiter watches in Consul: a blocking query each, which is answered when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from guardrun.locks import watches

if TYPE_CHECKING:
    from guardrun.locks.consul_session import Session
    from guardrun.locks.json_http import Wire


class Target(NamedTuple):
    """A key, or all that begin so."""

    name: str
    all_below: bool


class Watches(watches.Watches[Target]):
    """All of them, by the waiter's token."""

    def __init__(self, session: Session) -> None:
        def listen(wanted: Target, index: int, due: float) -> Wire:
            return session.listen(due, wanted.name, wanted.all_below, index)

        super().__init__(listen, lambda: session.where)

    def _told(self, token: str, taken: bytes) -> None:
        if taken:  # of TLS there may be nothing for us
            self._spend(token)
