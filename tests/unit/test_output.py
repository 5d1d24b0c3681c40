"""COMMAND's output in every mode: what arrives, what is kept, and what it may cost."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrun.model import Captured, Event, ExecSpec
from guardrun.supervisor import replay as replays
from guardrun.supervisor.output import LINE_MAX, Output, Tail, open_output
from guardrun.supervisor.replay import STDERR, STDOUT, Held, Replay

PATIENCE = 20.0


@contextmanager
def descriptor(number: int, fd: int) -> Iterator[None]:
    """Make ``fd`` our own stdout or stderr for a while, and close it."""
    sys.stdout.flush()
    saved = os.dup(number)
    os.dup2(fd, number)
    os.close(fd)
    try:
        yield
    finally:
        os.dup2(saved, number)
        os.close(saved)


def turn(pump: Output | Replay, seconds: float = PATIENCE) -> bool:
    """Poll once and hand over what is ready; False when nothing was."""
    poll = select.poll()
    for fd, events in pump.interests():
        poll.register(fd, events)
    ready = poll.poll(seconds * 1000)
    for fd, _ in ready:
        pump.ready(fd)
    return bool(ready)


def pump_out(pump: Output | Replay, reader: int = -1) -> bytes:
    """Go on until there is nothing left to do, reading ``reader`` meanwhile and at last."""
    data = b""
    due = time.monotonic() + PATIENCE
    while pump.interests():
        assert time.monotonic() < due
        turn(pump, 0.05 if reader >= 0 else PATIENCE)
        data += drain(reader)
    return data + drain(reader)


def drain(fd: int) -> bytes:
    """What can be read from ``fd`` at once."""
    data = b""
    while fd >= 0 and select.select([fd], [], [], 0)[0] and (piece := os.read(fd, 1 << 16)):
        data += piece
    return data


@dataclass
class Ran:
    """A COMMAND that ran, and what came of its output."""

    code: int
    events: list[Event]
    captured: Captured | None
    held: Held = field(repr=False)

    def lines(self, stream: str) -> list[Any]:
        return [e.fields["line"] for e in self.events if e.fields["stream"] == stream]


def run(script: str, output: str, capture: int = 0, reader: int = -1) -> tuple[Ran, bytes]:
    """Run a shell script to its end; also what arrived at ``reader``."""
    events: list[Event] = []
    held = Held()
    pipes = open_output(ExecSpec((), output=output, capture=capture), events.append, held)
    ends = {{1: "stdout", 2: "stderr"}[number]: fd for number, fd in pipes.stdio.items()}
    process = subprocess.Popen(["sh", "-c", script], **ends)  # type: ignore[call-overload]
    pipes.sent()
    data = b""
    due = time.monotonic() + PATIENCE
    while process.poll() is None:
        assert time.monotonic() < due
        turn(pipes, 0.01)
        data += drain(reader)
    pipes.finish()
    data += pump_out(pipes, reader)
    captured = pipes.captured()
    pipes.close()
    return Ran(process.returncode, events, captured, held), data


# ---------------------------------------------------------------- inherit


def test_without_capture_command_has_our_own_streams() -> None:
    """Nothing is replaced and nothing is polled."""
    output = open_output(ExecSpec(()), lambda _: None, Held())
    assert (output.stdio, output.interests(), output.captured()) == ({}, [], None)
    output.close()


def test_captured_output_arrives_untouched() -> None:
    """Every byte reaches our stdout, and the last ones are kept."""
    read, write = os.pipe()
    with descriptor(1, write):
        ran, data = run("seq 200000; printf '\\377\\000end'", "inherit", 1000, read)
    os.close(read)
    expected = b"".join(b"%d\n" % number for number in range(1, 200001)) + b"\xff\x00end"
    assert data == expected
    assert ran.captured == Captured(expected[-1000:], b"")
    assert (ran.code, ran.events) == (0, [])


def test_a_reader_that_rests_makes_command_wait() -> None:
    """A full stdout stops the reading: COMMAND blocks, as without guardrun, and we don't."""
    read, write = os.pipe()
    with descriptor(1, write):
        output = open_output(ExecSpec((), capture=10), lambda _: None, Held())
        process = subprocess.Popen(["yes"], stdout=output.stdio[1])
        output.sent()
        while turn(output, 0.2):
            pass
        assert [events for _, events in output.interests()] == [select.POLLOUT]
        assert process.poll() is None
        held = len(drain(read))
        assert held <= 65536
        while turn(output, 0.2):
            pass
        os.close(read)
        pump_out(output)
    assert process.wait(PATIENCE) == -signal.SIGPIPE
    output.close()


def test_a_full_disk_is_commands_own_failure() -> None:
    """COMMAND's next write fails, lest a truncated dump be a success, and the log says why."""
    with descriptor(1, os.open("/dev/full", os.O_WRONLY)):
        ran, _ = run("exec yes", "inherit", 10)
    assert ran.code == -signal.SIGPIPE
    assert [(e.name, e.level, dict(e.fields)) for e in ran.events] == [
        ("output_lost", "warning", {"stream": "stdout", "reason": "No space left on device"})
    ]


def test_a_reader_that_has_gone_is_no_news() -> None:
    """``| head -1`` ends COMMAND by SIGPIPE, quietly."""
    read, write = os.pipe()
    os.close(read)
    with descriptor(1, write):
        ran, _ = run("exec yes", "inherit", 10)
    assert (ran.code, ran.events) == (-signal.SIGPIPE, [])


def test_what_was_written_before_the_end_still_arrives_slowly() -> None:
    """COMMAND has ended, its reader takes its time: the rest is passed on all the same."""
    read, write = os.pipe()
    with descriptor(1, write):
        output = open_output(ExecSpec((), capture=10), lambda _: None, Held())
        code = "import os; os.write(1, b'x' * 100_000)"
        process = subprocess.Popen([sys.executable, "-c", code], stdout=output.stdio[1])
        output.sent()
        while process.poll() is None:
            turn(output, 0.01)
        output.finish()
        assert output.interests()
        data = b""
        while output.interests():
            turn(output, 0.05)
            data += os.read(read, 1000)
        assert len(data + drain(read)) == 100_000
    output.close()
    os.close(read)


# ---------------------------------------------------------------- json


def test_lines_become_events() -> None:
    """One event a line, empty ones too; a last line without newline is one as well."""
    ran, _ = run("printf 'one\\n\\nthree'; printf 'oops\\n' >&2", "json")
    assert ran.lines("stdout") == ["one", "", "three"]
    assert ran.lines("stderr") == ["oops"]
    assert {(e.name, e.level) for e in ran.events} == {("output", "info")}


def original(events: list[Event]) -> bytes:
    """The bytes that these ``output`` events stand for."""
    data = b""
    for event in events:
        encoding = str(event.fields.get("encoding", "utf-8"))
        data += str(event.fields["line"]).encode(encoding)
        data += b"" if event.fields.get("continued") else b"\n"
    return data


def fed(chunks: list[bytes]) -> list[Event]:
    """The events that these bytes make when they come in these pieces."""
    events: list[Event] = []
    output = open_output(ExecSpec((), output="json"), events.append, Held())
    end = os.dup(output.stdio[1])
    output.sent()
    for chunk in chunks:
        while chunk:
            chunk = chunk[os.write(end, chunk[:60_000]) :]
            while turn(output, 0):
                pass
    os.close(end)
    pump_out(output)
    output.close()
    return events


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=10))
def test_binary_output_can_be_reconstructed(chunks: list[bytes]) -> None:
    """Whatever the bytes and however they come, the lines and their encoding give them back."""
    data = b"".join(chunks)
    expected = data if data.endswith(b"\n") or not data else data + b"\n"
    assert original(fed(chunks)) == expected


@pytest.mark.parametrize("unit", [b"x", "ä".encode(), "€".encode(), "😀".encode(), b"\x80"])
def test_an_endless_line_is_cut_between_characters(unit: bytes) -> None:
    """A line beyond 256 KiB comes in pieces of about that, continued until the last."""
    data = b"." + unit * (600_000 // len(unit))
    events = fed([data])
    assert original(events) == data + b"\n"
    assert [e.fields.get("continued") for e in events] == [True] * (len(events) - 1) + [None]
    assert all(len(str(e.fields["line"])) <= LINE_MAX for e in events)
    assert {e.fields.get("encoding") for e in events} == {"latin-1" if unit == b"\x80" else None}


# ---------------------------------------------------------------- on-failure and discard


def shown(held: Held) -> tuple[bytes, bytes]:
    """What the replay writes to stdout and stderr."""
    out, err = os.pipe(), os.pipe()
    data = [b"", b""]
    with descriptor(1, out[1]), descriptor(2, err[1]):
        replay = Replay(held.chunks())
        while replay.interests():
            turn(replay, 0.05)
            data = [data[0] + drain(out[0]), data[1] + drain(err[0])]
        replay.close()
    held.close()
    os.close(out[0])
    os.close(err[0])
    return data[0], data[1]


def test_held_output_is_shown_as_it_came() -> None:
    """Both streams, in the order of arrival, onto our own stdout and stderr."""
    ran, _ = run("echo out; echo err >&2", "on-failure")
    assert shown(ran.held) == (b"out\n", b"err\n")
    read, write = os.pipe()
    held = Held()
    for stream, data in ((1, b"a"), (2, b"b"), (2, b"c"), (1, b"d")):
        held.put(stream, data)
    with descriptor(1, os.dup(write)), descriptor(2, write):
        assert pump_out(Replay(held.chunks()), read) == b"abcd"
    os.close(read)


def test_much_held_output_goes_through_a_file() -> None:
    """Beyond a mebibyte an unlinked file takes it; nothing is lost and order is kept."""
    held = Held()
    randomness = random.Random(1)
    expected = [b"", b""]
    for _ in range(500):
        stream, data = randomness.choice((1, 2)), randomness.randbytes(randomness.randrange(20_000))
        held.put(stream, data)
        expected[stream - 1] += data
    assert sum(map(len, expected)) > 4 << 20
    assert shown(held) == (expected[0], expected[1])


@pytest.mark.parametrize("trouble", ["no directory", "full disk", "limit"])
def test_where_disk_ends_the_last_mebibyte_is_kept(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginning and end are kept, what is missing between them is counted on stderr."""
    if trouble == "no directory":
        monkeypatch.setenv("TMPDIR", "/nonexistent")
    elif trouble == "full disk":
        monkeypatch.setattr(replays, "_unlinked_file", lambda: os.open("/dev/full", os.O_RDWR))
    else:
        monkeypatch.setattr(replays, "DISK", 2 << 20)
    held = Held()
    lines = [b"%09d\n" % number for number in range(1_000_000)]
    for at in range(0, len(lines), 1000):
        held.put(1, b"".join(lines[at : at + 1000]))
    out, err = shown(held)
    missing = len(lines) * 10 - len(out)
    assert err == b"\nguardrun: %d bytes of output are missing here\n" % missing
    shown_lines = out.splitlines(True)
    gap = next((at for at, line in enumerate(shown_lines) if line != lines[at]), len(shown_lines))
    assert (gap > 0) is (trouble == "limit")
    assert shown_lines[gap:] == lines[len(lines) - len(shown_lines) + gap :]
    assert 900_000 < len(out) < (4 << 20)


def test_discarded_output_goes_to_dev_null() -> None:
    """COMMAND gets /dev/null itself, which costs nothing to drain."""
    output = open_output(ExecSpec((), output="discard"), lambda _: None, Held())
    assert {os.readlink(f"/proc/self/fd/{fd}") for fd in output.stdio.values()} == {"/dev/null"}
    assert output.interests() == []
    output.close()


@pytest.mark.parametrize("mode", ["json", "on-failure", "discard"])
def test_every_mode_captures(mode: str) -> None:
    """The last bytes of each stream are kept, whatever else becomes of them."""
    ran, _ = run("seq 1000; echo bad >&2", mode, 8)
    assert ran.captured == Captured(b"99\n1000\n", b"bad\n")
    ran.held.close()


# ---------------------------------------------------------------- all modes


@given(st.integers(0, 50), st.lists(st.binary(max_size=60)))
def test_the_tail_is_the_tail(limit: int, chunks: list[bytes]) -> None:
    """The last bytes, and never more than were asked for."""
    tail = Tail(limit)
    for chunk in chunks:
        tail.put(chunk)
    assert tail.get() == (b"".join(chunks)[-limit:] if limit else b"")


@pytest.mark.parametrize("mode", ["inherit", "json", "on-failure", "discard"])
def test_a_process_left_behind_is_not_waited_for(mode: str) -> None:
    """Once COMMAND has ended only what is in the pipes counts, though a daemon holds them open."""
    gate_read, gate_write = os.pipe()
    read, write = os.pipe()
    with descriptor(1, write):
        output = open_output(ExecSpec((), output=mode, capture=10), lambda _: None, Held())
        process = subprocess.Popen(
            ["sh", "-c", "exec 3<&0; echo x; cat <&3 & exit 0"],
            stdin=gate_read,
            stdout=output.stdio[1],
        )
        output.sent()
        assert process.wait(PATIENCE) == 0
        output.finish()
        pump_out(output)
        captured = output.captured()
        output.close()
    os.close(gate_write)  # the daemon ends
    os.close(gate_read)
    os.close(read)
    assert captured == Captured(b"x\n", b"")


@pytest.mark.parametrize("capture", [0, 100])
@pytest.mark.parametrize("mode", ["inherit", "json", "on-failure", "discard"])
def test_no_descriptor_is_left_open(mode: str, capture: int) -> None:
    """After an attempt there are as many as before."""
    before = sorted(os.listdir("/proc/self/fd"))
    with descriptor(1, os.open(os.devnull, os.O_WRONLY)):
        ran, _ = run("echo x; echo y >&2", mode, capture)
    ran.held.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


_GREEDY = """
import select, subprocess, sys
from guardrun.model import ExecSpec
from guardrun.supervisor.output import open_output
from guardrun.supervisor.replay import Held
events = 0
def emit(event):
    global events
    events += 1
held = Held()
output = open_output(ExecSpec((), output=sys.argv[1], capture=65536), emit, held)
command = ["head", "-c", "400000000", "/dev/zero"]
process = subprocess.Popen(command, stdout=output.stdio[1])
output.sent()
while interests := output.interests():
    poll = select.poll()
    for each in interests:
        poll.register(*each)
    for fd, _ in poll.poll():
        output.ready(fd)
assert process.wait() == 0 and output.captured().stdout == bytes(65536)
status = open("/proc/self/status").read()
print(status.partition("VmHWM:")[2].split()[0], file=sys.stderr)
"""


@pytest.mark.parametrize("mode", ["inherit", "json", "on-failure", "discard"])
def test_memory_does_not_grow_with_output(mode: str) -> None:
    """400 MB without a newline pass through less than 40 MB of memory."""
    done = subprocess.run(
        [sys.executable, "-c", _GREEDY, mode],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=True,
    )
    assert int(done.stderr) < 40_000


# ---------------------------------------------------------------- replay


def test_a_stored_output_is_written_again() -> None:
    """stdout and stderr get the bytes of the run that succeeded."""
    out, err = os.pipe(), os.pipe()
    with descriptor(1, out[1]), descriptor(2, err[1]):
        replay = Replay(((STDOUT, b"\xff out\n"), (STDERR, b"err")))
        pump_out(replay)
        replay.close()
    assert (os.read(out[0], 100), os.read(err[0], 100)) == (b"\xff out\n", b"err")
    os.close(out[0])
    os.close(err[0])


def test_a_replay_waits_for_its_reader_in_the_loop() -> None:
    """A reader that rests leaves an interest in POLLOUT, and gets everything when it goes on."""
    read, write = os.pipe()
    data = random.Random(2).randbytes(300_000)
    with descriptor(1, write):
        replay = Replay(((STDOUT, data), (STDERR, b"")))
        while turn(replay, 0):
            pass
        assert [events for _, events in replay.interests()] == [select.POLLOUT]
        assert pump_out(replay, read) == data
        replay.close()
    os.close(read)


@pytest.mark.parametrize("broken", ["no reader", "full disk"])
def test_a_replay_goes_on_with_the_other_stream(broken: str) -> None:
    """What cannot be written is skipped; stderr still gets its part."""
    out, err = os.pipe(), os.pipe()
    os.close(out[0])
    if broken == "full disk":
        os.close(out[1])
        out = (-1, os.open("/dev/full", os.O_WRONLY))
    with descriptor(1, out[1]), descriptor(2, err[1]):
        replay = Replay(((STDOUT, b"x" * 100_000), (STDERR, b"err")))
        pump_out(replay)
        replay.close()
    assert os.read(err[0], 100) == b"err"
    os.close(err[0])


def test_nothing_to_replay_is_nothing_to_do() -> None:
    """Without bytes there are no interests."""
    replay = Replay(((STDOUT, b""), (STDERR, b"")))
    assert replay.interests() == []
    replay.close()
