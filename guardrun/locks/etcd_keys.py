"""How leases are written down in etcd: the keys of a lock, and what stands in them.

    guardrun/LOCK/entry/TOKEN  who holds the lock or waits for it; who came first has the smallest
                               create_revision. On the holder's lease, or the waiter's own.
    guardrun/LOCK/alive/TOKEN  only while it is held, on the same lease: written at each renewal
    guardrun/LOCK/hold/TOKEN   while --min-hold keeps the place taken, on a lease of that length

Every key names its token, so whoever has another one cannot change it by mistake.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = b"guardrun/"
ENTRY, ALIVE, HOLD = "entry", "alive", "hold"


def prefix(lock: str) -> bytes:
    """What all keys of a lock begin with."""
    return PREFIX + quote(lock, safe="", errors="surrogatepass").encode() + b"/"


def key(lock: str, kind: str, token: str = "") -> bytes:
    """One key, or without a token what all of that kind begin with."""
    return prefix(lock) + f"{kind}/{token}".encode()


def beyond(begin: bytes) -> bytes:
    """The first key after all that begin so."""
    return begin[:-1] + bytes([begin[-1] + 1])


def coded(data: bytes) -> str:
    """As the gateway wants bytes."""
    return b64encode(data).decode()


class Detail(NamedTuple):
    """What stands in an entry, and in a hold."""

    owner: str
    job_id: str
    slots: int
    since: float | None
    """s since 1970 by the cluster's clock; ``None``: it waits"""
    fence: int | None
    """where it is not the revision in which the entry was written"""

    def written(self) -> str:
        """As it is stored."""
        return coded(json.dumps(self._asdict()).encode())


class Record(NamedTuple):
    """One key, as the cluster has it."""

    lock: str
    kind: str
    token: str
    created: int
    modified: int
    lease: int
    """0: none, it stays until it is deleted"""
    detail: Detail | None
    """``None``: what somebody else wrote"""

    @property
    def granted(self) -> bool:
        """Whether its place is taken, not only waited for."""
        return self.detail is None or self.detail.since is not None

    @property
    def fence(self) -> int:
        """The fencing token of the one that holds it."""
        return (self.detail and self.detail.fence) or self.modified


def record(kv: Mapping[str, Any]) -> Record | None:
    """A key and what stands in it; ``None``: it is none of ours."""
    name = b64decode(kv["key"])
    parts = name[len(PREFIX) :].decode("utf-8", "replace").split("/")
    if not name.startswith(PREFIX) or len(parts) != 3:
        return None
    return Record(
        unquote(parts[0], errors="surrogatepass"),
        parts[1],
        parts[2],
        created=int(kv["create_revision"]),
        modified=int(kv["mod_revision"]),
        lease=int(kv.get("lease", 0)),
        detail=_detail(b64decode(kv.get("value", ""))),
    )


def _detail(text: bytes) -> Detail | None:
    try:
        said = Detail(**json.loads(text))
    except (ValueError, TypeError):
        return None
    numbers = (said.since or 0, said.fence or 0)
    right = isinstance(said.owner, str) and isinstance(said.job_id, str)
    right = right and isinstance(said.slots, int)
    return said if right and all(isinstance(one, int | float) for one in numbers) else None
