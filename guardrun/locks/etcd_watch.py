"""What a waiter watches in etcd."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from guardrun.locks import watches
from guardrun.locks.etcd_keys import ENTRY, HOLD, beyond, coded, key

if TYPE_CHECKING:
    from guardrun.locks.etcd_keys import Record
    from guardrun.locks.etcd_session import Session
    from guardrun.locks.etcd_words import Word
    from guardrun.locks.json_http import Wire

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


class Watches(watches.Watches[Target]):
    """All of them, by the waiter's token: a streaming answer each."""

    def __init__(self, session: Session) -> None:
        def listen(wanted: Target, revision: int, due: float) -> Wire:
            return session.listen(due, wanted.lock, wanted.request(revision))

        super().__init__(listen, lambda: session.where)

    def _told(self, token: str, taken: bytes) -> None:
        if _CANCELED in taken or taken.endswith(_END):
            self.stop(token)
