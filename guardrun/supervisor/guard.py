"""The supervisor's hold on COMMAND: by way of the warden, and without it if need be."""

from __future__ import annotations

import os
import select
import signal

from guardrun import channel, kernel
from guardrun.errors import GuardrunError
from guardrun.warden import backstop, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from guardrun.term import Bond, Term


class Guard:
    """Warden and backstop, as the supervisor sees them.

    ``spare`` holds those of our children that are not COMMAND's; what was there before joins it.
    ``others`` are descriptors of ours that are no business of these processes.
    """

    def __init__(
        self,
        group: int | None,
        mask: frozenset[int],
        bond: Bond | None,
        spare: set[int],
        others: Collection[int] = (),
    ) -> None:
        self._term: Term | None = None if bond is None else bond.term
        if not os.path.exists("/proc/self/stat"):
            raise GuardrunError(
                "/proc is not there: without it COMMAND's processes can't be ended; mount it"
            )
        spare.update(tree.children())
        self._spare = spare
        try:
            kernel.become_subreaper()
            self._warden, self._store, self._backstop = backstop.start(group, mask, bond, others)
        except OSError as error:
            raise GuardrunError(f"the warden cannot be started: {error.strerror}") from None
        self._pid = self._pidfd = -1
        self._open = True

    def term_at(self) -> float:
        """When COMMAND must be told to stop, unless the keeper has renewed by then."""
        return float("inf") if self._term is None else self._term.term_at

    def kill_at(self) -> float:
        """When COMMAND must be killed, likewise."""
        return float("inf") if self._term is None else self._term.kill_at

    def warn_at(self) -> float:
        """When the lock counts as lost while COMMAND runs on, likewise."""
        return float("inf") if self._term is None else self._term.warn_at

    def half_at(self) -> float:
        """Half of the lock's lease: it moves on with every renewal."""
        return float("inf") if self._term is None else self._term.lock.half_at

    def fileno(self) -> int:
        """Readable when ``receive`` has something to say."""
        return self._warden.fileno()

    def spawn(self, order: channel.Spawn, stdio: Sequence[int], held: Sequence[int]) -> None:
        """Have COMMAND started; ``held`` are the descriptors of lock and claim.

        The backstop and the warden keep those too, until they end: with them lock and claim are
        held until nothing of COMMAND is alive, even if it closes its own.
        """
        if self._term is not None:
            self._term.execute()
        self._store.send(channel.Keep(), held)
        self.send(order, (*stdio, *held))

    def send(self, message: tuple[object, ...], fds: Sequence[int] = ()) -> None:
        """Tell the warden; that it is gone is found out by ``receive``."""
        self._warden.send(message, fds)
        self.wake()

    def wake(self) -> None:
        """Continue a warden that somebody stopped: it has something to do."""
        if self._pidfd >= 0:
            _send(self._pidfd, signal.SIGCONT)

    def is_stopped(self) -> bool:
        """Whether somebody has stopped the warden, and it has not come to run again."""
        return kernel.stat(self._pid)[1] in (b"T", b"t")

    def receive(self) -> tuple[object, ...] | None:
        """The warden's next message; ``None`` when there is no warden any more."""
        received = self._warden.receive()
        if received is None:
            return None
        message, _ = received
        if isinstance(message, channel.Ready):
            try:
                pidfd = os.pidfd_open(message.pid)
            except ProcessLookupError:
                return None
            if kernel.parent(message.pid) not in (self._backstop, 0):  # its pid is another's by now
                os.close(pidfd)
                return None
            self._pid, self._pidfd = message.pid, pidfd
        return message

    def bury_strangers(self) -> None:
        """Reap what became our child and died: PID 1 of a container gets every orphan."""
        tree.bury(self._spare)
        tree.reap(frozenset({self._backstop, *self._spare}))

    def seize(self) -> None:
        """End COMMAND's whole tree without the warden's help, which is dead, stopped or stuck.

        The warden's death makes the backstop end the tree: it must not be killed for that, or
        nobody would be left if we were, at this very moment. What it leaves comes to us.
        """
        if not self._open:  # tried before, and something failed on the way
            tree.kill_all(frozenset(self._spare))
            return
        self._open = False
        if self._pidfd >= 0:
            _send(self._pidfd, signal.SIGKILL)
            if not self._backstop_ends(_SEIZED):
                os.kill(self._backstop, signal.SIGKILL)  # stopped again and again, or stuck
        else:
            os.kill(self._backstop, signal.SIGKILL)  # the warden comes to us, with all it has
        os.waitpid(self._backstop, 0)
        tree.kill_all(frozenset(self._spare))

    def dismiss(self) -> None:
        """Tell warden and backstop to end, and to leave alone what COMMAND left running."""
        if self._open:
            self._warden.send(channel.Dismiss())
            self._warden.close()
            self._store.close()

    def bury(self) -> None:
        """Wait for the end of warden and backstop."""
        if not self._open:
            return
        self._open = False
        if not self._backstop_ends(_DISMISSED):
            os.kill(self._backstop, signal.SIGKILL)
        os.waitpid(self._backstop, 0)

    def _backstop_ends(self, patience: tuple[int, ...]) -> bool:
        """Wait so many ms, and after each wake what somebody has stopped."""
        try:
            pidfd = os.pidfd_open(self._backstop)
        except OSError:  # no descriptor is left: there is no waiting without one
            return False
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        for milliseconds in patience:
            if poll.poll(milliseconds):
                return True
            self.wake()
            os.kill(self._backstop, signal.SIGCONT)
        return bool(poll.poll(0))


_DISMISSED = (100, 2000)
_SEIZED = (20, 500, 500)
"""ms"""


def _send(pidfd: int, signum: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        pass
