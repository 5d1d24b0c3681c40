"""Everything that can be typed after ``guardrun``, as values: run options and subcommands.

Read from the tables the program itself uses, so the man page and the completions cannot know
other options than the parser does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import click

from guardrun import help, options
from guardrun.cli import SUBCOMMANDS
from guardrun.commands import launch

SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL")
"""What a program may sensibly be stopped with; ``--signal`` takes every other name as well."""

_MORE_WORDS = {"SIG": SIGNALS, "--ledger-url": ("none:",)}
"""Fixed values that a metavar does not spell out."""

FILES, DIRECTORIES = "files", "directories"
_OFFERED = {
    "PATH": FILES,
    "FILE": FILES,
    "DIR": DIRECTORIES,
    "NAME": "jobs",
    "JOB": "jobs",
    "KEY": "keys",
    "LOCK": "locks",
    "RUN": "runs",
}
"""What a shell finds for a metavar: on the disk, or by ``guardrun completion --names``."""

_TAKES_COMMAND = {"each": options.EACH}
"""Subcommands that, as a run does, take run options and then COMMAND; their own options."""
_TAKES_RUN_OPTIONS = "RUN-OPTION"
"""The metavar of an argument that stands for run options."""


class Value(NamedTuple):
    """What follows an option, or is an argument."""

    metavar: str
    words: tuple[str, ...] = ()
    """the fixed values"""
    offers: str = ""
    """``files``, ``directories``, or what ``guardrun completion --names`` takes"""
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
    """all its words"""
    help: str
    switches: tuple[Switch, ...]
    """its own, then those that all have"""
    arguments: tuple[Value, ...] = ()
    children: tuple[Subcommand, ...] = ()
    takes: str = ""
    """``COMMAND`` after run options, or ``options`` of a run after its arguments"""


def run_sections() -> tuple[Section, ...]:
    """The run options that stand on the command line."""
    return _sections(help.on_line)


def file_sections() -> tuple[Section, ...]:
    """The run options that stand in a configuration file, some of them only there."""
    return _sections(lambda option: option.where != options.LINE_ONLY)


def _sections(wanted: Callable[[options.Option], bool]) -> tuple[Section, ...]:
    found = (
        Section(title, tuple(map(_run_switch, filter(wanted, group))))
        for title, group in options.SECTIONS
    )
    return tuple(section for section in found if section.switches)


def run_switches() -> tuple[Switch, ...]:
    """The run options that stand on the command line, without sections."""
    return tuple(switch for section in run_sections() for switch in section.switches)


def subcommands() -> tuple[Subcommand, ...]:
    """The subcommands that this version has."""
    return tuple(_subcommand(name, launch.load(target)) for name, target in SUBCOMMANDS.items())


def with_children(found: Iterable[Subcommand]) -> Iterator[Subcommand]:
    """Subcommands, each followed by what is below it."""
    for sub in found:
        yield sub
        yield from with_children(sub.children)


def common() -> tuple[Switch, ...]:
    """The options that every subcommand has."""
    help_too = Switch(("--help",), None, "Show what the subcommand takes, and exit.")
    return (*map(_click_switch, launch._common()), help_too)


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
    offers = (_OFFERED[part.strip("[]")] for part in parts if part.strip("[]") in _OFFERED)
    return Value(metavar, words, next(offers, ""))


def _subcommand(name: str, command: click.Command) -> Subcommand:
    group = command.commands if isinstance(command, click.Group) else {}
    options = (param for param in command.params if isinstance(param, click.Option))
    switches = tuple(map(_click_switch, options))
    arguments = tuple(
        _argument(param, command) for param in command.params if isinstance(param, click.Argument)
    )
    takes = ""
    if name in _TAKES_COMMAND:
        switches = (*map(_run_switch, _TAKES_COMMAND[name]), *run_switches())
        takes = "COMMAND"
    elif any(_TAKES_RUN_OPTIONS in value.metavar for value in arguments):
        takes = "options"
    known = {switch.names[-1] for switch in switches}
    return Subcommand(
        name,
        command.get_short_help_str(limit=1000),
        (*switches, *(switch for switch in common() if switch.names[-1] not in known)),
        arguments,
        tuple(_subcommand(f"{name} {child}", found) for child, found in group.items()),
        takes,
    )


def _argument(argument: click.Argument, command: click.Command) -> Value:
    return _typed(_value("", argument.make_metavar(click.Context(command))), argument)


def _click_switch(option: click.Option) -> Switch:
    names = tuple(sorted(option.opts, key=len))
    value = None
    if not option.is_flag:
        value = _typed(_value(names[-1], option.metavar or _metavar(option)), option)
    shown = option.default if option.show_default and not option.is_flag else None
    return Switch(
        names, value, option.help or "", "" if shown is None else str(shown), "", option.multiple
    )


def _metavar(option: click.Option) -> str:
    kind = option.type
    if isinstance(kind, click.Choice):
        return "|".join(map(str, kind.choices))
    return "N" if isinstance(kind, click.IntRange) else kind.name.upper()


def _typed(value: Value, param: click.Parameter) -> Value:
    """With the words that are the only ones, where the type says so."""
    if not isinstance(param.type, click.Choice):
        return value
    words = tuple(map(str, param.type.choices))
    return value._replace(words=words, listed=value.words != words)
