"""What happens to log lines when their reader is slow, gone, or the disk is full."""

from __future__ import annotations

import errno
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrun.outlet import Outlet, open_outlet
from guardrun.report.sink import MEMORY, Sink


def notice(dropped: int) -> bytes:
    return b"dropped %d\n" % dropped


class Disk(Outlet):
    """Takes as many bytes at a time as it is told to: ``None`` is full, 0 is not writable now."""

    def __init__(self, takes: list[int | None] | None = None) -> None:
        super().__init__(-1)
        self.takes = takes or []
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        room = self.takes.pop(0) if self.takes else len(data)
        if room is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        if room == 0:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        self.written += bytes(data[:room])
        return min(room, len(data))

    def close(self) -> None:
        pass


def line(number: int, length: int = 1000) -> bytes:
    return (b"%d " % number).ljust(length - 1, b".") + b"\n"


def read_all(fd: int) -> bytes:
    """Everything in a pipe now."""
    data = b""
    while select.select([fd], [], [], 0)[0] and (piece := os.read(fd, 1 << 16)):
        data += piece
    return data


def test_a_blocked_pipe_loses_nothing_within_a_mebibyte() -> None:
    """Lines wait in order while the reader rests, and all arrive when it goes on."""
    read, write = os.pipe()
    sink = Sink(open_outlet(write), notice)
    os.close(write)
    lines = [line(number) for number in range(900)]
    for each in lines:
        sink.write(each)
    received = b""
    while sink.interests():
        received += read_all(read)
        sink.ready(sink.interests()[0][0])
    received += read_all(read)
    assert received == b"".join(lines)
    sink.close()
    os.close(read)


def test_beyond_a_mebibyte_the_oldest_lines_are_dropped_and_counted() -> None:
    """What is written next is the notice, then the lines that were kept, in order."""
    read, write = os.pipe()
    sink = Sink(open_outlet(write), notice)
    os.close(write)
    total = 3000
    for number in range(total):
        sink.write(line(number))
    received = read_all(read)
    in_pipe = received.count(b"\n")
    while sink.interests():
        sink.ready(sink.interests()[0][0])
        received += read_all(read)
    kept = MEMORY // 1000
    assert received.splitlines(True)[in_pipe:] == [
        notice(total - in_pipe - kept),
        *(line(number) for number in range(total - kept, total)),
    ]
    sink.close()
    os.close(read)


def test_lines_dropped_before_there_was_a_sink_are_counted_too() -> None:
    """The count a sink is made with is part of the first notice."""
    disk = Disk()
    Sink(disk, notice, dropped=7).write(b"line\n")
    assert disk.written == b"dropped 7\nline\n"


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=20),
    st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=60),
)
def test_no_line_is_ever_cut_by_another(texts: list[bytes], takes: list[int | None]) -> None:
    """However little is taken at a time, what is written are the lines, whole and in order."""
    lines = [text.hex().encode() + b"\n" for text in texts]
    disk = Disk(list(takes))
    sink = Sink(disk, notice)
    for each in lines:
        sink.write(each)
    disk.takes.clear()
    sink.write(b"last\n")
    assert disk.written == b"".join([*lines, b"last\n"])


def test_a_full_disk_that_gets_room_goes_on_where_it_stopped() -> None:
    """Half a line is completed before the next one is begun."""
    disk = Disk([3, None, None])
    sink = Sink(disk, notice)
    sink.write(b"first\n")
    sink.write(b"second\n")
    assert disk.written == b"fir"
    assert sink.interests() == []
    sink.write(b"third\n")
    assert disk.written == b"first\nsecond\nthird\n"


@pytest.mark.parametrize("broken", ["no reader", "full disk"])
def test_a_broken_destination_is_not_polled_and_not_raised(broken: str) -> None:
    """EPIPE and ENOSPC cost a failed write a line, and memory stays bounded."""
    if broken == "no reader":
        read, write = os.pipe()
        os.close(read)
    else:
        write = os.open("/dev/full", os.O_WRONLY)
    sink = Sink(open_outlet(write), notice)
    os.close(write)
    for number in range(2000):
        sink.write(line(number))
    assert sink.interests() == []
    assert sink._size <= MEMORY
    sink.close()


def test_a_blocked_pipe_does_not_delay_the_end() -> None:
    """Closing waits for a reader that rests about as long as it was told to."""
    read, write = os.pipe()
    sink = Sink(open_outlet(write), notice)
    os.close(write)
    for number in range(100):
        sink.write(line(number))
    begun = time.monotonic()
    sink.close(patience=0.05)
    assert 0.04 < time.monotonic() - begun < 0.9
    os.close(read)


def test_a_slow_reader_gets_the_rest_at_the_end() -> None:
    """Closing goes on as long as somebody reads."""
    read, write = os.pipe()
    code = (
        "import os, time\nall = b''\n"
        "while d := os.read(0, 4096): all += d; time.sleep(0.0005)\n"
        "open(1, 'wb').write(all)"
    )
    reader = subprocess.Popen([sys.executable, "-c", code], stdin=read, stdout=subprocess.PIPE)
    os.close(read)
    sink = Sink(open_outlet(write), notice)
    os.close(write)
    lines = [line(number) for number in range(300)]
    for each in lines:
        sink.write(each)
    sink.close(patience=1.0)
    assert reader.communicate()[0] == b"".join(lines)


_WRITER = """
import os, sys
from guardrun.outlet import open_file, open_outlet
from guardrun.report.sink import Sink
outlet = open_file(sys.argv[2]) if len(sys.argv) > 2 else open_outlet(1)
sink = Sink(outlet, lambda dropped: b'{"dropped": %d}\\n' % dropped)
sys.stdin.read()
for number in range(200):
    text = bytes((97 + number % 26,)) * (number * 37 % 4000)
    sink.write(b'{"who": %d, "n": %d, "t": "%s"}\\n' % (int(sys.argv[1]), number, text))
    while sink.interests():
        import select
        poll = select.poll()
        poll.register(*sink.interests()[0])
        poll.poll()
        sink.ready(sink.interests()[0][0])
sink.close()
"""


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_twenty_writers_never_mix_their_lines(kind: str, tmp_path: Path) -> None:
    """Every line of every writer arrives whole, through one pipe and into one appended file."""
    read, write = os.pipe()
    gate_read, gate_write = os.pipe()
    path = tmp_path / "log"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(who), *([str(path)] if kind == "file" else [])],
            stdin=gate_read,
            stdout=write,
        )
        for who in range(20)
    ]
    os.close(gate_read)
    os.close(write)
    os.close(gate_write)
    data = b""
    while piece := os.read(read, 1 << 16):
        data += piece
    os.close(read)
    assert [writer.wait() for writer in writers] == [0] * 20
    parsed = [json.loads(text) for text in (data or path.read_bytes()).splitlines()]
    assert sorted((each["who"], each["n"]) for each in parsed) == [
        (who, number) for who in range(20) for number in range(200)
    ]
