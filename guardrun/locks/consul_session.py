"""What a lease store asks of Consul: transactions, sessions, its clock."""

from __future__ import annotations

import time
from math import ceil
from typing import TYPE_CHECKING, Any

from guardrun import kernel
from guardrun.errors import StoreUnavailable, UsageError
from guardrun.locks.consul_connection import Http
from guardrun.locks.consul_keys import PLACE, PREFIX, key, prefix, record
from guardrun.locks.gateway import Refused
from guardrun.units import duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardrun.locks.consul_connection import Answer
    from guardrun.locks.consul_keys import Record
    from guardrun.locks.json_http import Wire

    Word = dict[str, Any]

LONGEST_DELAY = 60.0
"""s of lock-delay; Consul cuts off what is longer"""
_NO_SESSION = "00000000-0000-0000-0000-000000000000"
_CONFLICT = 409
_LONGEST_WATCH = "60s"
"""then Consul answers, whether anything has changed or not; it adds up to a sixteenth"""


class Conflict(Exception):
    """A transaction's conditions are not met; nothing of it was done."""

    @property
    def delayed(self) -> bool:
        """Whether nothing but Consul's lock-delay is in the way."""
        return "lock delay" in str(self)

    @property
    def ended(self) -> bool:
        """Whether the session that was to lock a key has ended."""
        return "invalid session" in str(self)


class Bounds(UsageError):
    """A session's TTL that this Consul does not allow."""

    def __init__(self, ttl: float, said: str) -> None:
        low, _, high = said.partition("[")[2].rstrip("] \n").partition("=")
        super().__init__(f"--ttl {ttl:g}s: a session of this Consul's lasts from {low} to {high}")
        self.least = duration(low)


class Session:
    """Consul as one store uses it. Every method raises ``StoreUnavailable``."""

    def __init__(self, url: str) -> None:
        self._http = Http(url)
        self._heard_at = 0.0

    @property
    def where(self) -> int:
        """Which agent answers; another one after each failure."""
        return self._http.where

    # ------------------------------------------------------------ keys

    def read(self, due: float, lock: str, *prefixes: str) -> list[Record]:
        """All keys that begin so, as they were at one moment."""
        words = [_word("get-tree", one) for one in prefixes]
        return self._transact(due, lock, words, consistent="")

    def change(self, due: float, lock: str, *words: Word) -> list[Record]:
        """One transaction: what its words have found and written. Raises ``Conflict``."""
        return self._transact(due, lock, words)

    def below(self, due: float, begin: str) -> tuple[list[Record], int]:
        """All keys that begin so, and the index to wait for changes from."""
        said = self._ask(due, "GET", f"kv/{begin}", recurse="", consistent="", keys=begin)
        return _records(said.body or ()), said.changed

    def listen(self, due: float, name: str, all_below: bool, index: int) -> Wire:
        """Have Consul answer when a key changes, or any that begins so."""
        which = {"recurse": ""} if all_below else {}
        try:
            return self._http.listen(
                due, f"kv/{name}", index=str(index), wait=_LONGEST_WATCH, **which
            )
        except Refused as refused:
            raise self._http.unavailable(str(refused), name) from None

    def is_taken(self, due: float, place: Record) -> bool:
        """Whether a session has locked a place, or a lock-delay is on it.

        Nothing tells of that, but who asks for the key with a session that there is none of: Consul
        looks at the delay first.
        """
        if place.session or place.detail is None:
            return bool(place.session)
        try:
            said = self._http.ask(due, "PUT", f"kv/{place.key}", acquire=_NO_SESSION)
        except Refused as refused:
            if "invalid session" in str(refused):
                return False
            raise self._http.unavailable(str(refused), place.key) from None
        return said.body is False

    def _transact(
        self, due: float, lock: str, words: Iterable[Word], **parameters: str
    ) -> list[Record]:
        said = self._ask(due, "PUT", "txn", list(words), keys=prefix(lock), **parameters)
        body = said.body
        if said.status != _CONFLICT:
            return _records(result["KV"] for result in body["Results"] or ())
        why = "; ".join(str(error["What"]) for error in body["Errors"] or ())
        if "ermission denied" in why or "ACL not found" in why:
            raise self._http.unavailable(why, prefix(lock))
        raise Conflict(why)

    def _ask(
        self,
        due: float,
        method: str,
        path: str,
        body: object = None,
        keys: str = "",
        **parameters: str,
    ) -> Answer:
        try:
            said = self._http.ask(due, method, path, body, **parameters)
        except Refused as refused:
            raise self._http.unavailable(str(refused), keys) from None
        self._heard_at = kernel.now()
        return said

    # ------------------------------------------------------------ Consul's sessions

    def new(self, due: float, ttl: float, delay: float = 0.0, deletes: bool = True) -> str:
        """A session that lasts so long at least; its keys go with it, or stay without it.

        No health check ends it, as an agent that is started again would. Raises ``UsageError`` for
        a ttl that this Consul does not allow.
        """
        wanted: dict[str, object] = {
            "Name": "guardrun",
            "TTL": _milliseconds(ttl),
            "LockDelay": _milliseconds(min(delay, LONGEST_DELAY)),
            "Behavior": "delete" if deletes else "release",
            "NodeChecks": [],
            "Checks": [],  # as NodeChecks was called before 1.7
        }
        try:
            said = self._http.ask(due, "PUT", "session/create", wanted)
        except Refused as refused:
            if str(refused).startswith("Invalid Session TTL"):
                raise Bounds(ttl, str(refused)) from None
            raise self._http.unavailable(str(refused), "session") from None
        self._heard_at = kernel.now()
        return str(said.body["ID"])

    def new_or_longer(self, due: float, ttl: float) -> str:
        """A session whose keys go with it; as long as the shortest, where that is not allowed."""
        try:
            return self.new(due, ttl)
        except Bounds as bounds:
            if ttl >= bounds.least:
                raise
            return self.new(due, bounds.least)

    def renew(self, due: float, session: str) -> bool:
        """Have a session begin anew; False: there is none any more."""
        return self._ask(due, "PUT", f"session/renew/{session}").body is not None

    def destroy(self, due: float, *sessions: str) -> None:
        """End sessions: nothing that was asked for with them is done from then on."""
        for session in sessions:
            self._ask(due, "PUT", f"session/destroy/{session}")

    def end(self, due: float, *sessions: str) -> None:
        """End sessions that have locked nothing any more; else they would lapse by themselves."""
        for session in sessions:
            try:
                self._http.ask(due, "PUT", f"session/destroy/{session}")
            except Refused:
                pass
            except StoreUnavailable:
                return

    # ------------------------------------------------------------ signs of life

    @property
    def now(self) -> float:
        """Seconds since 1970 by the clock of the agent that answered last."""
        clock = self._http.clock
        return time.time() if clock is None else clock + kernel.now() - self._heard_at

    def clock(self, due: float) -> float:
        """The same, just now."""
        self.read(due, "", PREFIX + "/")
        return self.now

    def signs(self, lock: str, due: float) -> dict[str, str]:
        """By token of a holder: a text that changes with every renewal, and with nothing else."""
        told = self.read(due, lock, key(lock, PLACE))
        details = [one.detail for one in told if one.detail is not None and one.session]
        return {one.token: str(one.renewed) for one in details if not one.released}

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()


def _milliseconds(seconds: float) -> str:
    return f"{ceil(seconds * 1000)}ms"


# ---------------------------------------------------------------- a transaction's words


def _word(verb: str, name: str, **more: object) -> Word:
    return {"KV": {"Verb": verb, "Key": name, **more}}


def held(name: str, session: str) -> Word:
    """Only if that session has locked it."""
    return _word("check-session", name, Session=session)


def unchanged(one: Record) -> Word:
    """Only if it is as it was read."""
    return _word("check-index", one.key, Index=one.modified)


def absent(name: str) -> Word:
    """Only if there is none."""
    return _word("check-not-exists", name)


def lock(name: str, session: str, value: str) -> Word:
    """Lock and write it; only if no other session has, and no lock-delay is on it."""
    return _word("lock", name, Session=session, Value=value)


def unlock(name: str, session: str) -> Word:
    """Give it up."""
    return _word("unlock", name, Session=session)


def delete(name: str) -> Word:
    """Delete it, if it is there."""
    return _word("delete", name)


def _records(entries: Iterable[Word]) -> list[Record]:
    return [one for one in map(record, entries) if one is not None]
