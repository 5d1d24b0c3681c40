"""Crontabs: what of guardrun's lines cron would not run as they are meant."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from guardrun.cli import SUBCOMMANDS
from guardrun.doctor.finding import BROKEN, NOTE, OK, Finding
from guardrun.errors import GuardrunError
from guardrun.options import parse

_PATH = "/usr/bin:/bin"
"""what Debian's and Vixie's cron start with, whatever a login shell has"""
_VARIABLE = re.compile(r"\s*(\w+)\s*=\s*(.*)")
_BEFORE = r"(?:(?:\w+=\S*|nice|ionice|chronic|exec|env|nohup|setsid|sudo|-\S+|\d+)\s+)*"
"""variables, and programs that run another"""
_CALL = re.compile(rf"(?:^|[;&|(])\s*{_BEFORE}((?:\S*/)?guardrun)(?=\s)(.*)")
_SYSTEM = ("/etc/crontab", "/etc/cron.d")


class Tab(NamedTuple):
    """One crontab; in one of the system's a user stands before the command."""

    origin: str
    text: str
    system: bool


def examine() -> list[Finding]:
    """Look at the crontabs of the system, and at our own."""
    found = [finding for tab in _tabs() for finding in examine_tab(tab)]
    return found or [Finding("cron", OK, "nothing to say about guardrun in the crontabs")]


def examine_tab(tab: Tab) -> Iterator[Finding]:
    """What is to be said about one crontab (crontab(5))."""
    variables = {"PATH": _PATH}
    for number, line in enumerate(tab.text.splitlines(), start=1):
        if variable := _VARIABLE.fullmatch(line):
            variables[variable[1]] = variable[2].strip().strip("\"'")
        elif line.strip() and not line.lstrip().startswith("#"):
            command = _command(line, tab.system)
            if call := _CALL.search(command):
                where = f"{tab.origin}, line {number}"
                yield from _of_call(where, call[1], call[2], command, variables)


def _command(line: str, system: bool) -> str:
    fields = 1 if line.lstrip().startswith("@") else 5
    parts = line.split(None, fields + system)
    return parts[-1] if len(parts) > fields + system else ""


def _of_call(
    where: str, program: str, words: str, command: str, variables: Mapping[str, str]
) -> Iterator[Finding]:
    facts = {"where": where}
    if shutil.which(program, path=variables["PATH"]) is None:
        says = f"{where}: cron does not find {program} in PATH={variables['PATH']}"
        here = shutil.which("guardrun") or "/usr/local/bin/guardrun"
        yield Finding("cron", BROKEN, says, f"write the whole path, such as {here}", facts)
    if re.search(r"(?<!\\)%", command):
        says = f"{where}: cron cuts the command off at the first %"
        mend = "write \\% there, or a template without one, such as {date} or {date:iso}"
        yield Finding("cron", BROKEN, says, mend, facts)
    elif variables.get("MAILTO") != "" and _writes(words):
        says = f"{where}: its log lines go to stdout, so cron sends mail at every run"
        mend = 'add -q or --log-to PATH, or set MAILTO="" above it'
        yield Finding("cron", NOTE, says, mend, facts)


def _writes(words: str) -> bool:
    """Whether a call of guardrun writes log lines to stdout, and that goes where cron reads it."""
    try:
        split = shlex.split(words)
        if ">" in words or (split and split[0] in SUBCOMMANDS):
            return False
        given = {option.name for option, _ in parse(split).options}
    except (ValueError, GuardrunError):
        return False
    return not given & {"quiet", "log-to"}


def _tabs() -> Iterator[Tab]:
    for path in _SYSTEM:
        names = sorted(os.listdir(path)) if os.path.isdir(path) else [""]
        for name in names:
            file = os.path.join(path, name) if name else path
            try:
                with open(file, encoding="utf-8", errors="replace") as tab:
                    yield Tab(file, tab.read(), system=True)
            except OSError:  # not there, or not ours to read
                continue
    try:
        said = subprocess.run(
            ["crontab", "-l"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    if said.returncode == 0:
        yield Tab("crontab -l", said.stdout, system=False)
