"""The examples do what their comments say: their very lines are executed, on a private host."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support import Host, Result, eventually, write_script

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

_PROGRAM = """#!/bin/sh
# Notes that it ran, and does what $ACT says.
echo "${0##*/}" >>"$LOG"
eval "$ACT"
"""


def crontab() -> dict[str, str]:
    """The lines of the crontab, as they stand there, by the program that each executes."""
    jobs = {}
    for line in (EXAMPLES / "crontab").read_text().splitlines():
        if line and not line.startswith("#") and not re.match(r"[A-Z]+=", line):
            program = re.findall(r"/usr/local/bin/([\w-]+)", line)[-1]
            jobs[program] = line
    return jobs


class Machine:
    """A host with guardrun and the programs of the examples below a directory of its own."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.bin = host.root / "usr/local/bin"
        for directory in ("usr/local/bin", "var/log", "var/backups"):
            (host.root / directory).mkdir(parents=True)
        for program in crontab():
            write_script(self.bin / program, _PROGRAM)
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
        command = self.located(line.split(None, 5)[5])
        command, *data = re.split(r"(?<!\\)%", command)
        text = "".join(f"{line}\n" for line in data).replace("\\%", "%")
        surroundings = {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "HOME": "/nonexistent"}
        words = ["/bin/sh", "-c", command.replace("\\%", "%")]
        return words, {**surroundings, **env}, text.encode()


@pytest.fixture
def machine(host: Host) -> Machine:
    """A host with guardrun and the programs of the examples."""
    return Machine(host)


# ---------------------------------------------------------------- crontab


@pytest.mark.parametrize("program", sorted(crontab().keys() - {"tick"}))
def test_every_line_of_the_crontab_runs(machine: Machine, program: str) -> None:
    """In cron's environment every line executes its program, and there is no mail."""
    result = machine.cron(crontab()[program])
    assert (result.code, result.stdout, result.stderr) == (0, b"", b"")
    assert machine.ran() == [program]


def test_one_host_of_a_fleet_does_the_tick(machine: Machine, database_url: str) -> None:
    """The fleet's line runs once a window, wherever; to find it running or done is no mail."""
    fleet = {"GUARDRUN_LEDGER_URL": database_url}
    assert machine.run(["/bin/sh", "-c", f"{machine.bin}/guardrun migrate"], fleet).code == 0
    line = crontab()["tick"].replace("{window:15m}", "now")  # the next window may begin any moment
    first = machine.crond(line, ACT="read unblocked", **fleet)
    eventually(lambda: machine.ran() == ["tick"], what="the first host is at work")
    busy = machine.cron(line, **fleet)
    assert (busy.code, busy.stdout, busy.stderr) == (0, b"", b"")
    first.communicate(b"\n", timeout=60)
    assert first.returncode == 0
    done = machine.cron(line, **fleet)
    assert (done.code, done.stdout, done.stderr) == (0, b"", b"")
    assert machine.ran() == ["tick"]


def test_mail_only_when_it_fails_and_with_what_it_wrote(machine: Machine) -> None:
    """The five-minute line is silent about success and about a busy lock, not about failure."""
    line = crontab()["sync-orders"]
    failed = machine.cron(line, ACT="echo no connection; exit 3")
    assert failed.code == 3
    assert b"no connection\n" in failed.stdout
    assert failed.finished["exit_code"] == 3
    holder = machine.crond(line, ACT="read unblocked")
    eventually(lambda: len(machine.ran()) == 2, what="the line is being executed")
    busy = machine.cron(line)
    assert (busy.code, busy.stdout, busy.stderr) == (75, b"", b"")
    holder.communicate(b"\n", timeout=60)
    assert len(machine.ran()) == 2


def test_tried_again_until_it_has_succeeded(machine: Machine) -> None:
    """The daily line runs again after a failure, and not after a success."""
    line = crontab()["make-report"].replace("--retries 2", "--retries 0")
    assert line != crontab()["make-report"]
    assert machine.cron(line, ACT="exit 1").code == 1
    assert machine.cron(line).code == 0
    assert machine.cron(line).code == 0
    assert machine.ran() == ["make-report"] * 2


def test_data_and_log_lines_are_kept_apart(machine: Machine) -> None:
    """The dump holds COMMAND's stdout and nothing else; the log lines are in their file."""
    assert machine.cron(crontab()["dump-shop"], ACT="echo data").code == 0
    (dump,) = (machine.host.root / "var/backups").iterdir()
    assert re.fullmatch(r"shop-\d{4}-\d\d-\d\d\.sql", dump.name)
    assert dump.read_bytes() == b"data\n"
    log = (machine.host.root / "var/log/guardrun.jsonl").read_bytes()
    assert Result(0, log, b"").finished["result"] == "success"


def test_stdin_after_percent_signs(machine: Machine) -> None:
    """What stands after % is COMMAND's stdin, the whole of it for every attempt."""
    line = crontab()["load-lines"].replace("--retries 3", "--retries 1 --backoff 1ms..1ms")
    assert machine.cron(line, ACT='cat >>"$LOG.stdin"; exit 1').code == 1
    text = (machine.host.root / "ran.stdin").read_text()
    assert text == "first line\nsecond line\n" * 2


# ---------------------------------------------------------------- systemd


def unit_settings(name: str) -> dict[str, str]:
    """The settings of a unit file, continued lines joined."""
    text = (EXAMPLES / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line[:1] not in ("#", "[", "")]
    return dict(line.split("=", 1) for line in lines)


def test_the_units_are_what_systemd_takes(machine: Machine) -> None:
    """systemd-analyze finds nothing to say about service and timer."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    units = []
    for source in EXAMPLES.glob("guardrun-example.*"):
        unit = machine.host.root / source.name
        unit.write_text(machine.located(source.read_text()))
        units.append(str(unit))
    assert len(units) == 2
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in said.stderr.splitlines() if "guardrun-example" in line]
    assert (said.returncode, ours) == (0, [])


def test_the_service_runs_with_its_credential(machine: Machine) -> None:
    """ExecStart executes its program; the ledger is where the credential says."""
    settings = unit_settings("guardrun-example.service")
    name, _, source = settings["LoadCredential"].partition(":")
    assert source.startswith("/etc/guardrun/")
    credentials = machine.host.root / "credentials"
    credentials.mkdir()
    ledger = machine.host.root / "var/lib/report/ledger.sqlite3"
    (credentials / name).write_text(f"sqlite://{ledger}\n")
    words = shlex.split(machine.located(settings["ExecStart"]))
    result = machine.run(words, {"CREDENTIALS_DIRECTORY": str(credentials)})
    assert result.finished["result"] == "success"
    assert machine.ran() == ["make-report"]
    assert ledger.exists()
    assert not (machine.host.state / "ledger.sqlite3").exists()


def test_systemd_gives_the_service_time_to_stop() -> None:
    """TimeoutStopSec is more than grace period and recording together; TERM goes to one process."""
    settings = unit_settings("guardrun-example.service")
    found = re.search(r"--kill-after (\d+)s", settings["ExecStart"])
    assert found is not None
    assert int(settings["TimeoutStopSec"].removesuffix("s")) > int(found[1]) + 30
    assert settings["KillMode"] == "mixed"
    assert settings["SuccessExitStatus"] == "75"


# ---------------------------------------------------------------- CI


@pytest.mark.parametrize(
    ("name", "variable"),
    [("github-actions.yml", "GITHUB_SHA"), ("gitlab-ci.yml", "CI_COMMIT_SHA")],
)
def test_a_commit_is_deployed_once(machine: Machine, name: str, variable: str) -> None:
    """The CI step deploys a commit once, again only after a failure, and another commit as well."""
    (step,) = re.findall(r"^ *- (?:run: )?(guardrun .*)$", (EXAMPLES / name).read_text(), re.M)
    write_script(machine.host.root / "deploy.sh", _PROGRAM)
    path = {"PATH": f"{machine.bin}:/usr/bin:/bin"}
    words = ["/bin/sh", "-e", "-c", step]
    assert machine.run(words, {**path, variable: "c0ffee", "ACT": "exit 9"}).code == 9
    assert machine.run(words, {**path, variable: "c0ffee"}).code == 0
    assert machine.run(words, {**path, variable: "c0ffee"}).code == 0
    assert len(machine.ran()) == 2
    assert machine.run(words, {**path, variable: "beef"}).code == 0
    assert len(machine.ran()) == 3
    assert machine.run(words, path).code == 78


# ---------------------------------------------------------------- workflow.sh


def test_the_workflow_goes_on_where_it_stopped(machine: Machine) -> None:
    """A step that failed stops the workflow; the next call does that one and what follows."""
    host = machine.host
    words = [str(EXAMPLES / "workflow.sh"), str(host.root), "2026-11-24"]
    env = {"PATH": f"{machine.bin}:/usr/bin:/bin"}
    (host.root / "orders.csv").write_text("b\na\nb\n")
    (host.root / "sorted.csv").mkdir()  # in the way of the second step
    assert machine.run(words, env).code == 2
    assert [(row["job"], row["result"]) for row in host.rows()] == [
        ("fetch", "success"),
        ("sort", "failed"),
    ]
    (host.root / "sorted.csv").rmdir()
    assert machine.run(words, env).code == 0
    assert (host.root / "published.csv").read_text() == "a\nb\n"
    assert machine.run(words, env).code == 0
    results = [(row["job"], row["result"]) for row in host.rows()]
    assert results[2:] == [
        ("fetch", "skipped_duplicate"),
        ("sort", "success"),
        ("publish", "success"),
        ("fetch", "skipped_duplicate"),
        ("sort", "skipped_duplicate"),
        ("publish", "skipped_duplicate"),
    ]


def test_a_step_needs_the_one_before_it(machine: Machine) -> None:
    """A step that is called alone is refused while the one that it needs has not succeeded."""
    text = (EXAMPLES / "workflow.sh").read_text()
    alone = re.sub(r"^step fetch .*\n", "", text, flags=re.M)
    assert alone != text
    script = write_script(machine.host.root / "alone.sh", alone)
    env = {"PATH": f"{machine.bin}:/usr/bin:/bin"}
    assert machine.run([str(script), str(machine.host.root)], env).code == 76
    assert not (machine.host.root / "sorted.csv").exists()


def test_the_readme_shows_the_examples() -> None:
    """The crontab line and the unit of the README are those of the examples."""
    readme = (ROOT / "README.md").read_text()
    assert crontab()["make-report"] in readme
    service = (EXAMPLES / "guardrun-example.service").read_text()
    block = re.search(r"```ini\n(.*?)```", readme, re.S)
    assert block is not None
    shown = [line for line in block[1].splitlines() if line and not line.startswith("#")]
    assert shown
    assert [line for line in shown if line not in service.splitlines()] == []
    assert os.access(EXAMPLES / "workflow.sh", os.X_OK)
