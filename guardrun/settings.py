"""Flag > environment > credential > ``[jobs.NAME]`` > ``[defaults]``: one set of settings.

Every place is read into the same settings, each with its origin, so that one set of rules holds
for all of them and a message can name the places that disagree. A higher place replaces a setting
of a lower one as a whole, lists too.
"""

from __future__ import annotations

import os

from guardrun import jobname, paths
from guardrun.errors import ConfigError, UsageError
from guardrun.kinds import LEASE_URL, LEDGER_URL, PING_URL, has_password
from guardrun.lean import NamedTuple
from guardrun.options import OPTIONS, Given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from guardrun.configfile import Entry, File
    from guardrun.options import Option

    Settings = dict[str, "Setting"]

LINE = "line"
ENVIRONMENT = "environment"
FILE = "file"

_LONGEST_CREDENTIAL = 8192


class Setting(NamedTuple):
    """One value, read, and where it comes from."""

    value: Any
    origin: str
    """as a message names it: ``--wait``, ``$GUARDRUN_LOG_TO``, ``wait in [defaults] of FILE``"""
    source: str


def value_of(settings: Settings, name: str) -> Any:
    """What was said about one setting; ``None``: nothing."""
    setting = settings.get(name)
    return setting.value if setting else None


def fields_of(settings: Settings, fields: Mapping[str, str]) -> dict[str, Any]:
    """What was said about these fields; the rest keep the defaults of the model."""
    return {field: settings[name].value for name, field in fields.items() if name in settings}


def wrong(source: str, message: str) -> UsageError | ConfigError:
    """The error for a setting of that source."""
    return ConfigError(message) if source == FILE else UsageError(message)


# ---------------------------------------------------------------- from each place to settings


def _read(option: Option, text: str, origin: str, source: str) -> Any:
    assert option.kind is not None
    try:
        return option.kind.read(text)
    except ValueError as error:
        raise wrong(source, f"{origin}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None


def _add(settings: Settings, name: str, setting: Setting) -> None:
    """Add a setting of one place, where two options for one thing must not disagree.

    The same option again replaces what it said before.
    """
    other = settings.get(name)
    if other and other.origin != setting.origin and other.value != setting.value:
        raise wrong(setting.source, f"{other.origin} and {setting.origin} contradict each other")
    settings[name] = setting


def _from_line(given: Given) -> Settings:
    settings: Settings = {}
    for option, text in given.options:
        origin = f"--{option.name}"
        if option.kind is None:
            name, value = option.sets
            _add(settings, name, Setting(value, origin, LINE))
            continue
        if option.kind in (LEDGER_URL, LEASE_URL, PING_URL) and has_password(text):
            variable = f"${option.environment} or " if option.environment else ""
            raise UsageError(
                f"{origin}: a password in an option can be seen in ps; "
                f"put the URL into {variable}the configuration file"
            )
        value = _read(option, text, origin, LINE)
        if option.repeatable:
            value = (*(value_of(settings, option.name) or ()), value)
        _add(settings, option.name, Setting(value, origin, LINE))
    return settings


def _from_environment(environ: Mapping[str, str]) -> Settings:
    settings = {}
    for name, option in OPTIONS.items():
        text = environ.get(option.environment, "") if option.environment else ""
        if text:  # set but empty counts as unset
            origin = f"${option.environment}"
            settings[name] = Setting(_read(option, text, origin, ENVIRONMENT), origin, ENVIRONMENT)
    return settings


def _from_credentials(environ: Mapping[str, str]) -> Settings:
    """Read the credentials systemd hands to a unit: the first line of a file each."""
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    settings: Settings = {}
    if not directory.startswith("/"):
        return settings
    for name, option in OPTIONS.items():
        if not option.credential:
            continue
        origin = f"credential {option.credential}"
        try:
            with open(f"{directory}/{option.credential}", "rb") as file:
                line = file.readline(_LONGEST_CREDENTIAL).rstrip(b"\r\n")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{origin}: cannot read it: {error.strerror}") from None
        if line:
            value = _read(option, os.fsdecode(line), origin, FILE)
            settings[name] = Setting(value, origin, FILE)
    return settings


def _from_file(entries: Iterable[Entry]) -> Settings:
    settings: Settings = {}
    for option, value, origin in entries:
        if isinstance(value, bool):
            name, chosen = option.sets
            if value:
                _add(settings, name, Setting(chosen, origin, FILE))
            elif isinstance(chosen, bool):
                _add(settings, name, Setting(not chosen, origin, FILE))
        elif isinstance(value, tuple):
            read = tuple(_read(option, text, origin, FILE) for text in value)
            _add(settings, option.name, Setting(read, origin, FILE))
        else:
            read = _read(option, value, origin, FILE)
            _add(settings, option.name, Setting(read, origin, FILE))
    return settings


# ---------------------------------------------------------------- laid over each other


def _load(line: Settings, environ: Mapping[str, str]) -> File | None:
    path = value_of(line, "config") or environ.get("GUARDRUN_CONFIG") or paths.config_file(environ)
    if not path:
        return None
    from guardrun.configfile import load  # most hosts have no file

    return load(path)


def common(options: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """The settings of a subcommand, which has no job; ``options`` are its own, where given."""
    given = [(OPTIONS[name], text) for name, text in options.items() if text is not None]
    line = _from_line(Given(tuple(given), ()))
    file = _load(line, environ)
    defaults = _from_file(file.defaults) if file else {}
    return {**defaults, **_from_credentials(environ), **_from_environment(environ), **line}


def merge(given: Given, environ: Mapping[str, str]) -> tuple[Settings, str, str | None]:
    """Lay all places over each other; also the job's name, and the file's."""
    line = _from_line(given)
    file = _load(line, environ)
    defaults = _from_file(file.defaults) if file else {}
    tables = {name: _from_file(table) for name, table in file.jobs.items()} if file else {}
    job = value_of(line, "job") or value_of(defaults, "job") or _job_name(given, line)
    settings = {
        **defaults,
        **tables.get(job, {}),
        **_from_credentials(environ),
        **_from_environment(environ),
        **line,
    }
    return settings, job, file.path if file else None


def _job_name(given: Given, line: Settings) -> str:
    if "command" in line:
        return jobname.shell_job_name(line["command"].value)
    return jobname.job_name(given.command) if given.command else ""
