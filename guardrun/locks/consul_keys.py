"""How leases are written down in Consul: the keys of a lock, and what stands in them.

guardrun/LOCK/place/I     the place number I, locked by its holder's session. What no session
                          has locked is free; Consul's lock-delay may be on it, though.
guardrun/LOCK/wait/TOKEN  one who waits, locked by its own session; who came first has the
                          smallest CreateIndex
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "guardrun/"
PLACE, WAIT = "place", "wait"


def prefix(lock: str) -> str:
    """What all keys of a lock begin with.

    Of the name only letters, digits, ``-`` and ``.`` stay as they are: what else there may be in a
    key, and in the path of a URL, depends on Consul's version.
    """
    name = quote(lock, safe="", errors="surrogatepass").replace("_", "%5F").replace("~", "%7E")
    if not name.strip("."):
        name = name.replace(".", "%2E")
    return f"{PREFIX}{name.replace('%', '_')}/"


def key(lock: str, kind: str, which: int | str = "") -> str:
    """One key, or without a number or token what all of that kind begin with."""
    return f"{prefix(lock)}{kind}/{which}"


class Detail(NamedTuple):
    """What stands in a key. Moments are s since 1970, by the clock of the agent that was asked."""

    token: str
    owner: str
    job_id: str
    slots: int
    ttl: float
    """s; of its session"""
    since: float = 0.0
    renewed: float = 0.0
    hold: float = 0.0
    """s from ``since`` that the place stays taken at least"""
    delay: float = 0.0
    """s of lock-delay when its session is invalidated"""
    keeps: str = ""
    """the session that has the place from the release to the end of ``hold``"""
    released: bool = False

    def written(self) -> str:
        """As it is stored."""
        return b64encode(json.dumps(self._asdict()).encode()).decode()


class Record(NamedTuple):
    """One key, as Consul has it."""

    key: str
    lock: str
    kind: str
    which: str
    created: int
    modified: int
    session: str
    """empty: nobody has locked it"""
    detail: Detail | None
    """``None``: what somebody else wrote"""

    @property
    def number(self) -> int:
        """Of a place."""
        return int(self.which)

    @property
    def token(self) -> str:
        """Its holder's; for what somebody has written over, a name of its own."""
        return self.detail.token if self.detail else f"#{self.which}"

    @property
    def fence(self) -> int:
        """The fencing token of a place's holder: who takes one, makes its key anew."""
        return self.created


def record(entry: Mapping[str, Any]) -> Record | None:
    """A key and what stands in it; ``None``: it is none of ours."""
    name = str(entry["Key"])
    parts = name.removeprefix(PREFIX).split("/")
    if not name.startswith(PREFIX) or len(parts) != 3 or parts[1] not in (PLACE, WAIT):
        return None
    if parts[1] == PLACE and not (parts[2].isascii() and parts[2].isdigit()):
        return None
    return Record(
        name,
        unquote(parts[0].replace("_", "%"), errors="surrogatepass"),
        parts[1],
        parts[2],
        int(entry["CreateIndex"]),
        int(entry["ModifyIndex"]),
        str(entry.get("Session") or ""),
        _detail(b64decode(entry.get("Value") or "")),
    )


_SHAPE = Detail("", "", "", 0, 0.0)


def _detail(text: bytes) -> Detail | None:
    try:
        said = Detail(**json.loads(text))
    except (ValueError, TypeError):
        return None
    for value, like in zip(said, _SHAPE, strict=True):
        if not isinstance(value, (int, float) if isinstance(like, float) else type(like)):
            return None
    return said
