"""Messages between guardrun's own processes: frozen values and descriptors, one packet each.

Both ends are forks of one process, so ``marshal`` is safe and the fastest codec there is.
What does not fit a packet travels as an unlinked memory file.
"""

from __future__ import annotations

import _socket  # ``socket`` itself also loads selectors: 2 ms of every start
import errno
import marshal
import os
import sys

from guardrun.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_PACKET = 64 * 1024
_MAX_FDS = 250  # SCM_MAX_FD is 253
_INT = 4


class Ready(NamedTuple):
    """Warden → supervisor: I am here, and this is my pid."""

    pid: int


class Keep(NamedTuple):
    """Supervisor → backstop: keep the descriptors that come with this."""


class Spawn(NamedTuple):
    """Supervisor → warden: start COMMAND.

    With it travel the descriptors that become ``stdio``, then those that hold locks.
    """

    argv: tuple[str, ...]
    stdio: tuple[int, ...]
    """which of 0, 1, 2 are replaced; the others COMMAND shares with us"""
    env: dict[str, str | None]
    """on top of the warden's own; ``None``: not set"""
    timeout: float
    """s from its start; then the warden stops COMMAND without being told"""
    deadline: float
    """CLOCK_BOOTTIME; likewise"""
    signum: int
    grace: float


class Stop(NamedTuple):
    """Supervisor → warden: make COMMAND stop; ``kill_due`` can only come nearer."""

    cause: str
    signum: int
    heard: bool
    """COMMAND's process group has the signal already, from the terminal"""
    kill_due: float


class Pass(NamedTuple):
    """Supervisor → warden: hand this signal on to COMMAND itself."""

    signum: int


class Sweep(NamedTuple):
    """Supervisor → warden: COMMAND ended; stop what it left running."""

    signum: int
    grace: float


class Dismiss(NamedTuple):
    """Supervisor → warden: the run is over; leave what is left alone and exit."""


class Started(NamedTuple):
    """Warden → supervisor: COMMAND runs."""

    at: float
    """wall clock"""
    clock: float
    """CLOCK_BOOTTIME"""


class NotStarted(NamedTuple):
    """Warden → supervisor: COMMAND can't be executed."""

    errno: int


class Over(NamedTuple):
    """Warden → supervisor: the execution, or a sweep, is over."""

    status: int
    """as of wait(2)"""
    cause: str | None
    orphans: int
    clock: float
    """CLOCK_BOOTTIME"""


class Unkillable(NamedTuple):
    """Warden → supervisor: these got SIGKILL long ago, and still are."""

    pids: tuple[int, ...]


class Lost(NamedTuple):
    """Keeper → warden: a lease is somebody else's now; look at the term."""


class TreeDead(NamedTuple):
    """Warden or backstop → keeper: nothing of COMMAND is alive but what a normal end left running.

    It counts once the supervisor is gone.
    """

    warden: int
    """its number: a pool has several, and all must have said so"""


Kinds = tuple["Callable[..., tuple[object, ...]]", ...]
"""The kinds of values that one channel carries, the same at both of its ends."""

_KINDS: Kinds = (
    Ready,
    Keep,
    Spawn,
    Stop,
    Pass,
    Sweep,
    Dismiss,
    Started,
    NotStarted,
    Over,
    Unkillable,
    Lost,
    TreeDead,
)


class Channel:
    """One end of a pair; ``receive`` blocks, so poll ``fileno()`` first."""

    def __init__(self, end: _socket.socket, kinds: Kinds) -> None:
        self._end = end
        self._kinds = kinds

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: tuple[object, ...], fds: Sequence[int] = ()) -> bool:
        """Send one message; False when nobody is at the other end any more."""
        data = marshal.dumps(self._packed(message))
        memory = -1
        if len(data) > _PACKET:
            memory = os.memfd_create("guardrun")
            rest = memoryview(data)
            while rest:  # ulimit -f cuts a write short, and fails the next
                rest = rest[os.write(memory, rest) :]
            data, fds = b"", (memory, *fds)
        try:
            rights = b"".join(fd.to_bytes(_INT, sys.byteorder) for fd in fds)
            control = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if fds else []
            self._end.sendmsg([data or b"\0"], control)
        except (BrokenPipeError, ConnectionResetError):
            return False
        finally:
            if memory >= 0:
                os.close(memory)
        return True

    def hint(self, message: tuple[object, ...]) -> None:
        """Send a small message that may get lost, to somebody who may be stopped for hours."""
        try:
            self._end.sendmsg([marshal.dumps(self._packed(message))], [], _socket.MSG_DONTWAIT)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            pass

    def receive(self) -> tuple[tuple[object, ...], tuple[int, ...]] | None:
        """Receive one message and its descriptors; ``None`` when the other end is closed."""
        try:
            data, control, flags, _ = self._read()
        except ConnectionResetError:
            # The other end was closed with a message of ours unread. Linux says so once, before
            # it hands out what that end had sent before: unix_release_sock().
            try:
                data, control, flags, _ = self._read()
            except ConnectionResetError:
                return None
        if not data:
            return None
        if flags & _socket.MSG_CTRUNC:  # going on without them would be going on without the lock
            raise OSError(errno.EMFILE, "descriptors were lost on their way")
        fds: list[int] = []
        for _, _, rights in control:
            fds.extend(
                int.from_bytes(rights[at : at + _INT], sys.byteorder)
                for at in range(0, len(rights), _INT)
            )
        if data == b"\0":
            memory = fds.pop(0)
            with open(memory, "rb") as file:
                file.seek(0)
                data = file.read()
        message: tuple[object, ...] = self._unpacked(marshal.loads(data))
        return message, tuple(fds)

    def copy(self) -> Channel:
        """The same end once more, to be closed on its own."""
        return Channel(_socket.socket(fileno=os.dup(self._end.fileno())), self._kinds)

    def close(self) -> None:
        self._end.close()

    def _read(self) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        return self._end.recvmsg(
            _PACKET + 1024, _socket.CMSG_SPACE(_MAX_FDS * _INT), _socket.MSG_CMSG_CLOEXEC
        )

    def _packed(self, value: Any) -> Any:
        # A list stands for one of our values and nothing else: the kind's number, then the fields.
        if hasattr(value, "_fields"):
            return [self._kinds.index(type(value)), *map(self._packed, value)]
        return tuple(map(self._packed, value)) if type(value) is tuple else value

    def _unpacked(self, value: Any) -> Any:
        if type(value) is list:
            return self._kinds[value[0]](*map(self._unpacked, value[1:]))
        return tuple(map(self._unpacked, value)) if type(value) is tuple else value


def pair(kinds: Kinds = _KINDS) -> tuple[Channel, Channel]:
    """Make a channel: the two ends, both close-on-exec."""
    one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    return Channel(one, kinds), Channel(other, kinds)
