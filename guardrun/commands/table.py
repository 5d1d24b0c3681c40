"""How subcommands show things to people: tables through rich, times in the local zone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_STYLES = {
    "success": "green",
    "running": "cyan",
    "skipped_duplicate": "dim",
    "lock_busy": "yellow",
    "precondition_failed": "yellow",
    "retry": "yellow",
    "succeeded": "green",
    "expired": "dim",
}
_CHUNK = 500
_NARROWEST = 8


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # rich would exit with 1; whoever called us ends as every tool does at a closed pipe.
        raise BrokenPipeError


def console() -> Console:
    """Stdout for people: colours on a terminal only, none with NO_COLOR."""
    return _Console(highlight=False, emoji=False, markup=False)


def local_time(instant: int) -> str:
    """Microseconds since 1970 as local date and time, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(instant // 1_000_000))


def took(duration: int | None) -> str:
    """Microseconds in at most six characters; nothing where it is not known."""
    if duration is None:
        return ""
    milliseconds = max(round(duration / 1000), 0)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    tenths = round(milliseconds / 100)
    if tenths < 600:
        return f"{tenths / 10:.1f}s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes}m{seconds:02}s"
    days, hours = divmod(hours, 24)
    if not days:
        return f"{hours}h{minutes:02}m"
    return f"{days}d{hours:02}h"


def printable(text: str) -> str:
    """``text`` with nothing in it that could move a cursor, or is not valid Unicode."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def printable_lines(data: bytes) -> str:
    """What a program wrote: lines and tabs stay, everything else as in ``printable``."""
    text = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    return "".join(char if char in "\n\t" else printable(char) for char in text)


def result_text(result: str) -> Text:
    """A result, or a key's state, in its colour."""
    return Text(result, _STYLES.get(result, "red"))


def chunks(rows: Iterable[tuple[str | Text, ...]]) -> Iterator[list[tuple[str | Text, ...]]]:
    """Rows in portions, so that a long list is shown while it is read, in constant memory."""
    portion = []
    for row in rows:
        portion.append(row)
        if len(portion) == _CHUNK:
            yield portion
            portion = []
    if portion:
        yield portion


def table(columns: Sequence[tuple[str, int | None]], wide: int, *, header: bool) -> Table:
    """A table without lines, ``wide`` characters at most.

    Columns are a title and a width; the one without a width gets what is left.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=header)
    # Said outright: rich would take it from the others as well, and portions would not line up.
    left = max(wide - sum((width or 0) + 1 for _, width in columns) + 1, _NARROWEST)
    for title, width in columns:
        made.add_column(
            Text(title, "bold"),
            width=width,
            max_width=left if width is None else None,
            no_wrap=True,
            overflow="ellipsis",
        )
    return made


def write(
    columns: Sequence[tuple[str, int | None]], rows: Iterable[tuple[str | Text, ...]], none: str
) -> None:
    """Print a long table while its rows come; ``none`` where there are none."""
    out = console()
    first = True
    for portion in chunks(rows):
        part = table(columns, out.width, header=first)
        for row in portion:
            part.add_row(*row)
        out.print(part)
        first = False
    if first:
        out.print(none)


def write_facts(facts: Iterable[tuple[str, str | Text]]) -> None:
    """Print names and what is so called, one pair a line."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, text in facts:
        made.add_row(name, text)
    console().print(made)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that was no UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return ascii(char)[1:-1]
