"""Templates for locks and keys: ``{date:%Y-%m-%d}-{host}``, resolved once per run.

Two steps: ``parse`` finds every mistake that is in the text alone, ``resolve`` puts values in.
Values come through a ``Lookup``, so that a template sees one clock and one environment. There
are no expressions, no defaults and no empty strings: a key that lost a part of itself would be
shared by runs that have nothing to do with each other.
"""

from __future__ import annotations

import os

from guardrun import units
from guardrun.digest import sha256
from guardrun.errors import ConfigError
from guardrun.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LONGEST = 1024
"""What a template resolves to has at most this many characters."""

_KNOWN = (
    "{job}, {host}, {user}, {env.NAME}, {arg.N}, {argv.sha256}, {date}, {window:15m},"
    " {file.sha256:PATH}, {stdin.sha256}, {stdin.json:a.b}, {item}"
)
_PLAIN = frozenset({"job", "host", "user", "argv.sha256", "date", "stdin.sha256", "item"})
# Presets need no %, which crontab eats.
_PRESETS = {"iso": "%Y-%m-%d", "hour": "%Y-%m-%dT%H", "month": "%Y-%m"}
# What strftime(3) and datetime know: directives that depend on the time, and others.
_TELLING = frozenset("aAbBcCdDeFfgGhHIjklmMpPrRsSTuUVwWxXyY")
_CONSTANT = frozenset("ntzZ")


class Variable(NamedTuple):
    """One ``{…}`` of a template, understood."""

    source: str
    """as it stands in the template, braces included"""
    name: str
    argument: str = ""
    zone: str = ""


Part = str | Variable


class Item(NamedTuple):
    """What one run of ``guardrun each`` is about."""

    text: str
    fields: Mapping[str, object] | None = None
    """the object, with ``--jsonl``"""


class Lookup(NamedTuple):
    """Where the values of variables come from."""

    job: str
    host: str
    user: str
    env: Mapping[str, str]
    argv: tuple[str, ...]
    """COMMAND's words"""
    now: float
    """seconds since 1970; of ``--enqueued-at`` where that is given"""
    file_sha256: Callable[[str], str]
    """from a path to the hexadecimal hash of the file's bytes; raises OSError"""
    stdin: bytes | None = None
    """``None``: there is none to be had"""
    item: Item | None = None


def parse(text: str) -> tuple[Part, ...]:
    """Split a template into literal text and variables.

    Raises ConfigError for unbalanced braces, unknown variables and malformed arguments.
    """
    if not text:
        raise ConfigError("a template is empty: write a name, such as {job}")
    unfit = _unfit(text)
    if unfit:
        raise ConfigError(f"template {units.shown(text)} {unfit}: take it out")
    parts: list[Part] = []
    literal = ""
    at = 0
    while at < len(text):
        if text.startswith(("{{", "}}"), at):
            literal += text[at]
            at += 2
        elif text[at] not in "{}":
            start = at
            while at < len(text) and text[at] not in "{}":
                at += 1
            literal += text[start:at]
        else:
            end = text.find("}", at)
            source = text[at : end + 1]
            if text[at] == "}" or end < 0 or "{" in source[1:]:
                raise _mistake(
                    text,
                    f"a {text[at]} without its partner at character {at + 1}"
                    " (a literal brace is written {{ or }})",
                )
            if literal:
                parts.append(literal)
                literal = ""
            parts.append(_variable(text, source))
            at = end + 1
    if literal:
        parts.append(literal)
    return tuple(parts)


def needs_stdin(text: str) -> bool:
    """Say whether resolving the template takes the bytes of stdin; raises ConfigError."""
    return any(not isinstance(part, str) and part.name.startswith("stdin.") for part in parse(text))


def names_item(text: str) -> bool:
    """Say whether the template is another one for every item of a pool; raises ConfigError."""
    return any(not isinstance(part, str) and part.name == "item" for part in parse(text))


def resolve(text: str, lookup: Lookup) -> str:
    """Put values in; the result is non-empty, printable in UTF-8, and one line.

    Raises ConfigError for mistakes in the template, for variables that have no value, an empty
    one, or one with control characters, and for more than ``LONGEST`` characters.
    """
    words = []
    for part in parse(text):
        if isinstance(part, str):
            words.append(part)
            continue
        try:
            value = _value(part, lookup)
        except ValueError as error:
            raise _mistake(text, f"{part.source} {error}") from None
        if not value:
            raise _mistake(
                text, f"{part.source} is empty: give it a value or take it out of the template"
            )
        unfit = _unfit(value)
        if unfit:
            raise _mistake(
                text, f"{part.source} {unfit} in its value: use a hash such as {{argv.sha256}}"
            )
        words.append(value)
    resolved = "".join(words)
    if len(resolved) > LONGEST:
        raise _mistake(
            text,
            f"it resolves to {len(resolved)} characters, at most {LONGEST} are possible:"
            " use a hash such as {argv.sha256}",
        )
    return resolved


def load_json(data: bytes | str) -> object:
    """Read JSON with its numbers as written, as strings: 1.10 stays 1.10, and no digit is lost.

    Raises ValueError with a clause.
    """
    import json

    def refuse(word: str) -> object:
        raise ValueError(word)

    try:
        value: object = json.loads(data, parse_int=str, parse_float=str, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise ValueError("needs JSON, which this is not: mend the input") from None
    return value


def pick(value: object, path: str) -> str:
    """Follow a path of keys and list indexes, ``a.b.0``, to a string, number or boolean.

    Strings are given as they are, the others as JSON text. Raises ValueError with a clause.
    """
    seen = ""
    for step in path.split("."):
        where = f"in {units.shown(seen)}" if seen else "at the top"
        if isinstance(value, dict):
            if step not in value:
                raise ValueError(f"does not exist: there is no {units.shown(step)} {where}")
            value = value[step]
        elif isinstance(value, list):
            if not (step.isascii() and step.isdigit() and len(step) < 10):
                raise ValueError(
                    f"does not exist: there is a list {where}, and {units.shown(step)} is no index"
                )
            if int(step) >= len(value):
                raise ValueError(f"does not exist: the list {where} has {len(value)} entries")
            value = value[int(step)]
        else:
            raise ValueError(f"does not exist: there is neither an object nor a list {where}")
        seen = f"{seen}.{step}" if seen else step
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    kind = "null" if value is None else "a list" if isinstance(value, list) else "an object"
    raise ValueError(f"is {kind}: name a string, number or boolean")


def _mistake(template: str, why: str) -> ConfigError:
    return ConfigError(f"template {units.shown(template)}: {why}")


def _unfit(text: str) -> str | None:
    """What keeps ``text`` from being stored, logged and shown on one line, as a clause."""
    if text.isprintable():
        return None
    for char in text:
        if char < " " or "\x7f" <= char <= "\x9f":
            return f"has a control character (U+{ord(char):04X})"
        if "\ud800" <= char <= "\udfff":
            return "has bytes that are not UTF-8"
    return None


def _variable(template: str, source: str) -> Variable:
    inner = source[1:-1]
    head, colon, argument = inner.partition(":")
    if inner in _PLAIN:
        return Variable(source, inner)
    if colon and not argument:
        raise _mistake(template, f"{source} has nothing after the colon")
    if inner.startswith("env."):
        if inner == "env." or "=" in inner:
            raise _mistake(template, f"{source} has no name of a variable (write {{env.NAME}})")
        return Variable(source, "env", inner[4:])
    if inner.startswith("arg."):
        number = inner[4:]
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise _mistake(template, f"{source} has no number of a word (write {{arg.1}})")
        return Variable(source, "arg", number)
    if inner.startswith("item."):
        _check_path(template, source, inner[5:])
        return Variable(source, "item", inner[5:])
    if head == "stdin.json" and colon:
        _check_path(template, source, argument)
        return Variable(source, head, argument)
    if head == "file.sha256" and colon:
        return Variable(source, head, argument)
    if head == "window" and colon:
        _check_window(template, source, argument)
        return Variable(source, head, argument)
    if head == "date" or head.startswith("date@"):
        zone = head[5:]
        if head == "date@":
            raise _mistake(template, f"{source} has no zone (write {{date@Europe/Berlin}})")
        if argument and argument not in _PRESETS:
            _check_format(template, source, argument)
        return Variable(source, "date", argument, zone)
    raise _mistake(
        template,
        f"{source} is not a variable (there are {_KNOWN}; a literal brace is written {{{{ or }}}})",
    )


def _check_path(template: str, source: str, path: str) -> None:
    if not all(path.split(".")):
        raise _mistake(template, f"{source} has an empty step in its path (write a.b.0)")


def _check_format(template: str, source: str, text: str) -> None:
    """See that strftime(3) knows each directive, and that one of them depends on the time.

    It leaves what it does not know as it stands: such a key would succeed once and for all.
    """
    letters = []
    for rest in text.replace("%%", "").split("%")[1:]:
        letter = rest.lstrip("-_0^#123456789EO:")[:1]
        if letter not in _TELLING | _CONSTANT:
            raise _mistake(template, f"{source} has a %{letter}, which is nothing to strftime")
        letters.append(letter)
    if not _TELLING.intersection(letters):
        raise _mistake(
            template,
            f"{source} would always be the same (write iso, hour, month,"
            " or a format with % such as %Y-%m-%d)",
        )


def _check_window(template: str, source: str, text: str) -> None:
    try:
        seconds = units.duration(text)
    except ValueError as error:
        raise _mistake(template, f"{source} has no window: {error}") from None
    if seconds < 60 or seconds % 60:
        raise _mistake(template, f"{source} is not a whole number of minutes (write 15m or 1d)")


def _value(variable: Variable, lookup: Lookup) -> str:
    """The variable's value; raises ValueError with a clause."""
    match variable.name:
        case "job":
            return lookup.job
        case "host":
            return lookup.host
        case "user":
            return lookup.user
        case "env":
            if variable.argument not in lookup.env:
                raise ValueError(
                    "is not set: set it in the environment or take it out of the template"
                )
            return lookup.env[variable.argument]
        case "arg":
            number = int(variable.argument)
            if number >= len(lookup.argv):
                raise ValueError(
                    f"does not exist: COMMAND's last word is {{arg.{len(lookup.argv) - 1}}}"
                )
            return lookup.argv[number]
        case "argv.sha256":
            # No word can hold a NUL, so no two COMMAND lines join to the same bytes.
            return _sha256(b"\0".join(os.fsencode(word) for word in lookup.argv))
        case "date":
            return _date(lookup.now, variable.argument or "iso", variable.zone)
        case "window":
            return _window(lookup.now, int(units.duration(variable.argument)))
        case "file.sha256":
            try:
                return lookup.file_sha256(variable.argument)
            except OSError as error:
                raise ValueError(
                    f"cannot be read ({error.strerror or error}): put the file there,"
                    " or correct the path"
                ) from None
        case "item":
            return _item(lookup.item, variable.argument)
    if lookup.stdin is None:
        raise ValueError("needs stdin, and there is none to read here: take it out of the template")
    if variable.name == "stdin.sha256":
        return _sha256(lookup.stdin)
    return pick(load_json(lookup.stdin), variable.argument)


def _item(item: Item | None, path: str) -> str:
    if item is None:
        raise ValueError(
            "belongs to `guardrun each`: there are no items here, take it out of the template"
        )
    if not path:
        return item.text
    if item.fields is None:
        raise ValueError("needs items that are objects: give them as --jsonl")
    return pick(item.fields, path)


def _sha256(data: bytes) -> str:
    return sha256(data).hexdigest()


def _date(now: float, pattern: str, zone: str) -> str:
    import datetime

    where: datetime.tzinfo = datetime.UTC
    if zone:
        import zoneinfo

        try:
            where = zoneinfo.ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise ValueError(
                "is in an unknown time zone: write one such as Europe/Berlin,"
                " and see that the system's tzdata is installed"
            ) from None
    moment = datetime.datetime.fromtimestamp(now, where)
    # strftime(3) reads the format in the locale's encoding, ASCII in many a container or
    # crontab: what is not ASCII goes around it.
    written, run = "", ""
    for char in _PRESETS.get(pattern, pattern):
        if char.isascii():
            run += char
        else:
            written += moment.strftime(run) + char
            run = ""
    return written + moment.strftime(run)


def _window(now: float, length: int) -> str:
    import datetime

    start = int(now // length) * length
    return datetime.datetime.fromtimestamp(start, datetime.UTC).strftime("%Y-%m-%dT%H:%MZ")
