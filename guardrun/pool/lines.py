"""What items write, line by line: no line of one stands inside a line of another.

Bounded in memory, and slowed down by whoever reads: an item whose lines nobody takes yet finds its
pipe full. With ``--keep-order`` the first item that is not done writes, and those behind it wait
with what they have in ``_AHEAD`` bytes of memory.
"""

from __future__ import annotations

import os
import select
from collections import deque
from typing import TYPE_CHECKING

from guardrun.outlet import open_outlet
from guardrun.supervisor.output import NAMES, Stream, open_output
from guardrun.supervisor.voice import Voice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Protocol

    from guardrun.model import Event, ExecSpec
    from guardrun.outlet import Outlet
    from guardrun.supervisor.output import Output
    from guardrun.supervisor.replay import Chunk, Held

    class Sheet(Protocol):
        """What takes an item's lines."""

        def write(self, lines: bytes, unfinished: bool) -> bool:
            """Take them; False: not now, come again when ``fileno()`` is readable.

            ``unfinished``: the last one goes on with what comes next.
            """

        def broken(self) -> bool:
            """Whether nobody will ever read them."""

        def fileno(self) -> int: ...


LONG_LINE = 1 << 20
"""bytes of a line that are kept until its end comes; then it begins to be written all the same"""
_AHEAD = 1 << 20


class Gate:
    """Something to poll for that is opened and closed by hand."""

    def __init__(self, is_open: bool) -> None:
        self._fd = os.eventfd(int(is_open), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_open = is_open

    def fileno(self) -> int:
        """Readable while it is open."""
        return self._fd

    def turn(self, is_open: bool) -> None:
        """Open or close it."""
        if is_open == self._is_open:
            return
        self._is_open = is_open
        if is_open:
            os.eventfd_write(self._fd, 1)
        else:
            os.eventfd_read(self._fd)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)


class Pen:
    """One of our own streams, which all items share; one of them writes at a time."""

    def __init__(self, number: int, above: bytes = b"") -> None:
        """``above`` is written before any lines: it clears what stands there on a terminal."""
        self._above = above
        self._rest = memoryview(b"")
        self._owner: object = None
        self._free = Gate(is_open=True)
        self._flushed = Gate(is_open=True)
        self.broken = False
        """nothing can be written there any more"""
        self._outlet: Outlet | None = None
        try:
            self._outlet = open_outlet(number)
        except OSError:  # closed since we started
            self.broken = True

    def fileno(self, owner: object) -> int:
        """Readable while ``owner`` may write: nothing is left of what came before."""
        return (self._flushed if self._owner == owner else self._free).fileno()

    def write(self, owner: object, lines: bytes, unfinished: bool) -> bool:
        """Take lines from ``owner``; False: not now."""
        if self._rest or self._owner not in (None, owner):
            return False
        self._owner = owner if unfinished else None
        self._rest = memoryview(self._above + lines)
        self._flush()
        return True

    def leave(self, owner: object) -> None:
        """``owner`` will not write any more: if it was in the middle of a line, that ends here."""
        if self._owner == owner:
            self._owner = None
            self._rest = memoryview(bytes(self._rest) + b"\n")
            self._flush()

    def interests(self) -> list[tuple[int, int]]:
        """What to poll for while something is still to be written."""
        return [(self._outlet.fd, select.POLLOUT)] if self._outlet and self._rest else []

    def ready(self) -> None:
        """Write on."""
        self._flush()

    def close(self) -> None:
        """Let go; nothing is left to be written when ``interests`` says so."""
        if self._outlet is not None:
            self._outlet.close()
            self._outlet = None
        self._free.close()
        self._flushed.close()

    def _flush(self) -> None:
        try:
            while self._rest and self._outlet is not None:
                self._rest = self._rest[self._outlet.write(self._rest) :]
        except BlockingIOError:
            pass
        except OSError:  # items find out by their own writes, as they would without us
            self.broken = True
        if self._outlet is None or self.broken:
            self._rest = memoryview(b"")
        self._flushed.turn(not self._rest)
        self._free.turn(not self._rest and self._owner is None)


class Turn:
    """What one item wrote and has not been passed on yet, and whether it is its turn.

    Without an order it always is.
    """

    def __init__(self, pens: dict[int, Pen], first: bool) -> None:
        self._pens = pens
        self._kept: deque[tuple[int, bytes, bool]] = deque()
        self._size = 0
        self._first = first
        self._room: Gate | None = None
        self.begun = False
        """the item has its lock and its key: COMMAND is being executed"""
        self.done = False

    def sheet(self, number: int) -> ItemSheet:
        """What takes this item's lines for one of our streams."""
        return ItemSheet(self, number)

    def come(self) -> None:
        """It is this item's turn."""
        self._first = True
        self.pass_on()

    def pass_on(self) -> None:
        """Pass on what is kept, as far as that goes now."""
        while self._kept:
            number, lines, unfinished = self._kept[0]
            if not self._pens[number].write((self, number), lines, unfinished):
                break
            self._kept.popleft()
            self._size -= len(lines)
        if self._room is not None:
            self._room.turn(self._size < _AHEAD)

    @property
    def over(self) -> bool:
        """Whether the item is done, and all it wrote has been passed on."""
        return self.done and not self._kept

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._size

    def interests(self) -> list[tuple[int, int]]:
        """What to poll for before ``pass_on``, while it has something to pass on."""
        if not self._first or not self._kept:
            return []
        number = self._kept[0][0]
        return [(self._pens[number].fileno((self, number)), select.POLLIN)]

    def close(self) -> None:
        """All is passed on, and nothing more will come."""
        for number, pen in self._pens.items():
            pen.leave((self, number))
        if self._room is not None:
            self._room.close()
            self._room = None

    def write(self, number: int, lines: bytes, unfinished: bool) -> bool:
        """Take lines; False: not now."""
        if self._first:
            self.pass_on()
            if not self._kept:
                return self._pens[number].write((self, number), lines, unfinished)
        if self._size >= _AHEAD:
            return False
        self._kept.append((number, lines, unfinished))
        self._size += len(lines)
        return True

    def broken(self, number: int) -> bool:
        """Whether nobody will ever read that stream."""
        return self._pens[number].broken

    def fileno(self, number: int) -> int:
        """Readable when ``write`` may take something again."""
        if self._first and not self._kept:
            return self._pens[number].fileno((self, number))
        if self._room is None:
            self._room = Gate(is_open=self._size < _AHEAD)
        return self._room.fileno()


class ItemSheet:
    """The ``Sheet`` of one item, for one of our streams."""

    def __init__(self, turn: Turn, number: int) -> None:
        self._turn = turn
        self._number = number

    def write(self, lines: bytes, unfinished: bool) -> bool:
        """As the port says."""
        return self._turn.write(self._number, lines, unfinished)

    def broken(self) -> bool:
        """As the port says."""
        return self._turn.broken(self._number)

    def fileno(self) -> int:
        """As the port says."""
        return self._turn.fileno(self._number)


class Scribe:
    """Makes whole lines of what one stream of an item says, with ``tag`` before each."""

    def __init__(self, sheet: Sheet, tag: bytes) -> None:
        self._sheet = sheet
        self._tag = tag
        self._begun = bytearray()
        self._within = False
        """the beginning of a long line has been written"""
        self._offered: tuple[bytes, bool] | None = None

    def put(self, data: bytes) -> None:
        """Write what has come; call it only while not ``held_up``."""
        self._begun += data
        end = self._begun.rfind(b"\n") + 1
        if end:
            self._offer(bytes(self._begun[:end]), unfinished=False)
            del self._begun[:end]
        elif len(self._begun) > LONG_LINE:
            self._offer(bytes(self._begun), unfinished=True)
            self._begun.clear()

    def end(self) -> None:
        """Nothing more will come: a last line without its newline gets one, or the next item's
        would go on with it."""
        if self._begun or self._within:
            self._offer(bytes(self._begun) + b"\n", unfinished=False)
            self._begun.clear()

    @property
    def broken(self) -> bool:
        """Whether nobody will ever read it."""
        return self._sheet.broken()

    @property
    def held_up(self) -> bool:
        """Whether something is waiting to be taken: poll for ``fileno()``, then call ``again``."""
        return self._offered is not None

    def fileno(self) -> int:
        """Readable when it may be taken."""
        return self._sheet.fileno()

    def again(self) -> None:
        """Offer it once more."""
        if self._offered is not None and self._sheet.write(*self._offered):
            self._offered = None

    def _offer(self, data: bytes, unfinished: bool) -> None:
        if self._tag:
            lines = data.split(b"\n")
            begun = lines[:-1] if data.endswith(b"\n") else lines
            data = b"\n".join([self._tag + line for line in begun] + lines[len(begun) :])
            if self._within:
                data = data.removeprefix(self._tag)
        self._within = unfinished
        if self._offered is not None:  # COMMAND's pipe ended before somebody took what stood there
            data = self._offered[0] + data
        self._offered = (data, unfinished)
        self.again()


class ByLines(Stream):
    """The read end of an item's pipe, whose lines go to ``sheet``."""

    def __init__(self, number: int, fd: int, capture: int, scribe: Scribe) -> None:
        super().__init__(number, fd, capture)
        self._scribe = scribe

    def interests(self) -> list[tuple[int, int]]:
        if self._scribe.held_up:
            return [(self._scribe.fileno(), select.POLLIN)]
        return super().interests()

    def ready(self, fd: int) -> None:
        if not self._scribe.held_up:
            super().ready(fd)
        elif fd == self._scribe.fileno():
            self._scribe.again()

    def _take(self, data: bytes) -> None:
        self._scribe.put(data)
        if self._scribe.broken:  # COMMAND's next write fails, as it would without us
            self._close_pipe()

    def _ended(self) -> None:
        self._scribe.end()


class LineReplay:
    """Passes on stored output line by line, as ``supervisor.replay.Replay`` does for one run."""

    def __init__(self, chunks: Iterable[Chunk], scribes: dict[int, Scribe]) -> None:
        self._chunks: Iterator[Chunk] = iter(chunks)
        self._scribes = scribes
        self._ended = False
        self._go_on()

    def interests(self) -> Sequence[tuple[int, int]]:
        """The descriptor to poll, and what for; none when all is written."""
        return [
            (scribe.fileno(), select.POLLIN) for scribe in self._scribes.values() if scribe.held_up
        ]

    def ready(self, fd: int) -> None:
        """Write on: ``fd`` is ready."""
        for scribe in self._scribes.values():
            if scribe.held_up and fd == scribe.fileno():
                scribe.again()
        self._go_on()

    def close(self) -> None:
        """Leave whatever is left unwritten."""
        self._scribes = {}

    def _go_on(self) -> None:
        while not any(scribe.held_up for scribe in self._scribes.values()):
            chunk = next(self._chunks, None)
            if chunk is not None:
                self._scribes[chunk[0]].put(chunk[1])
            elif self._ended:
                return
            else:
                self._ended = True
                for scribe in self._scribes.values():
                    scribe.end()


class LineVoice(Voice):
    """How what one item says reaches our own stdout and stderr."""

    def __init__(self, turn: Turn, tag: bytes) -> None:
        self._turn = turn
        self._tag = tag

    def output(self, spec: ExecSpec, emit: Callable[[Event], None], held: Held) -> Output:
        self._turn.begun = True
        return open_output(spec, emit, held, self._pass_on)

    def replay(self, chunks: Iterable[Chunk]) -> LineReplay:
        return LineReplay(chunks, {number: self._scribe(number) for number in NAMES})

    def _pass_on(self, number: int, fd: int, capture: int) -> Stream:
        return ByLines(number, fd, capture, self._scribe(number))

    def _scribe(self, number: int) -> Scribe:
        return Scribe(self._turn.sheet(number), self._tag)
