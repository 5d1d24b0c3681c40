"""The configuration: whether it makes sense for every job it names, and which stores it means."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from guardrun import config, paths
from guardrun.configfile import File, load
from guardrun.doctor.finding import BROKEN, NOTE, OK, Finding, told
from guardrun.errors import GuardrunError
from guardrun.kinds import has_password
from guardrun.model import LedgerSpec
from guardrun.options import OPTIONS, Given


class Stores(NamedTuple):
    """All that the jobs of this user keep something in."""

    ledgers: tuple[LedgerSpec, ...]
    leases: tuple[str, ...]
    """URLs"""
    locks: str
    """the directory of host locks"""
    store_wait: float


class _Used(NamedTuple):
    ledger: LedgerSpec
    lease_url: str | None


def examine(
    given: Mapping[str, str | None], environ: Mapping[str, str]
) -> tuple[list[Finding], Stores | None]:
    """Read the configuration as runs do; ``None`` where that cannot be told.

    ``given`` are the options of ours: ``ledger-url``, ``lease-url``, ``config``.
    """
    path = given["config"] or environ.get("GUARDRUN_CONFIG") or paths.config_file(environ)
    try:
        file = load(path) if path else None
        places = config.lock_places(
            given["lease-url"], given["ledger-url"], given["config"], environ
        )
        common = config.ledger_spec(given["ledger-url"], given["config"], environ)
    except GuardrunError as error:
        return [told("config", error)], None
    used = [_Used(common, places.lease_url)]
    findings = []
    for job in file.jobs if file else ():
        try:
            used.append(_of_job(job, given, environ))
        except GuardrunError as error:
            findings.append(told("config", error))
    if file:
        findings += _of_file(file)
    elif not findings:
        findings.append(Finding("config", OK, "there is no configuration file: the defaults hold"))
    ledgers = _once(one.ledger for one in used)
    leases = tuple(dict.fromkeys(one.lease_url for one in used if one.lease_url))
    return findings, Stores(ledgers, leases, places.directory, places.store_wait)


def _of_job(job: str, given: Mapping[str, str | None], environ: Mapping[str, str]) -> _Used:
    """What a job of the file uses. Raises ``GuardrunError`` where it cannot run."""
    words = [(OPTIONS["job"], job)]
    words += [(OPTIONS[name], text) for name, text in given.items() if text is not None]
    if given["lease-url"] is not None:  # else a lock is asked for, which the job may not have
        words = [pair for pair in words if pair[0].name != "lease-url"]
    plan = config.settle(Given(tuple(words), ("true",)), environ).plan
    return _Used(plan.ledger, plan.lock.lease_url if plan.lock else None)


def _once(ledgers: Iterable[LedgerSpec]) -> tuple[LedgerSpec, ...]:
    found: dict[str, LedgerSpec] = {}
    for ledger in ledgers:
        found.setdefault(ledger.url, ledger)
    return tuple(found.values())


def _of_file(file: File) -> list[Finding]:
    """Who may read and write the file."""
    status = os.stat(file.path)
    mode = stat.S_IMODE(status.st_mode)
    jobs = f"{len(file.jobs)} jobs" if len(file.jobs) != 1 else "1 job"
    facts = {"path": file.path, "mode": f"{mode:04o}", "owner": status.st_uid}
    found = [Finding("config", OK, f"{file.path}: {jobs}", facts=facts)]
    if status.st_uid not in (0, os.geteuid()) or mode & 0o022:
        whose = f"{file.path}: others can change it (uid {status.st_uid}, mode {mode:04o})"
        mend = f"chown it to root or to you, and chmod go-w {file.path}"
        found.append(Finding("config", BROKEN, whose, mend, facts))
    entries = [*file.defaults, *(entry for table in file.jobs.values() for entry in table)]
    secret = any(isinstance(one.value, str) and has_password(one.value) for one in entries)
    if secret and mode & 0o044:
        says = f"{file.path} holds a password, and others can read it (mode {mode:04o})"
        found.append(Finding("config", NOTE, says, f"chmod 0600 {file.path}", facts))
    return found
