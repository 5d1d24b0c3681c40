"""What a Consul is, as far as ``guardrun.locks.consul`` asks: pure decisions of a leader's clock.

Keys with indexes, transactions, sessions, lock-delays and what a blocking query waits for, in the
words of the HTTP API. ``tests/contract/test_simulated_consul.py`` compares it with a real one. All
instants are seconds by the leader's clock, given as ``now``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Word = dict[str, Any]

_LASTS = 2
"""how many times its TTL a session lasts that nobody renews"""
_LONGEST_DELAY = 60.0
"""s"""
_WRITES = ("lock", "unlock", "delete")
"""verbs of a transaction; one without them is a read"""


class ConsulError(Exception):
    """What Consul refuses; it is not done."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


class _No(Exception):
    """One word of a transaction fails, and with it all of them."""


class Kv(NamedTuple):
    """A key, as it stands."""

    key: str
    value: str | None
    """in base64, as it is given and told"""
    session: str
    created: int
    modified: int
    locked: int
    """how often"""

    def told(self, value: bool = True) -> Word:
        """As the API says it; a transaction tells what it has checked or written without value."""
        word: Word = {
            "LockIndex": self.locked,
            "Key": self.key,
            "Flags": 0,
            "Value": self.value if value else None,
            "CreateIndex": self.created,
            "ModifyIndex": self.modified,
        }
        return word | ({"Session": self.session} if self.session else {})


@dataclass
class Session:
    """One session."""

    ttl: float
    delay: float
    deletes: bool
    """its keys go with it"""
    renewed: float

    @property
    def expires(self) -> float:
        """When it is over unless it is renewed."""
        return self.renewed + _LASTS * self.ttl


class Change(NamedTuple):
    """One key was written, or deleted."""

    at: int
    """the index"""
    key: str


class Query(NamedTuple):
    """What somebody reads, or waits for: a key, or all that begin so."""

    name: str
    below: bool
    after: int = 0
    """the index that its answer has to be beyond"""

    def wants(self, change: Change) -> bool:
        """Whether it looks again because of that."""
        return self.has(change.key)

    def has(self, name: str) -> bool:
        """Whether it is about that key."""
        return name.startswith(self.name) if self.below else name == self.name


class Told(NamedTuple):
    """An answer."""

    status: int
    body: Any
    changed: int = 0
    """the index to wait for changes from"""


class ConsulModel:
    """One datacenter.

    ``least`` is the shortest TTL of a session, in s. ``linger`` is for how long, in s, a session
    that is over is still there; a renewal of it is answered, and does not save it any more.
    """

    def __init__(self, least: float = 10.0, linger: float = 0.0) -> None:
        self._least = least
        self._linger = linger
        self.index = 1
        self.keys: dict[str, Kv] = {}
        self.sessions: dict[str, Session] = {}
        self.changes: list[Change] = []
        self._graves: dict[str, int] = {}
        """keys that were deleted: in which change"""
        self._delays: dict[str, tuple[float, float]] = {}
        """by key: when its lock-delay is over, and how long it was"""
        self._made = 0

    def ask(self, method: str, path: str, given: Mapping[str, str], body: Any, now: float) -> Told:
        """Carry out one request; raises ``ConsulError``."""
        self.lapse(now)
        kind, _, which = path.partition("/")
        if kind == "kv" and method == "GET":
            return self.read(Query(which, "recurse" in given))
        does: dict[str, Callable[[], Told]] = {
            "kv": lambda: self._acquire(which, given["acquire"], now),
            "txn": lambda: self._transact(body, now),
            "session/create": lambda: self._create(body, now),
            "session/renew": lambda: self._renew(which.partition("/")[2], now),
            "session/destroy": lambda: self._destroy(which.partition("/")[2], now),
        }
        assert method == "PUT"
        return does[kind if kind != "session" else f"session/{which.partition('/')[0]}"]()

    def read(self, query: Query) -> Told:
        """Keys as they stand, and the index after which a query would wait for news of them."""
        found = [self.keys[name] for name in sorted(self.keys) if query.has(name)]
        index = max((kv.modified for kv in found), default=0)
        if query.below:
            gone = (at for name, at in self._graves.items() if query.has(name))
            index = max(index, *gone, 0)
        index = index or (self.changes[-1].at if self.changes else 1)
        body = [kv.told() for kv in found]
        return Told(200 if found else 404, body or None, index)

    def is_delayed(self, name: str, now: float) -> bool:
        """Whether nobody may lock a key, because of a session that has had it."""
        return name in self._delays and self._delays[name][0] > now

    def lapse(self, now: float) -> None:
        """End the sessions whose time is over."""
        for name, session in tuple(self.sessions.items()):
            if self.ends(session) <= now:
                self._end(name, now)

    def ends(self, session: Session) -> float:
        """When a session goes, unless it is renewed."""
        return session.expires + self._linger

    def next_lapse(self) -> float:
        """When the first of the sessions ends."""
        return min(map(self.ends, self.sessions.values()), default=float("inf"))

    def promote(self, now: float, delays: str) -> None:
        """Begin anew as a leader: it does not know when sessions were renewed, so all are now.

        Lock-delays are in memory alone: they are ``kept`` by another server that leads now;
        ``anew``, also those that were over, begin where one carries out its log again; or they are
        ``gone``, when it does not because it has a snapshot.
        """
        for session in self.sessions.values():
            session.renewed = now
        if delays == "anew":
            self._delays = {name: (now + span, span) for name, (_, span) in self._delays.items()}
        elif delays == "gone":
            self._delays.clear()

    # ------------------------------------------------------------ sessions

    def _create(self, body: Word, now: float) -> Told:
        ttl = _seconds(body["TTL"])
        if not self._least <= ttl <= 86400:
            bounds = f"[{_duration(self._least)}=24h0m0s]"
            said = f"Invalid Session TTL '{ttl * 1e9:.0f}', must be between {bounds}"
            raise ConsulError(500, said)
        self.index += 1
        self._made += 1
        name = f"00000000-0000-0000-0000-{self._made:012x}"
        delay = min(_seconds(body["LockDelay"]), _LONGEST_DELAY)
        self.sessions[name] = Session(ttl, delay, body["Behavior"] == "delete", now)
        return Told(200, {"ID": name})

    def _renew(self, name: str, now: float) -> Told:
        session = self.sessions.get(name)
        if session is None:
            raise ConsulError(404, f"Session id '{name}' not found")
        if session.expires > now:
            session.renewed = now
        behavior = "delete" if session.deletes else "release"
        told = {"ID": name, "Behavior": behavior, "LockDelay": round(session.delay * 1e9)}
        return Told(200, [told])

    def _destroy(self, name: str, now: float) -> Told:
        if name in self.sessions:
            self._end(name, now)
        return Told(200, True)

    def _end(self, name: str, now: float) -> None:
        """Free, or delete, what it has locked: all in one change, with a lock-delay on it."""
        session = self.sessions.pop(name)
        self.index += 1
        for kv in [kv for kv in self.keys.values() if kv.session == name]:
            if session.deletes:
                self._drop(kv.key)
            else:
                self._put(kv._replace(session=""))
            if session.delay > 0:
                self._delays[kv.key] = now + session.delay, session.delay

    # ------------------------------------------------------------ keys

    def _acquire(self, name: str, session: str, now: float) -> Told:
        """Only a session that there is none of is asked for by guardrun."""
        assert session not in self.sessions
        if self.is_delayed(name, now):
            return Told(200, False)
        self.index += 1
        raise ConsulError(500, f'invalid session "{session}"')

    def _transact(self, words: list[Word], now: float) -> Told:
        """All of it or nothing; of what fails all is told."""
        wanted = [word["KV"] for word in words]
        errors = [
            (at, f'failed to lock key "{one["Key"]}" due to lock delay')
            for at, one in enumerate(wanted)
            if one["Verb"] == "lock" and self.is_delayed(one["Key"], now)
        ]
        results: list[Word] = []
        if not errors:
            writes = any(one["Verb"] in _WRITES for one in wanted)
            self.index += writes
            before = dict(self.keys), dict(self._graves), len(self.changes)
            for at, one in enumerate(wanted):
                try:
                    results += self._do(one)
                except _No as no:
                    errors.append((at, str(no)))
            if errors:
                self.keys, self._graves, length = before
                del self.changes[length:]
        if errors:
            told = [{"OpIndex": at, "What": what} for at, what in errors]
            return Told(409, {"Results": None, "Errors": told})
        return Told(200, {"Results": [{"KV": one} for one in results], "Errors": None})

    def _do(self, one: Word) -> list[Word]:
        """Carry out one word. Raises ``_No``."""
        name, there = one["Key"], self.keys.get(one["Key"])
        match one["Verb"]:
            case "get-tree":
                return [kv.told() for kv in self._below(name)]
            case "check-not-exists":
                if there is not None:
                    raise _No(f'key "{name}" exists')
                return []
            case "check-index":
                return [self._checked_index(name, there, one["Index"]).told(value=False)]
            case "check-session":
                return [self._checked_session(name, there, one["Session"]).told(value=False)]
            case "delete":
                if there is not None:
                    self._drop(name)
                return []
            case "lock":
                return [self._lock(name, there, one).told(value=False)]
            case "unlock":
                if there is None or there.session != one["Session"]:
                    why = "lock isn't held, or is held by another session"
                    raise _No(f'failed to unlock key "{name}", {why}')
                return [self._put(there._replace(session="", value=None)).told(value=False)]
        raise AssertionError(one)

    @staticmethod
    def _checked_index(name: str, there: Kv | None, index: int) -> Kv:
        if there is None:
            raise _No(f'failed to check index, key "{name}" doesn\'t exist')
        if there.modified != index:
            why = f"current modify index {there.modified} != {index}"
            raise _No(f'failed index check for key "{name}", {why}')
        return there

    @staticmethod
    def _checked_session(name: str, there: Kv | None, session: str) -> Kv:
        if there is None:
            raise _No(f'failed to check session, key "{name}" doesn\'t exist')
        if there.session != session:
            why = f'current session "{there.session}" != "{session}"'
            raise _No(f'failed session check for key "{name}", {why}')
        return there

    def _lock(self, name: str, there: Kv | None, one: Word) -> Kv:
        session, value = one["Session"], one["Value"] or None
        if session not in self.sessions:
            raise _No(f'invalid session "{session}"')
        if there is None:
            return self._put(Kv(name, value, session, self.index, self.index, 1))
        if there.session not in ("", session):
            raise _No(f'failed to lock key "{name}", lock is already held')
        locked = there.locked + (there.session != session)
        return self._put(there._replace(value=value, session=session, locked=locked))

    def _put(self, kv: Kv) -> Kv:
        """Write a key; one that stays as it is has not changed."""
        there = self.keys.get(kv.key)
        if there is None or there != kv._replace(modified=there.modified):
            kv = self.keys[kv.key] = kv._replace(modified=self.index)
            self.changes.append(Change(self.index, kv.key))
        return kv

    def _drop(self, name: str) -> None:
        del self.keys[name]
        self._graves[name] = self.index
        self.changes.append(Change(self.index, name))

    def _below(self, begin: str) -> list[Kv]:
        return [self.keys[name] for name in sorted(self.keys) if name.startswith(begin)]


def _seconds(text: str) -> float:
    return int(text.removesuffix("ms")) / 1000


def _duration(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"
