"""What the waiters of one process wait for in etcd: a streaming answer each; its socket is polled.

A watch begins right after the revision in which its waiter was told to wait, so nothing is missed
between. What has come by it is not looked at: whatever it was, it means to ask again.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, NamedTuple

from guardrun.locks.etcd_keys import ENTRY, HOLD, beyond, coded, key

if TYPE_CHECKING:
    from guardrun.locks.etcd_http import Wire
    from guardrun.locks.etcd_keys import Record
    from guardrun.locks.etcd_session import Session
    from guardrun.locks.etcd_words import Word

_CANCELED = b'"canceled":true'
"""what it began with is compacted away, or the right to it was taken"""
_END = b"0\r\n\r\n"
"""the last chunk of a stream (RFC 9112, section 7.1)"""


class Target(NamedTuple):
    """What is watched: a key, or all up to ``end``; with ``puts`` also what is written there."""

    lock: str
    first: bytes
    end: bytes
    puts: bool

    def request(self, revision: int) -> Word:
        """As etcd wants it, for what happens from that revision on."""
        request: Word = {"key": coded(self.first), "start_revision": revision}
        if self.end:
            request["range_end"] = coded(self.end)
        return request if self.puts else request | {"filters": ["NOPUT"]}


def target(lock: str, slots: int, before: Record | None) -> Target:
    """What a waiter has to wait for; ``before`` is the entry right before its own.

    With one place: that this entry goes, whoever has the place by then. With several: as long as
    the one before waits too, its getting a place or leaving; then that any place becomes free.
    """
    if before is not None and (slots == 1 or not before.granted):
        return Target(lock, key(lock, ENTRY, before.token), b"", slots > 1)
    return Target(lock, key(lock, ENTRY), beyond(key(lock, HOLD)), False)


class Watches:
    """All of them, by the waiter's token."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._open: dict[str, tuple[Target, Wire, int]] = {}
        """also which member tells of it"""
        self._poll = select.epoll()

    def fileno(self) -> int | None:
        """Readable when one of them tells something; ``None``: there is none."""
        return self._poll.fileno() if self._open else None

    def begin(self, token: str, wanted: Target, revision: int, due: float) -> bool:
        """Have that waiter watch this; whether something has come with the beginning of it.

        Raises ``StoreUnavailable``.
        """
        if token in self._open:
            watched, _, where = self._open[token]
            if (watched, where) == (wanted, self._session.where):
                return False
        self.stop(token)
        wire = self._session.listen(due, wanted.lock, wanted.request(revision))
        self._open[token] = wanted, wire, self._session.where
        self._poll.register(wire.fileno(), select.EPOLLIN)
        return wire.overheard()

    def drain(self) -> None:
        """Read what has come, without waiting; a watch that has ended is begun anew when asked."""
        ready = {fd for fd, _ in self._poll.poll(0)}
        for token, (_, wire, _) in list(self._open.items()):
            if wire.fileno() in ready:
                taken = wire.take()
                if taken is None or _CANCELED in taken or taken.endswith(_END):
                    self.stop(token)

    def stop(self, token: str) -> None:
        """Let go of one."""
        if token in self._open:
            _, wire, _ = self._open.pop(token)
            self._poll.unregister(wire.fileno())
            wire.close()

    def close(self) -> None:
        """Let go of all of them."""
        for token in list(self._open):
            self.stop(token)
        self._poll.close()
