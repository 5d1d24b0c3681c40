"""The examples do what their comments say: their very lines are executed, on a private host."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from crond import ENVIRONMENT, crond
from machine import EXAMPLES, PROGRAM, Machine, unit_settings
from support import Host, Result, eventually, finish, write_script


def crontab() -> dict[str, str]:
    """The lines of the crontab, as they stand there, by the program that each executes."""
    jobs = {}
    for line in (EXAMPLES / "crontab").read_text().splitlines():
        if line and not line.startswith("#") and not re.match(r"[A-Z]+=", line):
            program = re.findall(r"/usr/local/bin/([\w-]+)", line)[-1]
            jobs[program] = line
    return jobs


@pytest.fixture
def machine(host: Host) -> Machine:
    """A host with guardrun and the programs of the examples."""
    return Machine(host, crontab())


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


def test_the_whole_crontab_under_cron(machine: Machine, database_url: str) -> None:
    """Debian's cron executes every line; the only mail is that of the one that fails."""
    fleet = {"GUARDRUN_LEDGER_URL": database_url}
    assert machine.run([f"{machine.bin}/guardrun", "migrate"], {**ENVIRONMENT, **fleet}).code == 0
    text = machine.located((EXAMPLES / "crontab").read_text())
    fails = (
        'case $0 in */sync-orders) echo no connection; exit 3;; */load-lines) cat >"$LOG.in";; esac'
    )
    with crond(machine.host.root, text, machine.environment({**fleet, "ACT": fails})) as cron:
        cron.done(lambda: sorted(machine.ran()) == sorted(crontab()))
        (mail,) = cron.mails()
    head, _, body = mail.partition("\n\n")
    assert "sync-orders" in head
    assert body.startswith("no connection\n")
    assert (machine.host.root / "ran.in").read_text() == "first line\nsecond line\n"


# ---------------------------------------------------------------- systemd


def test_the_units_are_what_systemd_takes(machine: Machine) -> None:
    """systemd-analyze finds nothing to say about services and timer."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    units = []
    write_script(machine.bin / "worker", PROGRAM)
    for source in (*EXAMPLES.glob("*.service"), *EXAMPLES.glob("*.timer")):
        unit = machine.host.root / source.name
        unit.write_text(machine.located(source.read_text()))
        units.append(str(unit))
    assert len(units) == 3
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in said.stderr.splitlines() if "guardrun-" in line]
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


@pytest.mark.parametrize("name", ["guardrun-example.service", "guardrun-worker.service"])
def test_systemd_gives_the_service_time_to_stop(name: str) -> None:
    """TimeoutStopSec is more than grace period and recording together; TERM goes to one process."""
    settings = unit_settings(name)
    found = re.search(r"--kill-after (\d+)s", settings["ExecStart"])
    assert found is not None
    assert int(settings["TimeoutStopSec"].removesuffix("s")) > int(found[1]) + 30
    assert settings["KillMode"] == "mixed"


def test_a_busy_lock_is_no_failure_of_the_service(machine: Machine) -> None:
    """The service's busy lock is the code that the unit counts as success."""
    settings = unit_settings("guardrun-example.service")
    words = shlex.split(machine.located(settings["ExecStart"]))
    first = machine.start(words, {"ACT": "read unblocked"})
    eventually(lambda: machine.ran() == ["make-report"], what="the job is at work")
    assert machine.run(words, {}).code == int(settings["SuccessExitStatus"])
    assert finish(first, data=b"\n").code == 0


# ---------------------------------------------------------------- CI


def ci_steps(name: str) -> list[str]:
    """What a CI file has a shell execute, step by step."""
    parsed: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text())
    if name.startswith("github"):
        return [step["run"] for step in parsed["jobs"]["deploy"]["steps"] if "run" in step]
    script: list[str] = parsed["deploy"]["script"]
    return script


@pytest.mark.parametrize(
    ("name", "variable"),
    [("github-actions.yml", "GITHUB_SHA"), ("gitlab-ci.yml", "CI_COMMIT_SHA")],
)
def test_a_commit_is_deployed_once(machine: Machine, name: str, variable: str) -> None:
    """A commit is deployed once, and then checked once; what failed is what a retry does."""
    for script in ("deploy.sh", "check.sh"):
        write_script(machine.host.root / script, PROGRAM)
    steps = [step.replace("--backoff 1s..30s", "--backoff 1ms..1ms") for step in ci_steps(name)]
    assert (len(steps), steps == ci_steps(name)) == (2, False)

    def job(**env: str) -> tuple[int, list[str]]:
        """How the job ends, as a runner executes it, and what it has executed."""
        machine.log.unlink(missing_ok=True)
        for step in steps:
            words = ["/bin/bash", "-e", "-c", step]
            code = machine.run(words, {"PATH": f"{machine.bin}:/usr/bin:/bin", **env}).code
            if code:
                break
        return code, machine.ran()

    commit = {variable: "c0ffee"}
    assert job(**commit, ACT="exit 9") == (9, ["deploy.sh"])
    failing = "case $0 in *check.sh) exit 7;; esac"
    assert job(**commit, ACT=failing) == (7, ["deploy.sh", *["check.sh"] * 6])
    assert job(**commit) == (0, ["check.sh"])
    assert job(**commit) == (0, [])
    assert job(**{variable: "beef"}) == (0, ["deploy.sh", "check.sh"])
    assert job() == (78, [])
    steps.pop(0)
    assert job(**{variable: "unborn"}) == (76, [])


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
    readme = (EXAMPLES.parent / "README.md").read_text()
    assert crontab()["make-report"] in readme
    service = (EXAMPLES / "guardrun-example.service").read_text()
    block = re.search(r"```ini\n(.*?)```", readme, re.S)
    assert block is not None
    shown = [line for line in block[1].splitlines() if line and not line.startswith("#")]
    assert shown
    assert [line for line in shown if line not in service.splitlines()] == []
    assert os.access(EXAMPLES / "workflow.sh", os.X_OK)
