"""Crontabs, line by line (crontab(5) of Debian and Fedora): what is not adopted stays as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from guardrun.adopt import prefix, shell
from guardrun.adopt.layers import SETS_SHELL, Context
from guardrun.adopt.words import Unclear

_VARIABLE = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([^\s=#"']+))\s*=\s*(.*?)\s*""")
_FIELD = r"[\w*,/?~-]+"
_WHEN = re.compile(rf"\s*(?:@\w+|{_FIELD}(?:[ \t]+{_FIELD}){{4}})[ \t]+")
_SHELLS = frozenset({"sh", "dash", "ash", "bash", "ksh", "mksh", "zsh"})
_OF_GUARDRUN = re.compile(r"PYTHON\w*|LD_\w+")
_SPLAY = re.compile(r"(?i)\bsleep\b[^;&|]*(rand|\bshuf\b|\bjot\b)")
_LONGEST = 998
"""bytes of a command that Debian's cron takes"""

CHANGED, LEFT, HINT = "changed", "left", "hint"


class Remark(NamedTuple):
    """What is said about one line."""

    line: int
    """from 1"""
    kind: str
    """``changed``, ``left`` or ``hint``"""
    says: str


class Choice(NamedTuple):
    """What whoever adopts has chosen, and what there is to know about the host."""

    program: str
    names: bool
    unreachable: Callable[[str | None], str | None]
    """why a user could not execute guardrun; ``None``, for a user, is our own"""
    stateless: Callable[[str | None], str | None]
    """why a user's state directory could not be made"""


class Result(NamedTuple):
    """A whole file, adopted."""

    text: str
    remarks: tuple[Remark, ...]


def adopt(text: str, choice: Choice, *, system: bool) -> Result:
    """Adopt a crontab; in one of the system's a user stands before the command."""
    variables: dict[str, str] = {}
    remarks: list[Remark] = []
    lines = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            if variable := _VARIABLE.fullmatch(line):
                name = variable[1] or variable[2] or variable[3]
                variables[name] = variable[4].strip("\"'")
            else:
                line, found = _adopt_line(line, choice, variables, system=system)
                remarks += [Remark(number, kind, says) for kind, says in found]
        lines.append(line)
    return Result("\n".join(lines), tuple(remarks))


def _adopt_line(
    line: str, choice: Choice, variables: dict[str, str], *, system: bool
) -> tuple[str, list[tuple[str, str]]]:
    """The line as it is to be, and what is to be said about it."""
    when = (re.compile(_WHEN.pattern + r"\S+[ \t]+") if system else _WHEN).match(line)
    if when is None or not prefix.ABOUT.search(line, when.end()):
        return line, []
    user = when[0].split()[-1] if system else None
    command, stdin = _parted(line[when.end() :])
    try:
        _refuse(line, choice, variables, user)
        text, said = in_shell(command.replace("\\%", "%"), _context(choice, variables))
        text = text.replace("%", "\\%")
        if len(text.encode(errors="surrogateescape")) > _LONGEST:
            raise Unclear(f"it would be longer than the {_LONGEST} bytes that cron takes")
    except Unclear as why:
        return line, [(LEFT, str(why))]
    return line[: when.end()] + text + stdin, said


def _parted(text: str) -> tuple[str, str]:
    r"""The command, and the % after which its stdin stands; ``\%`` is a % of the command's."""
    found = re.match(r"(?:[^\\%]|\\.)*\\?", text, re.S)
    end = found.end() if found else 0
    return text[:end], text[end:]


def _refuse(line: str, choice: Choice, variables: dict[str, str], user: str | None) -> None:
    """Raise Unclear where a whole line is left as it is."""
    if line.endswith("\r"):
        raise Unclear("it ends in a carriage return, which cron takes for a part of the command")
    if variables.get("SHELL", "/bin/sh").rpartition("/")[2] not in _SHELLS:
        raise Unclear(f"SHELL is {variables['SHELL']}, whose words are not known here")
    for name in variables:
        if _OF_GUARDRUN.fullmatch(name):
            raise Unclear(f"{name}, set above it, would be for guardrun as well: set it behind it")
    if problem := choice.unreachable(user):
        raise Unclear(problem)
    problem = None if "GUARDRUN_STATE_DIR" in variables else choice.stateless(user)
    if problem:
        raise Unclear(f"{problem}: set GUARDRUN_STATE_DIR above it")


def _context(choice: Choice, variables: dict[str, str]) -> Context:
    return Context(choice.program, variables.get("SHELL", "/bin/sh"), choice.names)


def in_shell(text: str, context: Context) -> tuple[str, list[tuple[str, str]]]:
    """Adopt every command of a line for sh; and (kind, what to say). Raises Unclear."""
    context = context._replace(code_is_read="$?" in text)
    if SETS_SHELL.search(text):
        context = context._replace(shell=None)
    said: list[tuple[str, str]] = []
    changes: list[prefix.Adopted] = []
    for command in shell.commands(text):
        try:
            found = prefix.adopt(command.words, context)
            if found is None:
                continue
            if any(found.start < at < found.end for at in command.redirections):
                raise Unclear("a redirection stands among its words: put it at the end")
        except Unclear as why:
            said.append((LEFT, str(why)))
            continue
        changes.append(found)
        before = text[found.start : found.end].strip()
        said.append((CHANGED, f"{before} → {found.text.strip()}"))
        said += [(CHANGED, note) for note in found.notes]
    for found in reversed(changes):
        text = text[: found.start] + found.text + text[found.end :]
    return text, said + list(_hints(text, bool(said)))


def _hints(text: str, said: bool) -> Iterator[tuple[str, str]]:
    if said and _SPLAY.search(text):
        hint = "the sleep before it stays; --splay 5m, say, waits without it, the same on one host"
        if "RANDOM" in text:
            hint += " (RANDOM is bash's: in Debian's /bin/sh that sleep is 0)"
        yield HINT, hint
