"""A host with guardrun and the programs of the examples, below a directory of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from crond import ENVIRONMENT, as_crond
from support import Host, Result, write_script

EXAMPLES = Path(__file__).parent.parent / "examples"

PROGRAM = """#!/bin/sh
# Notes that it ran, and does what $ACT says.
echo "${0##*/}" >>"$LOG"
eval "$ACT"
"""


class Machine:
    """A host with guardrun and the programs of the examples below a directory of its own."""

    def __init__(self, host: Host, programs: Iterable[str] = ()) -> None:
        self.host = host
        self.bin = host.root / "usr/local/bin"
        for directory in ("usr/local/bin", "var/log", "var/backups"):
            (host.root / directory).mkdir(parents=True)
        for program in programs:
            write_script(self.bin / program, PROGRAM)
        write_script(self.bin / "guardrun", f'#!/bin/sh\nexec {sys.executable} -m guardrun "$@"\n')
        self.log = host.root / "ran"

    def ran(self) -> list[str]:
        """The programs that were executed, in order."""
        return self.log.read_text().split() if self.log.exists() else []

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """What everything started here needs to stay on this host."""
        kept = {
            name: value
            for name, value in self.host.environment().items()
            if name.startswith(("GUARDRUN_", "XDG_"))
        }
        # The interpreter finds guardrun without PATH; cron sets no PYTHONPATH either.
        return {**kept, "LOG": str(self.log), "ACT": ":", **extra}

    def located(self, text: str) -> str:
        """The same text with the paths of this host."""
        return re.sub(r"(?<![\w.])/(usr/local|var|etc/guardrun)/", rf"{self.host.root}/\1/", text)

    def start(
        self, words: list[str], env: Mapping[str, str], data: bytes = b""
    ) -> subprocess.Popen[bytes]:
        """Start a program with just this environment, without a terminal."""
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.host.root,
            env=self.environment(env),
            start_new_session=True,
        )
        self.host.started.append(process)
        assert process.stdin is not None
        process.stdin.write(data)
        process.stdin.flush()
        return process

    def run(self, words: list[str], env: Mapping[str, str], data: bytes = b"") -> Result:
        """The same, to its end."""
        process = self.start(words, env)
        stdout, stderr = process.communicate(data, timeout=60)
        return Result(process.returncode, stdout, stderr)

    def cron(self, line: str, **env: str) -> Result:
        """Do what crond does with a line when its time has come (crontab(5))."""
        return self.run(*self._as_crond(line, env))

    def crond(self, line: str, **env: str) -> subprocess.Popen[bytes]:
        """The same, without waiting for the end."""
        return self.start(*self._as_crond(line, env))

    def _as_crond(
        self, line: str, env: Mapping[str, str]
    ) -> tuple[list[str], dict[str, str], bytes]:
        words, data = as_crond(self.located(line.split(None, 5)[5]))
        return words, {**ENVIRONMENT, **env}, data


def unit_settings(name: str) -> dict[str, str]:
    """The settings of a unit file, continued lines joined."""
    text = (EXAMPLES / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line[:1] not in ("#", "[", "")]
    return dict(line.split("=", 1) for line in lines)
