"""Output that is written later, or again: what was held back, and what a duplicate replays."""

from __future__ import annotations

import os
import select
from collections import deque

from guardrun.outlet import open_outlet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from guardrun.outlet import Outlet

    Chunk = tuple[int, bytes]

STDOUT, STDERR = 1, 2

MEMORY = 1 << 20
"""Bytes held in memory; more goes to an unlinked file."""
DISK = 256 << 20
"""Bytes held in that file; of what comes after them only the last ``MEMORY`` are kept."""
_PIECE = 64 << 10
_HEADER = 5
_OVERHEAD = 100
"""What a chunk takes in memory beside its bytes."""


class Held:
    """COMMAND's output over all attempts of a run, in the order it came in, for `on-failure`.

    Memory and disk are bounded. What is missing in the middle then, or because the disk is full, is
    said where it is missing: the beginning tells what happened, the end how it went out.
    """

    def __init__(self) -> None:
        self._chunks: deque[tuple[int, bytearray]] = deque()
        self._size = 0
        self._file = -1
        self._file_size = 0
        self._file_full = False
        self._lost = 0

    def put(self, stream: int, data: bytes) -> None:
        """Hold ``data`` that came from COMMAND's ``stream`` (1 or 2)."""
        last = self._chunks[-1] if self._chunks else None
        if last and last[0] == stream and len(last[1]) < _PIECE:
            last[1].extend(data)
            self._size += len(data)
        else:
            self._chunks.append((stream, bytearray(data)))
            self._size += len(data) + _OVERHEAD
        if self._size > MEMORY and not self._file_full:
            self._spill()
        while self._size > MEMORY:
            _, dropped = self._chunks.popleft()
            self._size -= len(dropped) + _OVERHEAD
            self._lost += len(dropped)

    def chunks(self) -> Iterator[Chunk]:
        """Everything held, stream by stream, in order."""
        at = 0
        while at < self._file_size:
            stream, length = _read_header(os.pread(self._file, _HEADER, at))
            yield stream, os.pread(self._file, length, at + _HEADER)
            at += _HEADER + length
        if self._lost:
            yield STDERR, b"\nguardrun: %d bytes of output are missing here\n" % self._lost
        for stream, data in self._chunks:
            yield stream, bytes(data)

    def close(self) -> None:
        """Forget everything."""
        self._chunks.clear()
        self._size = self._file_size = 0
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _spill(self) -> None:
        data = b"".join(_header(stream, len(chunk)) + chunk for stream, chunk in self._chunks)
        try:
            if self._file < 0:
                self._file = _unlinked_file()
            written = 0
            while written < len(data):
                written += os.pwrite(self._file, data[written:], self._file_size + written)
        except OSError:  # full, or nowhere to write: the job goes on, the end is kept
            self._file_full = True
            return
        self._file_size += len(data)
        self._file_full = self._file_size >= DISK
        self._chunks.clear()
        self._size = 0


class Replay:
    """Writes chunks to our own stdout and stderr, as fast as they are read and no faster.

    Poll for ``interests`` and hand what is ready to ``ready`` until there are none: so a signal is
    answered however slow the reader is. A stream that cannot be written to any more is skipped.
    """

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        self._chunks = iter(chunks)
        self._outlets: dict[int, Outlet] = {}
        self._broken: set[int] = set()
        self._stream = STDOUT
        self._rest = memoryview(b"")
        self._next()

    def interests(self) -> list[tuple[int, int]]:
        """The descriptor to poll, and what for; none when all is written."""
        return [(self._outlets[self._stream].fd, select.POLLOUT)] if self._rest else []

    def ready(self, fd: int) -> None:
        """Write on: ``fd`` may be writable."""
        if not self._rest or fd != self._outlets[self._stream].fd:
            return
        try:
            written = self._outlets[self._stream].write(self._rest[:_PIECE])
            self._rest = self._rest[written:]
        except BlockingIOError:
            return
        except OSError:
            self._broken.add(self._stream)
            self._rest = memoryview(b"")
        if not self._rest:
            self._next()

    def close(self) -> None:
        """Let go of the descriptors; whatever is left is not written."""
        self._rest = memoryview(b"")
        for outlet in self._outlets.values():
            outlet.close()
        self._outlets.clear()

    def _next(self) -> None:
        for stream, data in self._chunks:
            if data and self._writable(stream):
                self._stream, self._rest = stream, memoryview(data)
                return

    def _writable(self, stream: int) -> bool:
        if stream not in self._broken and stream not in self._outlets:
            try:
                self._outlets[stream] = open_outlet(stream)
            except OSError:
                self._broken.add(stream)
        return stream not in self._broken


def _header(stream: int, length: int) -> bytes:
    return bytes((stream,)) + length.to_bytes(_HEADER - 1, "little")


def _read_header(header: bytes) -> tuple[int, int]:
    return header[0], int.from_bytes(header[1:], "little")


def _unlinked_file() -> int:
    # /tmp is often memory, which is what a spill is to save.
    from tempfile import TemporaryFile

    directory = os.environ.get("TMPDIR", "/var/tmp")
    with TemporaryFile(dir=directory, buffering=0) as file:
        return os.dup(file.fileno())
