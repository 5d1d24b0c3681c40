"""A line for sh, taken apart without changing a byte of it.

Only as much of the shell's grammar as it takes to tell which words are one command's. What is not
understood raises ``Unclear``: the line is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from guardrun.adopt.words import Unclear, Word

_REDIRECTION = re.compile(r"\d*(?:<<<|<<-|<<|>>|<&|>&|<>|>\||<|>)|&>>|&>")
_SEPARATOR = re.compile(r"&&|\|\||;;|\|&|[|&;()\n]")
_BEFORE_A_COMMAND = frozenset({"!", "{", "if", "then", "else", "elif", "while", "until", "do"})
_AFTER_COMMANDS = frozenset({"}", "fi", "done"})
_COMPOUND = frozenset({"for", "case", "select", "function", "[[", "coproc", "time", "esac"})
_ENDS_A_WORD = " \t\n|&;()<>"


class Token(NamedTuple):
    """A word, or an operator."""

    word: Word
    kind: str
    """``word``, ``redirection`` or ``separator``"""


class Command(NamedTuple):
    """A simple command: its words, assignments included, redirections not."""

    words: tuple[Word, ...]
    redirections: tuple[int, ...]
    """where they begin"""


def commands(text: str) -> Iterator[Command]:
    """The simple commands of a line, in order; raises Unclear."""
    words: list[Word] = []
    redirections: list[int] = []
    target = False
    for word, kind in [*tokens(text), Token(Word(";", None, len(text), len(text)), "separator")]:
        if kind == "separator":
            if word.raw == "(" and words:
                raise Unclear("it defines a function")
            if words:
                yield Command(tuple(words), tuple(redirections))
            words, redirections, target = [], [], False
        elif kind == "redirection":
            if "<<" in word.raw:
                raise Unclear("it has a here-document")
            redirections.append(word.start)
            target = True
        elif target:
            target = False
        elif not words and word.raw in _COMPOUND:
            raise Unclear(f"it has a compound command ({word.raw})")
        elif words or word.raw not in _BEFORE_A_COMMAND | _AFTER_COMMANDS:
            words.append(word)


def leaves_something(text: str) -> bool:
    """Whether a command string leaves something running in the background, or may do so."""
    try:
        found = tokens(text)
    except Unclear:
        return True
    return any(
        (kind == "separator" and word.raw == "&")
        or (word.value or "").rpartition("/")[2] in DETACHING
        for word, kind in found
    )


DETACHING = frozenset({"setsid", "daemonize", "daemon", "start-stop-daemon", "disown", "coproc"})
"""programs that leave another one running"""


def is_assignment(word: Word) -> bool:
    """Whether a word before a command sets a variable."""
    return re.match(r"[A-Za-z_]\w*\+?=", word.raw) is not None


def tokens(text: str) -> list[Token]:
    """Words and operators; raises Unclear."""
    found = []
    at = 0
    while at < len(text):
        if text[at] in " \t":
            at += 1
        elif text.startswith("\\\n", at):
            at += 2
        elif text[at] == "#":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        elif (match := _REDIRECTION.match(text, at)) or (match := _SEPARATOR.match(text, at)):
            kind = "redirection" if match.re is _REDIRECTION else "separator"
            if kind == "redirection" and text.startswith("(", match.end()):
                raise Unclear("it has a process substitution")
            found.append(Token(Word(match[0], None, at, match.end()), kind))
            at = match.end()
        else:
            word = _word(text, at)
            found.append(Token(word, "word"))
            at = word.end
    return found


def _word(text: str, start: int) -> Word:
    at, value, known = start, "", not text.startswith("~", start)
    while at < len(text) and text[at] not in _ENDS_A_WORD:
        char = text[at]
        if char == "'":
            end = _find(text, "'", at + 1)
            value += text[at + 1 : end]
            at = end + 1
        elif char == '"':
            at, inside = _double_quoted(text, at + 1)
            known = known and inside is not None
            value += inside or ""
        elif char == "\\":
            value += text[at + 1 : at + 2]
            at += 2
        elif char in "$`":
            at, expands = _expansion(text, at)
            known = known and not expands
            value += "" if expands else char
        else:
            known = known and char not in "*?["
            value += char
            at += 1
    raw = text[start:at]
    if at > len(text) or "\\\n" in raw:
        raise Unclear("it ends in the middle of a word")
    if re.search(r"\{.*(,|\.\.).*\}", raw):  # bash makes several words of it
        known = False
    return Word(raw, value if known else None, start, at)


def _double_quoted(text: str, at: int) -> tuple[int, str | None]:
    """(index after the closing quote, what is inside or None where it is expanded)."""
    value, known = "", True
    while at < len(text):
        char = text[at]
        if char == '"':
            return at + 1, value if known else None
        if char in "$`":
            at, expands = _expansion(text, at)
            known = known and not expands
            value += "" if expands else char
            continue
        if char == "\\" and text[at + 1 : at + 2] in '"\\$`':
            at += 1
            char = text[at : at + 1]
        value += char
        at += 1
    raise Unclear("a quote is not closed")


def _expansion(text: str, at: int) -> tuple[int, bool]:
    """(index after what begins with $ or `, whether it is an expansion at all)."""
    if text[at] == "`":
        end = at + 1
        while text[end : end + 1] != "`":
            if end >= len(text):
                raise Unclear("a ` is not closed")
            end += 2 if text[end] == "\\" else 1
        return end + 1, True
    following = text[at + 1 : at + 2]
    if following and following in "({":
        return _closed(text, at + 1, following), True
    if following and following in "'\"":
        raise Unclear(f"it has a ${following}…{following}")
    name = re.compile(r"\w+|[@*#?$!-]").match(text, at + 1)
    return (name.end(), True) if name else (at + 1, False)


def _closed(text: str, at: int, opening: str) -> int:
    """The index after the bracket that closes the one at ``at``."""
    closing = {"(": ")", "{": "}"}[opening]
    depth = 0
    while at < len(text):
        char = text[at]
        if char == "'":
            at = _find(text, "'", at + 1)
        elif char == '"':
            at = _double_quoted(text, at + 1)[0] - 1
        elif char == "`":
            at = _expansion(text, at)[0] - 1
        elif char == "\\":
            at += 1
        elif char == opening:
            depth += 1
        elif char == closing:
            depth -= 1
            if not depth:
                return at + 1
        at += 1
    raise Unclear(f"a {opening} is not closed")


def _find(text: str, char: str, at: int) -> int:
    end = text.find(char, at)
    if end < 0:
        raise Unclear("a quote is not closed")
    return end
