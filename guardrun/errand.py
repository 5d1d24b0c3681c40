"""What is done beside a run, in a process of its own: it may fail or hang, and nobody waits long.

The process holds none of the run's descriptors, and does not outlive the run.
"""

from __future__ import annotations

import os
import signal

from guardrun import kernel
from guardrun.keeper.detach import detach

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from guardrun.ports import Waiter

_LONGEST_REASON = 400


class Errand:
    """One task, under way; ``limit`` is how many seconds it gets from now on.

    What it raises is why it failed: text for people, without secrets. ``spare`` holds those of our
    children that are not COMMAND's; this one joins it. Raises ``OSError``.
    """

    def __init__(self, task: Callable[[], None], limit: float, spare: set[int]) -> None:
        self._due = kernel.now() + limit
        self._reason, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        parent = os.getpid()

        def carry_out() -> None:
            detach(frozenset({theirs}))
            kernel.die_with_parent(parent)
            try:
                task()
            except Exception as error:
                os.write(theirs, (str(error) or type(error).__name__).encode()[:_LONGEST_REASON])

        try:
            self._pid = kernel.fork(carry_out)
        except OSError:
            os.close(self._reason)
            raise
        finally:
            os.close(theirs)
        self._spare = spare
        spare.add(self._pid)
        try:
            # By then its number may be another's: it may be reaped with what COMMAND left.
            self._pidfd = os.pidfd_open(self._pid)
        except OSError:
            os.kill(self._pid, signal.SIGKILL)  # our own child, and not reaped yet
            os.waitpid(self._pid, 0)
            spare.discard(self._pid)
            os.close(self._reason)
            raise

    def wait(self, waiter: Waiter) -> str | None:
        """Wait until it is done, or its time is over: why it failed, or ``None``.

        Raises what ``waiter`` raises; either way it has ended then.
        """
        done = False
        try:
            done = bool(waiter.pause((self._pidfd,), self._due))
        finally:
            self._end()
        try:
            said = os.read(self._reason, _LONGEST_REASON)
        except BlockingIOError:
            said = b""
        finally:
            os.close(self._reason)
        return said.decode("utf-8", "replace") or (None if done else "it took too long")

    def _end(self) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except (ProcessLookupError, ChildProcessError):
            pass  # reaped with what COMMAND left
        os.close(self._pidfd)
        self._spare.discard(self._pid)  # the number may be COMMAND's next time
