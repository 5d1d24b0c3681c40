"""Leases in Redis (6 or newer) or Valkey: one script a verb, so that every step is atomic.

Promises: of any number of runs, as many as there are places hold a lock at once, by the server's
clock; waiters get it in the order they came; a place that becomes free costs the server as many
commands for a hundred waiters as for two. Declines: to survive a server that forgets (a failover
before replication, a crash without ``appendfsync always``): then two runs may overlap, and the
fence, which grows all the same, tells them apart. That is what ``fence_durable`` is about.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from guardrun.digest import sha1
from guardrun.errors import ConfigError
from guardrun.locks import lua
from guardrun.locks.lean_redis import exceptions
from guardrun.locks.lease import LONGEST_HOLD, check
from guardrun.locks.redis_connection import Connection, unavailable
from guardrun.model import Grant, Holder, Place, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardrun.locks.redis_sentinel import Guided
    from guardrun.model import LeaseRequest

_PREFIX = "guardrun:"
_KEYS = ("lock", "held", "queue", "alive")
"""as the scripts know them"""
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "%{}*?[]\\^")
"""what stands in a key as it is: all but what means something to a hash tag or a pattern"""

_ASK_AGAIN = 3.0
"""s; what a waiter relies on when a message to it got lost"""
_ALIVE = 9.0
"""s that a waiter keeps its place in the queue without asking again"""
_ASK_UNHEARD = 0.5
"""s; the same for one that nobody can wake"""
_MOST_HOLDERS = 16
_SCANNED = 1000


class RedisLeases:
    """The ``LeaseStore`` port over the server at ``url``.

    Nothing is connected before it is needed; after a failure the next call connects again.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._server = connection_to(url)
        self._bell = connection_to(url)
        self._deaf = False
        self._channel = f"{_PREFIX}wake:{os.urandom(8).hex()}"
        self._waiting: set[str] = set()
        self._scripts = {verb: _Script(verb) for verb in _VERBS}
        # A failover replaces the server by one that may not have got the last fences yet.
        self._asked_durable = _is_guided(url)
        self._durable: bool | None = False if self._asked_durable else None

    # ------------------------------------------------------------ the port

    @property
    def fence_durable(self) -> bool | None:
        """Whether every fence is on disk before it is granted; ``None`` where we may not know.

        Never so behind Sentinel.
        """
        return self._durable

    @property
    def awaited(self) -> bool:
        """A connection is made in a millisecond: none is kept for that."""
        return False

    def acquire(self, wanted: LeaseRequest, wait: bool, due: float) -> Grant | Waiting:
        """Take a place, in one atomic step; with ``wait``, a no means to be in the queue.

        Raises ``ConfigError`` for another number of slots than the lock has.
        """
        check(wanted)
        said = self._acquire(wanted, wait, due)
        if wait and isinstance(said, Waiting) and self._starts_to_listen(due):
            # Between that answer and now it may have become free, and nobody told us.
            said = self._acquire(wanted, wait, due)
        if isinstance(said, Grant):
            self._waiting.discard(wanted.token)
        elif wait:
            self._waiting.add(wanted.token)
            if self._deaf:
                return said._replace(ask_again=min(said.ask_again, _ASK_UNHEARD))
        return said

    def leave(self, wanted: LeaseRequest, due: float) -> None:
        """Stop waiting: the queue goes on without us."""
        self._waiting.discard(wanted.token)
        self._run("leave", wanted.lock, due, wanted.token)

    def renew(self, wanted: LeaseRequest, due: float) -> bool:
        """Extend the lease to a full ttl from now; False: it is not ours, or not any more."""
        check(wanted)
        return bool(self._run("renew", wanted.lock, due, wanted.token, _us(wanted.ttl)))

    def release(self, wanted: LeaseRequest, due: float) -> bool:
        """Give the place back and wake who is next; False: it was not ours, nothing changed."""
        return bool(self._run("release", wanted.lock, due, wanted.token))

    def wake_fd(self) -> int | None:
        """What is readable when it is worth asking again; ``None``: only ``ask_again`` counts."""
        return self._bell.fileno() if self._waiting else None

    def loss_fd(self) -> int | None:
        """Nothing tells: only the ttl counts."""
        return None

    def drain(self) -> None:
        """Read what made it readable; never blocks. Whatever it was, it means: ask again."""
        self._bell.discard()

    def holders(self, lock: str, due: float) -> tuple[Place, ...]:
        """The places of a lock that are taken, the oldest first."""
        return self._held(lock, self._run("holders", lock, due))

    def locks(self, due: float) -> Iterator[Place]:
        """All that are taken in this store, by a walk over its keys."""
        pattern, cursor = f"{_PREFIX}{{*}}:held", b"0"
        seen: set[bytes] = set()
        while True:
            scan = ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCANNED)
            cursor, keys = self._answer(self._server.ask(due, scan)[0])
            for key in keys:
                if key not in seen:
                    seen.add(key)
                    yield from self.holders(_lock_of(key), due)
            if cursor == b"0":
                return

    def take_away(self, lock: str, token: str, due: float) -> bool:
        """End one holding, whoever has it, and raise the fence; False: there is none."""
        return bool(self._run("take_away", lock, due, token))

    def idle(self) -> None:
        """Let go of connections until they are needed again; one that waits to be woken stays."""
        self._server.close()
        if not self._waiting:
            self._bell.close()

    def close(self) -> None:
        """Let go of everything."""
        self._server.close()
        self._bell.close()

    # ------------------------------------------------------------ verbs

    def _acquire(self, wanted: LeaseRequest, wait: bool, due: float) -> Grant | Waiting:
        kind, *said = self._run(
            "acquire",
            wanted.lock,
            due,
            wanted.token,
            f"{wanted.job_id}\n{wanted.owner}".encode("utf-8", "surrogateescape"),
            wanted.slots,
            _us(wanted.ttl),
            _us(min(wanted.min_hold, LONGEST_HOLD)),
            int(wait),
            self._channel,
            _us(_ALIVE),
            _us(_ASK_AGAIN),
            _MOST_HOLDERS,
        )
        if kind == b"slots":
            raise ConfigError(
                f"the lock {wanted.lock!r} is in use with --slots {said[0]}, and asked for with "
                f"--slots {wanted.slots}: all its users have to give the same"
            )
        if kind == b"ours":
            fence, since = said
            return Grant(wanted.lock, int(fence), int(since) / 1e6)
        ask_again, ahead, *places = said
        holders = tuple(
            Holder(place.owner, place.job_id, place.since) for place in map(_Place, places)
        )
        return Waiting(holders, max(int(ask_again) / 1e6, 0.0), ahead=ahead)

    def _held(self, lock: str, answer: list[Any]) -> tuple[Place, ...]:
        slots, *told = answer
        found = [
            _Place(stored).held(lock, slots, member, int(left) / 1e6, released=bool(over))
            for member, left, over, stored in zip(*(told[at::4] for at in range(4)), strict=True)
        ]
        return tuple(sorted(found, key=lambda held: held.since))

    def _starts_to_listen(self, due: float) -> bool:
        """Hear from now on what is published for us; False when that was so, or cannot be."""
        if self._deaf or (self._bell.is_open() and self._bell.where == self._server.where):
            return False
        self._bell.close()  # it may be that of a server which is the primary no more
        (said,) = self._bell.ask(due, ("SUBSCRIBE", self._channel))
        if isinstance(said, Exception):  # an ACL: waiting works without it, only less promptly
            self._deaf = True
            self._bell.close()
        return not self._deaf

    # ------------------------------------------------------------ the server

    def _run(self, verb: str, lock: str, due: float, *words: str | bytes | int) -> Any:
        """Have a verb's script run; the server gets its text only when it doesn't know it."""
        script = self._scripts[verb]
        keys = keys_of(lock)
        call = ("EVALSHA", script.sha, len(keys), *keys, *words)
        if verb == "acquire" and not self._asked_durable:
            said, told = self._server.ask(due, call, ("CONFIG", "GET", "append*"))
            self._asked_durable = True
            self._durable = _is_durable(told)
        else:
            (said,) = self._server.ask(due, call)
        if isinstance(said, exceptions.NoScriptError):
            (said,) = self._server.ask(due, ("EVAL", script.text, len(keys), *keys, *words))
        return self._answer(said, keys[0])

    def _answer(self, said: Any, key: str = "") -> Any:
        if isinstance(said, Exception):
            self._server.close()  # it may be the primary no more; the next call looks for one
            raise unavailable(self._url, said, key.rpartition(":")[0])
        return said


def _is_guided(url: str) -> bool:
    return url.partition(":")[0].endswith("+sentinel")


def connection_to(url: str) -> Connection | Guided:
    if not _is_guided(url):
        return Connection(url)
    from guardrun.locks.redis_sentinel import Guided

    return Guided(url)


_VERBS = ("acquire", "renew", "release", "leave", "take_away", "holders")


class _Script:
    """A verb's text, and the name the server has for it."""

    def __init__(self, verb: str) -> None:
        self.text = lua.script(verb)
        self.sha = sha1(self.text.encode()).hexdigest()


class _Place:
    """What is stored of a place: see ``common.lua``."""

    def __init__(self, stored: bytes) -> None:
        numbers, _, detail = stored.decode("utf-8", "surrogateescape").partition("\n")
        since, fence, *_ = map(int, numbers.split())
        self.since = since / 1e6
        self.fence = fence
        self.job_id, _, self.owner = detail.partition("\n")

    def held(self, lock: str, slots: int, member: bytes, left: float, released: bool) -> Place:
        """The same, for people who look at it."""
        token = member.decode("utf-8", "replace")
        return Place(
            lock, self.owner, self.job_id, token, self.fence, self.since, left, slots, released
        )


def _is_durable(told: Any) -> bool | None:
    if not isinstance(told, list):  # we may not ask
        return None
    given = dict(zip(told[::2], told[1::2], strict=False))
    return bool(given.get(b"appendonly") == b"yes" and given.get(b"appendfsync") == b"always")


def keys_of(lock: str) -> list[str]:
    """A lock's keys. The name is their hash tag: in a cluster they would be in one place."""
    tag = quote(lock, safe=_PLAIN, errors="surrogateescape")
    return [f"{_PREFIX}{{{tag}}}:{key}" for key in _KEYS]


def _lock_of(key: bytes) -> str:
    tag = key.decode("ascii", "replace").partition("{")[2].rpartition("}")[0]
    return unquote(tag, errors="surrogateescape")


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
