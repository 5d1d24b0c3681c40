"""Everything that can be typed after ``guardrun``, as values: run options and subcommands.

Read from the tables the program itself uses, so the man page and the completions cannot know
other options than the parser does.
"""

from __future__ import annotations

from typing import NamedTuple

import click

from guardrun import help, options
from guardrun.cli import SUBCOMMANDS
from guardrun.commands import launch

SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL")
"""What a program may sensibly be stopped with; ``--signal`` takes every other name as well."""

_MORE_WORDS = {"SIG": SIGNALS, "--ledger-url": ("none:",)}
"""Fixed values that a metavar does not spell out."""


class Value(NamedTuple):
    """What follows an option."""

    metavar: str
    words: tuple[str, ...] = ()
    """the fixed values"""
    file: bool = False
    listed: bool = False
    """``words`` are all there is, and the metavar does not show them"""


class Switch(NamedTuple):
    """One option."""

    names: tuple[str, ...]
    """short ones first, dashes included"""
    value: Value | None
    help: str
    default: str = ""
    environment: str = ""
    repeatable: bool = False


class Section(NamedTuple):
    """Options that belong together."""

    title: str
    switches: tuple[Switch, ...]


class Subcommand(NamedTuple):
    """One subcommand; ``children`` are those below it, such as ``keys show``."""

    name: str
    help: str
    switches: tuple[Switch, ...]
    arguments: tuple[str, ...] = ()
    children: tuple[Subcommand, ...] = ()


def run_sections() -> tuple[Section, ...]:
    """The run options that stand on the command line."""
    return tuple(
        Section(title, tuple(_run_switch(option) for option in group if help.on_line(option)))
        for title, group in options.SECTIONS
    )


def run_switches() -> tuple[Switch, ...]:
    """The same, without sections."""
    return tuple(switch for section in run_sections() for switch in section.switches)


def file_only() -> tuple[Switch, ...]:
    """The settings that stand in a configuration file only."""
    return tuple(
        _run_switch(option) for option in options.OPTIONS.values() if not help.on_line(option)
    )


def subcommands() -> tuple[Subcommand, ...]:
    """The subcommands that this version has."""
    return tuple(
        _subcommand(name, launch.load(target)) for name, target in SUBCOMMANDS.items() if target
    )


# ---------------------------------------------------------------- from the tables


def _run_switch(option: options.Option) -> Switch:
    long = f"--{option.name}"
    return Switch(
        (f"-{option.short}", long) if option.short else (long,),
        _value(long, option.kind.metavar) if option.kind else None,
        help.HELP[option.name],
        option.default,
        option.environment,
        option.repeatable,
    )


def _value(name: str, metavar: str) -> Value:
    parts = metavar.split("|")
    words = (
        *(part for part in parts if part.islower()),
        *_MORE_WORDS.get(metavar, ()),
        *_MORE_WORDS.get(name, ()),
    )
    return Value(metavar, words, "PATH" in parts or "FILE" in parts)


def _subcommand(name: str, command: click.Command) -> Subcommand:
    group = command.commands if isinstance(command, click.Group) else {}
    params = [*command.params, *launch._common()]
    return Subcommand(
        name,
        command.get_short_help_str(limit=1000),
        (
            *(_click_switch(param) for param in params if isinstance(param, click.Option)),
            Switch(("--help",), None, "Show what the subcommand takes, and exit."),
        ),
        tuple(
            param.make_metavar(click.Context(command))
            for param in params
            if isinstance(param, click.Argument)
        ),
        tuple(_subcommand(child, found) for child, found in group.items()),
    )


def _click_switch(option: click.Option) -> Switch:
    names = tuple(sorted(option.opts, key=len))
    value = None
    if not option.is_flag:
        kind = option.type
        metavar = option.metavar or ("N" if isinstance(kind, click.IntRange) else kind.name.upper())
        value = _value(names[-1], metavar)
        if isinstance(kind, click.Choice):
            value = value._replace(words=tuple(map(str, kind.choices)), listed=True)
    shown = option.default if option.show_default and not option.is_flag else None
    return Switch(
        names, value, option.help or "", "" if shown is None else str(shown), "", option.multiple
    )
