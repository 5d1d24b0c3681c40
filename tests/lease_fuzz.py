"""A process that takes a lock again and again, and does inside what only exclusion keeps exact.

It reads a counter, pauses, and writes one more. How many are inside is the kernel's word: there are
as many chairs as places, each a flock(2), which ends with the process. Nobody works under a lease
that has run out, as COMMAND doesn't: a timer that ends the process is set before it asks. What is
being ended may sit there for a while yet, on a busy machine, but does nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lease_stores import due, request, wait_turn

from guardrun import kernel
from guardrun.model import FOREVER, Grant

if TYPE_CHECKING:
    from guardrun.ports import LeaseStore

WORKER = "import lease_fuzz; lease_fuzz.work(store, *sys.argv[3:])"
"""for ``lease_stores.start_worker``; its words are those of ``work``"""

_INSIDE = 0.005
"""s at most between reading and writing, for every place: so that all of them are taken"""
_OUTSIDE = 0.01
"""s at most until the next time"""
_TERM = 0.9
"""of a ttl: how long a process works under a lease"""
_SILENT = 3.0
"""s that every store lets a waiter be silent; one that nobody wakes, also for as often as this:"""
_TIMES = 3
_PATIENCE = 300.0
"""s"""
_FLAGS, _PF_EXITING = 6, 0x4
"""which field of /proc/PID/stat after the name; proc(5), and include/linux/sched.h"""


class Visit(NamedTuple):
    """One time inside. Moments are readings of CLOCK_BOOTTIME, before or after what they tell."""

    who: int
    asked: float
    """before the first question"""
    queued: float | None
    """after the first no; ``None``: there was none"""
    sent: float
    """before the question that got a yes"""
    granted: float
    """after that yes"""
    fence: int
    since: float
    chair: int | None
    """``None``: there are more inside than there are places"""
    value: int
    """of the counter, as it was read"""
    kept: bool
    """it asked often enough to keep its place in the queue, however slow the machine was"""
    leaving: float | None = None
    """before it gave the place back; ``None``: it did not live to do so"""


class Arena(NamedTuple):
    """Where the workers of one test meet; ``lock`` has ``slots`` places."""

    root: Path
    lock: str
    slots: int
    ttl: float

    @property
    def counter(self) -> Path:
        return self.root / "counter"

    @property
    def journal(self) -> Path:
        """Its lines: a visit, when it has begun; who leaves, and when."""
        return self.root / "journal"

    def words(self) -> list[str]:
        """For ``work``."""
        return [str(self.root), self.lock, str(self.slots), str(self.ttl)]


def visits(lines: Iterable[str]) -> list[Visit]:
    """What the journal tells, in the order in which they came in."""
    found: list[Visit] = []
    inside: dict[int, int] = {}
    for line in lines:
        told = json.loads(line)
        if len(told) == 2:
            who, leaving = told
            at = inside.pop(who)
            found[at] = found[at]._replace(leaving=leaving)
        else:
            inside[told[0]] = len(found)
            found.append(Visit(*told))
    return found


def work(
    store: LeaseStore,
    root: str,
    lock: str,
    slots: str,
    ttl: str,
    who: str,
    times: str,
    end: str,
    seed: str,
) -> None:
    """Be inside so many times, and die inside the time that has the number ``end``, from 0."""
    arena = Arena(Path(root), lock, int(slots), float(ttl))
    rng = random.Random(seed)
    room = _Room(arena)
    store.holders(lock, due(_PATIENCE))  # connects: the timer is for questions alone
    for number in range(int(times)):
        _visit(store, arena, room, int(who), rng, mortal=number == int(end))
        time.sleep(rng.choice((0.0, rng.uniform(0.0, _OUTSIDE))))


def _visit(
    store: LeaseStore, arena: Arena, room: _Room, who: int, rng: random.Random, mortal: bool
) -> None:
    wanted = request(arena.lock, arena.slots, arena.ttl)
    asked, queued, kept, expected = kernel.now(), None, True, FOREVER
    while True:
        signal.setitimer(signal.ITIMER_REAL, arena.ttl * _TERM)
        sent = kernel.now()
        said = store.acquire(wanted, True, due(_PATIENCE))
        heard = kernel.now()
        kept = kept and heard < expected
        if isinstance(said, Grant):
            break
        signal.setitimer(signal.ITIMER_REAL, 0)
        queued = queued or heard
        slow = store.wake_fd() is None
        expected = sent + max(_SILENT, _TIMES * said.ask_again if slow else 0.0)
        wait_turn(store, said, asked + _PATIENCE)
    with room.chair(until=sent + arena.ttl * _TERM) as chair:
        value, fence = room.read(), said.fence or 0
        visit = Visit(who, asked, queued, sent, heard, fence, said.since, chair, value, kept)
        room.say(visit[:-1])
        time.sleep(rng.uniform(0.0, _INSIDE * arena.slots))
        if mortal and rng.random() < 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        room.write(value + 1)
        if mortal:
            os.kill(os.getpid(), signal.SIGKILL)
    leaving = kernel.now()
    assert store.release(wanted, due(_PATIENCE))
    signal.setitimer(signal.ITIMER_REAL, 0)
    room.say((who, leaving))


class _Room:
    """What is inside."""

    def __init__(self, arena: Arena) -> None:
        flags = os.O_RDWR | os.O_CREAT
        self._counter = os.open(arena.counter, flags)
        self._journal = os.open(arena.journal, flags | os.O_APPEND)
        self._door = os.open(arena.root / "door", flags)
        self._chairs = [os.open(arena.root / f"chair-{n}", flags) for n in range(arena.slots)]

    def read(self) -> int:
        return int(os.pread(self._counter, 20, 0) or b"0")

    def write(self, value: int) -> None:
        os.pwrite(self._counter, b"%020d" % value, 0)

    def say(self, what: tuple[object, ...]) -> None:
        os.write(self._journal, json.dumps(what).encode() + b"\n")

    @contextmanager
    def chair(self, until: float) -> Iterator[int | None]:
        """Sit down, and say where; ``None``: all chairs are taken. Who sits ends at ``until``."""
        # One after the other: chairs that become free while one looks are no proof of anything.
        fcntl.flock(self._door, fcntl.LOCK_EX)
        found = next((n for n, chair in enumerate(self._chairs) if _taken(chair)), None)
        if found is not None:
            os.pwrite(self._chairs[found], b"%020.6f %20d" % (until, os.getpid()), 0)
        fcntl.flock(self._door, fcntl.LOCK_UN)
        yield found
        if found is not None:
            fcntl.flock(self._chairs[found], fcntl.LOCK_UN)


def _is_ending(pid: int) -> bool:
    """Whether a process executes nothing any more.

    The kernel lets go of its files in no order that could be relied on: a session, and its lock
    with that, may have ended while a chair is still locked.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return True
    return bool(int(fields[_FLAGS]) & _PF_EXITING)


def _taken(chair: int) -> bool:
    try:
        fcntl.flock(chair, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        until, pid = os.pread(chair, 41, 0).split()
        if float(until) > kernel.now() and not _is_ending(int(pid)):
            return False
        fcntl.flock(chair, fcntl.LOCK_EX)  # its occupant is being ended
    return True
