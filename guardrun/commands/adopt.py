"""``adopt``: what lines with flock, timeout or chronic are as lines of guardrun."""

from __future__ import annotations

import os
import re
import shutil
import sys
from functools import partial

import click

from guardrun.adopt import crontab, file, state, unit
from guardrun.commands.launch import Unsettled
from guardrun.commands.table import printable
from guardrun.errors import UsageError
from guardrun.units import shown

_CHANGED_MEANWHILE = 1
_DROP_IN = ".conf"
_UNITS = (".service", _DROP_IN)
_SYSTEM = ("/etc/crontab", "/etc/cron.d/")
_USUAL = ("/usr/local/bin/guardrun", "/usr/bin/guardrun")
"""where everybody finds it, also after an upgrade"""
_MARKS = {crontab.CHANGED: "", crontab.LEFT: "left as it is: ", crontab.HINT: "hint: "}


@click.command(cls=Unsettled)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["auto", "user", "system", "unit"]),
    default="auto",
    show_default=True,
    help="A user's crontab, one of the system's (a user stands before the command), or a unit "
    "file. auto goes by FILE's name.",
)
@click.option(
    "--names",
    is_flag=True,
    help="Named locks (--lock) instead of locks on the same files (--lock-file): with fencing "
    "tokens and owners, but per user, and not those of scripts that still call flock.",
)
@click.option(
    "--program", metavar="PATH", help="What guardrun is called. Default: its path, where found."
)
@click.option("--write", is_flag=True, help="Change FILE itself, beside a backup FILE.bak-TIME~.")
@click.argument("file", metavar="FILE")
def adopt(kind: str, names: bool, program: str | None, write: bool, **given: str) -> int:
    """Print a crontab or a unit file with guardrun for flock, timeout and chronic.

    FILE is a crontab, a unit file, or - for stdin. What each line becomes, what differs, and why a
    line is left as it is, goes to stderr. With --write, exits 1 when somebody else changed FILE
    meanwhile.
    """
    path = given["file"]
    if write and path == "-":
        raise UsageError("--write needs a file; stdin is printed to stdout")
    original = None if path == "-" else file.read(path)
    data = sys.stdin.buffer.read() if original is None else original.data
    program = os.path.abspath(program) if program else _program()
    if not re.fullmatch(r"[\w./+:@~-]+", program):
        raise UsageError(
            f"--program: {shown(program)} has characters that sh, cron or systemd read otherwise; "
            "name a link to it that has none"
        )
    if not os.access(program, os.X_OK):
        problem = f"there is no {program} here: install guardrun there, or name it by --program"
        if write:
            raise UsageError(problem)
        click.echo(f"guardrun: {printable(problem)}", err=True)
    choice = crontab.Choice(program, names, partial(state.unreachable, program), state.stateless)
    text = data.decode("utf-8", "surrogateescape")
    result = _adopted(_kind(kind, path), text, choice)
    if path.endswith(_DROP_IN):
        result = unit.of_drop_in(result)
    new = result.text.encode("utf-8", "surrogateescape")
    name = "stdin" if path == "-" else path
    for remark in result.remarks:
        mark = _MARKS[remark.kind]
        click.echo(printable(f"{name}:{remark.line}: {mark}{remark.says}"), err=True)
    if not write or original is None:
        sys.stdout.buffer.write(new)
        return 0
    if new == data:
        click.echo(printable(f"{name}: nothing to change"), err=True)
        return 0
    try:
        backup = file.replace(original, new)
    except file.Changed as why:
        click.echo(f"guardrun: {printable(str(why))}", err=True)
        return _CHANGED_MEANWHILE
    click.echo(printable(f"{original.path}: written; as it was: {backup}"), err=True)
    return 0


def _adopted(kind: str, text: str, choice: crontab.Choice) -> crontab.Result:
    if kind == "unit":
        return unit.adopt(text, choice)
    return crontab.adopt(text, choice, system=kind == "system")


def _kind(kind: str, path: str) -> str:
    if kind != "auto":
        return kind
    if path.endswith(_UNITS):
        return "unit"
    return "system" if os.path.abspath(path).startswith(_SYSTEM) else "user"


def _program() -> str:
    """The whole path of guardrun, because cron's PATH and systemd's are short."""
    beside = os.path.join(os.path.dirname(sys.executable), "guardrun")
    for place in (*_USUAL, shutil.which("guardrun"), beside):
        if place and os.access(place, os.X_OK):
            return place
    return _USUAL[0]
