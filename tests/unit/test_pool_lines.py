"""Lines of many items on one stream: whole, complete, in order, whatever the pieces."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrun.pool import lines
from guardrun.pool.lines import Pen, Scribe, Turn

PIECES = st.lists(st.sampled_from([b"a", b"bb\n", b"\n", b"c\nd", b"e" * 9, b"\n\nf"]), max_size=8)


@pytest.fixture(scope="module", autouse=True)
def short_lines() -> Iterator[None]:
    """Lines count as long, and memory as full, after a few bytes: so short inputs reach it all."""
    patch = pytest.MonkeyPatch()
    patch.setattr(lines, "LONG_LINE", 8)
    patch.setattr(lines, "_AHEAD", 12)
    yield
    patch.undo()


class Reluctant:
    """A sheet that takes lines when it likes to."""

    def __init__(self, likes: Iterator[bool]) -> None:
        self._likes = likes
        self.took = b""

    def write(self, data: bytes, unfinished: bool) -> bool:
        """Take them, or don't."""
        if not next(self._likes, True):
            return False
        assert unfinished or data.endswith(b"\n")
        self.took += data
        return True

    def broken(self) -> bool:
        """It never is."""
        return False

    def fileno(self) -> int:
        """Nobody polls for it here."""
        raise AssertionError


def expected(data: bytes, tag: bytes) -> bytes:
    """What is to come of it: each line with its tag, and the last one with its newline."""
    if not data:
        return b""
    return b"".join(tag + line + b"\n" for line in data.removesuffix(b"\n").split(b"\n"))


@given(PIECES, st.sampled_from([b"", b"tag\t"]), st.lists(st.booleans()))
def test_lines_are_made_whole(pieces: list[bytes], tag: bytes, likes: list[bool]) -> None:
    """Nothing is lost or doubled, also where the end comes before what was offered is taken."""
    sheet = Reluctant(iter(likes))
    scribe = Scribe(sheet, tag)
    for piece in pieces:
        while scribe.held_up:
            scribe.again()
        scribe.put(piece)
    scribe.end()
    while scribe.held_up:
        scribe.again()
    assert sheet.took == expected(b"".join(pieces), tag)


class Stage:
    """Items that write to one pipe, which is read now and then."""

    def __init__(self, count: int, ordered: bool) -> None:
        self._read, write = os.pipe()
        self.pen = Pen(write)
        self.turns = [Turn({1: self.pen}, first=at == 0 or not ordered) for at in range(count)]
        self.scribes = [Scribe(turn.sheet(1), b"") for turn in self.turns]
        self._ordered = ordered
        self._waiting = list(self.turns)
        self._write = write
        self.text = b""

    def move(self) -> None:
        """What the pool and its items do whenever something is ready."""
        if self.pen.interests():
            self.pen.ready()
        for scribe in self.scribes:
            if scribe.held_up:
                scribe.again()
        if not self._ordered:
            for turn in [turn for turn in self._waiting if turn.over]:
                turn.close()
                self._waiting.remove(turn)
        while self._ordered and self._waiting:
            self._waiting[0].come()
            if not self._waiting[0].over:
                break
            self._waiting.pop(0).close()

    def take(self) -> None:
        """Read what is there."""
        while select.select([self._read], [], [], 0)[0]:
            self.text += os.read(self._read, 1 << 16)

    def done(self) -> bool:
        """Whether all is written."""
        return not self._waiting and not self.pen.interests()

    def end(self) -> None:
        """Let go of the pipe."""
        self.pen.close()
        os.close(self._read)
        os.close(self._write)


@given(
    st.lists(PIECES, min_size=1, max_size=3),
    st.booleans(),
    st.lists(st.integers(0, 2), max_size=40),
)
def test_no_line_stands_within_another(
    written: list[list[bytes]], ordered: bool, turns: list[int]
) -> None:
    """Of several writers in any order; with an order one after the other, in bounded memory."""
    named = [
        [piece.replace(b"\n", b"%d\n" % at) for piece in pieces]
        for at, pieces in enumerate(written)
    ]
    stage = Stage(len(named), ordered)
    left = [list(pieces) for pieces in named]
    schedule = iter([*turns, *list(range(len(named))) * 100])
    while not stage.done():
        at = next(schedule) % len(named)
        scribe, turn = stage.scribes[at], stage.turns[at]
        if not scribe.held_up and left[at]:
            scribe.put(left[at].pop(0))
        elif not scribe.held_up and not turn.done:
            scribe.end()
            turn.done = not scribe.held_up
        assert not ordered or turn.size < 12 + 20
        stage.move()
    stage.take()
    stage.end()
    whole = [expected(b"".join(pieces), b"").splitlines() for pieces in named]
    got = stage.text.splitlines()
    if ordered:
        assert got == [line for mine in whole for line in mine]
    else:
        assert sorted(got) == sorted(line for mine in whole for line in mine)


def test_a_slow_reader_gets_everything() -> None:
    """What a pipe does not take waits, and nobody else writes before it is gone."""
    stage = Stage(2, ordered=False)
    long = b"x" * 300_000 + b"\n"
    stage.scribes[0].put(long)
    stage.scribes[1].put(b"second\n")
    assert stage.scribes[1].held_up
    assert not select.select([stage.scribes[1]], [], [], 0)[0]
    for turn in stage.turns:
        turn.done = True
    while stage.scribes[1].held_up or stage.pen.interests():
        stage.take()
        stage.move()
    stage.take()
    stage.end()
    assert stage.text == long + b"second\n"


def test_a_reader_that_is_gone_is_noticed() -> None:
    """Whoever writes then is told so, and is not kept waiting."""
    read, write = os.pipe()
    pen = Pen(write)
    os.close(read)
    turn = Turn({1: pen}, first=True)
    scribe = Scribe(turn.sheet(1), b"")
    scribe.put(b"for nobody\n")
    assert (scribe.broken, scribe.held_up, pen.interests()) == (True, False, [])
    pen.close()
    os.close(write)
