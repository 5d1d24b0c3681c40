"""Which host locks are held, seen from outside without touching them.

A probe by flock(2) would make the lock busy for a run that asks at that very moment. So it is
/proc that is read: fdinfo tells of every descriptor whether its open file description has a lock,
whoever took it. /proc/locks names the process that took it, often a child that has ended since
(``blocking``), and leaves those out inside a container.

Whether a lock is held is for the kernel to say, who holds it for the sidecar, which a run writes
right after it got the lock. What a process of another user holds, or one that the PID namespace
hides, is not seen.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from guardrun import safety
from guardrun.digest import sha256
from guardrun.errors import GuardrunError
from guardrun.locks import sidecar
from guardrun.locks.sidecar import Sidecar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from guardrun.locks.sidecar import Hold
    from guardrun.model import Holder

    Slot = tuple[str, int]
    """a lock's file, and which of its slots"""
    Lockers = Mapping[Slot, Mapping[str, Collection[int]]]
    """the processes that have a slot's flock, by its mode"""

_SETTLED = 0.2
"""s that a run takes at most from getting a lock to writing itself down"""
_READ, _WRITE = "READ", "WRITE"
_NEAR = 0.001
"""s; what two times that were stored as text may differ by, and be the same"""
_HEX = frozenset("0123456789abcdef")


class Held(NamedTuple):
    """A slot that is taken, or the share of one reader."""

    lock: str | None
    """``None``: nobody has written the name down"""
    file: str
    """SHA-256 of the name"""
    slot: int
    slots: int
    shared: bool
    holder: Holder | None
    """the last one known to have got it"""
    since: float | None
    fence: int | None
    hold: Hold | None
    """the not-before time, where nothing but that keeps it"""
    pids: tuple[int, ...] = ()
    """the processes that hold it"""


def file_of(lock: str) -> str:
    """What the files of a lock are called."""
    return sha256(lock.encode("utf-8", "surrogateescape")).hexdigest()


def held(directory: str) -> list[Held]:
    """All slots that are taken in a lock directory, which need not exist.

    Raises ``UnsafePath``.
    """
    if not os.path.lexists(directory):
        return []
    fd = safety.private_directory(directory, "lock directory")
    try:
        found = list(_look(fd))
        if any(map(_doubtful, found)):
            # Somebody got it just now: the sidecar still tells of the one before.
            time.sleep(_SETTLED)
            found = list(_look(fd))
    finally:
        os.close(fd)
    return found


def _look(directory: int) -> Iterator[Held]:
    names = {name for name in os.listdir(directory) if _is_ours(name)}
    lockers = _lockers(_inodes(directory, names))
    now = time.time()
    for file in sorted({name.partition(".")[0] for name in names}):
        yield from _taken(file, _read(directory, file), lockers, now)


def _is_ours(name: str) -> bool:
    file, dot, rest = name.partition(".")
    return len(file) == 64 and set(file) <= _HEX and (not dot or rest == "info" or rest.isdigit())


# ---------------------------------------------------------------- what the kernel says


def _inodes(directory: int, names: Collection[str]) -> dict[tuple[int, int], Slot]:
    """Which file is which slot."""
    found = {}
    for name in names:
        file, _, rest = name.partition(".")
        if rest == "info":
            continue
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:
            continue
        found[status.st_dev, status.st_ino] = file, int(rest or 0)
    return found


def _lockers(slots: Mapping[tuple[int, int], Slot]) -> Lockers:
    """Who has which slot's flock, of the processes that we may look at."""
    names = {file if slot == 0 else f"{file}.{slot}" for file, slot in slots.values()}
    found: dict[Slot, dict[str, list[int]]] = {}
    for pid in _processes():
        for number in _entries(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{number}"
            try:
                # By the name first: stat(2) on a remote filesystem may hang.
                if os.readlink(path).rpartition("/")[2] not in names:
                    continue
                status = os.stat(path)
                slot = slots.get((status.st_dev, status.st_ino))
                mode = _flock(f"/proc/{pid}/fdinfo/{number}") if slot else None
            except OSError:  # closed or ended meanwhile
                continue
            if slot and mode:
                holders = found.setdefault(slot, {}).setdefault(mode, [])
                if pid not in holders:
                    holders.append(pid)
    return found


def _processes() -> list[int]:
    own = os.getpid()
    try:
        names = os.listdir("/proc")
    except OSError as error:
        raise GuardrunError(f"cannot see who holds a lock: /proc: {error.strerror}") from None
    return sorted(int(name) for name in names if name.isdigit() and int(name) != own)


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:  # it has ended, or is another user's
        return []


def _flock(path: str) -> str | None:
    """The mode of the flock that a descriptor's open file description has."""
    with open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            words = line.split()
            if line.startswith("lock:") and "FLOCK" in words:
                return _READ if _READ in words else _WRITE
    return None


# ---------------------------------------------------------------- what the sidecar says


def _read(directory: int, file: str) -> Sidecar | None:
    """A lock's sidecar; ``None`` where there is none, or one that is damaged."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(f"{file}.info", flags, dir_fd=directory)
    except OSError:
        return None
    try:
        lock = sidecar.lock_of(fd)
        return sidecar.read(fd, lock) if file_of(lock) == file else None
    except OSError:
        return None
    finally:
        os.close(fd)


def _taken(file: str, told: Sidecar | None, lockers: Lockers, now: float) -> Iterator[Held]:
    known = told or Sidecar("")
    slots = max(known.slots, 1)
    numbers = {slot for name, slot in lockers if name == file} | set(known.holds)
    for slot in sorted(numbers):
        modes = lockers.get((file, slot), {})
        hold = known.holds.get(slot)
        none = Held(
            lock=told.lock if told else None,
            file=file,
            slot=slot,
            slots=slots,
            shared=False,
            holder=None,
            since=None,
            # Of several places only the last one's is written down.
            fence=known.fence or None if slots == 1 else None,
            hold=None,
        )
        if _WRITE in modes:
            holder = known.holders.get(slot)
            yield _by(holder, none)._replace(pids=tuple(modes[_WRITE]))
        elif _READ in modes:
            yield from _readers(known, none._replace(shared=True, fence=None), modes[_READ])
        elif hold and slot < slots and hold.remaining(now):
            yield _kept(known, none, hold)


def _by(holder: Holder | None, none: Held) -> Held:
    return none._replace(holder=holder, since=holder.since if holder else None)


def _readers(known: Sidecar, none: Held, pids: Collection[int]) -> Iterator[Held]:
    """One for each reader that has written itself down, else one for all of them."""
    none = none._replace(pids=tuple(pids))
    named = [who for at, who in known.holders.items() if at < 0 and -at in pids]
    yield from (_by(holder, none) for holder in named)
    if not named:
        yield none


def _kept(known: Sidecar, none: Held, hold: Hold) -> Held:
    since = hold.until - hold.length
    shared = hold.mode == "s"
    for at, who in known.holders.items():
        mine = at < 0 if shared else at == none.slot
        if mine and who.since is not None and abs(who.since - since) < _NEAR:
            none = none._replace(holder=who)
    fence = None if shared else none.fence
    return none._replace(shared=shared, since=since, fence=fence, hold=hold)


def _doubtful(one: Held) -> bool:
    """Whether the one that is known to have got it is none of the processes that hold it."""
    if not one.pids:
        return False
    host, _, rest = one.holder.owner.partition(":") if one.holder else ("", "", "")
    pid = rest.partition(":")[0]
    here = host == os.uname().nodename and pid.isdigit()
    return one.holder is None or (here and int(pid) not in one.pids)
