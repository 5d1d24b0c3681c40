"""`--metrics-textfile` and `--ping-url`: others are told, and it never matters to the run."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from monitoring import Monitor, monitor
from support import Host, Result, eventually, finish, no_survivors

from guardrun.report.textfile import file_name, parse


@pytest.fixture
def server() -> Iterator[Monitor]:
    """A monitor."""
    with monitor() as made:
        yield made


def boottime() -> float:
    """Now, on the clock of the monitor's calls."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# ---------------------------------------------------------------- the metrics file


def samples(directory: Path, job: str) -> dict[str, float]:
    """What is in a job's file."""
    return parse((directory / file_name(job)).read_text())


def test_runs_are_counted(host: Host) -> None:
    """Each run, also a refused one, is in the file when guardrun ends; readable for all."""
    place = host.root / "metrics"
    place.mkdir()
    words = ("--metrics-textfile", str(place), "--job", "a", "--key", "k")
    for _ in range(2):
        assert host.run(*words, "--", "true").code == 0
    found = samples(place, "a")
    assert found['guardrun_runs_total{job_name="a",result="success"}'] == 1
    assert found['guardrun_runs_total{job_name="a",result="skipped_duplicate"}'] == 1
    (file,) = place.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_no_run_is_lost(host: Host) -> None:
    """Runs that end at the same time are all counted."""
    place = host.root / "metrics"
    place.mkdir()
    words = ("--metrics-textfile", str(place), "--job", "a", "--log-to", "none", "--", "true")
    started = [host.start("--ledger-url", "none:", *words) for _ in range(12)]
    assert {finish(process).code for process in started} == {0}
    assert samples(place, "a")['guardrun_runs_total{job_name="a",result="success"}'] == 12


def test_a_file_that_cannot_be_written(host: Host) -> None:
    """It is said in the log, before the last line; COMMAND's exit code stays its own."""
    result = host.run("--metrics-textfile", "/proc/nowhere", "--", "sh", "-c", "exit 7")
    assert result.code == 7
    assert result.events[-2:] == ["report_failed", "run_finished"]
    assert "/proc/nowhere" in result.event("report_failed")["reason"]


def test_a_directory_that_is_locked(host: Host) -> None:
    """Whoever holds the directory's lock delays a run by a second at most."""
    place = host.root / "metrics"
    place.mkdir()
    fd = os.open(place, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        result = host.run("--metrics-textfile", str(place), "--", "true")
    finally:
        os.close(fd)
    assert result.code == 0
    assert "took too long" in result.event("report_failed")["reason"]
    assert result.finished["result"] == "success"


@pytest.mark.parametrize("words", [("--metrics-textfile", "relative")])
def test_a_directory_must_be_absolute(host: Host, words: tuple[str, ...]) -> None:
    """A relative directory would be another one for each job: exit code 64."""
    assert host.run(*words, "--", "true").code == 64


# ---------------------------------------------------------------- the monitor


def ping(host: Host, server: Monitor, *words: str) -> Result:
    """Run guardrun with this monitor."""
    return host.run("--ping-url", server.url, *words)


def test_start_and_end(host: Host, server: Monitor) -> None:
    """The monitor hears of the start, then of the end, with one run's id and the output's end."""
    result = ping(host, server, "--capture", "1K", "--", "sh", "-c", "echo hello; exit 3")
    assert (result.code, result.stderr) == (3, b"")
    start, end = server.calls
    rid = result.finished["job_id"]
    assert (start.method, start.path) == ("POST", f"/ping/secret-check/start?rid={rid}")
    assert (end.method, end.path) == ("POST", f"/ping/secret-check/3?rid={rid}")
    assert end.body.endswith(b"hello\n")


def test_command_does_not_wait_for_it(host: Host, server: Monitor) -> None:
    """COMMAND runs to its end while a monitor that hangs has not answered its start."""
    server.behaviour = "hang"
    process = host.start("--ping-url", server.url, "--", host.job, env={"ACT": "exit 0"})
    eventually(host.executions, what="COMMAND is executed")
    assert finish(process).code == 0


@pytest.mark.parametrize("behaviour", ["hang", "reset", "fail", "refuse"])
def test_whatever_the_monitor_does(host: Host, server: Monitor, behaviour: str) -> None:
    """The outcome stands, the lock is free, one line says so, and tells nothing of the URL."""
    server.behaviour = behaviour
    begun = boottime()
    result = ping(host, server, "--lock", "a", "--key", "k", "--", "sh", "-c", "exit 5")
    assert boottime() - begun < 30
    assert result.code == 5
    assert result.finished["result"] == "failed"
    (line,) = result.stderr.decode().splitlines()
    assert line.startswith("guardrun: the monitor was not told: ")
    assert "secret-check" not in line + result.stdout.decode()
    assert [row["result"] for row in host.rows()] == ["failed"]


def test_the_lock_is_free_before_the_monitor_has_answered(host: Host, server: Monitor) -> None:
    """Who waits for the lock does not wait for somebody's monitor."""
    server.behaviour = "hang"
    process = host.start("--ping-url", server.url, "--lock", "a", "--", "true")
    assert server.paths(1)
    assert host.run("--lock", "a", "-w", "4s", "--", "true").code == 0
    assert process.poll() is None
    assert finish(process).code == 0


def test_told_to_stop_while_it_hangs(host: Host, server: Monitor) -> None:
    """TERM ends the waiting at once."""
    server.behaviour = "hang"
    process = host.start("--ping-url", server.url, "--", "true")
    server.paths(1)
    eventually(lambda: any(row["result"] == "success" for row in host.rows()), what="recorded")
    begun = boottime()
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == -signal.SIGTERM
    assert boottime() - begun < 4


def test_a_run_that_is_stopped(host: Host, server: Monitor) -> None:
    """TERM to a running job is told as its failure."""
    process = host.hold("--ping-url", server.url)
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == -signal.SIGTERM
    assert server.paths(2)[1].startswith("/ping/secret-check/143?rid=")


def test_nobody_is_told_of_a_killed_run(host: Host, server: Monitor) -> None:
    """After SIGKILL nothing of guardrun is left, and the monitor finds out by itself."""
    process = host.hold("--ping-url", server.url)
    server.paths(1)
    process.kill()
    assert finish(process).code == -signal.SIGKILL
    assert host.run("--ping-url", server.url, "--", "true").code == 0
    assert [path.split("?")[0].rpartition("/")[2] for path in server.paths(3)] == [
        "start",
        "start",
        "0",
    ]


def test_nothing_is_left_of_a_killed_run(host: Host, server: Monitor, mark: str) -> None:
    """Who waits for the monitor dies with the run."""
    server.behaviour = "hang"
    process = host.start("--ping-url", server.url, "--", "sleep", mark)
    server.paths(1)
    process.kill()
    finish(process)
    no_survivors(mark)


def test_a_monitor_behind_tls(host: Host, certified: Path) -> None:
    """The monitor's certificate is checked: one that nobody vouches for is told nothing."""
    with monitor(certified) as server:
        words = ("--ping-url", server.url, "--", "true")
        result = host.run(*words, env={"SSL_CERT_FILE": str(certified / "cert")})
        assert (result.code, result.stderr) == (0, b"")
        assert len(server.calls) == 2
        result = host.run(*words, env={"SSL_CERT_FILE": os.devnull})
        assert result.code == 0
        assert b"the monitor was not told" in result.stderr
        assert len(server.calls) == 2


def test_a_refused_run_is_no_failure(host: Host, server: Monitor) -> None:
    """A duplicate is told as a line of the check's log, without a start."""
    assert host.run("--key", "k", "--", "true").code == 0
    assert ping(host, server, "--key", "k", "--", "true").code == 0
    (path,) = server.paths(1)
    assert path.startswith("/ping/secret-check/log?rid=")


def test_a_login_is_no_option(host: Host, server: Monitor) -> None:
    """A password in the URL is refused on the command line, and used from a file."""
    url = server.url.replace("//", "//me:hunter2-swordfish@")
    result = host.run("--ping-url", url, "--", "true")
    assert result.code == 64
    assert b"swordfish" not in result.stderr
    config = host.root / "guardrun.toml"
    config.write_text(f'[defaults]\nping_url = "{url}"\n')
    result = host.run("--config", str(config), "--", "true")
    assert result.code == 0
    assert b"swordfish" not in result.stdout + result.stderr
    assert {call.authorization for call in server.calls} == {"Basic bWU6aHVudGVyMi1zd29yZGZpc2g="}
    shown = host.run("--config", str(config), "--dry-run", "--", "true").stdout
    assert b"swordfish" not in shown


@pytest.mark.parametrize("url", ["ftp://a/b", "hc-ping.com/a", "https://", "https://a b/c"])
def test_urls_that_are_wrong(host: Host, url: str) -> None:
    """What is no URL of a monitor is exit code 64, and one line."""
    result = host.run("--ping-url", url, "--", "true")
    assert (result.code, len(result.stderr.splitlines())) == (64, 1)
