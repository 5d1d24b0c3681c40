"""What an etcd server is, as far as ``guardrun.locks.etcd`` asks it: pure decisions of its clock.

Keys with revisions, transactions, leases and watches, in the words of the JSON gateway: int64s are
strings, and what is zero, false or empty is absent. ``tests/contract/test_simulated_etcd.py``
compares it with a real server. All instants are seconds by the server's clock, given as ``now``.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from guardrun.locks.etcd_keys import coded

Word = dict[str, Any]

_SHORTEST = 2
"""s; of a lease of etcd's with the default election timeout of 1 s"""
_GONE = "etcdserver: requested lease not found"
_NO_KEY = "etcdserver: key not found"
_NUMBERS = {"CREATE": "create_revision", "MOD": "mod_revision", "LEASE": "lease"}


class EtcdError(Exception):
    """What etcd refuses; it is not done."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


class Kv(NamedTuple):
    """A key, as it stands."""

    key: bytes
    value: bytes
    created: int
    modified: int
    version: int
    lease: int

    def number(self, target: str) -> int:
        """What a comparison looks at."""
        return {"CREATE": self.created, "MOD": self.modified, "LEASE": self.lease}[target]

    def told(self) -> Word:
        """As the gateway says it."""
        word = {"key": coded(self.key), "value": coded(self.value)}
        numbers = {
            "create_revision": self.created,
            "mod_revision": self.modified,
            "version": self.version,
            "lease": self.lease,
        }
        return _filled(word) | _strings(numbers)


_ABSENT = Kv(b"", b"", 0, 0, 0, 0)


@dataclass
class Lease:
    """One of etcd's own leases."""

    ttl: int
    """s"""
    expires: float


class Change(NamedTuple):
    """One key was written, or deleted."""

    revision: int
    key: bytes
    deleted: bool


class Watch(NamedTuple):
    """What somebody watches; ``until`` is empty for a single key."""

    first: bytes
    until: bytes
    puts: bool

    def wants(self, change: Change) -> bool:
        """Whether it is told of that."""
        return (change.deleted or self.puts) and _within(change.key, self.first, self.until)


class EtcdModel:
    """A cluster of one member.

    ``linger`` is for how long, in s, keys outlast a lease that is over and cannot be extended any
    more: a real server takes up to a second.
    """

    def __init__(self, linger: float = 0.0) -> None:
        self._linger = linger
        self.revision = 1
        self.keys: dict[bytes, Kv] = {}
        self.leases: dict[int, Lease] = {}
        self.changes: list[Change] = []
        self._leases_made = 0

    def ask(self, path: str, body: Word, now: float) -> Word:
        """Carry out one request. Raises ``EtcdError``."""
        self.lapse(now)
        does: dict[str, Callable[[Word, float], Word]] = {
            "kv/range": self._range,
            "kv/txn": self._transact,
            "lease/grant": self._grant,
            "lease/keepalive": self._keep_alive,
            "lease/revoke": self._revoke,
            "lease/timetolive": self._time_to_live,
        }
        return does[path](body, now)

    def watch(self, body: Word) -> tuple[Watch, list[Change]]:
        """What a watch wants, and what of that has happened already."""
        watch = Watch(*_bounds(body), "NOPUT" not in body.get("filters", ()))
        since = body["start_revision"]
        return watch, [one for one in self.changes if one.revision >= since and watch.wants(one)]

    def lapse(self, now: float) -> None:
        """End the leases whose time is over, and what is attached to them."""
        for number, lease in tuple(self.leases.items()):
            if self.ends(lease) <= now:
                self._end(number)

    def ends(self, lease: Lease) -> float:
        """When the keys of a lease go, unless it is extended."""
        return lease.expires + self._linger

    def next_lapse(self) -> float:
        """When the first of the leases ends."""
        return min(map(self.ends, self.leases.values()), default=float("inf"))

    def promote(self, now: float) -> None:
        """Begin anew as a leader: it does not know when leases were extended, so all are now."""
        for lease in self.leases.values():
            lease.expires = now + lease.ttl

    # ------------------------------------------------------------ leases

    def _grant(self, body: Word, now: float) -> Word:
        self._leases_made += 1
        ttl = max(int(body["TTL"]), _SHORTEST)
        self.leases[self._leases_made] = Lease(ttl, now + ttl)
        return {"header": self.header(), "ID": str(self._leases_made), "TTL": str(ttl)}

    def _keep_alive(self, body: Word, now: float) -> Word:
        said: Word = {"header": self.header(), "ID": str(body["ID"])}
        lease = self.leases.get(int(body["ID"]))
        if lease is not None and lease.expires > now:
            lease.expires = now + lease.ttl
            said["TTL"] = str(lease.ttl)
        return {"result": said}

    def _revoke(self, body: Word, now: float) -> Word:  # noqa: ARG002
        if int(body["ID"]) not in self.leases:
            raise EtcdError(404, _GONE)
        self._end(int(body["ID"]))
        return {"header": self.header()}

    def _time_to_live(self, body: Word, now: float) -> Word:
        said: Word = {"header": self.header(), "ID": str(body["ID"])}
        lease = self.leases.get(int(body["ID"]))
        if lease is None:
            return said | {"TTL": "-1"}
        left = _strings({"TTL": int(lease.expires - now)})
        return said | left | {"grantedTTL": str(lease.ttl)}

    def _end(self, number: int) -> None:
        """All that is attached goes with it, in one revision."""
        del self.leases[number]
        attached = sorted(name for name, kv in self.keys.items() if kv.lease == number)
        if attached:
            self.revision += 1
        for name in attached:
            self._drop(name, self.revision)

    # ------------------------------------------------------------ keys

    def _range(self, body: Word, now: float) -> Word:  # noqa: ARG002
        return {"header": self.header()} | self._read(body)

    def _transact(self, body: Word, now: float) -> Word:  # noqa: ARG002
        succeeded = all(map(self._holds, body["compare"]))
        wanted = body["success" if succeeded else "failure"]
        for one in wanted:
            self._check(one.get("request_put", {}))
        revision = self.revision + 1
        answers = [self._do(one, revision) for one in wanted]
        if any(change.revision == revision for change in self.changes[-1:]):
            self.revision = revision
        said: Word = {"header": self.header()}
        if succeeded:
            said["succeeded"] = True
        return said | _filled({"responses": answers})

    def _holds(self, wanted: Word) -> bool:
        """A comparison about no key at all sees zeros."""
        target = wanted["target"]
        number = int(wanted[_NUMBERS[target]])
        found = self._between(*_bounds(wanted)) or [_ABSENT]
        return all(_compare(wanted["result"], kv.number(target), number) for kv in found)

    def _check(self, put: Word) -> None:
        if put.get("ignore_lease") and b64decode(put["key"]) not in self.keys:
            raise EtcdError(400, _NO_KEY)
        lease = int(put.get("lease", 0))
        if lease and lease not in self.leases:
            raise EtcdError(404, _GONE)

    def _do(self, wanted: Word, revision: int) -> Word:
        ((kind, body),) = wanted.items()
        if kind == "request_range":
            said = self._read(body)
            written = bool(self.changes) and self.changes[-1].revision == revision
            header = {"revision": str(revision if written else self.revision)}
            return {"response_range": {"header": header} | said}
        header = {"revision": str(revision)}
        if kind == "request_put":
            self._put(body, revision)
            return {"response_put": {"header": header}}
        gone = self._between(*_bounds(body))
        for kv in gone:
            self._drop(kv.key, revision)
        if not gone:
            written = bool(self.changes) and self.changes[-1].revision == revision
            header = {"revision": str(revision if written else self.revision)}
        told = {"deleted": str(len(gone))} if gone else {}
        before = [kv.told() for kv in gone] if body.get("prev_kv") else []
        said = {"header": header} | told | _filled({"prev_kvs": before})
        return {"response_delete_range": said}

    def _put(self, body: Word, revision: int) -> None:
        name, value = b64decode(body["key"]), b64decode(body.get("value", ""))
        before = self.keys.get(name)
        lease = int(body.get("lease", 0))
        if before is not None and body.get("ignore_lease"):
            lease = before.lease
        created = revision if before is None else before.created
        version = 1 if before is None else before.version + 1
        self.keys[name] = Kv(name, value, created, revision, version, lease)
        self.changes.append(Change(revision, name, deleted=False))

    def _drop(self, name: bytes, revision: int) -> None:
        del self.keys[name]
        self.changes.append(Change(revision, name, deleted=True))

    def _read(self, body: Word) -> Word:
        found = self._between(*_bounds(body))
        said = {"count": str(len(found))} if found else {}
        newest = body.get("max_create_revision")
        if newest is not None:
            found = [kv for kv in found if kv.created <= int(newest)]
        if body.get("sort_target") == "CREATE":
            found.sort(key=lambda kv: kv.created, reverse=body.get("sort_order") == "DESCEND")
        limit = body.get("limit", 0) or len(found)
        more = {"more": True} if len(found) > limit else {}
        return _filled({"kvs": [kv.told() for kv in found[:limit]]}) | more | said

    def _between(self, first: bytes, until: bytes) -> list[Kv]:
        return [self.keys[name] for name in sorted(self.keys) if _within(name, first, until)]

    def header(self) -> Word:
        """What every answer begins with."""
        return {"revision": str(self.revision)}


def _bounds(body: Word) -> tuple[bytes, bytes]:
    return b64decode(body["key"]), b64decode(body.get("range_end", ""))


def _within(name: bytes, first: bytes, until: bytes) -> bool:
    return first <= name < until if until else name == first


def _compare(result: str, one: int, other: int) -> bool:
    return {"EQUAL": one == other, "GREATER": one > other, "LESS": one < other}[result]


def _strings(numbers: dict[str, int]) -> Word:
    return {name: str(number) for name, number in numbers.items() if number}


def _filled(word: Word) -> Word:
    return {name: value for name, value in word.items() if value}
