"""The tables of the man page: options, settings of the configuration file, subcommands, as mdoc(7).

The rest of the page is written by hand. A table stands between ``.\\" BEGIN name`` and
``.\\" END name``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator

import surface
from surface import Subcommand, Switch, Value

_MARKED = re.compile(r'(^\.\\" BEGIN (\w+)[^\n]*\n).*?(^\.\\" END \2\n)', re.M | re.S)


def fill(page: str) -> str:
    """Replace what stands between the marks; raises ``KeyError`` for a mark of another name."""
    tables = {
        "options": options,
        "settings": settings,
        "subcommands": subcommands,
    }
    return _MARKED.sub(lambda mark: f"{mark[1]}{_joined(tables[mark[2]]())}{mark[3]}", page)


def options() -> Iterator[str]:
    """The run options, by section."""
    for section in surface.run_sections():
        yield f".Ss {section.title}"
        yield from _list(section.switches)


def settings() -> Iterator[str]:
    """The settings that only a configuration file can make."""
    yield ".Bl -tag -width Ds"
    for switch in surface.file_only():
        assert switch.value is not None
        yield f".It Ic {switch.names[-1][2:]} No = {_value(switch.value)}"
        yield from _described(switch)
    yield ".El"


def subcommands() -> Iterator[str]:
    """The subcommands of this version, and their options."""
    for subcommand in surface.subcommands():
        for words, found in _all(subcommand, ()):
            arguments = "".join(f" Ar {argument}" for argument in found.arguments)
            yield f".Ss guardrun {' '.join(words)}{arguments and ' '}{' '.join(found.arguments)}"
            yield from _sentences(found.help)
            yield from _list(found.switches)


def _all(found: Subcommand, above: tuple[str, ...]) -> Iterator[tuple[list[str], Subcommand]]:
    words = (*above, found.name)
    yield list(words), found
    for child in found.children:
        yield from _all(child, words)


def _list(switches: Iterable[Switch]) -> Iterator[str]:
    yield ".Bl -tag -width Ds"
    for switch in switches:
        names = " , ".join(f"Fl {name[1:]}" for name in switch.names)
        yield f".It {names}{' ' + _value(switch.value) if switch.value else ''}"
        yield from _described(switch)
    yield ".El"


def _described(switch: Switch) -> Iterator[str]:
    yield from _sentences(switch.help)
    if switch.value and switch.value.listed:
        yield from _sentences(f"One of {', '.join(switch.value.words)}.")
    if switch.default:
        yield f"Default: {_escaped(switch.default)}."
    if switch.environment:
        yield "Else from"
        yield f".Ev {switch.environment} ."


def _value(value: Value) -> str:
    """``host|distributed`` as literal words, ``DURATION`` as an argument's name."""
    parts = [
        f"{'Cm' if part.islower() else 'Ar'} {_escaped(part)}" for part in value.metavar.split("|")
    ]
    return r" Ns | Ns ".join(parts)


def _sentences(text: str) -> Iterator[str]:
    """Each sentence on lines of its own, as mdoc wants it."""
    for sentence in re.split(r"(?<=[.]) +(?=[A-Z])", text):
        for line in textwrap.wrap(_escaped(sentence), 80, break_on_hyphens=False):
            yield rf"\&{line}" if line.startswith((".", "'")) else line


def _escaped(text: str) -> str:
    text = text.replace("\\", r"\e")
    text = re.sub(r"(?<![\w-])(-+)(?=\w)", lambda dashes: dashes[0].replace("-", r"\-"), text)
    return "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
