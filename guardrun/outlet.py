"""Writing to a descriptor that others share, without ever waiting for whoever reads it.

O_NONBLOCK belongs to the open file description, which COMMAND (and the shell, and half a
pipeline) shares with us: setting it on an inherited descriptor makes *their* writes fail. So each
kind of file gets the way that changes nothing for anybody else:

- pipes and terminals are opened a second time through /proc/self/fd, non-blocking: a description
  of our own on the same pipe;
- sockets (systemd's stdout is one) are sent to with MSG_DONTWAIT;
- regular files are written through the very description that was inherited: it carries the offset
  that COMMAND's next write goes on from;
- what may not be opened again (another user's pipe, no /proc) is written with RWF_NOWAIT, and
  before Linux 6.4 by poll(2) and one write of at most PIPE_BUF.
"""

from __future__ import annotations

import errno
import os
import select
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    Buffer = bytes | bytearray | memoryview

PIPE_BUF = 4096
"""What a pipe takes whole or not at all: pipe(7)."""

_PTMX = os.makedev(5, 2)
_NOT_OFFERED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ESPIPE)


class Outlet:
    """A descriptor of our own to write to; poll ``fd`` for POLLOUT after a ``BlockingIOError``."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, data: Buffer) -> int:
        """Write as much of ``data`` as fits now, and say how many bytes that was.

        Raises ``BlockingIOError`` when nothing fits, another ``OSError`` when nobody can read it.
        """
        return os.write(self.fd, data)

    def is_terminal(self) -> bool:
        """Whether a person is likely to read it."""
        return os.isatty(self.fd)

    def close(self) -> None:
        """Let go of the descriptor; the one it was made from stays open."""
        os.close(self.fd)


class Above(Outlet):
    """An outlet to a terminal that clears what stands at the cursor before it writes."""

    def __init__(self, outlet: Outlet, clear: bytes) -> None:
        super().__init__(outlet.fd)
        self._outlet = outlet
        self._clear = clear

    def write(self, data: Buffer) -> int:
        return max(self._outlet.write(self._clear + data) - len(self._clear), 0)

    def close(self) -> None:
        self._outlet.close()


class _SocketOutlet(Outlet):
    def __init__(self, fd: int) -> None:
        import _socket  # socket itself pulls in selectors and enum

        super().__init__(fd)
        self._socket = _socket.socket(fileno=fd)
        self._dont_wait = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL

    def write(self, data: Buffer) -> int:
        return self._socket.send(data, self._dont_wait)

    def close(self) -> None:
        self._socket.close()


class _SharedOutlet(Outlet):
    def write(self, data: Buffer) -> int:
        try:
            return os.pwritev(self.fd, (data,), -1, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.write(self.fd, memoryview(data)[:PIPE_BUF])


def open_outlet(fd: int) -> Outlet:
    """An outlet to what ``fd`` refers to. Raises ``OSError`` when ``fd`` is not open."""
    status = os.fstat(fd)
    if stat.S_ISSOCK(status.st_mode):
        return _SocketOutlet(os.dup(fd))
    # Opening /dev/ptmx again would make another terminal.
    terminal = stat.S_ISCHR(status.st_mode) and os.isatty(fd)
    if stat.S_ISFIFO(status.st_mode) or (terminal and status.st_rdev != _PTMX):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            return Outlet(os.open(f"/proc/self/fd/{fd}", flags))
        except OSError:
            return _SharedOutlet(os.dup(fd))
    if terminal:
        return _SharedOutlet(os.dup(fd))
    return Outlet(os.dup(fd))


def open_file(path: str) -> Outlet:
    """An outlet that appends to ``path``, made with mode 0600 where it is missing.

    Raises ``OSError``; for a FIFO nobody reads (ENXIO) at once rather than waiting for a reader.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return Outlet(os.open(path, flags, 0o600))
