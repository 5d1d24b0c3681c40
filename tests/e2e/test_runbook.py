"""The runbook's commands do what it says, on a host with something to look at."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from places import new_database
from servers import redis_url
from support import Host, eventually, finish, write_script

PAGE = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))

PROGRAMS = (
    *("guardrun", "ps", "kill", "fuser", "date", "df", "ls", "cat", "mkdir", "sqlite3"),
    *("redis-cli", "export"),
)
"""first words of what is a command when it stands between backticks"""

ELSEWHERE = {"Redis failover": "GUARDRUN_LEASE_URL", "Postgres: schema": "GUARDRUN_LEDGER_URL"}
"""sections about a server: the variable that names it"""

EXITS = (
    (r"guardrun unlock", {0, 1, 75}),  # it lives, it is gone, nobody was there to answer
    (r"fuser|ps ", {0, 1}),  # nobody has it
)


def commands(text: str) -> Iterator[str]:
    """What a section has one execute, in its order."""
    for block, inline in re.findall(r"^ *```sh\n(.*?)```|(?<!`)`([^`]+)`", text, re.M | re.S):
        lines = [" ".join(inline.split())] if inline else block.splitlines()
        for line in map(str.strip, lines):
            program, _, rest = line.partition(" ")
            if line and (block or (program in PROGRAMS and rest)):
                yield line


@dataclass
class Ward:
    """A host where a job holds a lock, and others have succeeded, failed, or been cut off."""

    host: Host
    words: dict[str, str]
    environ: dict[str, str]

    def execute(self, line: str) -> subprocess.CompletedProcess[str]:
        """Do what a line says, with what the page's capitals stand for."""
        for word, meaning in self.words.items():
            line = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", meaning, line)
        script = f"set -o pipefail; {line}"
        return subprocess.run(
            ["bash", "-c", script],
            env=self.environ,
            cwd=self.host.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def cut_off(host: Host, key: str) -> None:
    """A run that holds this key, and is killed."""
    process = host.hold("--job", "nightly", "--key", key)
    process.send_signal(signal.SIGKILL)
    finish(process)
    states = f'SELECT state FROM keys WHERE key = "{key}"'
    eventually(lambda: host.run("--key", "other", "--", "true").code == 0, what="it is seen")
    assert host.rows(states)[0]["state"] == "interrupted"


@pytest.fixture
def ward(host: Host, request: pytest.FixtureRequest) -> Iterator[Ward]:
    """Something to look at, in the section that the test is about."""
    section = request.node.callspec.params["section"]
    tools = host.root / "tools"
    tools.mkdir()
    write_script(tools / "guardrun", f'#!/bin/sh\nexec {sys.executable} -m guardrun "$@"\n')
    host.run("--job", "nightly", "--key", "report-2026-11-24", "--", "true")
    failed = host.run("--job", "nightly", "--retries", "1", "--backoff", "1ms", "--", "false")
    assert failed.code == 1
    cut_off(host, "import-2026-11-24")
    holder = host.hold("--job", "nightly", "--lock", "nightly")
    for name in (host.state / "spool", host.root / "backups"):
        name.mkdir(exist_ok=True, mode=0o700)
    interrupted = section.startswith("Key interrupted")
    words = {
        "RUN": failed.finished["job_id"],
        "KEY": "import-2026-11-24" if interrupted else "report-2026-11-24",
        "LOCK": "nightly",
        "PID": str(holder.pid),
        "STATE": str(host.state),
        "LOCKS": str(host.locks),
        "UNTIL": "1795881600",
        "/var/backups": str(host.root / "backups"),
    }
    environ = host.environment({"PATH": f"{tools}:{os.environ['PATH']}"})
    environ["name"] = sha256(b"nightly").hexdigest()
    variable = ELSEWHERE.get(section)
    if variable is not None:
        environ[variable] = redis_url() if "LEASE" in variable else new_database()
    yield Ward(host, words, environ)


@pytest.mark.parametrize("section", [name for name in SECTIONS if list(commands(SECTIONS[name]))])
def test_commands_of_a_section(ward: Ward, section: str) -> None:
    """Each is taken, and ends as the page says."""
    for line in commands(SECTIONS[section]):
        program = line.split()[0]
        if program in PROGRAMS and program not in ("export", "guardrun"):
            missing = shutil.which(program) is None
            assert not (missing and os.environ.get("CI")), f"{program} is not installed"
            if missing:
                continue
        said = ward.execute(line)
        expected = {0, *map(int, re.findall(r"# exits (\d+)", line))}
        for pattern, codes in EXITS:
            expected |= codes if re.search(pattern, line) else set()
        assert said.returncode in expected, (line, said)


def test_the_first_look(host: Host) -> None:
    """What stands before all entries is executed as well, on a host with a run."""
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.partition("\n## ")[0], re.S)
    run = host.run("--", "true").finished["job_id"]
    for line in block.splitlines():
        words = line.partition("#")[0].replace("RUN", run).split()
        assert words.pop(0) == "guardrun"
        assert host.run(*words).code == 0, line


def test_there_is_an_entry_for_each_symptom() -> None:
    """What an operator may be woken by has an entry with something to execute."""
    wanted = (
        *("Duplicate records still appear", "Throughput drops after adding a lock"),
        *("Workers stuck, no progress", "Stale lock", "Retry storm", "Key interrupted (76)"),
        *("Ledger down (69), spool growing", "Clock skew", "Redis failover", "Job overdue"),
    )
    for name in wanted:
        assert list(commands(SECTIONS[name])), name
