"""Flag > environment > credential > ``[jobs.NAME]`` > ``[defaults]`` → Plan.

Every place is read into the same settings, each with its origin, so that one set of rules holds
for all of them and a message can name the places that disagree. A higher place replaces a setting
of a lower one as a whole, lists too; settings that exclude each other are an error wherever they
come from.
"""

from __future__ import annotations

import os

from guardrun import jobname, paths
from guardrun.errors import ConfigError, UsageError
from guardrun.kinds import LEASE_URL, LEDGER_URL, has_password
from guardrun.lean import NamedTuple
from guardrun.model import (
    ExecSpec,
    KeySpec,
    LedgerSpec,
    LockSpec,
    Plan,
    ReportSpec,
    RetrySpec,
)
from guardrun.options import OPTIONS, Given
from guardrun.units import shown

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

LEDGER_FILE = "ledger.sqlite3"
_LONGEST_CREDENTIAL = 8192


class Setting(NamedTuple):
    """One value, read, and where it comes from."""

    value: Any
    origin: str
    """as a message names it: ``--wait``, ``$GUARDRUN_LOG_TO``, ``wait in [defaults] of FILE``"""
    source: str


class Settled(NamedTuple):
    """The Plan, and what ``--dry-run`` says beside it."""

    plan: Plan
    dry_run: bool
    config_file: str | None


# ---------------------------------------------------------------- from each place to settings


def _error(source: str, message: str) -> UsageError | ConfigError:
    return ConfigError(message) if source == FILE else UsageError(message)


def _read(option: Option, text: str, origin: str, source: str) -> Any:
    assert option.kind is not None
    try:
        return option.kind.read(text)
    except ValueError as error:
        raise _error(source, f"{origin}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None


def _add(settings: Settings, name: str, setting: Setting) -> None:
    """Add a setting of one place, where two options for one thing must not disagree.

    The same option again replaces what it said before.
    """
    other = settings.get(name)
    if other and other.origin != setting.origin and other.value != setting.value:
        raise _error(setting.source, f"{other.origin} and {setting.origin} contradict each other")
    settings[name] = setting


def _from_line(given: Given) -> Settings:
    settings: Settings = {}
    for option, text in given.options:
        origin = f"--{option.name}"
        if option.kind is None:
            name, value = option.sets
            _add(settings, name, Setting(value, origin, LINE))
            continue
        if option.kind in (LEDGER_URL, LEASE_URL) and has_password(text):
            raise UsageError(
                f"{origin}: a password in an option can be seen in ps; "
                f"put the URL into ${option.environment} or the configuration file"
            )
        value = _read(option, text, origin, LINE)
        if option.repeatable:
            value = (*(_value(settings, option.name) or ()), value)
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


# ---------------------------------------------------------------- settings → Plan


def settle(given: Given, environ: Mapping[str, str]) -> Settled:
    """Merge all places into the Plan of one run.

    Raises ``UsageError`` and ``ConfigError``; ``UnsafePath`` for a user without a home.
    """
    settings, job, file = _merge(given, environ)
    argv = _argv(given, settings)
    _check(settings)
    _refuse_what_is_not_built(settings)
    state = paths.state_dir(environ)
    plan = Plan(
        job=job,
        exec=_exec(settings, argv),
        lock=_lock(settings, paths.lock_dir(environ, state)),
        key=KeySpec(_value(settings, "key"))._replace(**_chosen(settings, _KEY_FIELDS)),
        ledger=_ledger(settings, state),
        report=ReportSpec()._replace(**_chosen(settings, _REPORT_FIELDS)),
    )._replace(**_chosen(settings, _PLAN_FIELDS))
    return Settled(plan, "dry-run" in settings, file)


def ledger_spec(url: str | None, config: str | None, environ: Mapping[str, str]) -> LedgerSpec:
    """Find the ledger for a subcommand; ``url`` and ``config`` are its own options."""
    options = [
        (OPTIONS[name], text)
        for name, text in (("ledger-url", url), ("config", config))
        if text is not None
    ]
    line = _from_line(Given(tuple(options), ()))
    file = _load(line, environ)
    defaults = _from_file(file.defaults) if file else {}
    settings = {**defaults, **_from_credentials(environ), **_from_environment(environ), **line}
    return _ledger(settings, paths.state_dir(environ))


def _load(line: Settings, environ: Mapping[str, str]) -> File | None:
    path = _value(line, "config") or environ.get("GUARDRUN_CONFIG") or paths.config_file(environ)
    if not path:
        return None
    from guardrun.configfile import load  # most hosts have no file

    return load(path)


def _merge(given: Given, environ: Mapping[str, str]) -> tuple[Settings, str, str | None]:
    """Lay all places over each other; also the job's name, and the file's."""
    line = _from_line(given)
    file = _load(line, environ)
    defaults = _from_file(file.defaults) if file else {}
    tables = {name: _from_file(table) for name, table in file.jobs.items()} if file else {}
    job = _value(line, "job") or _value(defaults, "job") or _job_name(given, line)
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


def _argv(given: Given, settings: Settings) -> tuple[str, ...]:
    string = settings.get("command")
    if string:
        if given.command:
            raise UsageError(
                f"--command takes the whole command as one word: {shown(given.command[0])} "
                "is one too many"
            )
        return ("/bin/sh", "-c", string.value)
    if not given.command:
        raise UsageError(
            "there is no COMMAND to run (write guardrun [OPTIONS] -- COMMAND; see --help)"
        )
    if not given.command[0]:
        raise UsageError("COMMAND is an empty word: a variable that is not set?")
    return given.command


# Option → field of the value it ends up in. Fields not named here are made below.
_PLAN_FIELDS = {
    "wait": "wait",
    "conflict-exit-code": "conflict_code",
    "enqueued-at": "enqueued_at",
}
_LOCK_FIELDS = {
    "slots": "slots",
    "shared": "shared",
    "min-hold": "min_hold",
}
_KEY_FIELDS = {
    "needs": "needs",
    "key-ttl": "ttl",
    "on-duplicate": "on_duplicate",
    "on-interrupted": "on_interrupted",
    "on-mismatch": "on_mismatch",
    "claim-ttl": "claim_ttl",
}
_RETRY_FIELDS = {
    "retries": "retries",
    "jitter": "jitter",
    "retry-on": "retry_on",
    "retry-budget": "budget",
}
_EXEC_FIELDS = {
    "success-codes": "success_codes",
    "timeout": "timeout",
    "deadline": "deadline",
    "signal": "stop_signal",
    "kill-after": "kill_after",
    "splay": "splay",
    "stdin": "stdin",
    "stdin-max": "stdin_max",
    "output": "output",
    "capture": "capture",
}
_LEDGER_FIELDS = {
    "store-wait": "store_wait",
    "record-wait": "record_wait",
    "on-ledger-down": "on_down",
    "keep": "keep",
}
_REPORT_FIELDS = {
    "log-to": "to",
    "log-format": "format",
    "log-level": "level",
    "quiet": "quiet",
    "redact": "redact",
}


def _value(settings: Settings, name: str) -> Any:
    setting = settings.get(name)
    return setting.value if setting else None


def _chosen(settings: Settings, fields: Mapping[str, str]) -> dict[str, Any]:
    """What was said about these fields; the rest keep the defaults of the model."""
    return {field: settings[name].value for name, field in fields.items() if name in settings}


def _lock(settings: Settings, directory: str) -> LockSpec | None:
    name, file = _value(settings, "lock"), _value(settings, "lock-file")
    if name is None and file is None:
        return None
    scope = "distributed" if _distributed(settings) else "host"
    return LockSpec(name, file, directory, scope)._replace(**_chosen(settings, _LOCK_FIELDS))


def _exec(settings: Settings, argv: tuple[str, ...]) -> ExecSpec:
    retry = RetrySpec()._replace(**_chosen(settings, _RETRY_FIELDS))
    if "backoff" in settings:
        base, cap = settings["backoff"].value
        retry = retry._replace(base=base, cap=cap)
    spec = ExecSpec(argv, retry)._replace(**_chosen(settings, _EXEC_FIELDS))
    return spec._replace(stdin="replay") if _stdin_template(settings) else spec


def _ledger(settings: Settings, state: str) -> LedgerSpec:
    url = _value(settings, "ledger-url") or f"sqlite://{state}/{LEDGER_FILE}"
    keyed = any(_value(settings, name) for name in ("key", "needs", "retry-budget"))
    spec = LedgerSpec(url, state, on_down="stop" if keyed else "run")
    return spec._replace(**_chosen(settings, _LEDGER_FIELDS))


# ---------------------------------------------------------------- what does not go together


def _check(settings: Settings) -> None:
    _check_lock(settings)
    _check_key(settings)
    stdin, template = settings.get("stdin"), _stdin_template(settings)
    if template and stdin and stdin.value != "replay":
        raise _conflict(stdin, template, "its {stdin.…} has to read stdin first (--stdin replay)")


def _check_lock(settings: Settings) -> None:
    lock, file = settings.get("lock"), settings.get("lock-file")
    slots, shared = settings.get("slots"), settings.get("shared")
    hold = settings.get("min-hold")
    many = slots if slots and slots.value > 1 else None
    reader = shared if shared and shared.value else None
    remote = _distributed(settings)
    if lock and file:
        raise _conflict(lock, file, "a run holds one lock")
    if many and file:
        raise _conflict(many, file, "a lock file has one place")
    if many and reader:
        raise _conflict(many, reader, "a shared lock has no slots")
    if hold and hold.value and file:
        raise _conflict(hold, file, "nothing is written to a lock file")
    if remote and file:
        raise _conflict(remote, file, "a lock file is a lock of this host")
    if remote and reader:
        raise _conflict(remote, reader, "shared locks exist in host scope only")
    if remote and lock and not _has_lease_store(settings):
        raise _error(remote.source, f"{remote.origin} needs a lease store: give --lease-url")
    if not (lock or file):
        for setting in (slots, shared, hold, remote):
            if setting and setting.source == LINE:
                raise UsageError(f"{setting.origin} is about a lock: give --lock or --lock-file")


def _check_key(settings: Settings) -> None:
    url = settings.get("ledger-url")
    for name in ("key", "needs", "retry-budget"):
        setting = settings.get(name)
        if setting and setting.value and url and url.value == "none:":
            raise _conflict(setting, url, "without a ledger nothing is remembered")
    if "key" not in settings:
        for name in ("key-ttl", "on-duplicate", "on-interrupted", "on-mismatch"):
            setting = settings.get(name)
            if setting and setting.source == LINE:
                raise UsageError(f"{setting.origin} is about a key: give --key")


def _conflict(one: Setting, other: Setting, why: str) -> UsageError | ConfigError:
    source = FILE if one.source == other.source == FILE else LINE
    return _error(source, f"{one.origin} cannot go with {other.origin}: {why}")


def _stdin_template(settings: Settings) -> Setting | None:
    """Find a template that reads stdin."""
    for name in ("lock", "key", "needs"):
        setting = settings.get(name)
        if setting:
            from guardrun.template import needs_stdin

            values = setting.value if name == "needs" else (setting.value,)
            if any(needs_stdin(value) for value in values):
                return setting
    return None


def _distributed(settings: Settings) -> Setting | None:
    """Find what asks for a lease: the scope, or a lease store named on the command line."""
    scope, url = settings.get("scope"), settings.get("lease-url")
    named = url if url and url.source == LINE else None
    if scope and scope.value == "host":
        if named and scope.source == LINE:
            raise _conflict(scope, named, "a lease is distributed")
        return named
    return scope or named


def _has_lease_store(settings: Settings) -> bool:
    url = settings.get("ledger-url")
    return "lease-url" in settings or bool(url and url.value.startswith("postgresql:"))


def _refuse_what_is_not_built(settings: Settings) -> None:
    """The stores of later versions: parsed and checked above, refused here and only here."""
    remote = _distributed(settings)
    if remote and "lock" in settings:
        raise UsageError(f"{remote.origin}: distributed locks are not in this version")
