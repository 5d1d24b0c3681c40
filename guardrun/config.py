"""Settings → Plan: what goes into which value, and which settings exclude each other.

Settings that exclude each other are an error wherever they come from.
"""

from __future__ import annotations

from guardrun import paths
from guardrun.errors import ConfigError, UsageError
from guardrun.lean import NamedTuple
from guardrun.model import (
    EachSpec,
    ExecSpec,
    KeySpec,
    LedgerSpec,
    LockSpec,
    Plan,
    ReportSpec,
    RetrySpec,
)
from guardrun.settings import FILE, LINE, common, fields_of, merge, value_of, wrong
from guardrun.units import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardrun.options import Given
    from guardrun.settings import Setting, Settings

LEDGER_FILE = "ledger.sqlite3"
HELD_BY_LEASES = {"etcd": "etcd", "etcds": "etcd", "consul": "Consul", "consuls": "Consul"}
"""lease stores in which a not-before time ends with what a lease is kept by"""


class Settled(NamedTuple):
    """The Plan, and what ``--dry-run`` says beside it."""

    plan: Plan
    dry_run: bool
    config_file: str | None


# ---------------------------------------------------------------- settings → Plan


def settle(given: Given, environ: Mapping[str, str]) -> Settled:
    """Merge all places into the Plan of one run.

    Raises ``UsageError`` and ``ConfigError``; ``UnsafePath`` for a user without a home.
    """
    settings, job, file = merge(given, environ)
    return Settled(_plan(settings, given, job, environ), "dry-run" in settings, file)


def settle_each(given: Given, environ: Mapping[str, str]) -> tuple[Settled, EachSpec]:
    """The same for a pool: the Plan of each of its runs, and how it works them off.

    Raises as ``settle`` does.
    """
    settings, job, file = merge(given, environ)
    _check_each(settings)
    plan = _plan(settings, given, job, environ)
    plan = plan._replace(exec=plan.exec._replace(stdin="null"))
    spec = EachSpec()._replace(
        **fields_of(settings, _EACH_FIELDS),
        lock_by_item="slots" in settings or _names_item(plan.lock),
    )
    return Settled(plan, "dry-run" in settings, file), spec


def _names_item(lock: LockSpec | None) -> bool:
    if lock is None or lock.name is None:
        return False
    from guardrun.template import names_item

    return names_item(lock.name)


def _plan(settings: Settings, given: Given, job: str, environ: Mapping[str, str]) -> Plan:
    argv = _argv(given, settings)
    _check(settings)
    state = paths.state_dir(environ)
    return Plan(
        job=job,
        exec=_exec(settings, argv),
        lock=_lock(settings, paths.lock_dir(environ, state)),
        key=KeySpec(value_of(settings, "key"))._replace(**fields_of(settings, _KEY_FIELDS)),
        ledger=_ledger(settings, state),
        report=ReportSpec()._replace(**fields_of(settings, _REPORT_FIELDS)),
    )._replace(**fields_of(settings, _PLAN_FIELDS))


def ledger_spec(url: str | None, config: str | None, environ: Mapping[str, str]) -> LedgerSpec:
    """Find the ledger for a subcommand; ``url`` and ``config`` are its own options."""
    settings = common({"ledger-url": url, "config": config}, environ)
    return _ledger(settings, paths.state_dir(environ))


class LockPlaces(NamedTuple):
    """Where this user's locks are kept."""

    directory: str
    """of host locks"""
    lease_url: str | None
    """``None``: no lease store is configured"""
    store_wait: float


def lock_places(
    lease_url: str | None, ledger_url: str | None, config: str | None, environ: Mapping[str, str]
) -> LockPlaces:
    """Find the locks for a subcommand; the first three are its own options."""
    given = {"lease-url": lease_url, "ledger-url": ledger_url, "config": config}
    settings = common(given, environ)
    state = paths.state_dir(environ)
    store_wait = _ledger(settings, state).store_wait
    return LockPlaces(paths.lock_dir(environ, state), _lease_url(settings), store_wait)


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
_LEASE_FIELDS = {
    "ttl": "ttl",
    "on-lease-loss": "on_lease_loss",
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
_EACH_FIELDS = {
    "parallel": "parallel",
    "items": "items",
    "halt-after": "halt_after",
    "keep-order": "keep_order",
    "tag": "tag",
}
_REPORT_FIELDS = {
    "log-to": "to",
    "log-format": "format",
    "log-level": "level",
    "quiet": "quiet",
    "redact": "redact",
    "metrics-textfile": "metrics_textfile",
    "ping-url": "ping_url",
}


def _lock(settings: Settings, directory: str) -> LockSpec | None:
    name, file = value_of(settings, "lock"), value_of(settings, "lock-file")
    if name is None and file is None:
        return None
    spec = LockSpec(name, file, directory)._replace(**fields_of(settings, _LOCK_FIELDS))
    if not _distributed(settings):
        return spec
    spec = spec._replace(scope="distributed", lease_url=_lease_url(settings))
    spec = spec._replace(**fields_of(settings, _LEASE_FIELDS))
    store = HELD_BY_LEASES.get((spec.lease_url or "").partition(":")[0])
    if store and spec.min_hold > spec.ttl:
        hold = settings["min-hold"]
        text = f"{hold.origin}: in {store} it is at most the --ttl, {spec.ttl:g}s"
        raise wrong(hold.source, text)
    return spec


def _exec(settings: Settings, argv: tuple[str, ...]) -> ExecSpec:
    retry = RetrySpec()._replace(**fields_of(settings, _RETRY_FIELDS))
    if "backoff" in settings:
        base, cap = settings["backoff"].value
        retry = retry._replace(base=base, cap=cap)
    spec = ExecSpec(argv, retry)._replace(**fields_of(settings, _EXEC_FIELDS))
    return spec._replace(stdin="replay") if _stdin_template(settings) else spec


def _ledger(settings: Settings, state: str) -> LedgerSpec:
    url = value_of(settings, "ledger-url") or f"sqlite://{state}/{LEDGER_FILE}"
    keyed = any(value_of(settings, name) for name in ("key", "needs", "retry-budget"))
    spec = LedgerSpec(url, state, on_down="stop" if keyed else "run")
    return spec._replace(**fields_of(settings, _LEDGER_FIELDS))


# ---------------------------------------------------------------- what does not go together


def _check_each(settings: Settings) -> None:
    """See to what a single run has and a pool's items have not."""
    stdin, template = settings.get("stdin"), _stdin_template(settings)
    if template:
        raise wrong(template.source, f"{template.origin}: the items are read from stdin")
    if stdin and stdin.source == LINE and stdin.value != "null":
        raise UsageError("--stdin: the items are read from it, and COMMAND's is /dev/null")
    for name in ("metrics-textfile", "ping-url"):
        told = settings.get(name)
        if told and told.source == LINE:
            raise UsageError(f"--{name} is about a single run (put guardrun around the whole each)")


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
    if remote and lock and not _lease_url(settings):
        raise wrong(remote.source, f"{remote.origin} needs a lease store: give --lease-url")
    if remote and lock:
        _check_lease(settings, remote)
    if not (lock or file):
        for setting in (slots, shared, hold, remote):
            if setting and setting.source == LINE:
                raise UsageError(f"{setting.origin} is about a lock: give --lock or --lock-file")


def _check_lease(settings: Settings, remote: Setting) -> None:
    store = settings.get("lease-url", remote)
    hold = settings.get("min-hold")
    scheme = (_lease_url(settings) or "").partition(":")[0]
    if hold and hold.value and scheme == "postgresql+advisory":
        raise _conflict(hold, store, "an advisory lock cannot outlive its session")


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
    return wrong(source, f"{one.origin} cannot go with {other.origin}: {why}")


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


def _lease_url(settings: Settings) -> str | None:
    """Find the lease store: the one that is named, else the ledger, where that can be one."""
    url: str | None = value_of(settings, "lease-url")
    if url is None:
        ledger = value_of(settings, "ledger-url")
        return ledger if ledger and ledger.startswith("postgresql:") else None
    return url
