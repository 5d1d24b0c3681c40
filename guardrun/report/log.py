"""The run's log: events go in, lines come out, nothing comes back.

Log trouble stays here: it never stops COMMAND, delays anything, or changes the exit code.
"""

from __future__ import annotations

import os
from collections import deque

from guardrun.model import Event
from guardrun.outlet import Above, open_file, open_outlet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from guardrun.model import ReportSpec
    from guardrun.outlet import Outlet

    Render = Callable[[Event, Mapping[str, object]], list[bytes]]

LEVELS = ("debug", "info", "warning", "error")
_WRONG = LEVELS.index("warning")
_HELD_MAX = 1 << 20
_HELD_EVENTS = 1000
_EVENT_OVERHEAD = 400
"""About what an event takes beside its texts: constant fields, keys, punctuation."""


class Log:
    """Takes the events of a run and adds what is constant about it; immutable, as is structlog's.

    Until ``open`` is called events only wait, with their own timestamps, because turning them into
    lines imports structlog: 20 to 40 ms that COMMAND's start need not pay. With nothing to show (no
    destination, all below the level, or ``quiet`` and nothing wrong) it is never imported.
    """

    def __init__(self, journal: _Journal | _Apart, fields: Mapping[str, object]) -> None:
        self._journal = journal
        self._fields = fields

    @classmethod
    def start(cls, spec: ReportSpec, above: bytes = b"", **fields: object) -> Log:
        """A log as ``spec`` says, with ``fields`` (``job_id``, ``job``) on every line.

        ``above`` is what clears something that stands on the terminal, where there is one.

        A destination that cannot be opened is said on stderr, and the run goes on without a log.
        Call it before other descriptors are opened: ``fd:N`` must mean what our parent meant.
        """
        outlet = _open(spec.to)
        if above and outlet is not None and outlet.is_terminal():
            outlet = Above(outlet, above)
        return cls(_Journal(spec, outlet), fields)

    def bind(self, **fields: object) -> Log:
        """The same log with more constant ``fields``; a ``None`` is left out of the lines."""
        return Log(self._journal, {**self._fields, **fields})

    def emit(self, event: Event) -> None:
        """Log ``event``; its own fields win over constant ones of the same name."""
        self._journal.add(event, {**self._fields, **event.fields})

    def apart(self) -> Log:
        """The log of one run of many: with ``quiet`` nothing of it, unless *it* goes wrong."""
        return Log(_Apart(self._journal), self._fields) if self._journal.quiet else self

    def open(self) -> None:
        """Write what waits, and from now on every event at once: importing costs nobody now."""
        self._journal.open()

    def interests(self) -> list[tuple[int, int]]:
        """The descriptors to poll, and what for, while lines wait for a slow reader."""
        return self._journal.interests()

    def ready(self, fd: int) -> None:
        """Go on writing: ``fd`` may be writable."""
        self._journal.ready(fd)

    def close(self) -> None:
        """Write what can be written within about 100 ms, and let go; idempotent."""
        self._journal.close()


class _Journal:
    """What all logs of one process share: the filter, the events that wait, and the lines."""

    def __init__(self, spec: ReportSpec, outlet: Outlet | None) -> None:
        self._least = LEVELS.index(spec.level)
        self._spec = spec
        self.quiet = spec.quiet
        """nothing is to be written unless something goes wrong"""
        self._quiet = spec.quiet
        self._outlet = outlet
        self._open = False
        self._held: deque[tuple[Event, Mapping[str, object], int]] = deque()
        self._held_size = 0
        self._held_lost = 0
        self._lines: _Lines | None = None

    def add(self, event: Event, fields: Mapping[str, object]) -> None:
        severity = LEVELS.index(event.level)
        if self._outlet is None or severity < self._least:
            return
        if severity >= _WRONG:
            self._quiet = False
        self._hold(event, fields)
        self._release()

    def open(self) -> None:
        self._open = True
        self._release()

    def interests(self) -> list[tuple[int, int]]:
        return self._lines.sink.interests() if self._lines else []

    def ready(self, fd: int) -> None:
        if self._lines:
            self._lines.sink.ready(fd)

    def close(self) -> None:
        self.open()
        if self._lines:
            self._lines.sink.close()
        elif self._outlet:
            self._outlet.close()
        self._outlet = self._lines = None

    def _hold(self, event: Event, fields: Mapping[str, object]) -> None:
        size = _EVENT_OVERHEAD + sum(len(v) for v in event.fields.values() if isinstance(v, str))
        self._held.append((event, fields, size))
        self._held_size += size
        while self._held_size > _HELD_MAX:
            self._held_size -= self._held.popleft()[2]
            self._held_lost += 1

    def _release(self) -> None:
        if not self._open or self._quiet:
            return
        while self._outlet and self._held:
            if self._lines is None:
                self._lines = self._start_lines(self._outlet)
                continue
            event, fields, size = self._held.popleft()
            self._held_size -= size
            self._lines.write(event, fields)

    def _start_lines(self, outlet: Outlet) -> _Lines | None:
        try:
            return _Lines(outlet, self._spec, self._held_lost)
        except Exception as error:  # an upgrade may replace what is only imported now
            _warn(f"no log: {error!r}; the run goes on without it")
            self._outlet = None
            return None


class _Apart:
    """The journal of one run of many, whose events wait until one says that something is wrong."""

    quiet = True

    def __init__(self, journal: _Journal | _Apart) -> None:
        self._journal = journal
        self._held: deque[tuple[Event, Mapping[str, object]]] = deque(maxlen=_HELD_EVENTS)
        self._wrong = False

    def add(self, event: Event, fields: Mapping[str, object]) -> None:
        self._held.append((event, fields))
        self._wrong = self._wrong or LEVELS.index(event.level) >= _WRONG
        while self._wrong and self._held:
            self._journal.add(*self._held.popleft())

    def open(self) -> None:
        self._journal.open()

    def interests(self) -> list[tuple[int, int]]:
        return self._journal.interests()

    def ready(self, fd: int) -> None:
        self._journal.ready(fd)

    def close(self) -> None:
        """What is still held is left out."""


class _Lines:
    """Events on their way through the renderer to the sink; importing it is what costs."""

    def __init__(self, outlet: Outlet, spec: ReportSpec, dropped: int) -> None:
        from guardrun.report.render import ConsoleLines, JsonLines
        from guardrun.report.sink import Sink

        terminal = outlet.is_terminal()
        self._render: Render
        if spec.format == "console" or (spec.format == "auto" and terminal):
            self._render = ConsoleLines(spec.redact, colours=terminal and _colours_welcome())
        else:
            self._render = JsonLines(spec.redact)
        self._last = Event(0.0, "info", "", {})
        self.sink = Sink(outlet, self._notice, dropped)

    def write(self, event: Event, fields: Mapping[str, object]) -> None:
        self._last = Event(event.at, event.level, event.name, fields)
        for line in self._render(event, fields):
            self.sink.write(line)

    def _notice(self, dropped: int) -> bytes:
        identity = {key: self._last.fields.get(key) for key in ("job_id", "job")}
        event = Event(self._last.at, "warning", "log_dropped", {**identity, "count": dropped})
        return self._render(event, event.fields)[0]


def _open(to: str) -> Outlet | None:
    if to == "none":
        return None
    try:
        if to in ("stdout", "stderr"):
            return open_outlet(("stdout", "stderr").index(to) + 1)
        if to.startswith("fd:"):
            return open_outlet(int(to[3:]))
        return open_file(to)
    except OSError as error:
        _warn(f"no log: cannot write to {to!r}: {error.strerror}; the run goes on without it")
        return None


def _warn(message: str) -> None:
    try:
        stderr = open_outlet(2)
        stderr.write(f"guardrun: {message}\n".encode("utf-8", "backslashreplace"))
        stderr.close()
    except OSError:
        pass


def _colours_welcome() -> bool:
    """By https://no-color.org and the terminal's own word."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
