r"""What the man pages say about the command line: synopses, options, settings, as mdoc(7).

The rest of a page is written by hand, in the page itself. What is made stands between
``.\" BEGIN table word...`` and ``.\" END table``; the words are subcommands.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator

import surface
from surface import Subcommand, Switch, Value

_MARKED = re.compile(r'(^\.\\" BEGIN (\w+) ?([^\n]*)\n).*?(^\.\\" END \2\n)', re.M | re.S)


def fill(page: str, pages: Iterable[str]) -> str:
    """Replace what stands between the marks; ``pages`` are the texts of all pages of section 1.

    Raises ``KeyError`` for a mark of another name, ``SystemExit`` for a subcommand that no page
    tells of. What is not in this version yet may have a page: nothing is put into it.
    """
    found = {sub.name: sub for sub in surface.subcommands()}

    def of(words: str) -> list[Subcommand]:
        return [found[word] for word in words.split() if word in found]

    tables: dict[str, Callable[[str], Iterator[str]]] = {
        "options": lambda _: _options(),
        "settings": lambda _: _settings(),
        "index": lambda _: _index(found.values(), told_in(pages)),
        "synopsis": lambda words: _synopsis(of(words)),
        "subcommands": lambda words: _subcommands(of(words)),
    }

    def made(mark: re.Match[str]) -> str:
        return f"{mark[1]}{_joined(tables[mark[2]](mark[3]))}{mark[4]}"

    return _MARKED.sub(made, page)


def told_in(pages: Iterable[str]) -> dict[str, str]:
    """By subcommand the page that tells of it, without its section."""
    return {
        word: re.findall(r"^\.Dt (\S+)", page, re.M)[0].lower()
        for page in pages
        for _, table, words, _ in _MARKED.findall(page)
        if table == "subcommands"
        for word in words.split()
    }


def aliases(pages: Iterable[str]) -> dict[str, str]:
    """By file name the pages that lead to another, for ``man guardrun-unlock`` and the like."""
    found = {sub.name for sub in surface.subcommands()}
    return {
        f"guardrun-{name}.1": f".so man1/{page}.1\n"
        for name, page in told_in(pages).items()
        if name in found and page != f"guardrun-{name}"
    }


def _options() -> Iterator[str]:
    """The run options, by section."""
    for section in surface.run_sections():
        yield f".Ss {section.title}"
        yield from _list(section.switches)


def _settings() -> Iterator[str]:
    """The keys of the configuration file, by section."""
    for section in surface.file_sections():
        yield f".Ss {section.title}"
        yield ".Bl -tag -width Ds"
        for switch in section.switches:
            key = switch.names[-1].lstrip("-").replace("-", "_")
            value = "Cm true Ns | Ns Cm false" if switch.value is None else _value(switch.value)
            several = " , ..." if switch.repeatable else ""
            before, after = ("Op ", several) if switch.repeatable else ("", "")
            yield f".It Ic {key} No = {before}{value}{after}"
            yield from _described(switch, _BEFORE_FILE)
        yield ".El"


def _index(found: Iterable[Subcommand], pages: dict[str, str]) -> Iterator[str]:
    """Each subcommand in a sentence, and its page."""
    yield ".Bl -tag -width completion"
    for sub in found:
        yield f".It Cm {sub.name}"
        yield from _sentences(sub.help)
        if sub.name not in pages:
            raise SystemExit(f'no page below man/man1 has .\\" BEGIN subcommands {sub.name}')
        yield "See"
        yield f".Xr {pages[sub.name]} 1 ."
    yield ".El"


def _synopsis(found: Iterable[Subcommand]) -> Iterator[str]:
    for sub in surface.with_children(found):
        yield f".Nm guardrun {sub.name}"
        run = surface.run_switches() if sub.takes == "COMMAND" else ()
        for switch in sub.switches:
            if switch not in run and switch.names != ("--help",):
                value = f" {_value(switch.value)}" if switch.value else ""
                yield f".Op Fl {switch.names[0][1:]}{value}"
        if sub.takes == "COMMAND":
            yield from (".Op Ar run-option ...", ".Op Fl -", ".Ar COMMAND", ".Op Ar argument ...")
            continue
        yield from map(_argument, sub.arguments)


def _argument(value: Value) -> str:
    name = value.metavar.strip("[].").lower() if value.metavar[0] == "[" else value.metavar
    several = " ..." if value.metavar.endswith("...") else ""
    return f".{'Op ' if value.metavar[0] == '[' else ''}Ar {name}{several}"


def _subcommands(found: Iterable[Subcommand]) -> Iterator[str]:
    """The subcommands, and their own options; what all have comes last, once."""
    common = surface.common()
    found = tuple(surface.with_children(found))
    for sub in found:
        arguments = "".join(f" {value.metavar}" for value in sub.arguments)
        yield f".Ss guardrun {sub.name}{'' if sub.takes == 'COMMAND' else arguments}"
        yield from _sentences(sub.help)
        inherited = (*common, *(surface.run_switches() if sub.takes == "COMMAND" else ()))
        own = [switch for switch in sub.switches if switch not in inherited]
        if own:
            yield from _list(own)
    if any(sub.takes != "COMMAND" for sub in found):
        yield ".Ss Options of every subcommand"
        yield from _list(common)


def _list(switches: Iterable[Switch]) -> Iterator[str]:
    yield ".Bl -tag -width Ds"
    for switch in switches:
        names = " , ".join(f"Fl {name[1:]}" for name in switch.names)
        yield f".It {names}{' ' + _value(switch.value) if switch.value else ''}"
        yield from _described(switch)
    yield ".El"


_AFTER_LINE = ("Else from", ".Ev {} .")
_BEFORE_FILE = (".Ev {}", "counts before it.")


def _described(switch: Switch, variable: tuple[str, str] = _AFTER_LINE) -> Iterator[str]:
    yield from _sentences(switch.help)
    if switch.value and switch.value.listed:
        yield from _sentences(f"One of {', '.join(switch.value.words)}.")
    if switch.default:
        yield f"Default: {_escaped(switch.default)}."
    if switch.environment:
        yield from (line.format(switch.environment) for line in variable)


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
