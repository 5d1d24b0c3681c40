"""The words of etcd's JSON gateway: what is asked in a transaction, and what its answers say."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING, Any

from guardrun.locks.etcd_keys import beyond, coded, record

if TYPE_CHECKING:
    from guardrun.locks.etcd_keys import Record

    Word = dict[str, Any]

_NUMBERS = {"CREATE": "create_revision", "MOD": "mod_revision", "LEASE": "lease"}


def compare(name: bytes, target: str, result: str, number: int) -> Word:
    """Only if that number of a key's is so; all are 0 where there is no such key."""
    wanted = {"key": coded(name), "target": target, "result": result}
    return wanted | {_NUMBERS[target]: str(number)}


def held(*names: bytes) -> list[Word]:
    """Only if each is there, and on a lease: what is written over it by hand is on none."""
    return [compare(name, "LEASE", "GREATER", 0) for name in names]


def get(name: bytes) -> Word:
    """Read a key."""
    return {"request_range": {"key": coded(name)}}


def all_of(prefix: bytes) -> Word:
    """Read all keys that begin so."""
    return {"request_range": {"key": coded(prefix), "range_end": coded(beyond(prefix))}}


def put(name: bytes, lease: int, value: str = "") -> Word:
    """Write a key, on that lease."""
    return {"request_put": {"key": coded(name), "value": value, "lease": str(lease)}}


def delete(name: bytes) -> Word:
    """Delete a key, and tell what was there."""
    return {"request_delete_range": {"key": coded(name), "prev_kv": True}}


def found(said: Word) -> list[Record]:
    """What a read has found of ours."""
    return _records(said.get("kvs", ()))


def records(said: Word) -> list[Record]:
    """All that a transaction has read."""
    answers = said.get("responses", ())
    return [one for said in answers for one in found(said.get("response_range", {}))]


def deleted(said: Word) -> list[Record]:
    """All that a transaction has deleted."""
    answers = [one.get("response_delete_range", {}) for one in said.get("responses", ())]
    return [one for answer in answers for one in _records(answer.get("prev_kvs", ()))]


def last_key(said: Word) -> bytes:
    """The last key that a read has found."""
    return b64decode(said["kvs"][-1]["key"])


def _records(kvs: Any) -> list[Record]:
    return [one for one in map(record, kvs) if one is not None]
