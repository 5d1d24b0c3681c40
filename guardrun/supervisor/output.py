"""COMMAND's stdout and stderr during one attempt, where guardrun has a hand in them.

========== ======================================================================
inherit    untouched: COMMAND writes to our own stdout and stderr. With ``--capture``
           through a pipe, at the pace of whoever reads ours
json       as ``output`` events, one a line
on-failure held back, for ``Replay`` when the run fails
discard    /dev/null; with ``--capture`` a pipe
========== ======================================================================

An ``output`` event has ``stream`` (``stdout`` or ``stderr``) and ``line``, without its newline. A
line that is not UTF-8 comes with ``encoding: latin-1``: every byte is the character of that number,
so ``line.encode("latin-1")`` gives the bytes back. A line beyond 256 KiB comes as several events,
``continued: true`` on all but its last.

Memory is bounded whatever COMMAND writes; nothing here waits for anybody.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import sys
import time

from guardrun.model import Captured, Event
from guardrun.outlet import open_outlet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from guardrun.model import ExecSpec
    from guardrun.outlet import Outlet
    from guardrun.supervisor.replay import Held

    Emit = Callable[[Event], None]

NAMES = {1: "stdout", 2: "stderr"}
LINE_MAX = 256 << 10
_READ = 64 << 10
_READ_LINES = 4 << 10
"""Short, because a read of empty lines makes as many events before the loop goes on."""


class Tail:
    """The last ``limit`` bytes of what was put in."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()

    def put(self, data: bytes) -> None:
        """Add ``data`` at the end."""
        if not self._limit:
            return
        self._kept += data
        if len(self._kept) > self._limit:
            del self._kept[: -self._limit]

    def get(self) -> bytes:
        """What is kept."""
        return bytes(self._kept)


class Stream:
    """The read end of one pipe; what becomes of the bytes is up to the subclasses.

    Here nothing does: they are kept for ``--capture``, at most.
    """

    read_size = _READ

    def __init__(self, number: int, fd: int, capture: int) -> None:
        os.set_blocking(fd, False)
        self.tail = Tail(capture)
        self._number = number
        self._fd = fd
        self._left = float("inf")

    def interests(self) -> list[tuple[int, int]]:
        return [(self._fd, select.POLLIN)] if self._fd >= 0 else []

    def ready(self, fd: int) -> None:
        if fd != self._fd:
            return
        try:
            data = os.read(fd, int(min(self.read_size, self._left)))
        except BlockingIOError:
            return
        self._left -= len(data)
        self.tail.put(data)
        if data:
            self._take(data)
        if not data or not self._left:
            self._close_pipe()

    def finish(self) -> None:
        if self._fd < 0:
            return
        import termios

        in_pipe = fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4))
        self._left = int.from_bytes(in_pipe, sys.byteorder)
        if not self._left:
            self._close_pipe()

    def close(self) -> None:
        self._close_pipe()

    def _take(self, data: bytes) -> None:
        """To discard ``data`` is to do nothing."""

    def _ended(self) -> None:
        """Nothing more will be taken."""

    def _close_pipe(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._ended()


class _HeldBack(Stream):
    def __init__(self, number: int, fd: int, capture: int, held: Held) -> None:
        super().__init__(number, fd, capture)
        self._held = held

    def _take(self, data: bytes) -> None:
        self._held.put(self._number, data)


class _PassedOn(Stream):
    """Reads no faster than our own reader does, which so slows down COMMAND.

    Where our own stream breaks, so does COMMAND's: its next write fails, as it would have without
    guardrun. Going on in silence would turn a full disk into a truncated dump and exit 0.
    """

    def __init__(self, number: int, fd: int, capture: int, emit: Emit) -> None:
        super().__init__(number, fd, capture)
        self._emit = emit
        self._rest = memoryview(b"")
        self._outlet: Outlet | None = None
        try:
            self._outlet = open_outlet(number)
        except OSError:  # closed since we started; so COMMAND finds it
            self._close_pipe()

    def interests(self) -> list[tuple[int, int]]:
        if self._rest and self._outlet:
            return [(self._outlet.fd, select.POLLOUT)]
        return super().interests()

    def ready(self, fd: int) -> None:
        if not self._rest:
            super().ready(fd)
        elif self._outlet and fd == self._outlet.fd:
            self._write(self._outlet)

    def close(self) -> None:
        super().close()
        if self._outlet:
            self._outlet.close()
            self._outlet = None

    def _take(self, data: bytes) -> None:
        if self._outlet:
            self._rest = memoryview(data)
            self._write(self._outlet)

    def _write(self, outlet: Outlet) -> None:
        try:
            self._rest = self._rest[outlet.write(self._rest) :]
        except BlockingIOError:
            return
        except OSError as error:
            self._rest = memoryview(b"")
            self._close_pipe()
            if error.errno != errno.EPIPE:
                fields = {"stream": NAMES[self._number], "reason": error.strerror}
                self._emit(Event(time.time(), "warning", "output_lost", fields))


class _Lines(Stream):
    read_size = _READ_LINES

    def __init__(self, number: int, fd: int, capture: int, emit: Emit) -> None:
        super().__init__(number, fd, capture)
        self._emit = emit
        self._begun = bytearray()

    def _take(self, data: bytes) -> None:
        *ends, begun = data.split(b"\n")
        for end in ends:
            self._begun += end
            self._say(self._begun)
            self._begun.clear()
        self._begun += begun
        if len(self._begun) > LINE_MAX:
            end_at = _character_start(self._begun, LINE_MAX)
            self._say(self._begun[:end_at], continued=True)
            del self._begun[:end_at]

    def _ended(self) -> None:
        if self._begun:
            self._say(self._begun)
            self._begun.clear()

    def _say(self, line: bytearray, **more: object) -> None:
        fields: dict[str, object] = {"stream": NAMES[self._number]}
        try:
            fields["line"] = line.decode()
        except UnicodeDecodeError:
            fields |= {"line": line.decode("latin-1"), "encoding": "latin-1"}
        self._emit(Event(time.time(), "info", "output", fields | more))


def _character_start(data: bytearray, end: int) -> int:
    """The last place up to ``end`` where a character of UTF-8 begins; ``end`` in other data."""
    for at in range(end, end - 4, -1):
        if data[at] & 0xC0 != 0x80:
            return at
    return end


class Output:
    """COMMAND's streams during one attempt.

    Send ``stdio`` with COMMAND, then call ``sent``. Poll for ``interests`` and hand what is ready
    to ``ready``. When COMMAND has ended call ``finish``, and go on until there are no interests.
    """

    def __init__(self, streams: Sequence[Stream], stdio: dict[int, int], capture: int) -> None:
        self.stdio = stdio
        """COMMAND's descriptor → the one of ours that becomes it; the others COMMAND shares."""
        self._streams = streams
        self._capture = capture

    def sent(self) -> None:
        """Close our copies of COMMAND's ends, or its end would never be seen."""
        while self.stdio:
            os.close(self.stdio.popitem()[1])

    def interests(self) -> list[tuple[int, int]]:
        """The descriptors to poll, and what for; none when everything is read and passed on."""
        return [interest for stream in self._streams for interest in stream.interests()]

    def ready(self, fd: int) -> None:
        """Read or write once, as poll(2) found ``fd`` ready, closed or broken."""
        for stream in self._streams:
            stream.ready(fd)

    def finish(self) -> None:
        """COMMAND has ended: only what is in its pipes now is still read.

        A process it left behind may hold them for ever, and is not waited for.
        """
        for stream in self._streams:
            stream.finish()

    def captured(self) -> Captured | None:
        """The last bytes of both streams; ``None`` without ``--capture``."""
        if not self._capture:
            return None
        return Captured(*(stream.tail.get() for stream in self._streams))

    def close(self) -> None:
        """Let go of every descriptor; what was not read or passed on is lost."""
        self.sent()
        for stream in self._streams:
            stream.close()


def open_output(
    spec: ExecSpec,
    emit: Emit,
    held: Held,
    pass_on: Callable[[int, int, int], Stream] | None = None,
) -> Output:
    """What ``spec.output`` and ``spec.capture`` ask for; ``held`` is the run's, over all attempts.

    ``pass_on`` makes the stream of what others write beside us, from its number, the pipe's read
    end and how much of it is captured. Raises ``OSError`` when there are no descriptors left.
    """
    if spec.output == "inherit" and not spec.capture and pass_on is None:
        return Output((), {}, 0)
    if spec.output == "discard" and not spec.capture:
        null = os.O_WRONLY | os.O_CLOEXEC
        return Output((), {number: os.open(os.devnull, null) for number in NAMES}, 0)
    pipes = {number: os.pipe() for number in NAMES}
    streams: list[Stream] = []
    for number, (fd, _) in pipes.items():
        match spec.output:
            case "inherit" if pass_on is not None:
                streams.append(pass_on(number, fd, spec.capture))
            case "inherit":
                streams.append(_PassedOn(number, fd, spec.capture, emit))
            case "json":
                streams.append(_Lines(number, fd, spec.capture, emit))
            case "on-failure":
                streams.append(_HeldBack(number, fd, spec.capture, held))
            case _:
                streams.append(Stream(number, fd, spec.capture))
    return Output(streams, {number: end for number, (_, end) in pipes.items()}, spec.capture)
