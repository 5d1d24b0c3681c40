"""``--dry-run``: the Plan, its templates resolved, as one JSON object.

Touches nothing: no directory is made, no store is asked, stdin is not read. Durations are seconds,
or ``"forever"``; names are those of the options.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from guardrun import units
from guardrun.core.redact import redact_url
from guardrun.identity import identify
from guardrun.model import FOREVER, Budget, Codes, ExecSpec, KeySpec, LockSpec, Plan, Run
from guardrun.template import needs_stdin

_STDIN_NOTE = "templates with {stdin.…} are shown as written: a dry run does not read stdin"


def render(plan: Plan, config_file: str | None, environ: Mapping[str, str]) -> str:
    """Describe the run as JSON text, on many lines for a terminal, else on one.

    Raises ``ConfigError`` for a template that has no value.
    """
    without_stdin = _literally(plan, needs_stdin)
    run = identify(without_stdin, None, environ, None)
    notes = [] if without_stdin == plan else [_STDIN_NOTE]
    described = printable(describe(plan, run, config_file, notes))
    return json.dumps(described, indent=2 if os.isatty(1) else None, ensure_ascii=False) + "\n"


def describe(plan: Plan, run: Run, config_file: str | None, notes: list[str]) -> dict[str, Any]:
    """What the run would do; ``run`` has the resolved names."""
    return {
        "dry_run": True,
        "job": plan.job,
        "command": run.argv,
        "lock": _lock(plan.lock, run) if plan.lock else None,
        "key": _key(plan.key, run) if run.key is not None else None,
        "needs": run.needs,
        "wait": seconds(plan.wait),
        "conflict_exit_code": plan.conflict_code,
        "attempts": _attempts(plan.exec),
        "stdin": plan.exec.stdin,
        "stdin_max": plan.exec.stdin_max,
        "output": plan.exec.output,
        "capture": plan.exec.capture,
        "ledger": {
            "ledger_url": redact_url(plan.ledger.url),
            "state_dir": plan.ledger.state_dir,
            "store_wait": seconds(plan.ledger.store_wait),
            "record_wait": seconds(plan.ledger.record_wait),
            "on_ledger_down": plan.ledger.on_down,
            "keep": seconds(plan.ledger.keep),
        },
        "log": {
            "log_to": plan.report.to,
            "log_format": plan.report.format,
            "log_level": plan.report.level,
            "quiet": plan.report.quiet,
        },
        "metrics_textfile": plan.report.metrics_textfile,
        "ping_url": plan.report.ping_url and redact_url(plan.report.ping_url),
        "enqueued_at": plan.enqueued_at,
        "config": config_file,
        "notes": notes,
    }


def describe_pool(
    plan: Plan, config_file: str | None, environ: Mapping[str, str]
) -> dict[str, Any]:
    """What every run of a pool would do; its names are shown as written, without an item."""
    run = identify(_literally(plan, lambda _: True), None, environ, None)
    return describe(plan, run, config_file, [])


def _literally(plan: Plan, chosen: Callable[[str], bool]) -> Plan:
    """Turn the templates that are chosen into literal text: they resolve to themselves."""

    def literal(text: str) -> str:
        return text.replace("{", "{{").replace("}", "}}") if chosen(text) else text

    lock, key = plan.lock, plan.key
    if lock and lock.name is not None:
        lock = lock._replace(name=literal(lock.name))
    if key.key is not None:
        key = key._replace(key=literal(key.key))
    key = key._replace(needs=tuple(literal(text) for text in key.needs))
    return plan._replace(lock=lock, key=key)


def _lock(spec: LockSpec, run: Run) -> dict[str, Any]:
    where = {"lock_file": spec.file} if spec.name is None else {"lock": run.lock}
    if spec.name is not None and spec.lease_url is None:
        where["lock_dir"] = spec.directory
    return {
        **where,
        "scope": spec.scope,
        "slots": spec.slots,
        "shared": spec.shared,
        "min_hold": seconds(spec.min_hold),
        **(_lease(spec) if spec.lease_url is not None else {}),
    }


def _lease(spec: LockSpec) -> dict[str, Any]:
    assert spec.lease_url is not None
    return {
        "lease_url": redact_url(spec.lease_url),
        "ttl": seconds(spec.ttl),
        "on_lease_loss": spec.on_lease_loss,
    }


def _key(spec: KeySpec, run: Run) -> dict[str, Any]:
    return {
        "key": run.key,
        "key_ttl": seconds(spec.ttl),
        "on_duplicate": spec.on_duplicate,
        "on_interrupted": spec.on_interrupted,
        "on_mismatch": spec.on_mismatch,
        "claim_ttl": seconds(spec.claim_ttl),
    }


def _attempts(spec: ExecSpec) -> dict[str, Any]:
    retry = spec.retry
    return {
        "retries": retry.retries,
        "backoff": [seconds(retry.base), seconds(retry.cap)],
        "jitter": retry.jitter,
        "retry_on": _codes(retry.retry_on),
        "retry_budget": _budget(retry.budget),
        "success_codes": sorted(spec.success_codes),
        "timeout": seconds(spec.timeout),
        "deadline": seconds(spec.deadline),
        "signal": units.signal_name(spec.stop_signal),
        "kill_after": seconds(spec.kill_after),
        "splay": seconds(spec.splay),
    }


def _codes(codes: Codes | None) -> list[int | str] | None:
    """``None``: every failure but 126 and 127."""
    if codes is None:
        return None
    words = (("timeout", codes.timeout), ("signal", codes.signal))
    return [*sorted(codes.codes), *(word for word, chosen in words if chosen)]


def _budget(budget: Budget | None) -> dict[str, Any] | None:
    return budget and {"retries": budget.retries, "window": seconds(budget.window)}


def seconds(duration: float) -> float | str:
    """A duration as it is printed."""
    return "forever" if duration == FOREVER else duration


def printable(value: Any) -> Any:
    """JSON is UTF-8: show bytes of a path or word that are not as ``\\xff``."""
    if isinstance(value, str):
        return os.fsencode(value).decode(errors="backslashreplace")
    if isinstance(value, dict):
        return {key: printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [printable(item) for item in value]
    return value
