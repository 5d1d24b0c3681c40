"""``--lock-file``: one file or directory, locked as flock(1) locks it, and never written."""

from __future__ import annotations

import fcntl
import os
import stat
import time

from guardrun import kernel, safety
from guardrun.blocking import BlockedChild
from guardrun.errors import UnsafePath
from guardrun.locks.kept import Kept, same_inode, try_lock
from guardrun.model import AROUND_US, Busy, Grant, Holder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.model import Run
    from guardrun.ports import Waiter


class FileLock(Kept):
    """``--lock-file``: one file or directory, locked as flock(1) locks it, and never written."""

    def __init__(self, path: str, shared: bool, waiter: Waiter) -> None:
        self._path = path
        self._operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._waiter = waiter
        self._fd = -1

    def acquire(self, run: Run, due: float) -> Grant | Busy:  # noqa: ARG002  (the port's)
        """Take the lock, waiting in the kernel's queue until ``due``. Raises UnsafePath."""
        while True:
            self._fd = self._open()
            if not try_lock(self._fd, self._operation):
                if kernel.now() >= due:
                    return Busy(self.holders())
                if self._inherited():
                    return Busy(self.holders(), AROUND_US)
                if not self._wait(due):
                    return Busy(self.holders())
            if same_inode(self._fd, self._status()):
                return Grant(self._path, None, time.time(), (self._fd,))
            self.release()

    def holders(self) -> tuple[Holder, ...]:
        """Who holds it, by the kernel's own list; a lock handed down shows who took it first."""
        status = self._status()
        if status is None:
            return ()
        pids = [pid for pid, inode in _kernel_locks() if inode == status.st_ino]
        return tuple(Holder(f"{os.uname().nodename}:{pid}") for pid in pids)

    def release(self) -> None:
        """Unlock for everyone who shares the descriptor, and close it."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        # Without O_CREAT first: with fs.protected_regular even root may not "create" somebody
        # else's file in a sticky directory. O_NONBLOCK: a FIFO must not hang us.
        flags = os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            try:
                fd = os.open(self._path, flags)
            except FileNotFoundError:
                fd = os.open(self._path, flags | os.O_CREAT, 0o666)
        except OSError as error:
            raise UnsafePath(f"--lock-file {self._path}: {os.strerror(error.errno or 0)}") from None
        status = os.fstat(fd)
        remote = safety.network_filesystem(status)
        if stat.S_ISFIFO(status.st_mode):
            problem = "is a FIFO, and not what anyone locks; name a file or a directory"
        elif remote:
            problem = f"is on a network filesystem ({remote}), where locks can be lost unseen"
        else:
            return fd
        os.close(fd)
        raise UnsafePath(f"--lock-file {self._path}: {problem}")

    def _wait(self, due: float) -> bool:
        fd, operation = self._fd, self._operation
        child = BlockedChild(lambda: fcntl.flock(fd, operation))
        try:
            if self._waiter.pause((child.fileno(),), due):
                return child.succeeded()
        except BaseException:
            child.cancel()
            self.release()
            raise
        child.cancel()
        # The child may have got it between the timeout and its end.
        self.release()
        return False

    def _status(self) -> os.stat_result | None:
        try:
            return os.stat(self._path)
        except OSError:
            return None

    def _inherited(self) -> bool:
        """Whether a process around this one holds the lock, or a descriptor handed down to us."""
        status = os.fstat(self._fd)
        around = kernel.ancestors()
        if any(pid in around and inode == status.st_ino for pid, inode in _kernel_locks()):
            return True
        for name in os.listdir("/proc/self/fd"):
            try:
                if int(name) == self._fd or not same_inode(int(name), status):
                    continue
                with open(f"/proc/self/fdinfo/{name}", encoding="ascii") as file:
                    if any(line.startswith("lock:") and "FLOCK" in line for line in file):
                        return True
            except OSError:
                continue
        return False


def _kernel_locks() -> list[tuple[int, int]]:
    """(pid, inode) of every flock(2) lock that is held, not waited for."""
    found = []
    try:
        with open("/proc/locks", encoding="ascii") as file:
            for line in file:
                fields = line.split()
                if len(fields) > 5 and fields[1] == "FLOCK":
                    found.append((int(fields[4]), int(fields[5].rpartition(":")[2])))
    except OSError:
        pass
    return found
