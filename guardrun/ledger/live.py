"""Which runs of this host are alive: one locked byte each, and no heartbeat.

Every run write-locks one byte of one file, far beyond its end, at an offset made from the random
bits of its job_id. They are open-file-description locks: the kernel drops them when the last
process that has the descriptor is gone, so a run is alive as long as guardrun *or anything of
COMMAND's tree that inherited the descriptor* is. A byte that can be had belongs to a dead run.

The file is never unlinked: two runs that locked different inodes would take each other for dead.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from guardrun.errors import StoreUnavailable, UnsafePath

# struct flock: l_type, l_whence, l_start, l_len, l_pid (which must be 0 for these locks), padding.
# Native alignment gives the layout of x86_64, aarch64, and of 32-bit builds with large files.
_FLOCK = struct.Struct("@hhqqi4x")
_RANDOM_BITS = (1 << 62) - 1


class LiveFile:
    """The file of locked bytes; raises ``StoreUnavailable``, or ``UnsafePath`` where it is odd."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._held: dict[str, int] = {}
        self._probe: int | None = None

    def hold(self, job_id: str) -> int:
        """Be alive as ``job_id``: returns the descriptor that says so; repeating it is harmless.

        COMMAND's processes that are to count as part of the run inherit this descriptor.
        """
        if job_id in self._held:
            return self._held[job_id]
        fd = self._open()
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _byte(job_id, fcntl.F_WRLCK))
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise StoreUnavailable(
                    f"another process runs as {job_id} already: job ids must not be used twice"
                ) from error
            raise self._unavailable(error) from error
        self._held[job_id] = fd
        return fd

    def fd(self, job_id: str) -> int | None:
        """The descriptor ``hold`` returned, while it is held here."""
        return self._held.get(job_id)

    def let_go(self, job_id: str) -> None:
        """Stop being ``job_id``, also for every process that inherited the descriptor."""
        fd = self._held.pop(job_id, None)
        if fd is not None:
            # Closing alone would leave the lock to whatever COMMAND left running.
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _byte(job_id, fcntl.F_UNLCK))
            os.close(fd)

    def is_alive(self, job_id: str) -> bool:
        """Whether a process of that run exists, on this host."""
        if job_id in self._held:
            return True
        fd = self._any_fd()
        if fd is None:
            return False
        try:
            # Asks for a read lock: those who wait for the run's end hold one for a moment.
            found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _byte(job_id, fcntl.F_RDLCK))
        except OSError as error:
            raise self._unavailable(error) from error
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def block_until_free(self, job_id: str) -> None:
        """Sleep in the kernel until that run is dead or done; for a process of its own."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unavailable(error) from error
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _byte(job_id, fcntl.F_RDLCK))
        except OSError as error:
            raise self._unavailable(error) from error
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of every run and every descriptor."""
        for job_id in list(self._held):
            self.let_go(job_id)
        if self._probe is not None:
            os.close(self._probe)
            self._probe = None

    def _any_fd(self) -> int | None:
        """A descriptor to ask with: any will do, as no run's lock is ever its own obstacle."""
        if self._held:
            return next(iter(self._held.values()))
        if self._probe is None:
            try:
                self._probe = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise self._unavailable(error) from error
        return self._probe

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise self._unavailable(error) from error
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise UnsafePath(f"{self.path} is not a regular file: remove it, and run again")
        if found.st_uid != os.geteuid():
            os.close(fd)
            raise UnsafePath(f"{self.path} belongs to user {found.st_uid}: run as that user")
        if found.st_mode & 0o777 != 0o600:
            os.fchmod(fd, 0o600)  # a umask may take bits away, too
        return fd

    def _unavailable(self, error: OSError) -> StoreUnavailable | UnsafePath:
        if error.errno == errno.ELOOP:
            return UnsafePath(f"{self.path} is a symbolic link: remove it, and run again")
        if error.errno == errno.EISDIR:
            return UnsafePath(f"{self.path} is a directory: remove it, and run again")
        return StoreUnavailable(
            f"cannot use {self.path}: {os.strerror(error.errno or errno.EIO)}; "
            "check the state directory and its filesystem"
        )


def _byte(job_id: str, kind: int) -> bytes:
    offset = int(job_id.replace("-", ""), 16) & _RANDOM_BITS
    return _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0)
