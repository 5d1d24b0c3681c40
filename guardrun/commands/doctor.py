"""``doctor``: what is wrong with the set-up, before it is found out by night."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click
from rich.table import Table
from rich.text import Text

from guardrun.commands import objects, table
from guardrun.commands.launch import Unsettled
from guardrun.doctor import asked, cron, places, stores
from guardrun.doctor.finding import BROKEN, NOTE, OK, Finding

_BROKEN = 1
_STYLES = {OK: "green", NOTE: "yellow", BROKEN: "bold red"}


@click.command(cls=Unsettled)
@click.option("--lease-url", metavar="URL", help="Look at this lease store.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a finding.")
@click.pass_obj
def doctor(given: dict[str, str | None], as_json: bool) -> int:
    """Look at configuration, stores, directories, spool and crontabs; say what to do.

    Changes nothing. Exits 1 when something breaks a promise of guardrun's, or keeps jobs from
    running.
    """
    found = list(_findings(given))
    if as_json:
        objects.write_lines(map(_fields, found))
    else:
        _show(found)
    return _BROKEN if any(one.level == BROKEN for one in found) else 0


def _findings(given: dict[str, str | None]) -> Iterator[Finding]:
    found, known = asked.examine(given, os.environ)
    yield from found
    if known is not None:
        for subject, directories in stores.in_use(known).items():
            what = f"{'lock' if subject == 'locks' else subject} directory"
            for path in directories:
                durable = subject == "state"
                yield from places.examine_directory(subject, what, path, durable=durable)
        yield from stores.examine(known)
        if known.ledgers and known.ledgers[0].url != "none:":
            yield from places.examine_spool(known.ledgers[0])
    yield from cron.examine()


def _fields(found: Finding) -> dict[str, object]:
    return {
        "subject": found.subject,
        "level": found.level,
        "message": objects.unicode(found.says),
        "remedy": found.remedy,
        "facts": dict(found.facts),
    }


def _show(found: list[Finding]) -> None:
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for one in found:
        what = Text(table.printable(one.says))
        if one.remedy is not None:
            what.append(f"\n→ {table.printable(one.remedy)}", "bold")
        made.add_row(Text(one.level, _STYLES[one.level]), one.subject, what)
    out = table.console()
    out.print(made)
    broken = sum(one.level == BROKEN for one in found)
    notes = sum(one.level == NOTE for one in found)
    out.print(f"broken: {broken}, notes: {notes}" if broken or notes else "all is well")
