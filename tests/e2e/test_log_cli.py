"""The log lines: what is on every one of them, which come when, and where they go."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import time
from pathlib import Path

import pytest
from support import Host, Result, eventually, finish, log_lines, queued

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
RESULTS = {
    "success",
    "retry",
    "failed",
    "skipped_duplicate",
    "timeout",
    "lock_busy",
    "lease_lost",
    "precondition_failed",
    "interrupted",
    "store_unavailable",
}


def has_nulls(value: object) -> bool:
    """Whether null is anywhere in here: a field that does not apply is left out instead."""
    if isinstance(value, dict):
        return any(has_nulls(item) for item in value.values())
    if isinstance(value, list):
        return any(has_nulls(item) for item in value)
    return value is None


def check(result: Result) -> Result:
    """Check what holds for the lines of every run."""
    lines = result.lines
    assert lines, result
    assert len({line["job_id"] for line in lines}) == 1
    assert len({line["job"] for line in lines}) == 1
    for line in lines:
        assert list(line)[:3] == ["timestamp", "level", "event"]
        assert TIMESTAMP.fullmatch(line["timestamp"]), line
        assert line["level"] in ("debug", "info", "warning", "error")
        assert UUID7.fullmatch(line["job_id"]), line
        assert not has_nulls(line), line
        assert line.get("result") in RESULTS | {None}
        for name, value in line.items():
            if name.endswith("_ms"):
                assert value >= 0, line
    stamps = [line["timestamp"] for line in lines]
    assert stamps == sorted(stamps)
    assert result.events[0] == "run_started"
    assert result.events.count("run_finished") == 1
    assert result.events[-1] == "run_finished"
    assert all(len(line) <= 4096 for line in result.stdout.splitlines(keepends=True))
    return result


# ---------------------------------------------------------------- which lines come when


def test_the_lines_of_a_success(host: Host) -> None:
    """Success: started, lock acquired, attempt started and finished, and last the whole outcome."""
    before = time.time()
    due = ("--enqueued-at", str(int(before) - 5))
    options = ("--job", "nightly", "--lock", "l", "--key", "k", *due)
    result = check(host.run(*options, "-c", 'echo "$GUARDRUN_JOB_ID" >&2'))
    assert result.events == [
        "run_started",
        "lock_acquired",
        "attempt_started",
        "attempt_finished",
        "run_finished",
    ]
    last = result.finished
    assert last["job_id"] == result.stderr.decode().strip()
    assert last["job"] == "nightly"
    assert (last["result"], last["exit_code"], last["level"]) == ("success", 0, "info")
    assert (last["lock"], last["idempotency_key"]) == ("l", "k")
    assert last["lock_owner"].endswith(last["job_id"])
    assert last["fencing_token"] == result.event("lock_acquired")["fencing_token"]
    assert last["lock_wait_ms"] == result.event("lock_acquired")["lock_wait_ms"]
    assert 5000 <= last["queue_lag_ms"] < 6001 + 1000 * (time.time() - before)
    assert "signal" not in last
    attempt = result.event("attempt_finished")
    assert (attempt["attempt"], attempt["result"], attempt["exit_code"]) == (1, "success", 0)
    assert attempt["duration_ms"] <= last["duration_ms"]
    assert result.event("attempt_started")["attempt"] == 1


def test_what_does_not_apply_is_not_there(host: Host) -> None:
    """Without lock, key and due time none of their fields is on any line."""
    result = check(host.run("--", "true"))
    assert result.events == ["run_started", "attempt_started", "attempt_finished", "run_finished"]
    absent = {
        "idempotency_key",
        "lock",
        "lock_owner",
        "fencing_token",
        "lock_wait_ms",
        "queue_lag_ms",
        "backoff_ms",
        "held_by",
        "signal",
    }
    assert all(not absent & line.keys() for line in result.lines)


def test_the_lines_of_a_failure(host: Host) -> None:
    """Failure: the exit code and a reason are on the attempt's line and on the last one."""
    result = check(host.run("-c", "exit 7"))
    assert result.events == ["run_started", "attempt_started", "attempt_finished", "run_finished"]
    for line in (result.event("attempt_finished"), result.finished):
        assert (line["result"], line["exit_code"]) == ("failed", 7)
        assert line["reason"]
    assert result.finished["level"] == "error"


def test_the_lines_of_a_retry(host: Host) -> None:
    """A retry: the attempt's result is retry, a backoff is scheduled, the next attempt follows."""
    options = ("--retries", "2", "--backoff", "20ms..30ms", "--jitter", "equal")
    result = check(host.run(*options, "-c", '[ "$GUARDRUN_ATTEMPT" = 3 ]'))
    assert result.events == [
        "run_started",
        "attempt_started",
        "attempt_finished",
        "retry_scheduled",
        "attempt_started",
        "attempt_finished",
        "retry_scheduled",
        "attempt_started",
        "attempt_finished",
        "run_finished",
    ]
    finished = [line for line in result.lines if line["event"] == "attempt_finished"]
    assert [line["result"] for line in finished] == ["retry", "retry", "success"]
    assert [line["attempt"] for line in finished] == [1, 2, 3]
    delays = [line["backoff_ms"] for line in result.lines if line["event"] == "retry_scheduled"]
    assert 10 <= delays[0] <= 20
    assert 15 <= delays[1] <= 30
    assert result.finished["result"] == "success"


def test_the_lines_of_a_failure_after_retries(host: Host) -> None:
    """The last attempt has the run's result, the ones before it `retry`."""
    result = check(host.run("--retries", "1", "--backoff", "1ms", "-c", "exit 5"))
    finished = [line for line in result.lines if line["event"] == "attempt_finished"]
    assert [line["result"] for line in finished] == ["retry", "failed"]
    assert (result.finished["result"], result.finished["exit_code"]) == ("failed", 5)


def test_the_lines_of_a_busy_lock(host: Host) -> None:
    """Busy: nothing between the refusal and the last line, both warnings, with who holds it."""
    holder = host.hold("--lock", "l")
    result = check(host.run("--lock", "l", "--", host.job))
    finish(holder)
    assert result.events == ["run_started", "lock_busy", "run_finished"]
    busy = result.event("lock_busy")
    assert busy["held_by"].keys() == {"owner", "job_id", "since"}
    assert TIMESTAMP.fullmatch(busy["held_by"]["since"])
    assert busy["level"] == result.finished["level"] == "warning"
    assert result.finished["lock"] == "l"
    assert "lock_owner" not in result.finished


def test_the_lines_of_a_busy_lock_file(host: Host) -> None:
    """A lock file that is held: what is not known about its holder is left out, not null."""
    path = host.root / "file"
    holder = host.hold("--lock-file", str(path))
    result = check(host.run("--lock-file", str(path), "--", host.job))
    finish(holder)
    assert result.event("lock_busy")["held_by"]["owner"]


def test_the_lines_of_a_duplicate(host: Host) -> None:
    """Duplicate: the lock is acquired, the key refused, nothing is executed."""
    words = ("--lock", "l", "--key", "k", "--", "true")
    host.run(*words)
    result = check(host.run(*words))
    assert result.events == ["run_started", "lock_acquired", "duplicate_skipped", "run_finished"]
    assert result.event("duplicate_skipped")["idempotency_key"] == "k"
    assert result.finished["result"] == "skipped_duplicate"
    assert {line["level"] for line in result.lines} == {"info"}


def test_the_lines_of_a_precondition(host: Host) -> None:
    """A precondition that is not met is a warning with a reason."""
    result = check(host.run("--needs", "never", "--", "true"))
    assert result.events == ["run_started", "precondition_failed", "run_finished"]
    assert "never" in result.event("precondition_failed")["reason"]
    assert result.finished["level"] == "warning"


def test_the_lines_of_a_budget(host: Host) -> None:
    """A retry that the budget does not pay for: `budget_exhausted`, and the attempt has failed."""
    options = ("--retries", "5", "--backoff", "1ms", "--retry-budget", "1/1h")
    result = check(host.run(*options, "--", "false"))
    assert result.events.count("attempt_finished") == 2
    assert result.events.count("retry_scheduled") == 1
    assert result.event("budget_exhausted")["level"] == "warning"
    assert result.finished["result"] == "failed"
    again = check(host.run(*options, "--", "false"))
    assert again.events.count("attempt_finished") == 1
    assert again.event("budget_exhausted")


def test_the_lines_of_a_timeout(host: Host) -> None:
    """Timeout: the signal that ended COMMAND is named, exit 124, an error."""
    result = check(host.run("-t", "150ms", "--", "sleep", "60"))
    assert result.code == 124, result
    attempt = result.event("attempt_finished")
    assert (attempt["result"], attempt["signal"]) == ("timeout", "SIGTERM")
    last = result.finished
    assert 150 <= last["duration_ms"] < 10_000
    assert (last["result"], last["exit_code"], last["level"]) == ("timeout", 124, "error")


def test_the_lines_of_a_death_by_signal(host: Host) -> None:
    """COMMAND killed by a signal: its name is on the line, and the exit code that a shell sees."""
    result = check(host.run("-c", "kill -HUP $$"))
    assert result.code == -signal.SIGHUP, result
    assert result.event("attempt_finished")["signal"] == "SIGHUP"
    last = result.finished
    assert (last["result"], last["signal"]) == ("failed", "SIGHUP")
    assert last["exit_code"] == 128 + signal.SIGHUP


def test_the_lines_of_a_run_that_was_told_to_stop(host: Host) -> None:
    """Told to stop: the attempt and the run are interrupted, by a signal that is named."""
    process = host.hold()
    process.send_signal(signal.SIGTERM)
    result = check(finish(process))
    assert result.event("attempt_finished")["result"] == "interrupted"
    last = result.finished
    assert (last["result"], last["signal"]) == ("interrupted", "SIGTERM")
    assert (last["exit_code"], last["level"]) == (128 + signal.SIGTERM, "warning")


@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [
        ("/nonexistent/command", 127, "COMMAND is not found"),
        ("no-such-command", 127, "COMMAND is not found"),
        (
            "./from-windows",
            127,
            "COMMAND is not found: the file is there, its interpreter (#!) is not",
        ),
        ("./no-program", 126, "COMMAND cannot be executed: Permission denied"),
        ("./no-program/job", 126, "COMMAND cannot be executed: Not a directory"),
    ],
)
def test_the_lines_of_a_command_that_cannot_be_executed(
    host: Host, tmp_path: Path, command: str, code: int, reason: str
) -> None:
    """COMMAND cannot be executed: a failed run, whose reason says why, wherever the log goes."""
    script = tmp_path / "from-windows"
    script.write_text("#!/bin/sh\r\ntrue\r\n")
    script.chmod(0o755)
    (tmp_path / "no-program").touch(0o644)
    command = command.replace("./", f"{tmp_path}/")
    result = check(host.run("--", command))
    last = result.finished
    assert (last["result"], last["exit_code"], last["level"]) == ("failed", code, "error")
    assert last["reason"] == reason
    silent = host.run("--log-to", "none", "--", command)
    assert (silent.code, silent.stderr) == (code, f"guardrun: {command}: {reason}\n".encode())


def test_every_run_has_an_id_of_its_own(host: Host) -> None:
    """job_ids are UUIDv7: later runs have larger ones, and the time of the run is in them."""
    before = time.time()
    ids = [host.run("--", "true").finished["job_id"] for _ in range(3)]
    assert ids == sorted(set(ids))
    made = int(ids[0].replace("-", "")[:12], 16) / 1000
    assert before - 1 <= made <= time.time()


# ---------------------------------------------------------------- the form of a line


def test_lines_of_whatever_length_and_kind_fit(host: Host) -> None:
    """No line is longer than 4096 bytes, and each is JSON, whatever the names are like."""
    long = "k" * 1000
    for job, key in (("j" * 128, long), ("ü" * 60, "鍵" * 1000), ('"\\' * 64, '"\\' * 500)):
        result = check(host.run("--job", job, "--lock", key, "--key", key, "--", "true"))
        assert result.code == 0, result


def test_long_output_is_split(host: Host) -> None:
    """A long line of COMMAND's output is shared out over several log lines, and nothing is lost."""
    written = "".join(f'{number} ü\\"\t' for number in range(3000))
    (host.root / "written").write_text(written + "\nshort\n")
    result = check(host.run("--output", "json", "--", "cat", "written"))
    parts = [line for line in result.lines if line["event"] == "output"]
    assert {line["stream"] for line in parts} == {"stdout"}
    assert len(parts) > 10
    assert parts[-1]["line"] == "short"
    assert "part" not in parts[-1]
    assert [line["part"] for line in parts[:-1]] == list(range(1, len(parts)))
    assert "".join(line["line"] for line in parts[:-1]) == written


def test_output_as_lines(host: Host) -> None:
    """`--output json`: every line of either stream is an event, and nothing comes by itself."""
    result = check(host.run("--output", "json", "-c", "echo one; echo two >&2; printf three"))
    said = [(line["stream"], line["line"]) for line in result.lines if line["event"] == "output"]
    assert sorted(said) == [("stderr", "two"), ("stdout", "one"), ("stdout", "three")]
    assert said.index(("stdout", "one")) < said.index(("stdout", "three"))
    assert len(result.lines) == len(result.stdout.splitlines())
    assert result.stderr == b""


def test_names_that_are_no_text_make_no_broken_line(host: Host) -> None:
    """COMMAND's words need not be UTF-8, and its output neither: the lines always are."""
    result = host.run("--output", "json", "--", b"/bin/echo", b"\xff\xfe")
    assert result.code == 0, result
    result.stdout.decode("utf-8")
    assert check(result).event("output")


def test_lines_of_many_runs_do_not_mix(host: Host) -> None:
    """Many runs that append to one file, or write to one pipe, never break each other's lines."""
    path = host.root / "log"
    ours, theirs = os.pipe()
    noisy = ("--output", "json", "-c", "seq 100 | tr '\\n' ' '; seq 20")
    runs = [host.start("--log-to", str(path), *noisy) for _ in range(8)]
    runs += [host.start("--log-to", "fd:1", *noisy, stdout=theirs) for _ in range(8)]
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        piped = pipe.read()
    assert [finish(run).code for run in runs] == [0] * 16
    for data in (path.read_bytes(), piped):
        lines = [json.loads(line) for line in data.splitlines()]
        assert sum(line["event"] == "run_finished" for line in lines) == 8
        assert sum(line["event"] == "output" for line in lines) == 8 * 20


# ---------------------------------------------------------------- quiet, and levels


def test_quiet_when_all_is_well(host: Host) -> None:
    """`-q`: a run that went well, or had nothing to do, leaves no line at all."""
    for _ in range(2):
        result = host.run("-q", "--lock", "l", "--key", "k", "-c", "echo out")
        assert result.code == 0, result
        assert result.stdout in (b"out\n", b"")
        assert result.stderr == b""


@pytest.mark.parametrize("command", ["exit 7", "kill -KILL $$"])
def test_not_quiet_when_something_went_wrong(host: Host, command: str) -> None:
    """`-q`: a run that failed leaves the lines that it would have left without it."""
    result = check(host.run("-q", "-c", command))
    assert result.events == ["run_started", "attempt_started", "attempt_finished", "run_finished"]


def test_levels(host: Host) -> None:
    """`--log-level` leaves out what is less than it."""
    words = ("--", "false")
    by_level = {
        level: host.run("--log-level", level, *words).lines
        for level in ("debug", "info", "warning", "error")
    }
    order = ["debug", "info", "warning", "error"]
    for level, lines in by_level.items():
        assert lines
        assert all(order.index(line["level"]) >= order.index(level) for line in lines)
        assert lines[-1]["event"] == "run_finished"
    assert [line["event"] for line in by_level["error"]] == ["run_finished"]
    assert len(by_level["debug"]) >= len(by_level["info"]) > len(by_level["error"])
    assert host.run("--log-level", "warning", "--", "true").stdout == b""


# ---------------------------------------------------------------- where they go


def test_lines_to_stderr(host: Host) -> None:
    """`--log-to stderr` leaves stdout to COMMAND alone."""
    result = host.run("--log-to", "stderr", "-c", "echo out")
    assert result.stdout == b"out\n"
    assert log_lines(result.stderr)[-1]["event"] == "run_finished"


def test_lines_to_nowhere(host: Host) -> None:
    """`--log-to none`: no lines, not even of a failure."""
    result = host.run("--log-to", "none", "-c", "echo out; exit 3")
    assert (result.code, result.stdout, result.stderr) == (3, b"out\n", b"")


def test_lines_to_a_descriptor(host: Host) -> None:
    """`--log-to fd:N` writes to a descriptor that guardrun was started with, and passes it on."""
    ours, theirs = os.pipe()
    shell = f"echo mine >/proc/self/fd/{theirs}; echo out"
    process = host.start("--log-to", f"fd:{theirs}", "-c", shell, pass_fds=[theirs])
    os.close(theirs)
    result = finish(process)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read()
    assert (result.code, result.stdout, result.stderr) == (0, b"out\n", b"")
    assert b"mine\n" in said.splitlines(keepends=True)
    assert log_lines(said)[-1]["event"] == "run_finished"


def test_lines_to_a_file(host: Host) -> None:
    """`--log-to PATH` appends, to a file that is made for its user alone."""
    path = host.root / "log"
    for number in (1, 2):
        result = host.run("--log-to", str(path), "-c", "echo out", umask=0)
        assert (result.code, result.stdout, result.stderr) == (0, b"out\n", b"")
        finished = [line["event"] for line in log_lines(path.read_bytes())].count("run_finished")
        assert finished == number
    assert path.stat().st_mode & 0o777 == 0o600


def test_lines_come_while_a_run_waits(host: Host) -> None:
    """A run that waits for its lock has said so: nobody has to guess why nothing happens."""
    holder = host.hold("--lock", "l")
    path = host.root / "log"
    waiter = host.start("--log-to", str(path), "--lock", "l", "-w", "60s", "--", host.job)
    eventually(lambda: queued(host.locks), what="a waiter in the kernel's queue")
    eventually(lambda: path.exists() and b"lock_busy" in path.read_bytes(), what="a line about it")
    busy = log_lines(path.read_bytes())[-1]
    assert busy["held_by"]["job_id"] == host.executions()[0]
    finish(holder)
    assert finish(waiter).code == 0


def test_lines_come_while_command_runs(host: Host) -> None:
    """That COMMAND has been started is in the log while it runs."""
    path = host.root / "log"
    process = host.hold("--log-to", str(path))
    eventually(lambda: b"attempt_started" in path.read_bytes(), what="a line about the attempt")
    finish(process)


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("place", ["/dev/full", "/nonexistent/log", "/", "fd:99"])
def test_a_log_that_cannot_be_written_changes_nothing(host: Host, place: str, code: int) -> None:
    """A full disk, a missing directory or a closed descriptor: COMMAND runs, its code is ours."""
    result = host.run("--log-to", place, "--", host.job, env={"ACT": f"echo out; exit {code}"})
    assert (result.code, result.stdout) == (code, b"out\n"), result
    assert len(host.executions()) == 1
    assert host.rows()[0]["exit_code"] == code


def test_a_log_that_nobody_reads_changes_nothing(host: Host) -> None:
    """A pipe whose reader is gone, or never reads: COMMAND runs to its end, its code is ours."""
    ours, theirs = os.pipe()
    os.close(ours)
    options = ("--log-to", f"fd:{theirs}", "--", host.job)
    gone = host.run(*options, pass_fds=[theirs], env={"ACT": "exit 3"})
    os.close(theirs)
    assert gone.code == 3, gone
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(theirs, b"x" * 65536)
    os.set_blocking(theirs, True)
    start = time.monotonic()
    options = ("--log-to", f"fd:{theirs}", "--", host.job)
    stuck = host.run(*options, pass_fds=[theirs], env={"ACT": "exit 3"})
    os.close(theirs)
    os.close(ours)
    assert stuck.code == 3, stuck
    assert time.monotonic() - start < 20
    assert len(host.executions()) == 2


# ---------------------------------------------------------------- for people


def shown(host: Host, *options: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run guardrun with stdout on a terminal; its exit code, and what a person sees."""
    ours, theirs = pty.openpty()
    process = host.start(*options, stdout=theirs, env=env)
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:  # how Linux says that the other side of a terminal is closed
        pass
    os.close(ours)
    code = process.wait(timeout=30)
    assert process.stderr is not None
    process.stderr.close()
    return code, seen.decode()


def test_lines_for_people_on_a_terminal(host: Host) -> None:
    """On a terminal the lines are for people: no JSON, the job and what happened in words."""
    code, seen = shown(host, "--job", "nightly", "--lock", "l", "-c", "exit 7")
    assert code == 7
    lines = seen.splitlines()
    assert not log_lines(seen.encode())
    assert len(lines) == 5
    assert all("nightly" in line for line in lines)
    assert "failed" in lines[-1]
    assert "7" in lines[-1]


def test_colours_only_where_they_are_welcome(host: Host) -> None:
    """NO_COLOR and a dumb terminal are respected, and a pipe never gets an escape sequence."""
    words = ("-c", "exit 7")
    for env in ({"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}):
        assert "\033" not in shown(host, *words, env=env)[1]
    assert "\033" in shown(host, *words, env={"TERM": "xterm", "NO_COLOR": ""})[1]
    piped = host.run("--log-format", "console", *words, env={"TERM": "xterm", "NO_COLOR": ""})
    assert b"\033" not in piped.stdout


def test_the_form_can_be_chosen(host: Host) -> None:
    """`--log-format` says what the lines look like, wherever they go."""
    _, seen = shown(host, "--log-format", "json", "--", "true")
    assert [line["event"] for line in log_lines(seen.encode())][-1] == "run_finished"
    piped = host.run("--log-format", "console", "--job", "nightly", "--", "true")
    assert piped.lines == []
    assert b"nightly" in piped.stdout


def test_nothing_in_a_name_can_move_the_cursor(host: Host) -> None:
    """Control characters in COMMAND's output are shown escaped in the lines for people."""
    options = ("--log-format", "console", "--output", "json")
    result = host.run(*options, "-c", "printf 'a\\033[2Jb\\rc\\n'")
    assert result.code == 0, result
    assert b"\033" not in result.stdout
    assert b"\r" not in result.stdout
