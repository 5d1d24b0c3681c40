"""The items of a pool: read from stdin one at a time, only when there is somebody to take one.

So an input without end takes no more memory than its longest item, and whoever writes it is held
back by the pipe.
"""

from __future__ import annotations

import os
import select
import stat
from typing import TYPE_CHECKING

from guardrun import template
from guardrun.errors import GuardrunError, UsageError
from guardrun.lean import NamedTuple
from guardrun.template import Item

if TYPE_CHECKING:
    from collections.abc import Sequence

_READ = 64 << 10
_LONGEST_NAME = 120


class Splitter:
    """Cuts bytes into items at a separator; pure.

    Empty items are left out; one longer than ``longest`` bytes is ``UsageError``.
    """

    def __init__(self, separator: bytes, longest: int) -> None:
        self._separator = separator
        self._longest = longest
        self._data = bytearray()
        self._seen = 0
        """so much of it has no separator"""
        self._ended = False

    def put(self, data: bytes) -> None:
        """Add what was read; nothing more will come after ``b""``."""
        self._data += data
        self._ended = not data

    def take(self) -> bytes | None:
        """The next item; ``None`` when there is none, or not the whole of it."""
        while True:
            at = self._data.find(self._separator, self._seen)
            if at < 0:
                self._seen = len(self._data)
                if self._seen > self._longest:
                    break
                if not self._ended or not self._data:
                    return None
                at = len(self._data)
            item = bytes(self._data[:at])
            del self._data[: at + 1]
            self._seen = 0
            if len(item) > self._longest:
                break
            if item:
                return item
        raise UsageError(
            f"an item is longer than {self._longest} bytes: raise --stdin-max, or see whether "
            "-0 is missing"
        )

    @property
    def left(self) -> int:
        """Bytes that have not been taken."""
        return len(self._data)

    @property
    def empty(self) -> bool:
        """Whether there is nothing left, and nothing more to come."""
        return self._ended and not self._data


class Taken(NamedTuple):
    """One item, and its place in the input."""

    number: int
    """from 1"""
    item: Item
    refused: str | None = None
    """why it cannot be run"""


class Items:
    """The items that come in at ``fd``; ``kind`` is ``lines``, ``null`` or ``jsonl``."""

    def __init__(self, fd: int, kind: str, longest: int) -> None:
        self._fd = fd
        self._json = kind == "jsonl"
        self._splitter = Splitter(b"\0" if kind == "null" else b"\n", longest)
        self._count = 0
        self._read = 0
        status = os.fstat(fd)
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None
        """bytes of the whole input, where that is known"""

    def interests(self) -> Sequence[tuple[int, int]]:
        """What to poll for when ``take`` has nothing; nothing any more at the input's end."""
        return () if self._fd < 0 else [(self._fd, select.POLLIN)]

    def read(self) -> None:
        """Read once, as poll(2) found the input ready. Raises ``GuardrunError``."""
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:  # another process read what there was
            return
        except OSError as error:
            raise GuardrunError(f"cannot read the items from stdin: {error.strerror}") from None
        self._splitter.put(data)
        self._read += len(data)
        if not data:
            self._fd = -1
            self.size = self._read

    def take(self) -> Taken | None:
        """The next item, if it is there. Raises ``UsageError`` for one that is too long."""
        data = self._splitter.take()
        if data is None:
            return None
        self._count += 1
        text = os.fsdecode(data)
        if "\0" in text:
            return Taken(self._count, Item(text), "it has a NUL byte: is -0 missing?")
        if not self._json:
            return Taken(self._count, Item(text))
        try:
            fields = template.load_json(data)
        except ValueError as error:
            return Taken(self._count, Item(text), f"it {error}")
        if not isinstance(fields, dict):
            return Taken(self._count, Item(text), "it is not a JSON object")
        return Taken(self._count, Item(text, fields))

    @property
    def consumed(self) -> int:
        """Bytes of it that have been taken as items."""
        return self._read - self._splitter.left

    @property
    def over(self) -> bool:
        """Whether the input has ended, and its last item has been taken."""
        return self._splitter.empty


def named(item: Item) -> str:
    """An item as the log names it: its beginning, where it is long."""
    text = os.fsencode(item.text).decode(errors="backslashreplace")
    return text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "…"
