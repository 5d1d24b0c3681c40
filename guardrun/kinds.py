"""What an option's value looks like: a reader for each kind turns text into a value.

A reader raises ``ValueError`` with one clause that quotes the text, says why it is wrong and what
to write instead; who reads puts the option's name before it. URLs are never quoted: they may hold
passwords.
"""

from __future__ import annotations

from guardrun import units
from guardrun.lean import NamedTuple
from guardrun.model import FOREVER
from guardrun.units import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_LONGEST_JOB_NAME = 128
_MOST_SLOTS = 10_000
_MOST_RETRIES = 1_000_000
_MOST_PARALLEL = 1000
_MOST_FAILURES = 999_999_999
_ONE_DAY = 86400.0

_LEASE_SCHEMES = (
    "redis",
    "rediss",
    "redis+sentinel",
    "rediss+sentinel",
    "unix",
    "postgresql",
    "postgresql+advisory",
    "etcd",
    "etcds",
    "consul",
    "consuls",
)
_SECRET_PARAMETERS = ("pass", "secret", "token")


class Kind(NamedTuple):
    """One kind of value."""

    metavar: str
    read: Callable[[str], Any]
    natural: tuple[type, ...] = ()
    """TOML types a configuration file may use for it, beside a string"""


# ---------------------------------------------------------------- text


def text(text: str) -> str:
    """Read text that will be stored and logged: not empty, UTF-8, without NUL."""
    if not text:
        raise ValueError("the value is empty")
    if "\0" in text:
        raise ValueError(f"{shown(text)} contains a NUL byte")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{shown(text)} is not valid UTF-8") from None
    return text


def path(text: str) -> str:
    """Read a path: any bytes the kernel takes."""
    if not text:
        raise ValueError("the path is empty")
    if "\0" in text:
        raise ValueError(f"{shown(text)} contains a NUL byte")
    return text


def template(text: str) -> str:
    """Read a template, unresolved; raises ``ConfigError`` when it is wrong."""
    from guardrun.template import parse

    parse(text)
    return text


def job_name(value: str) -> str:
    """Read a job's name: it becomes a metric label and part of every log line."""
    text(value)
    if not value.isprintable():
        raise ValueError(f"{shown(value)} contains a control character")
    if "://" in value and has_password(value):
        raise ValueError("the name has a URL's password in it, and names are stored and logged")
    if len(value) > _LONGEST_JOB_NAME:
        raise ValueError(f"{shown(value)} is longer than {_LONGEST_JOB_NAME} characters")
    return value


def shell_string(text: str) -> str:
    """Read what ``/bin/sh -c`` will run, byte for byte."""
    if not text.strip():
        raise ValueError("the command is empty")
    if "\0" in text:
        raise ValueError(f"{shown(text)} contains a NUL byte")
    return text


def pattern(value: str) -> str:
    """Read a regular expression."""
    import re

    try:
        re.compile(text(value))
    except re.error as error:
        raise ValueError(f"{shown(value)} is not a regular expression: {error}") from None
    return value


def one_of(*words: str) -> Kind:
    """Make the kind whose values are these words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{shown(text)} is not one of {', '.join(words)}")
        return text

    return Kind("|".join(words), read)


# ---------------------------------------------------------------- numbers and durations


def whole_number(low: int, high: int) -> Kind:
    """Make the kind of whole numbers from ``low`` to ``high``."""

    def read(text: str) -> int:
        # int() would also take '1_000', ' 1' and digits of other scripts.
        if text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high:
            return int(text)
        raise ValueError(f"{shown(text)} is not a whole number from {low} to {high}")

    return Kind("N", read, (int,))


def duration_or_forever(text: str) -> float:
    """Read a duration in seconds; ``forever`` is infinite."""
    return FOREVER if text == "forever" else units.duration(text)


def limit(text: str) -> float:
    """Read a limit in seconds: a duration above zero, or ``forever``.

    Zero is refused: timeout(1) takes it for no limit, others for one that has passed already.
    """
    seconds = duration_or_forever(text)
    if seconds == 0:
        raise ValueError(f"{shown(text)} is no limit at all: write 'forever' where none is meant")
    return seconds


def time_to_live(text: str) -> float:
    """Read the time to live of a lease or claim, in seconds: the stores agree on 10s to 24h."""
    seconds = units.duration(text)
    if not 10 <= seconds <= _ONE_DAY:
        raise ValueError(f"{shown(text)} is outside 10s to 24h")
    return seconds


def keep(text: str) -> float:
    """Read how long finished runs are kept, in seconds; ``forever`` is infinite."""
    seconds = duration_or_forever(text)
    if seconds < _ONE_DAY:
        raise ValueError(f"{shown(text)} is less than a day (1d)")
    return seconds


# ---------------------------------------------------------------- where things go


def log_destination(text: str) -> str:
    """Read where log lines go: ``stdout``, ``stderr``, ``none``, ``fd:N`` or a path."""
    if text.startswith("fd:"):
        number = text[3:]
        if not (number.isascii() and number.isdigit() and len(number) <= 6):
            raise ValueError(f"{shown(text)} is not a descriptor: write fd:3, or ./{text}")
    return path(text)


def _scheme_and_rest(url: str) -> tuple[str, str]:
    scheme, colon, rest = url.partition(":")
    if not colon or not scheme.isascii() or not scheme.replace("+", "").isalnum():
        raise ValueError("the value is not a URL")
    if not url.isprintable() or " " in url:
        raise ValueError(
            "the URL contains a space, a control character or bytes that are not UTF-8"
        )
    return scheme, rest


def ledger_url(url: str) -> str:
    """Read a ledger's URL; that of SQLite comes back as ``sqlite://`` and an absolute path."""
    if url == "none:":
        return url
    if url.startswith("sqlite:"):  # a path may hold spaces, a URL may not
        name = url[len("sqlite:") :]
        if not name.startswith("///") or not name.strip("/"):
            raise ValueError("a SQLite URL needs an absolute path: write sqlite:///PATH")
        return "sqlite:///" + text(name.lstrip("/"))
    scheme, rest = _scheme_and_rest(url)
    if scheme != "postgresql" or not rest.startswith("//"):
        raise ValueError(
            f"a ledger cannot be at {shown(scheme + ':')}; "
            "write postgresql://…, sqlite:///PATH or none:"
        )
    _check_login(rest[2:])
    return url


def _check_login(rest: str) -> None:
    """Refuse a login from which a part would be taken for something else, and be shown."""
    authority, _, path = rest.partition("/")
    login = authority.rpartition("@")[0]
    if "@" in login or "?" in login or "@" in path:
        raise ValueError(
            "the user or password in the URL has an unescaped @, / or ?: "
            "write %40 for @, %2F for /, %3F for ?"
        )


def lease_url(url: str) -> str:
    """Read a lease store's URL."""
    scheme, rest = _scheme_and_rest(url)
    if scheme not in _LEASE_SCHEMES or not rest.startswith("//"):
        raise ValueError(
            f"a lease store cannot be at {shown(scheme + ':')}; "
            f"write one of {', '.join(name + '://' for name in _LEASE_SCHEMES)}"
        )
    host = rest[2:].partition("/")[0].rpartition("@")[2]
    path = rest[2:].partition("?")[0].rpartition("@")[2].partition("/")[2]
    if scheme == "unix":
        if not rest[2:].rpartition("@")[2].startswith("/"):
            raise ValueError("a Redis socket needs an absolute path: write unix:///PATH")
    elif not host and not scheme.startswith("postgresql"):  # libpq has a default
        raise ValueError("the URL names no host")
    elif scheme.endswith("+sentinel") and not path.partition("/")[0]:
        raise ValueError(f"the URL names no service: write {scheme}://HOST:PORT/SERVICE")
    _check_login(rest[2:])
    return url


def ping_url(url: str) -> str:
    """Read the URL of a monitor."""
    scheme, rest = _scheme_and_rest(url)
    if scheme not in ("http", "https") or not rest.startswith("//"):
        raise ValueError(f"a monitor cannot be at {shown(scheme + ':')}; write https://…")
    if not rest[2:].partition("/")[0].partition("?")[0].rpartition("@")[2].strip(":"):
        raise ValueError("the URL names no host")
    _check_login(rest[2:])
    return url


def directory(text: str) -> str:
    """Read an absolute path: a job's own may begin anywhere."""
    if not path(text).startswith("/"):
        raise ValueError(f"{shown(text)} is not an absolute path")
    return text


def has_password(url: str) -> bool:
    """Tell whether a URL holds a secret, in its userinfo or as a parameter.

    When in doubt it does: a password may itself hold an unescaped ``/``, ``?`` or ``@``.
    """
    rest = url.partition("://")[2]
    userinfo, at, _ = rest.rpartition("@")
    token = url.startswith(("consul:", "consuls:"))  # who they are is what they are let in by
    if at and (userinfo if token else userinfo.partition(":")[2]):
        return True
    query = rest.partition("?")[2]
    if not query:
        return False
    if "%" in query:
        from urllib.parse import unquote

        query = unquote(query)
    names = [pair.partition("=")[0].lower() for pair in query.replace(";", "&").split("&")]
    return any(secret in name for name in names for secret in _SECRET_PARAMETERS)


# ---------------------------------------------------------------- the kinds

TEMPLATE = Kind("TEMPLATE", template)
PATH = Kind("PATH", path)
FILE = Kind("FILE", path)
DIRECTORY = Kind("DIR", directory)
JOB = Kind("NAME", job_name)
SHELL_STRING = Kind("STRING", shell_string)
PATTERN = Kind("REGEX", pattern)

DURATION = Kind("DURATION", units.duration, (int, float))
DURATION_OR_FOREVER = Kind("DURATION|forever", duration_or_forever, (int, float))
LIMIT = Kind("DURATION", limit, (int, float))
TIME_TO_LIVE = Kind("DURATION", time_to_live, (int, float))
KEEP = Kind("DURATION", keep, (int, float))
SIZE = Kind("SIZE", units.size, (int,))
INSTANT = Kind("TIME", units.instant, (int,))

EXIT_CODE = whole_number(0, 255)
SLOTS = whole_number(1, _MOST_SLOTS)
RETRIES = whole_number(0, _MOST_RETRIES)
PARALLEL = whole_number(1, _MOST_PARALLEL)
HALT_AFTER = whole_number(1, _MOST_FAILURES)
CODES = Kind("CODES", units.codes, (int, list))
CODE_SET = Kind("CODES", units.code_set, (int, list))
SIGNAL = Kind("SIG", units.signal_number)
BACKOFF = Kind("BASE[..MAX]", units.backoff, (int, float))
BUDGET = Kind("N/DURATION", units.budget)

LOG_DESTINATION = Kind("stdout|stderr|none|fd:N|PATH", log_destination)
LEDGER_URL = Kind("URL", ledger_url)
LEASE_URL = Kind("URL", lease_url)
PING_URL = Kind("URL", ping_url)
