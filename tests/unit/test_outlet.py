"""Writing to every kind of descriptor without waiting, and without changing it for others."""

from __future__ import annotations

import errno
import os
import pty
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from guardrun import outlet as outlets
from guardrun.outlet import Outlet, open_file, open_outlet

Keep = Callable[[int], int]


@pytest.fixture
def keep() -> Iterator[Keep]:
    """Closes descriptors at the end of the test."""
    with ExitStack() as stack:

        def add(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        yield add


@pytest.fixture(autouse=True)
def nobody_waits() -> Iterator[None]:
    """A write that blocks fails the test instead of hanging it."""

    def fail(*_: object) -> None:
        raise AssertionError("blocked")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fill(outlet: Outlet, size: int = 4096) -> int:
    """Write until nothing fits any more; how many bytes that was."""
    written = 0
    while True:
        try:
            written += outlet.write(b"x" * size)
        except BlockingIOError:
            return written


def pipe(keep: Keep) -> tuple[int, int]:
    read, write = os.pipe()
    return keep(read), keep(write)


def terminal(keep: Keep) -> tuple[int, int]:
    master, slave = pty.openpty()
    return keep(master), keep(slave)


def terminal_from_outside(keep: Keep) -> tuple[int, int]:
    master, slave = pty.openpty()
    return keep(slave), keep(master)


def sockets(keep: Keep) -> tuple[int, int]:
    left, right = socket.socketpair()
    return keep(left.detach()), keep(right.detach())


@pytest.mark.parametrize("make", [pipe, terminal, sockets])
def test_a_full_destination_is_said_and_nobody_waits(
    make: Callable[[Keep], tuple[int, int]], keep: Keep
) -> None:
    """A reader that does not read raises BlockingIOError, and O_NONBLOCK is set for nobody else."""
    _, write = make(keep)
    outlet = open_outlet(write)
    assert fill(outlet) > 0
    assert os.get_blocking(write)
    outlet.close()


def test_another_users_pipe_is_written_without_opening_it_again(
    keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where /proc/self/fd may not be opened, a full pipe is still said instead of waited for."""

    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    read, write = pipe(keep)
    monkeypatch.setattr(os, "open", forbidden)
    outlet = open_outlet(write)
    assert fill(outlet) == 65536
    os.read(read, 65536)
    assert outlet.write(b"more") == 4
    outlet.close()


def test_before_linux_6_4_poll_decides(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without RWF_NOWAIT at most PIPE_BUF bytes are written, and only after poll(2) allowed it."""

    def unsupported(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    _, write = pipe(keep)
    monkeypatch.setattr(os, "pwritev", unsupported)
    outlet = outlets._SharedOutlet(os.dup(write))
    assert outlet.write(b"x" * 10_000) == 4096
    assert fill(outlet) == 65536 - 4096
    outlet.close()


def test_the_outside_of_a_terminal_is_not_opened_again(keep: Keep) -> None:
    """Opening /dev/ptmx again makes another terminal: what is written must reach this one."""
    slave, master = terminal_from_outside(keep)
    outlet = open_outlet(master)
    outlet.write(b"typed\n")
    assert os.read(slave, 100) == b"typed\n"
    outlet.close()


def test_a_regular_file_keeps_its_one_offset(tmp_path: Path, keep: Keep) -> None:
    """Lines and COMMAND's output share the file's offset, so neither overwrites the other."""
    path = tmp_path / "out"
    fd = keep(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    outlet = open_outlet(fd)
    for number in range(3):
        os.write(fd, b"command %d\n" % number)
        outlet.write(b"log %d\n" % number)
    outlet.close()
    assert path.read_text().split("\n") == [
        *(f"{who} {number}" for number in range(3) for who in ("command", "log")),
        "",
    ]


@pytest.mark.parametrize("make", [pipe, sockets])
def test_a_reader_that_left_is_an_error_not_a_signal(
    make: Callable[[Keep], tuple[int, int]], keep: Keep
) -> None:
    """EPIPE comes as an exception that is not BlockingIOError."""
    read, write = make(lambda fd: fd)
    outlet = open_outlet(keep(write))
    os.close(read)
    with pytest.raises(BrokenPipeError):
        outlet.write(b"x")
    outlet.close()


def test_a_full_disk_is_an_error(keep: Keep) -> None:
    """ENOSPC comes as it is."""
    outlet = open_outlet(keep(os.open("/dev/full", os.O_WRONLY)))
    with pytest.raises(OSError, match="No space left") as caught:
        outlet.write(b"x")
    assert caught.value.errno == errno.ENOSPC
    outlet.close()


def test_a_descriptor_that_is_not_open_is_an_error() -> None:
    """EBADF comes at once, when the outlet is made."""
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with pytest.raises(OSError, match="Bad file descriptor"):
        open_outlet(write)


def test_the_original_stays_open(keep: Keep) -> None:
    """An outlet owns its own descriptor: closing it closes nobody else's."""
    for make in (pipe, terminal, sockets):
        _, write = make(keep)
        outlet = open_outlet(write)
        assert outlet.fd != write
        assert not os.get_inheritable(outlet.fd)
        outlet.close()
        os.fstat(write)


def test_a_file_is_appended_to_and_private(tmp_path: Path) -> None:
    """A new log file has mode 0600, an old one keeps its lines."""
    path = tmp_path / "log"
    for line in (b"one\n", b"two\n"):
        outlet = open_file(str(path))
        outlet.write(line)
        outlet.close()
    assert path.read_bytes() == b"one\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_fifo_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    """Opening it fails with ENXIO at once."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device") as caught:
        open_file(str(tmp_path / "fifo"))
    assert caught.value.errno == errno.ENXIO


def test_only_the_terminal_is_for_people(keep: Keep) -> None:
    """A terminal is one, a pipe and a socket are not."""
    kinds = {make: open_outlet(make(keep)[1]) for make in (pipe, terminal, sockets)}
    assert [outlet.is_terminal() for outlet in kinds.values()] == [False, True, False]
    for outlet in kinds.values():
        outlet.close()
