"""``each`` as help, man page and completions see it: its own options, then those of every run.

It is not parsed by click, which would take longer to import than a pool to begin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from guardrun.commands import launch
from guardrun.help import described, on_line
from guardrun.options import EACH, SECTIONS

if TYPE_CHECKING:
    from guardrun.options import Option

_ALL_HAVE = ("ledger-url", "config", "help", "version")
"""that ``launch`` gives to every subcommand, or that are no options of a run"""


def _option(option: Option) -> click.Option:
    names = [*([f"-{option.short}"] if option.short else []), f"--{option.name}"]
    if option.kind is None:
        return click.Option(names, is_flag=True, help=described(option))
    return click.Option(names, metavar=option.kind.metavar, help=described(option))


each = click.Command(
    "each",
    help="Run COMMAND for every item that stdin names, at most N at a time.",
    params=[
        *map(_option, EACH),
        *(
            _option(option)
            for _, section in SECTIONS
            for option in section
            if on_line(option) and option.name not in _ALL_HAVE
        ),
        click.Argument(["words"], metavar="COMMAND [ARG]...", nargs=-1),
    ],
)


def render() -> str:
    """What ``guardrun each --help`` prints."""
    _, command, _ = launch.find("each", "guardrun.commands.each_help:each", ())
    return command.get_help(click.Context(command, info_name="guardrun each")) + "\n"
