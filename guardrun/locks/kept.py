"""What all locks by flock(2) have in common."""

from __future__ import annotations

import fcntl
import os


class Kept:
    """A lock that the kernel keeps for us: nothing is renewed, nothing can be lost."""

    def assure(self) -> bool:
        """True."""
        return True

    def lost(self) -> bool:
        """False."""
        return False


def try_lock(fd: int, operation: int) -> bool:
    """Lock it without waiting; whether that worked."""
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def same_inode(fd: int, status: os.stat_result | None) -> bool:
    """Whether the file that is open is the one that stands there."""
    mine = os.fstat(fd)
    return status is not None and (mine.st_dev, mine.st_ino) == (status.st_dev, status.st_ino)
