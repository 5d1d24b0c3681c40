"""What is known about a host lock beside who holds it: a small text file next to it.

    lock nightly-backup
    slots 1
    fence 1764000000000000
    holder 0 1764000000.25 db1:4711:019ac3…
    hold 0 x 1764000060.25 60.0

``holder`` is the last one to get that slot (readers of a shared lock: minus its pid), whether or
not it still has it: that is for flock(2) to say. ``hold`` is a not-before time (``--min-hold``):
slot, mode, until, and for how long, so that with a clock that was set back it is counted from
the first look at it. Not JSON, because reading JSON costs the start of every run 8 ms.
"""

from __future__ import annotations

import errno
import os
from types import MappingProxyType

from guardrun.lean import NamedTuple
from guardrun.model import Holder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


_NEAR = 0.001
"""s; what two times that were stored as text may differ by, and be the same"""


class Hold(NamedTuple):
    """A slot that stays taken until a time, whoever has gone."""

    mode: str
    """``x`` or ``s``; a shared hold does not keep other readers out"""
    until: float
    length: float

    def remaining(self, now: float) -> float:
        """Seconds from ``now`` (wall clock)."""
        return max(0.0, min(self.until - now, self.length))

    def is_ahead(self, now: float) -> bool:
        """Whether it would begin only after ``now``: the clock was set back since."""
        return self.until - now > self.length + _NEAR

    def begun_by(self, now: float) -> Hold:
        """The same, but counted from ``now`` where it would begin later."""
        return self._replace(until=now + self.length) if self.is_ahead(now) else self


class Sidecar(NamedTuple):
    """The file's content."""

    lock: str
    slots: int = 0
    """0: nobody has said so far"""
    fence: int = 0
    holders: Mapping[int, Holder] = MappingProxyType({})
    holds: Mapping[int, Hold] = MappingProxyType({})


def lock_of(fd: int) -> str:
    """The name of the lock that the file is about; empty when it is damaged."""
    first = os.pread(fd, 1 << 20, 0).partition(b"\n")[0].decode("utf-8", "surrogateescape")
    return first.removeprefix("lock ") if first.startswith("lock ") else ""


def read(fd: int, lock: str) -> Sidecar:
    """Read the sidecar; what is damaged (power loss) counts as absent."""
    sidecar = Sidecar(lock)
    holders: dict[int, Holder] = {}
    holds: dict[int, Hold] = {}
    for line in os.pread(fd, 1 << 20, 0).decode("utf-8", "surrogateescape").splitlines():
        word, _, rest = line.partition(" ")
        try:
            if word == "slots":
                sidecar = sidecar._replace(slots=int(rest))
            elif word == "fence":
                sidecar = sidecar._replace(fence=int(rest))
            elif word == "holder":
                slot, since, owner = rest.split(" ", 2)
                holders[int(slot)] = Holder(owner, owner.rpartition(":")[2], float(since))
            elif word == "hold":
                slot, mode, until, length = rest.split(" ")
                holds[int(slot)] = Hold(mode, float(until), float(length))
        except ValueError:
            continue
    return sidecar._replace(holders=holders, holds=holds)


def write(fd: int, sidecar: Sidecar) -> None:
    """Write the sidecar over the old one; the caller has it locked. Raises OSError."""
    lines = [f"lock {sidecar.lock}", f"slots {sidecar.slots}", f"fence {sidecar.fence}"]
    lines += [f"holder {slot} {who.since} {who.owner}" for slot, who in sidecar.holders.items()]
    lines += [
        f"hold {slot} {hold.mode} {hold.until} {hold.length}"
        for slot, hold in sidecar.holds.items()
    ]
    data = ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
    if os.pwrite(fd, data, 0) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(fd, len(data))
