"""A resource that checks the fencing token: what comes with a smaller one than it knows is refused.

As a COMMAND, ``register.py FILE MARK`` writes to it again and again, and notes what came of that.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

_PAUSE = 0.01
"""s between two writes"""


def write(path: str, fence: int) -> bool:
    """Write with this token; False: refused, the register has seen a larger one."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if fence < int(os.pread(fd, 20, 0) or b"0"):
            return False
        os.pwrite(fd, b"%020d" % fence, 0)
        return True
    finally:
        os.close(fd)


def work(path: str, fence: int) -> None:
    """Write until killed; each answer is a letter in a file beside it: A accepted, R refused."""
    answers = os.open(f"{path}.answers", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    while True:
        os.write(answers, b"A" if write(path, fence) else b"R")
        time.sleep(_PAUSE)


if __name__ == "__main__":
    work(sys.argv[1], int(os.environ["GUARDRUN_FENCING_TOKEN"]))
