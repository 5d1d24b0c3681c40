"""The ledger: every run is in it, and when it cannot be written no outcome is lost.

What ends up in it is looked at the way a user does, by `history` and `show`.
"""

from __future__ import annotations

import json
import os
import pty
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import GUARDRUN, Host, Result, eventually, finish, kill, queued

ROOT = os.geteuid() == 0


def history(host: Host, *options: str) -> list[dict[str, Any]]:
    """What `history --json` tells, newest first."""
    result = host.run("history", "--json", *options)
    assert result.code == 0, result
    return [json.loads(line) for line in result.stdout.splitlines()]


def show(host: Host, run: str) -> dict[str, Any]:
    """What `show --json` tells of one run."""
    result = host.run("show", run, "--json")
    assert result.code == 0, result
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def on_a_terminal(host: Host, *words: str) -> str:
    """What guardrun shows to a person, at a terminal."""
    ours, theirs = pty.openpty()
    process = host.start(*words, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # how Linux says that the other side of a terminal is closed
        pass
    os.close(ours)
    assert process.wait(timeout=30) == 0, shown
    return shown.decode()


# ---------------------------------------------------------------- every run is a row


def test_a_success_is_recorded(host: Host) -> None:
    """A run that succeeded is in the ledger with all that its last log line says."""
    began = time.time()
    due = str(int(began) - 60)
    options = ("--job", "nightly", "--lock", "l", "--key", "k", "--enqueued-at", due)
    result = host.run(*options, "--", "sh", "-c", "exit 0", "x y")
    assert result.code == 0, result
    last = result.finished
    (row,) = history(host)
    for name in (
        "job_id",
        "job",
        "result",
        "exit_code",
        "idempotency_key",
        "lock",
        "lock_owner",
        "fencing_token",
    ):
        assert row[name] == last[name], name
    assert row["result"] == "success"
    assert row["command"] == ["sh", "-c", "exit 0", "x y"]
    assert row["attempts"] == 1
    assert row["duration_ms"] > 0
    assert 60_000 <= row["queue_lag_ms"] <= 61_001 + 1000 * (time.time() - began)
    whole = show(host, last["job_id"])
    assert whole["host"] == os.uname().nodename
    assert [attempt["result"] for attempt in whole["attempts"]] == ["success"]


@pytest.mark.parametrize(
    ("options", "command", "result", "code"),
    [
        ([], "exit 0", "success", 0),
        ([], "exit 9", "failed", 9),
        ([], "kill -SEGV $$", "failed", 128 + signal.SIGSEGV),
        ([], "exec /nonexistent/command", "failed", 127),
        (["-t", "100ms"], "sleep 60", "timeout", 124),
        (["--deadline", "200ms"], "sleep 60", "timeout", 124),
        (["--needs", "never"], "exit 0", "precondition_failed", 76),
        (["--success-codes", "0,9"], "exit 9", "success", 9),
    ],
)
def test_how_a_run_ended_is_recorded(
    host: Host, options: list[str], command: str, result: str, code: int
) -> None:
    """Whatever a run's end, its row says the result and the exit code that a shell saw."""
    ended = host.run(*options, "-c", command)
    assert ended.code in (code, 128 - code), ended
    (row,) = history(host)
    assert (row["result"], row["exit_code"]) == (result, code)
    assert row["job_id"] == ended.finished["job_id"]
    assert row["reason"] == ended.finished.get("reason")


def test_a_command_that_is_not_found_is_recorded(host: Host) -> None:
    """A COMMAND that cannot be executed is a failed run like any other."""
    assert host.run("--", "/nonexistent/command").code == 127
    (row,) = history(host)
    assert (row["result"], row["exit_code"]) == ("failed", 127)


def test_refused_runs_are_recorded(host: Host) -> None:
    """Runs that executed nothing are rows as well, with who was in the way."""
    holder = host.hold("--lock", "l")
    refused = host.run("--lock", "l", "--", host.job)
    finish(holder)
    assert host.run("--key", "k", "--", host.job).code == 0
    assert host.run("--key", "k", "--", host.job).code == 0
    assert host.run("--key", "k", "--on-duplicate", "fail", "--", host.job).code == 76
    rows = history(host)
    assert [row["result"] for row in rows] == [
        "precondition_failed",
        "skipped_duplicate",
        "success",
        "lock_busy",
        "success",
    ]
    busy = rows[3]
    assert busy["job_id"] == refused.finished["job_id"]
    assert busy["exit_code"] == 75
    assert busy["held_by"]["job_id"] == host.executions()[0]
    assert busy["attempts"] == 0
    assert show(host, busy["job_id"])["attempts"] == []


def test_a_run_that_was_told_to_stop_is_recorded(host: Host) -> None:
    """A run ended by TERM is recorded as interrupted, with what the shell saw: 128+15."""
    process = host.hold()
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == -signal.SIGTERM
    (row,) = history(host)
    assert (row["result"], row["exit_code"]) == ("interrupted", 128 + signal.SIGTERM)


def test_a_run_that_was_told_to_stop_while_waiting_is_recorded(host: Host) -> None:
    """A run ended by TERM before COMMAND ran is a row too."""
    holder = host.hold("--lock", "l")
    waiter = host.start("--lock", "l", "-w", "forever", "--job", "late", "--", host.job)
    eventually(lambda: queued(host.locks), what="a waiter in the kernel's queue")
    waiter.send_signal(signal.SIGTERM)
    finish(waiter)
    finish(holder)
    (row,) = history(host, "--job", "late")
    assert (row["result"], row["attempts"]) == ("interrupted", 0)


def test_every_attempt_is_recorded(host: Host) -> None:
    """Each attempt is in the ledger, with its number, its result and its own exit code."""
    words = ("--retries", "3", "--backoff", "1ms", "-c", "exit $((6 - 2 * GUARDRUN_ATTEMPT))")
    result = host.run(*words)
    assert result.code == 0, result
    attempts = show(host, result.finished["job_id"])["attempts"]
    assert [(one["attempt"], one["result"], one["exit_code"]) for one in attempts] == [
        (1, "retry", 4),
        (2, "retry", 2),
        (3, "success", 0),
    ]
    starts = [one["started_at"] for one in attempts]
    assert starts == sorted(starts)
    failed = host.run("--retries", "1", "--backoff", "1ms", "--", "false")
    attempts = show(host, failed.finished["job_id"])["attempts"]
    assert [one["result"] for one in attempts] == ["retry", "failed"]


def test_a_run_under_way_is_told_as_running(host: Host) -> None:
    """While COMMAND runs, `history` tells of the run."""
    process = host.hold("--job", "long")
    (row,) = history(host)
    assert (row["job"], row["result"]) == ("long", "running")
    finish(process)
    assert history(host)[0]["result"] == "success"


# ---------------------------------------------------------------- captured output


def test_captured_output_is_kept(host: Host) -> None:
    """`--capture SIZE` keeps the last SIZE bytes of each stream; COMMAND's output still passes."""
    words = ("--log-to", "none", "--capture", "8", "-c", "printf 0123456789; printf err >&2")
    result = host.run(*words)
    assert (result.stdout, result.stderr) == (b"0123456789", b"err")
    whole = show(host, history(host)[0]["job_id"])
    assert (whole["stdout"], whole["stderr"]) == ("23456789", "err")


def test_nothing_is_captured_unasked(host: Host) -> None:
    """Without `--capture` none of COMMAND's output is in the state directory."""
    assert host.run("-c", "echo conspicuous").code == 0
    whole = show(host, history(host)[0]["job_id"])
    assert not whole["stdout"]
    assert not found_in(host.state, b"conspicuous\n")


def test_output_of_the_last_attempt_is_kept(host: Host) -> None:
    """Of a run with several attempts the output that tells how it ended is kept."""
    options = ("--retries", "1", "--backoff", "1ms", "--capture", "1K")
    assert host.run(*options, "-c", "echo $GUARDRUN_ATTEMPT; false").code == 1
    whole = show(host, history(host)[0]["job_id"])
    assert whole["stdout"].endswith("2\n")


# ---------------------------------------------------------------- history and show


def test_history_is_newest_first_and_limited(host: Host) -> None:
    """`history` begins with the newest run; `--limit` says how many, 0 is all."""
    for name in ("one", "two", "three"):
        assert host.run("--job", name, "--", "true").code == 0
    assert [row["job"] for row in history(host)] == ["three", "two", "one"]
    assert [row["job"] for row in history(host, "--limit", "1")] == ["three"]
    assert len(history(host, "--limit", "0")) == 3


def test_history_can_be_filtered(host: Host) -> None:
    """`history` tells of one job, one key, one result, or a time only."""
    host.run("--job", "good", "--key", "k", "--", "true")
    host.run("--job", "good", "--", "true")
    host.run("--job", "bad", "--", "false")
    assert [row["job"] for row in history(host, "--job", "good")] == ["good", "good"]
    assert [row["job"] for row in history(host, "--result", "failed")] == ["bad"]
    assert [row["idempotency_key"] for row in history(host, "--key", "k")] == ["k"]
    assert history(host, "--job", "good", "--result", "failed") == []
    assert len(history(host, "--since", "1h")) == 3
    assert history(host, "--until", "1h") == []


def test_history_for_people(host: Host) -> None:
    """On a terminal `history` is a table with a row for each run."""
    host.run("--job", "nightly", "--", "true")
    host.run("--job", "hourly", "--", "sh", "-c", "exit 9")
    lines = on_a_terminal(host, "history").splitlines()
    (failed,) = (line for line in lines if "hourly" in line)
    (succeeded,) = (line for line in lines if "nightly" in line)
    assert lines.index(failed) < lines.index(succeeded)
    assert "failed" in failed
    assert "9" in failed
    assert "success" in succeeded


def test_show_for_people(host: Host) -> None:
    """On a terminal `show` tells of the run, its attempts, its COMMAND and its output."""
    options = ("--job", "nightly", "--capture", "1K", "--retries", "1", "--backoff", "1ms")
    result = host.run(*options, "--", "sh", "-c", "echo told; exit 9")
    shown = on_a_terminal(host, "show", result.finished["job_id"])
    for word in ("nightly", "failed", "retry", "exit 9", "told", result.finished["job_id"]):
        assert word in shown, word


def test_show_knows_a_run_by_part_of_its_id(host: Host) -> None:
    """What `history` shows of a job_id is enough to name the run."""
    job_id = host.run("--", "true").finished["job_id"]
    short = on_a_terminal(host, "history").splitlines()[-1].split()[0]
    assert short in job_id
    assert show(host, short)["job_id"] == job_id


@pytest.mark.parametrize("known", [True, False])
def test_show_of_a_run_that_is_not_there(host: Host, known: bool) -> None:
    """An unknown run is one line on stderr and a failure, also where no ledger is yet."""
    if known:
        host.run("--", "true")
    result = host.run("show", "0123456789abcdef")
    assert result.code not in (0, 70), result
    assert result.stdout == b""
    assert len(result.stderr.splitlines()) == 1


def test_history_of_nothing(host: Host) -> None:
    """Where nothing has run, `history` says nothing, succeeds, and makes no files."""
    assert history(host) == []
    assert not host.state.exists()


# ---------------------------------------------------------------- cut off


@pytest.mark.parametrize("options", [[], ["--key", "k"]])
def test_a_killed_run_is_found_interrupted(host: Host, options: list[str]) -> None:
    """After `kill -9` the next run, with a key or not, sets the row right and tells of it."""
    process = host.hold(*options)
    kill(process.pid)
    finish(process)
    (before,) = host.executions()
    result = host.run(*options, "--", host.job)
    assert result.code == 0, result
    assert any(before in str(line) for line in result.lines), result
    first = show(host, before)
    assert first["result"] == "interrupted"
    assert first["reason"]
    assert [row["result"] for row in host.rows()] == ["interrupted", "success"]


def test_history_knows_at_once_who_was_killed(host: Host) -> None:
    """`history` does not tell of a dead run as running, even before another run was there."""
    process = host.hold()
    kill(process.pid)
    finish(process)
    assert [row["result"] for row in history(host)] == ["interrupted"]


def test_a_living_run_is_not_taken_for_dead(host: Host) -> None:
    """Other runs that come and go leave the row of one that is alive alone."""
    process = host.hold()
    for _ in range(3):
        assert host.run("--", "true").code == 0
    assert [row["result"] for row in host.rows()] == ["running"] + ["success"] * 3
    finish(process)
    assert {row["result"] for row in host.rows()} == {"success"}


def test_a_daemon_does_not_keep_a_run_alive(host: Host, mark: str) -> None:
    """A run that ended is over although a daemon of it lives on: its key is not held."""
    daemon = f"setsid sleep {mark} </dev/null >/dev/null 2>&1 &"
    words = ("--key", "k", "--", "sh", "-c", daemon)
    assert host.run(*words).code == 0
    assert host.run(*words).event("duplicate_skipped")


# ---------------------------------------------------------------- a ledger that is down


@contextmanager
def busy(path: Path) -> Iterator[None]:
    """Somebody else writes to the ledger while this lasts."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    yield
    db.execute("ROLLBACK")
    db.close()


def garbage(host: Host) -> None:
    """No database at all."""
    host.state.mkdir(mode=0o700)
    (host.state / "ledger.sqlite3").write_bytes(b"this is not what you are looking for\n" * 99)


def newer(host: Host) -> None:
    """A ledger that a later version of guardrun has made."""
    host.run("--", "true")
    db = sqlite3.connect(host.state / "ledger.sqlite3")
    db.execute("PRAGMA user_version = 999")
    db.close()


def strangers(host: Host) -> None:
    """The database of another program."""
    host.state.mkdir(mode=0o700)
    path = host.state / "ledger.sqlite3"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    path.chmod(0o600)


DOWN = pytest.mark.parametrize("break_it", [garbage, newer, strangers])
Break = Callable[[Host], None]


def unavailable(result: Result) -> None:
    """Check that a run was refused because the ledger is down, with one line for people."""
    assert result.code == 69, result
    assert len(result.stderr.splitlines()) == 1
    last = result.finished
    assert (last["result"], last["exit_code"], last["level"]) == ("store_unavailable", 69, "error")
    assert "ledger" in last["reason"]
    assert "attempt_started" not in result.events


QUICK = ("--store-wait", "100ms", "--record-wait", "100ms")


@DOWN
@pytest.mark.parametrize(
    "option",
    [
        ["--key", "k"],
        ["--needs", "k"],
        ["--retry-budget", "1/1h"],
        ["--on-ledger-down", "stop"],
    ],
)
def test_what_needs_the_ledger_does_not_run_without(
    host: Host, break_it: Break, option: list[str]
) -> None:
    """With key, needs or budget, or by `stop`, a ledger that is down is exit 69, and no run."""
    break_it(host)
    unavailable(host.run(*option, *QUICK, "--", host.job))
    assert host.executions() == []


@DOWN
@pytest.mark.parametrize("act", ["exit 0", "exit 3"])
def test_what_needs_no_ledger_runs_without(host: Host, break_it: Break, act: str) -> None:
    """Without a key a ledger that is down keeps nothing from running; the outcome is spooled."""
    break_it(host)
    result = host.run(*QUICK, "--", host.job, env={"ACT": act})
    assert result.code == int(act[-1]), result
    assert len(host.executions()) == 1
    assert result.event("outcome_spooled")["level"] in ("warning", "error")
    assert result.event("outcome_spooled")["reason"]
    assert result.finished["result"] == ("success" if result.code == 0 else "failed")
    assert len(waiting(host)) == 1


@DOWN
def test_what_needs_the_ledger_can_be_told_to_run_without(host: Host, break_it: Break) -> None:
    """`--on-ledger-down run` with a key runs and keeps the outcome in the spool."""
    break_it(host)
    result = host.run("--key", "k", "--on-ledger-down", "run", *QUICK, "--", host.job)
    assert result.code == 0, result
    assert len(host.executions()) == 1
    assert result.event("outcome_spooled")


def test_a_success_without_a_claim_blocks_its_key_later(host: Host) -> None:
    """A run with a key that had to do without the ledger blocks that key once it is recorded."""
    assert host.run("--", "true").code == 0
    words = ("--key", "k", "--on-ledger-down", "run", *QUICK, "--", host.job)
    with busy(host.state / "ledger.sqlite3"):
        assert host.run(*words).event("outcome_spooled")
    assert host.run("--key", "k", "--", host.job).event("duplicate_skipped")
    assert len(host.executions()) == 1


def test_a_newer_ledger_is_left_alone(host: Host) -> None:
    """A ledger of a later version is not touched, and the line says that guardrun is too old."""
    newer(host)
    before = (host.state / "ledger.sqlite3").read_bytes()
    result = host.run("--key", "k", *QUICK, "--", host.job)
    unavailable(result)
    assert "upgrade" in result.finished["reason"]
    assert (host.state / "ledger.sqlite3").read_bytes() == before


def test_a_run_refused_for_the_ledger_is_on_record_later(host: Host) -> None:
    """Every run is a row: one that was refused because the ledger was down, when it is back."""
    assert host.run("--", "true").code == 0
    with busy(host.state / "ledger.sqlite3"):
        refused = host.run("--key", "k", *QUICK, "--", host.job)
    unavailable(refused)
    assert host.run("--", "true").code == 0
    rows = {row["job_id"]: row for row in history(host)}
    assert rows[refused.finished["job_id"]]["result"] == "store_unavailable"
    assert rows[refused.finished["job_id"]]["exit_code"] == 69
    assert host.run("--key", "k", "--", host.job).code == 0
    assert len(host.executions()) == 1


def test_a_ledger_that_is_busy_for_a_moment_is_waited_for(host: Host) -> None:
    """Within `--store-wait` a ledger that another process writes to is tried again."""
    assert host.run("--", "true").code == 0
    with busy(host.state / "ledger.sqlite3"):
        process = host.start("--key", "k", "--store-wait", "60s", "--", host.job)
        eventually(lambda: opened(process, host.state / "ledger.sqlite3"), what="the ledger open")
        assert host.executions() == []
    result = finish(process)
    assert result.code == 0, result
    assert len(host.executions()) == 1
    assert not {"outcome_spooled", "outcome_unsaved"} & set(result.events)


def opened(process: subprocess.Popen[bytes], path: Path) -> bool:
    """Whether a process has this file open."""
    found = []
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            found.append(link.readlink())
        except FileNotFoundError:
            continue
    return path in found


def test_waiting_for_the_ledger_ends_with_the_deadline(host: Host) -> None:
    """`--store-wait` never goes past `--deadline`: 124."""
    assert host.run("--", "true").code == 0
    with busy(host.state / "ledger.sqlite3"):
        start = time.monotonic()
        options = ("--key", "k", "--deadline", "400ms", "--record-wait", "100ms")
        result = host.run(*options, "--", host.job)
        took = time.monotonic() - start
    assert result.code == 124, result
    assert took < 10
    assert host.executions() == []


def test_told_to_stop_while_waiting_for_the_ledger(host: Host) -> None:
    """TERM ends the wait for a ledger at once."""
    assert host.run("--", "true").code == 0
    with busy(host.state / "ledger.sqlite3"):
        options = ("--key", "k", "--store-wait", "5m", "--record-wait", "100ms")
        process = host.start(*options, "--", host.job)
        eventually(lambda: opened(process, host.state / "ledger.sqlite3"), what="the ledger open")
        process.send_signal(signal.SIGTERM)
        assert finish(process, timeout=20).code == -signal.SIGTERM
    assert host.executions() == []


# ---------------------------------------------------------------- it goes down during the run


def waiting(host: Host) -> list[Path]:
    """The outcomes in the spool."""
    return sorted((host.state / "spool").glob("*/*.json"))


def spooled(host: Host, *options: str, act: str = "cat") -> Result:
    """A run whose ledger is busy when COMMAND ends, and stays so."""
    process = host.hold("--key", "k", *QUICK, *options, env={"ACT": act})
    with busy(host.state / "ledger.sqlite3"):
        result = finish(process)
    assert result.event("outcome_spooled"), result
    assert result.events[-1] == "run_finished"
    return result


@pytest.mark.parametrize("code", [0, 3])
def test_an_outcome_that_cannot_be_recorded_changes_no_exit_code(host: Host, code: int) -> None:
    """COMMAND's own exit code stays, when the outcome has to go to the spool."""
    result = spooled(host, act=f"cat; exit {code}")
    assert result.code == code, result
    assert result.finished["result"] == ("failed" if code else "success")
    assert result.finished["exit_code"] == code


def test_death_by_a_signal_is_handed_up_all_the_same(host: Host) -> None:
    """COMMAND died by a signal: so does guardrun, when the outcome has to go to the spool."""
    result = spooled(host, act="cat; kill -TERM $$")
    assert result.code == -signal.SIGTERM, result


def test_the_spool_is_for_its_user_alone(host: Host) -> None:
    """The spool is a directory with mode 0700, its files have mode 0600, whatever the umask."""
    spooled(host)
    spool = host.state / "spool"
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    (own,) = spool.iterdir()
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    (kept,) = waiting(host)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_the_next_run_flushes_the_spool_before_it_claims(host: Host) -> None:
    """A success in the spool blocks its key: the next run records it first, and is a duplicate."""
    first = spooled(host)
    assert host.rows()[0]["result"] == "running"
    second = host.run("--key", "k", "--", host.job)
    assert second.event("duplicate_skipped"), second
    assert len(host.executions()) == 1
    assert waiting(host) == []
    whole = show(host, first.finished["job_id"])
    assert whole["result"] == "success"
    assert whole["exit_code"] == 0
    assert [attempt["result"] for attempt in whole["attempts"]] == ["success"]
    assert whole["finished_at"] <= first.finished["timestamp"]


def test_any_run_flushes_the_spool(host: Host) -> None:
    """It does not take a run with that key, or of that job, to flush the spool."""
    first = spooled(host, act="cat; exit 3")
    assert host.run("--job", "other", "--", "true").code == 0
    assert waiting(host) == []
    row = show(host, first.finished["job_id"])
    assert (row["result"], row["exit_code"]) == ("failed", 3)


def test_captured_output_goes_by_the_spool(host: Host) -> None:
    """What was captured is not lost when the outcome has to go to the spool."""
    first = spooled(host, "--capture", "1K", "--output", "discard", act="printf '\\377out'; cat")
    assert host.run("--", "true").code == 0
    assert show(host, first.finished["job_id"])["stdout"] == "\\xffout"


def test_until_the_flush_the_key_counts_as_interrupted(host: Host) -> None:
    """Where the spool is out of reach, the key's last run is one that was cut off."""
    spooled(host)
    (host.state / "spool").rename(host.root / "spool")
    refused = host.run("--key", "k", "--on-interrupted", "stop", "--", host.job)
    assert refused.code == 76, refused
    again = host.run("--key", "k", "--", host.job)
    assert again.code == 0, again
    assert len(host.executions()) == 2


def test_a_spooled_outcome_overwrites_no_later_one(host: Host) -> None:
    """An outcome that comes by the spool when the key has moved on completes its own row only."""
    first = spooled(host, act="cat; exit 3")
    (host.state / "spool").rename(host.root / "spool")
    second = host.run("--key", "k", "--", host.job)
    assert second.code == 0, second
    shutil.rmtree(host.state / "spool", ignore_errors=True)
    (host.root / "spool").rename(host.state / "spool")
    third = host.run("--key", "k", "--", host.job)
    assert third.event("duplicate_skipped"), third
    (key,) = host.rows("SELECT * FROM keys")
    assert (key["state"], key["job_id"]) == ("succeeded", second.finished["job_id"])
    late = show(host, first.finished["job_id"])
    assert (late["result"], late["exit_code"]) == ("failed", 3)
    assert waiting(host) == []


def test_a_spool_of_many(host: Host) -> None:
    """Everything that waits in the spool is recorded by the next run."""
    runs = [host.hold("--key", key, *QUICK) for key in ("one", "two", "three")]
    with busy(host.state / "ledger.sqlite3"):
        for run in runs:
            assert finish(run).event("outcome_spooled")
    assert len(waiting(host)) == 3
    assert host.run("--", "true").code == 0
    assert waiting(host) == []
    assert [row["result"] for row in host.rows()] == ["success"] * 4
    for key in ("one", "two", "three"):
        assert host.run("--key", key, "--", host.job).event("duplicate_skipped")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2]", b'{"version": 99}'])
def test_a_damaged_spool_file_is_in_nobodys_way(host: Host, content: bytes) -> None:
    """A file in the spool that makes no sense keeps neither runs nor other outcomes back."""
    first = spooled(host)
    (path,) = waiting(host)
    for name in ("00000000-0000-7000-8000-000000000000", "ffffffff-0000-7000-8000-000000000000"):
        (path.parent / path.name.replace(path.stem, name)).write_bytes(content)
    (path.parent / f"{path.name}.tmp").write_bytes(content)
    result = host.run("--key", "k2", "--", host.job)
    assert result.code == 0, result
    assert show(host, first.finished["job_id"])["result"] == "success"
    assert not path.exists()


def test_the_lock_is_held_until_the_outcome_is_recorded(host: Host) -> None:
    """While a finished run tries to record its outcome, lock and key are still held."""
    process = host.hold("--lock", "l", "--key", "k", "--record-wait", "60s")
    with busy(host.state / "ledger.sqlite3"):
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        eventually(lambda: not command_of(process), what="the end of COMMAND")
        options = ("--lock", "l", "--on-ledger-down", "run", *QUICK)
        refused = host.run(*options, "--", host.job)
    result = finish(process)
    assert refused.code == 75, refused
    assert result.code == 0, result
    assert "outcome_spooled" not in result.events
    assert show(host, result.finished["job_id"])["result"] == "success"


def test_told_to_stop_while_recording(host: Host) -> None:
    """TERM while the outcome of a COMMAND that succeeded is recorded: the success is not lost."""
    process = host.hold("--key", "k", "--record-wait", "60s")
    with busy(host.state / "ledger.sqlite3"):
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        eventually(lambda: not command_of(process), what="the end of COMMAND")
        process.send_signal(signal.SIGTERM)
        result = finish(process, timeout=20)
    assert result.code == -signal.SIGTERM, result
    again = host.run("--key", "k", "--on-interrupted", "stop", "--", host.job)
    if result.finished["result"] == "success":
        assert again.event("duplicate_skipped"), again
    else:  # the signal was there before COMMAND's end was seen
        assert again.code == 76, again
    assert len(host.executions()) == 1
    row = show(host, result.finished["job_id"])
    assert row["result"] == result.finished["result"]


def command_of(process: subprocess.Popen[bytes]) -> bool:
    """Whether COMMAND, a cat, still runs below this guardrun."""
    children = [process.pid]
    for pid in children:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            children += [int(word) for word in task.read_text().split()]
    names = [Path(f"/proc/{pid}/comm") for pid in children]
    return any(name.read_text() == "cat\n" for name in names if name.exists())


# ---------------------------------------------------------------- no room, no right to write


def full_disk() -> None:
    """Let this process, and what it starts, add not a byte to any file; root neither."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def test_without_ledger_and_spool_the_log_has_it_all(host: Host) -> None:
    """Nothing can be written, COMMAND runs: its code stays, and the whole outcome is in the log."""
    words = (*QUICK, "--job", "nightly", "--", "sh", "-c", "exit 3")
    result = host.run(*words, preexec_fn=full_disk)
    assert result.code == 3, result
    lines = [line for line in result.lines if line["event"] == "outcome_unsaved"]
    assert lines
    assert {line["level"] for line in lines} == {"error"}
    whole = "".join(str(line["outcome"]) for line in lines)
    for word in ("nightly", "failed", result.finished["job_id"]):
        assert word in whole
    assert result.finished["result"] == "failed"


def test_a_full_disk_keeps_what_needs_the_ledger_from_running(host: Host) -> None:
    """No room for a claim: exit 69, COMMAND is not executed."""
    result = host.run("--key", "k", *QUICK, "--", host.job, preexec_fn=full_disk)
    unavailable(result)
    assert host.executions() == []


@pytest.mark.skipif(not ROOT, reason="only root can mount a small filesystem")
def test_a_disk_that_is_full_when_command_ends(host: Host) -> None:
    """The state directory's filesystem fills up during the run: nothing changes for COMMAND."""
    host.state.mkdir(mode=0o700)
    script = (
        f"mount -t tmpfs -o size=512k,mode=0700 none {host.state} || exit 99\n"
        'guardrun="$*"\n'
        "$guardrun --key k --record-wait 100ms -- "
        f"sh -c 'cat /dev/zero >{host.state}/fill 2>/dev/null; exit 3'\n"
        "echo code $?\n"
        f"rm {host.state}/fill\n"
        "$guardrun --key k2 -- true\n"
        "echo code $?\n"
    )
    result = within(host, ["unshare", "-m", "sh", "-c", script, "sh"])
    codes = [line for line in result.stdout.splitlines() if line.startswith(b"code")]
    assert codes == [b"code 3", b"code 0"], result
    assert {"outcome_spooled", "outcome_unsaved"} & set(result.events)
    finished = [line["result"] for line in result.lines if line["event"] == "run_finished"]
    assert finished == ["failed", "success"]


def within(host: Host, before: Sequence[str], *words: str, act: str = "") -> Result:
    """Run guardrun as the last words of another command."""
    process = subprocess.run(
        [*before, *GUARDRUN, *words],
        env=host.environment({"ACT": act}),
        cwd=host.root,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Result(process.returncode, process.stdout, process.stderr)


@contextmanager
def read_only(host: Host) -> Iterator[list[str]]:
    """The state directory cannot be written while this lasts; words to begin a command with."""
    if ROOT:
        mount = f'mount --bind -o ro {host.state} {host.state} && exec "$@"'
        yield ["unshare", "-m", "sh", "-c", mount, "sh"]
        return
    paths = [host.state, *host.state.rglob("*")]
    for path in paths:
        path.chmod(0o500 if path.is_dir() else 0o400)
    yield []
    for path in paths:
        path.chmod(0o700 if path.is_dir() else 0o600)


def test_a_ledger_that_may_not_be_written(host: Host) -> None:
    """A read-only ledger is one that is down: 69 with a key, and a run without one."""
    assert host.run("--lock", "l", "--", "true").code == 0
    with read_only(host) as before:
        unavailable(within(host, before, "--key", "k", *QUICK, "--", host.job))
        assert host.executions() == []
        result = within(host, before, "--lock", "l", *QUICK, "--", host.job, act="exit 3")
    assert result.code == 3, result
    assert len(host.executions()) == 1
    assert "outcome_unsaved" in result.events
    assert host.run("--key", "k", "--", host.job).code == 0


# ---------------------------------------------------------------- what stands where a file should


def symlink(path: Path) -> None:
    """A symbolic link to a file that must not be touched."""
    target = path.parent.parent / "target"
    target.write_bytes(b"")
    path.symlink_to(target)


def fifo(path: Path) -> None:
    """A FIFO, which must not hang us."""
    os.mkfifo(path, 0o600)


def directory(path: Path) -> None:
    """A directory in a file's place."""
    path.mkdir()


def somebody_elses(path: Path) -> None:
    """A file of another user."""
    path.write_bytes(b"")
    os.chown(path, 65534, 65534)


@pytest.mark.parametrize(
    "put",
    [
        symlink,
        fifo,
        directory,
        pytest.param(
            somebody_elses,
            marks=pytest.mark.skipif(not ROOT, reason="only root can give a file away"),
        ),
    ],
)
@pytest.mark.parametrize("name", ["ledger.sqlite3", "runs.live"])
def test_what_is_no_file_of_ours_is_refused(
    host: Host, name: str, put: Callable[[Path], None]
) -> None:
    """In the state directory a file that is not a regular one of our own is exit 73, whatever
    `--on-ledger-down` says."""
    host.state.mkdir(mode=0o700)
    put(host.state / name)
    result = host.run("--on-ledger-down", "run", *QUICK, "--", host.job, timeout=20)
    assert result.code == 73, result
    assert host.executions() == []
    target = host.root / "target"
    assert not target.exists() or target.read_bytes() == b""


# ---------------------------------------------------------------- other ledgers


def test_no_ledger(host: Host) -> None:
    """With `none:` nothing is recorded and nothing is made, and COMMAND runs as always."""
    result = host.run("--ledger-url", "none:", "--", host.job, env={"ACT": "exit 3"})
    assert result.code == 3, result
    assert result.finished["result"] == "failed"
    assert not host.state.exists()


def test_a_ledger_somewhere_else(host: Host) -> None:
    """`sqlite:///PATH` is the ledger instead of the one in the state directory."""
    (host.root / "with blank").mkdir(mode=0o700)
    url = f"sqlite://{host.root}/with blank/l%20.db"
    assert host.run("--ledger-url", url, "--job", "there", "--", "true").code == 0
    assert (host.root / "with blank" / "l%20.db").exists()
    assert [row["job"] for row in history(host, "--ledger-url", url)] == ["there"]
    assert history(host) == []
    assert not (host.state / "ledger.sqlite3").exists()


def test_the_ledger_can_come_from_the_environment(host: Host) -> None:
    """`$GUARDRUN_LEDGER_URL` names the ledger, for runs and for `history`."""
    env = {"GUARDRUN_LEDGER_URL": f"sqlite://{host.root}/other.db"}
    assert host.run("--job", "there", "--", "true", env=env).code == 0
    listed = host.run("history", "--json", env=env)
    assert [json.loads(line)["job"] for line in listed.stdout.splitlines()] == ["there"]
    assert history(host) == []


# ---------------------------------------------------------------- secrets

SECRET = "hunter2-swordfish"


def found_in(directory: Path, text: bytes) -> list[Path]:
    """The files in which these bytes stand."""
    return [path for path in directory.rglob("*") if path.is_file() and text in path.read_bytes()]


@pytest.mark.parametrize(
    "word",
    [
        f"--password={SECRET}",
        f"postgresql://me:{SECRET}@db/x",
        f"DB_PASSWORD={SECRET}",
        f"redis://:{SECRET}@cache",
    ],
)
def test_secrets_in_command_are_not_stored(host: Host, word: str) -> None:
    """A secret among COMMAND's words is in neither ledger, spool nor log."""
    for command in (["true", word], ["/nonexistent/command", word], ["sh", "-c", f": {word}"]):
        result = host.run("--lock", "l", "--log-level", "debug", "--key", "k", "--", *command)
        assert SECRET.encode() not in result.stdout + result.stderr
    busy_run = host.hold("--key", "k2", *QUICK)
    with busy(host.state / "ledger.sqlite3"):
        spool = host.run(*QUICK, "--", "true", word)
        finish(busy_run)
        assert spool.event("outcome_spooled")
        assert not found_in(host.state, SECRET.encode())
    assert host.run("--", "true").code == 0
    assert not found_in(host.state, SECRET.encode())
    assert not found_in(host.locks, SECRET.encode())
    assert any(row["command"][-1] == word.replace(SECRET, "***") for row in history(host))


def test_the_secret_after_an_option_is_not_stored(host: Host) -> None:
    """`--password WORD`: the next word is the secret."""
    assert host.run("--", "true", "--password", SECRET, "plain").code == 0
    assert history(host)[0]["command"] == ["true", "--password", "***", "plain"]
    assert not found_in(host.state, SECRET.encode())


def test_secrets_by_pattern_are_not_stored(host: Host) -> None:
    """What a `redact` pattern of the configuration matches is not stored or logged."""
    config = host.root / "guardrun.toml"
    config.write_text('[defaults]\nredact = ["hunter[0-9]-swordfish"]\n')
    result = host.run("--config", str(config), "--", "sh", "-c", ":", f"x{SECRET}y")
    assert result.code == 0, result
    assert history(host)[0]["command"][-1] == "x***y"
    assert not found_in(host.state, SECRET.encode())


def test_secrets_of_an_outcome_that_is_lost_are_not_logged(host: Host) -> None:
    """`outcome_unsaved` has the whole outcome, and no secret."""
    words = ("--", "true", f"--password={SECRET}", f"http://me:{SECRET}@example")
    result = host.run(*QUICK, *words, preexec_fn=full_disk)
    assert result.code == 0, result
    assert "outcome_unsaved" in result.events
    assert SECRET.encode() not in result.stdout + result.stderr


@pytest.mark.parametrize("option", ["--ledger-url", "--lease-url"])
def test_a_password_in_a_url_option_is_refused(host: Host, option: str) -> None:
    """A password on the command line can be seen in ps: exit 64, and it is not repeated."""
    url = f"postgresql://me:{SECRET}@db/x"
    result = host.run("--lock", "l", option, url, "--", host.job)
    assert result.code == 64, result
    assert SECRET.encode() not in result.stdout + result.stderr
    assert host.executions() == []


def test_secrets_are_no_part_of_a_job_name(host: Host) -> None:
    """A COMMAND string is named by its first word: what comes after it is not in the name."""
    assert host.run("-c", f"true --password={SECRET}").code == 0
    (row,) = history(host)
    assert row["job"] == "true"
    assert not found_in(host.state, SECRET.encode())
