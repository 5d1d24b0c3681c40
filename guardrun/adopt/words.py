"""Words of a command line that know where they stand, and the options among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_PLACES = ("", "/bin", "/usr/bin", "/usr/local/bin", "/sbin", "/usr/sbin", "/command")
"""where programs are what their name says"""


_SEVERAL = re.compile(r"[$`](?!\{?\w+\}?/)")
"""A word that may be none or several, options among them: an expansion without quotes."""


class Unclear(Exception):
    """Why something is left as it is: a clause."""


class Word(NamedTuple):
    """One word of a line."""

    raw: str
    """as it stands there"""
    value: str | None
    """what the program will see; ``None`` where that is not known before the line is executed"""
    start: int
    end: int


class Spec(NamedTuple):
    """How a program reads its options: up to the first word that is none."""

    flags: str = ""
    valued: str = ""
    """letters that take a value, attached or as the next word"""
    long: str = ""
    """``name=letter`` each"""


class Found(NamedTuple):
    """The options of a program."""

    options: tuple[tuple[str, str], ...]
    """(letter, value), in their order"""
    end: int
    """index of the first word that is no option"""

    def letters(self) -> set[str]:
        """The letters that were given."""
        return {letter for letter, _ in self.options}

    def last(self, letter: str) -> str | None:
        """The value that counts: the last one."""
        return next((value for name, value in reversed(self.options) if name == letter), None)


def program(word: Word) -> str:
    """The name of a program that stands in a usual place; else nothing."""
    directory, _, name = (word.value or "").rpartition("/")
    return name if directory in _PLACES else ""


def options(spec: Spec, words: Sequence[Word], at: int) -> Found:
    """Read options from ``words[at]`` on, as getopt_long(3) does with ``+``; raises Unclear."""
    found: list[tuple[str, str]] = []
    while at < len(words):
        word = words[at]
        if word.value is None:
            if word.raw.startswith(("-", '"-', "'-")) or _SEVERAL.match(word.raw):
                raise Unclear(f"what {word.raw} says is known only when it is executed")
            break
        if word.value == "--":
            at += 1
            break
        if not word.value.startswith("-") or word.value == "-":
            break
        at += 1
        letter, value = _long(spec, word.value) if word.value.startswith("--") else ("", None)
        if not letter:
            flags, letter, value = _short(spec, word.value)
            found += [(flag, "") for flag in flags]
        if letter in spec.valued and value is None:
            if at >= len(words) or words[at].value is None:
                raise Unclear(f"the value of {word.value} is known only when it is executed")
            value = words[at].value
            at += 1
        found.append((letter, value or ""))
    return Found(tuple(found), at)


def _long(spec: Spec, word: str) -> tuple[str, str | None]:
    name, equals, value = word[2:].partition("=")
    known = dict(pair.split("=") for pair in spec.long.split())
    # getopt_long(3) takes what is abbreviated, as long as it is clear.
    letters = {known[full] for full in known if full.startswith(name)}
    if len(letters) != 1 or (equals and not letters <= set(spec.valued)):
        raise Unclear(f"{word} is not known here")
    return letters.pop(), value if equals else None


def _short(spec: Spec, word: str) -> tuple[str, str, str | None]:
    if re.fullmatch(r"-\d+", word) and "#" in spec.valued:  # nice -10
        return "", "#", word[1:]
    for at, letter in enumerate(word[1:], start=1):
        if letter in spec.valued:
            return word[1:at], letter, word[at + 1 :] or None
        if letter not in spec.flags:
            raise Unclear(f"-{letter} is not known here")
    return word[1:-1], word[-1], None
