"""``mark``: the COMMAND that says when it runs, and the FIFOs by which it does."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PATIENCE = 60.0
"""s that anything here may take before the benchmark gives up"""

_SCRIPT = """#!/bin/sh
echo "s $$ $(date +%s%N)" >"$1"
[ $# -lt 2 ] || { read -r _ <"$2"; echo "e $$ $(date +%s%N)" >"$1"; }
"""


class Stuck(Exception):
    """What should have happened has not."""


@dataclass(frozen=True)
class Tool:
    """The program, and the clock it reads."""

    path: str
    clock: Callable[[], int]
    """ns"""
    kind: str


class Mark(NamedTuple):
    """One thing that ``mark`` said."""

    what: str
    """``s``: started, ``e``: about to exit"""
    pid: int
    at: int
    """ns of the tool's clock"""


def build(directory: Path) -> Tool:
    """Compile ``mark``, statically where that works; without a compiler it is a shell script."""
    source, program = Path(__file__).with_name("mark.c"), directory / "mark"
    compiler = shutil.which("cc")
    for options in (("-static",), ()) if compiler else ():
        words = [str(compiler), "-O2", *options, "-o", str(program), str(source)]
        if subprocess.run(words, capture_output=True, check=False).returncode == 0:
            return Tool(str(program), time.monotonic_ns, " ".join(("C", *options)))
    program.write_text(_SCRIPT)
    program.chmod(0o755)
    return Tool(str(program), time.time_ns, "sh and date: no C compiler, starts are later by it")


class Marks:
    """What several ``mark`` say to one FIFO, and the gate they wait at."""

    def __init__(self, directory: Path, name: str = "mark") -> None:
        self.out, self.gate = (str(directory / f"{name}.{end}") for end in ("out", "gate"))
        for path in (self.out, self.gate):
            os.mkfifo(path)
        # Open for both ways: neither side ever blocks in open(2), nor sees an end of file.
        self._out = os.open(self.out, os.O_RDWR | os.O_NONBLOCK)
        self._gate = os.open(self.gate, os.O_RDWR | os.O_NONBLOCK)
        self._rest = b""
        self._came: list[Mark] = []

    def fileno(self) -> int:
        return self._out

    def read(self) -> list[Mark]:
        """What has come; does not wait."""
        came, self._came = self._came, []
        try:
            data = self._rest + os.read(self._out, 65536)
        except BlockingIOError:
            return came
        *lines, self._rest = data.split(b"\n")
        for line in lines:
            what, pid, at = line.split()
            came.append(Mark(what.decode(), int(pid), int(at)))
        return came

    def wait(self, what: str, count: int = 1) -> list[Mark]:
        """Wait for so many marks of one kind; others are left for later. Raises Stuck."""
        found: list[Mark] = []
        later: list[Mark] = []
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        due = time.monotonic() + PATIENCE
        while True:
            for mark in self.read():
                (found if mark.what == what and len(found) < count else later).append(mark)
            if len(found) == count:
                self._came = later
                return found
            if not poll.poll(max(0.0, due - time.monotonic()) * 1000):
                raise Stuck(f"no COMMAND has said {what!r} within {PATIENCE:.0f} s")

    def let_go(self) -> None:
        """Let one of those who wait at the gate go on."""
        os.write(self._gate, b"\n")

    def close(self) -> None:
        os.close(self._out)
        os.close(self._gate)
        os.unlink(self.out)
        os.unlink(self.gate)
