"""Host locks by flock(2): the named ones, in the lock directory.

A lock belongs to the open file description: supervisor, warden and COMMAND's whole tree share
it, so it is held as long as any of them lives, whatever is killed; LOCK_UN at the end of the
run frees it for all of them, whatever daemon still has the descriptor.

Lock files are never unlinked: a second process could lock the new file while the first still
holds the old. Should somebody else do so, the look at the inode after locking finds it out.
"""

from __future__ import annotations

import fcntl
import os
import time

from guardrun import kernel, safety
from guardrun.blocking import BlockedChild
from guardrun.digest import sha256
from guardrun.errors import ConfigError, UnsafePath
from guardrun.locks import sidecar
from guardrun.locks.kept import Kept, same_inode, try_lock
from guardrun.model import AROUND_US, Busy, Grant, Holder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from guardrun.locks.sidecar import Sidecar
    from guardrun.model import LockSpec, Run
    from guardrun.ports import Rng, Waiter

_NEVER = float("inf")
_GATE_PATIENCE = 5.0
"""s; who holds a sidecar longer than this, for its microseconds of work, was stopped in it"""

_MOST_QUEUES = 16
_LOOK_AGAIN = (0.5, 1.5)
"""s"""


def _exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


class HostLock(Kept):
    """``--lock``: a named lock or semaphore in the lock directory.

    Slot i of a lock is a file of its own, named by the SHA-256 of the lock's name; the sidecar
    is a third. Whoever holds the sidecar's own lock (the gate) may write it.
    """

    def __init__(self, spec: LockSpec, name: str, waiter: Waiter, rng: Rng) -> None:
        self._name = name
        self._spec = spec
        self._waiter = waiter
        self._rng = rng
        self._file = sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        self._operation = fcntl.LOCK_SH if spec.shared else fcntl.LOCK_EX
        self._mode = "s" if spec.shared else "x"
        self._directory = -1
        self._fds: dict[int, int] = {}

    def acquire(self, run: Run, due: float) -> Grant | Busy:
        """Take a slot, waiting in the kernel's queues until ``due``.

        Raises UnsafePath, and ConfigError when its holders use another number of slots.
        """
        self._enter()
        while True:
            held_until = _NEVER
            for slot in range(self._spec.slots):
                if not try_lock(self._open(slot), self._operation):
                    continue
                remaining = self._remaining(slot)
                if remaining is not None and remaining <= 0:
                    return self._keep(slot, run)
                self._let_go(slot)
                if remaining is not None:
                    held_until = min(held_until, kernel.now() + remaining)
            busy = self._busy(run)
            if busy.reason is not None or kernel.now() >= due:
                self.release()
                return busy
            won = self._wait(min(due, held_until))
            if won is not None:
                remaining = self._remaining(won)
                if remaining is not None and remaining <= 0:
                    return self._keep(won, run)
                self._let_go(won)

    def holders(self) -> tuple[Holder, ...]:
        """The last ones known to have got a slot."""
        self._enter()
        return tuple(self._holding(self._read()).values())

    def release(self) -> None:
        """Unlock for everyone who shares the descriptors, and close them."""
        for slot in list(self._fds):
            self._let_go(slot)
        if self._directory >= 0:  # a pool has a lock for every item
            os.close(self._directory)
            self._directory = -1

    def hold(self, slot: int) -> sidecar.Hold | None:
        """A slot's not-before time; ``None`` where there is none that is not over."""
        self._enter()
        found = self._read().holds.get(slot)
        return found if found and found.remaining(time.time()) else None

    def end_hold(self, slot: int, seen: sidecar.Hold) -> bool:
        """End a slot's not-before time, and raise the fence.

        False, and nothing is changed, when it is not the one that was ``seen`` any more, or
        somebody has the slot. Who asks meanwhile finds it busy, as it is until then anyway.
        Raises UnsafePath.
        """
        self._enter()
        try:
            return try_lock(self._open(slot), self._operation) and self._without(slot, seen)
        finally:
            self.release()

    def _without(self, slot: int, seen: sidecar.Hold) -> bool:
        gate = self._lock_gate()
        try:
            known = sidecar.read(gate, self._name)
            if known.holds.get(slot) != seen:
                return False
            fence = max(known.fence + 1, int(time.time() * 1_000_000))
            holds = {at: hold for at, hold in known.holds.items() if at != slot}
            sidecar.write(gate, known._replace(fence=fence, holds=holds))
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise UnsafePath(f"{self._path(self._file)}.info cannot be written: {why}") from None
        finally:
            os.close(gate)
        return True

    def _enter(self) -> None:
        if self._directory < 0:
            self._directory = safety.private_directory(self._spec.directory, "lock directory")

    def _path(self, name: str) -> str:
        return os.path.join(self._spec.directory, name)

    def _open(self, slot: int) -> int:
        fd = self._fds.get(slot)
        if fd is None:
            name = self._file if slot == 0 else f"{self._file}.{slot}"
            fd = safety.private_file(self._directory, name, self._path(name))
            self._fds[slot] = fd
        return fd

    def _let_go(self, slot: int) -> None:
        fd = self._fds.pop(slot)
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    def _remaining(self, slot: int) -> float | None:
        """Seconds for which a slot that was just locked stays taken all the same.

        ``None``: it is not the lock any more, somebody removed its file.
        """
        name = self._file if slot == 0 else f"{self._file}.{slot}"
        try:
            status = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        except OSError:
            return None
        if not same_inode(self._fds[slot], status):
            return None
        known = self._read()
        now = time.time()
        if any(hold.is_ahead(now) for hold in known.holds.values()):
            known = self._begin_anew(now)
        hold = known.holds.get(slot)
        if hold is None or (hold.mode == self._mode == "s"):
            return 0.0
        return hold.remaining(now)

    def _begin_anew(self, now: float) -> Sidecar:
        """Count from now what would begin later: the clock was set back, nobody knows when."""
        gate = self._lock_gate()
        try:
            known = sidecar.read(gate, self._name)
            holds = {at: hold.begun_by(now) for at, hold in known.holds.items()}
            known = known._replace(holds=holds)
            sidecar.write(gate, known)
        except OSError:
            pass  # a full disk: whoever looks next tries again
        finally:
            os.close(gate)
        return known

    def _read(self) -> Sidecar:
        fd = self._open_gate()
        try:
            return sidecar.read(fd, self._name)
        finally:
            os.close(fd)

    def _open_gate(self) -> int:
        name = f"{self._file}.info"
        return safety.private_file(self._directory, name, self._path(name))

    def _lock_gate(self) -> int:
        fd = self._open_gate()
        patience = kernel.now() + _GATE_PATIENCE
        while not try_lock(fd, fcntl.LOCK_EX):
            if kernel.now() >= patience:
                os.close(fd)
                raise UnsafePath(
                    f"lock {self._name}: {self._path(self._file)}.info has been locked for "
                    f"{_GATE_PATIENCE:.0f} s; continue or kill the process that was stopped in it"
                )
            self._waiter.pause((), kernel.now() + self._rng.uniform(0.0005, 0.005))
        return fd

    def _keep(self, slot: int, run: Run) -> Grant:
        """Write down that the slot is ours, and draw the fencing token."""
        for other in list(self._fds):
            if other != slot:
                self._let_go(other)
        gate = self._lock_gate()
        try:
            known = sidecar.read(gate, self._name)
            if known.slots not in (0, self._spec.slots) and self._others_taken(known, slot):
                raise self._mismatch(known.slots)
            since = time.time()
            fence = known.fence
            if not self._spec.shared:
                fence = max(known.fence + 1, int(since * 1_000_000))
            holders = {at: who for at, who in known.holders.items() if at >= 0 or _exists(-at)}
            holders[-run.pid if self._spec.shared else slot] = Holder(run.owner, run.job_id, since)
            holds = dict(known.holds)
            if self._spec.min_hold > 0:
                length = self._spec.min_hold
                kept = holds.get(slot)
                # A reader comes in under another one's: the longer of the two stays.
                if kept is None or kept.remaining(since) < length:
                    holds[slot] = sidecar.Hold(self._mode, since + length, length)
            told = known._replace(slots=self._spec.slots, fence=fence, holders=holders, holds=holds)
            try:
                sidecar.write(gate, told)
            except OSError as error:
                # The lock itself is ours. What is lost is who has it; the next fencing token is
                # the greater all the same, by the clock. A not-before time can't be done without.
                if self._spec.min_hold > 0:
                    why = os.strerror(error.errno or 0)
                    path = self._path(self._file)
                    raise UnsafePath(f"--min-hold cannot be kept in {path}.info: {why}") from None
        finally:
            os.close(gate)
        return Grant(self._name, None if self._spec.shared else fence, since, (self._fds[slot],))

    def _others_taken(self, known: Sidecar, mine: int) -> bool:
        """Whether any other slot has a holder, or a not-before time that is not over."""
        now = time.time()
        if any(hold.remaining(now) for slot, hold in known.holds.items() if slot != mine):
            return True
        for slot in range(max(known.slots, self._spec.slots)):
            if slot != mine:
                free = try_lock(self._open(slot), fcntl.LOCK_SH)
                self._let_go(slot)
                if not free:
                    return True
        return False

    def _mismatch(self, slots: int) -> ConfigError:
        return ConfigError(
            f"lock {self._name} is held with --slots {slots}, not {self._spec.slots}: "
            "all users of a lock must give the same number"
        )

    def _busy(self, run: Run) -> Busy:
        known = self._read()
        if known.slots not in (0, self._spec.slots):
            raise self._mismatch(known.slots)
        holding = self._holding(known)
        # One reader around us is enough to wait for ever; of slots it takes all.
        around = [slot for slot, who in holding.items() if who.job_id in run.path]
        hopeless = len(around) == self._spec.slots or any(slot < 0 for slot in around)
        return Busy(tuple(holding.values()), AROUND_US if hopeless else None)

    def _holding(self, known: Sidecar) -> dict[int, Holder]:
        """Who is known to hold a slot, or (below zero, by pid) to read."""
        found = sorted(known.holders.items())
        return {at: who for at, who in found if at < known.slots and (at >= 0 or _exists(-at))}

    def _wait(self, due: float) -> int | None:
        """Queue at every slot that is locked; the first to come is ours, surplus is let go.

        A queue is a process: of very many slots only some are queued at, and all are looked at
        again after a while.
        """
        queued: dict[int, tuple[int, BlockedChild]] = {}
        operation = self._operation
        slots: Sequence[int] = range(self._spec.slots)
        if len(slots) > _MOST_QUEUES:
            slots = sorted(slots, key=lambda _: self._rng.uniform(0, 1))[:_MOST_QUEUES]
            due = min(due, kernel.now() + self._rng.uniform(*_LOOK_AGAIN))
        for slot in slots:
            fd = self._open(slot)
            if try_lock(fd, operation):  # released just now, or free but not before its time
                remaining = self._remaining(slot)
                if remaining == 0.0:
                    for _, other in queued.values():
                        other.cancel()
                    return slot
                self._let_go(slot)
                # Whoever had it may be gone: then nobody but the clock tells of its time.
                due = min(due, kernel.now() + (remaining or 0.0))
                continue
            child = BlockedChild(lambda fd=fd: fcntl.flock(fd, operation))  # type: ignore[misc]
            queued[child.fileno()] = (slot, child)
        won: int | None = None
        try:
            for fd in self._waiter.pause(tuple(queued), due):
                slot, child = queued.pop(fd)
                if child.succeeded() and won is None:
                    won = slot
                else:
                    self._let_go(slot)
        finally:
            for slot, child in queued.values():
                child.cancel()
                self._let_go(slot)
        return won
