"""What the waiters of one process wait for: an answer each that is to come; its socket is polled.

A watch begins right after the state in which its waiter was told to wait, so nothing is missed
between. What has come by it is not looked at: whatever it was, it means to ask again.
"""

from __future__ import annotations

import select
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from guardrun import kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardrun.locks.json_http import Wire

Target = TypeVar("Target")

_SOON = 1.0
"""s"""


class Watches(ABC, Generic[Target]):
    """All of them, by the waiter's token.

    ``listen`` begins one for what changes after a state's index, until a moment at the latest;
    ``where`` tells which member answers.
    """

    def __init__(
        self, listen: Callable[[Target, int, float], Wire], where: Callable[[], int]
    ) -> None:
        self._listen = listen
        self._where = where
        self._open: dict[str, tuple[Target, Wire, int, float]] = {}
        """also which member tells of it, and after which index"""
        self._begun: dict[str, tuple[Target, int, int, float]] = {}
        """what has been begun last, of which member, and when; for a moment"""
        self._poll = select.epoll()

    def fileno(self) -> int | None:
        """Readable when one of them tells something; ``None``: there is none."""
        return self._poll.fileno() if self._open else None

    def begin(self, token: str, wanted: Target, index: int, due: float) -> bool:
        """Have that waiter watch this; whether something has come with the beginning of it.

        One that is there goes on, unless it waits for an index that is still to come: the store
        has begun anew. One that has ended at once, and nothing has changed, was refused: it is not
        begun anew at once. Raises ``StoreUnavailable``.
        """
        if token in self._open:
            watched, _, where, begun = self._open[token]
            if (watched, where) == (wanted, self._where()) and begun <= index:
                return False
        self.stop(token)
        asked, now = (wanted, self._where(), index), kernel.now()
        self._begun = {who: one for who, one in self._begun.items() if now - one[-1] < _SOON}
        if token in self._begun and self._begun[token][:-1] == asked:
            return False
        self._begun[token] = *asked, now
        wire = self._listen(wanted, index, due)
        self._open[token] = wanted, wire, self._where(), index
        self._poll.register(wire.fileno(), select.EPOLLIN)
        return wire.overheard()

    def drain(self) -> None:
        """Read what has come, without waiting; a watch that has ended is begun anew when asked."""
        ready = {fd for fd, _ in self._poll.poll(0)}
        for token, (_, wire, *_) in list(self._open.items()):
            if wire.fileno() in ready:
                taken = wire.take()
                if taken is None:
                    self.stop(token)
                else:
                    self._told(token, taken)

    @abstractmethod
    def _told(self, token: str, taken: bytes) -> None:
        """Something came by a watch, which is still open."""

    def _spend(self, token: str) -> None:
        """It will tell nothing more, but that its connection breaks."""
        target, wire, where, _ = self._open[token]
        self._open[token] = target, wire, where, float("inf")

    def stop(self, token: str) -> None:
        """Let go of one."""
        if token in self._open:
            _, wire, *_ = self._open.pop(token)
            self._poll.unregister(wire.fileno())
            wire.close()

    def close(self) -> None:
        """Let go of all of them."""
        for token in list(self._open):
            self.stop(token)
        self._poll.close()
