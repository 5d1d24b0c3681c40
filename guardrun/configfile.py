"""The configuration file: found, parsed, and checked as a whole.

A mistake in the table of one job stops every job of the file: it is found the day it is made, not
in the night that job is due.
"""

from __future__ import annotations

from guardrun.errors import ConfigError
from guardrun.lean import NamedTuple
from guardrun.options import LINE_ONLY, OPTIONS
from guardrun.units import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from guardrun.options import Option

_LARGEST = 1 << 20
_KEYS = {name.replace("-", "_"): option for name, option in OPTIONS.items()}


class Entry(NamedTuple):
    """One key of one table."""

    option: Option
    value: str | bool | tuple[str, ...]
    """text as on the command line; a flag's boolean; the texts of a repeatable option"""
    origin: str


class File(NamedTuple):
    """What the file says."""

    path: str
    defaults: tuple[Entry, ...]
    jobs: Mapping[str, tuple[Entry, ...]]


def load(path: str) -> File:
    """Read and check a configuration file.

    Raises ``ConfigError`` for a file that is not there or cannot be read, and for anything in it
    that is not as the contract has it.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration file {shown(path, 200)}: {error.strerror}"
        ) from None
    if len(data) > _LARGEST:
        raise ConfigError(f"{shown(path, 200)} is larger than 1 MiB: not a configuration file")
    return _parse(path, data)


def _parse(path: str, data: bytes) -> File:
    import tomllib

    try:
        tables = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: not UTF-8 (at line {line})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not TOML we can read: nested too deeply") from None
    for name in tables:
        if name not in ("defaults", "jobs"):
            where = "; write it under [defaults] or [jobs.NAME]" if name in _KEYS else ""
            raise ConfigError(
                f"{path}: {shown(name)} is not a table of this file: "
                f"those are [defaults] and [jobs.NAME]{where}"
            )
    jobs = _table(path, "jobs", tables.get("jobs", {}))
    return File(
        path,
        _entries(path, "defaults", tables.get("defaults", {})),
        {name: _entries(path, f"jobs.{name}", table) for name, table in jobs.items()},
    )


def _table(path: str, name: str, table: object) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {name} is not a table: write [{name}]")
    return table


def _entries(path: str, name: str, table: object) -> tuple[Entry, ...]:
    entries = []
    for key, value in _table(path, name, table).items():
        origin = f"{key} in [{name}] of {path}"
        option = _KEYS.get(key)
        if option is None:
            raise ConfigError(f"{origin}: no such key{_did_you_mean(key)}")
        if option.where == LINE_ONLY:
            raise ConfigError(f"{origin}: only the command line can say that")
        if option.name == "job" and name != "defaults":
            raise ConfigError(f"{origin}: a table is chosen by the job's name, it cannot change it")
        entries.append(Entry(option, _value(option, value, origin), origin))
    return tuple(entries)


def _value(option: Option, value: object, origin: str) -> str | bool | tuple[str, ...]:
    if option.kind is None:
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{origin}: {_shown(value)} is not true or false")
    if option.repeatable:
        items = value if isinstance(value, list) else [value]
        return tuple(_text(option, item, origin) for item in items)
    if isinstance(value, list) and list in option.kind.natural:
        return ",".join(_text(option, item, origin) for item in value)
    return _text(option, value, origin)


def _text(option: Option, value: object, origin: str) -> str:
    """Write a TOML value the way it stands on a command line."""
    assert option.kind is not None
    if isinstance(value, str):
        return value
    # In Python a boolean is an integer; in TOML it is not.
    if isinstance(value, int) and not isinstance(value, bool) and int in option.kind.natural:
        return str(value)
    if isinstance(value, float) and float in option.kind.natural:
        return f"{value!r}s"
    natural = option.kind.natural
    numbers = " or a number" if float in natural else " or a whole number" if int in natural else ""
    raise ConfigError(f"{origin}: {_shown(value)} is not a string{numbers} ({option.kind.metavar})")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    names = {
        dict: "a table",
        list: "an array",
        str: "a string",
        int: "a number",
        float: "a fraction",
    }
    return names.get(type(value), "a date or time")


def _did_you_mean(key: str) -> str:
    from difflib import get_close_matches

    known = [name for name, option in _KEYS.items() if option.where != LINE_ONLY]
    close = get_close_matches(key.replace("-", "_"), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
