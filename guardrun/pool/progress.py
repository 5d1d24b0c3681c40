"""How far a pool has come: a bar on a terminal, a line in the log now and then elsewhere."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Protocol

from guardrun import kernel
from guardrun.outlet import open_outlet
from guardrun.report import events

if TYPE_CHECKING:
    from guardrun.model import Counts
    from guardrun.pool.items import Items
    from guardrun.report.log import Log

CLEAR = b"\r\x1b[K"
"""what takes the bar away"""
_REDRAW = 0.1
_TELL = 10.0
"""s"""


class Progress(Protocol):
    """Who tells of it."""

    def show(self, counts: Counts, running: int) -> None:
        """Tell, if it is time to."""

    def due(self) -> float:
        """When ``show`` has something to do (CLOCK_BOOTTIME)."""

    def hide(self) -> None:
        """Leave the terminal to somebody else."""


class Lines:
    """A line in the log every ten seconds."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._begun = kernel.now()
        self._due = self._begun + _TELL

    def show(self, counts: Counts, running: int) -> None:
        """As the port says."""
        now = kernel.now()
        if now >= self._due:
            self._due = now + _TELL
            took = now - self._begun
            self._log.emit(events.each_progress(time.time(), counts, running, took))

    def due(self) -> float:
        """As the port says."""
        return self._due

    def hide(self) -> None:
        """Nothing stands there."""


class Bar:
    """A bar on the terminal that is our stderr; of an input that is a file it knows the end."""

    def __init__(self, items: Items) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._items = items
        self._outlet = open_outlet(2)
        self._console = Console(stderr=True, force_terminal=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            auto_refresh=False,  # it would be a thread
        )
        self._task = self._progress.add_task("", total=items.size)
        self._begun = kernel.now()
        self._due = self._begun + _REDRAW

    def show(self, counts: Counts, running: int) -> None:
        """As the port says."""
        now = kernel.now()
        if now < self._due:
            return
        self._due = now + _REDRAW
        done = counts.total - running
        described = f"{done} done, {counts.failed} failed, {running} running"
        rate = done / max(now - self._begun, 0.001)
        self._progress.update(
            self._task,
            description=f"{described}, {rate:.1f}/s",
            completed=self._items.consumed,
            total=self._items.size,
        )
        with self._console.capture() as drawn:
            self._console.print(self._progress.get_renderable(), end="")
        self._write(CLEAR + drawn.get().rstrip("\n").encode())

    def due(self) -> float:
        """As the port says."""
        return self._due

    def hide(self) -> None:
        """Take the bar away."""
        self._write(CLEAR)

    def _write(self, data: bytes) -> None:
        try:
            self._outlet.write(data)
        except OSError:  # the terminal is slow, or gone: then without
            pass


def has_bar(quiet: bool) -> bool:
    """Whether a person is likely to look at our stderr, and wants to see something."""
    return not quiet and os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb"
