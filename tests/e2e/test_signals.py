"""Signals to guardrun without a terminal: passed on, told to stop, in every phase of a run.

Numbers in docstrings are those of the list of behaviours of a process supervisor.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from support import (
    GUARDRUN,
    Host,
    Listener,
    Result,
    alive,
    busy_ledger,
    eventually,
    family,
    finish,
    kill,
    no_survivors,
    sleepers,
    status,
    stopped,
    stubborn_tree,
    takes_signals,
    waits,
    write_script,
)

PROMPT = 5.0
"""s in which a guardrun that has been told to stop must have ended; it takes milliseconds"""
ROUNDS = int(os.environ.get("GUARDRUN_TEST_SIGNAL_ROUNDS", "40"))
SEED = int(os.environ.get("GUARDRUN_TEST_SEED", str(random.SystemRandom().getrandbits(32))))


@pytest.fixture
def listener(host: Host) -> Listener:
    """A COMMAND that writes down the signals it gets."""
    return Listener(host.root / "signals")


def interrupted_by(host: Host, result: Result, name: str) -> None:
    """Check that everything says: told to stop by this signal."""
    number = signal.Signals[f"SIG{name}"]
    assert result.code == -number, result
    assert result.finished["result"] == "interrupted"
    assert result.finished["signal"] == f"SIG{name}"
    row = next(row for row in host.rows() if row["job_id"] == result.finished["job_id"])
    assert (row["result"], row["exit_code"]) == ("interrupted", 128 + number)


# ---------------------------------------------------------------- while COMMAND runs


@pytest.mark.parametrize("name", ["HUP", "USR1", "USR2", "WINCH", "ALRM"])
def test_only_passed_on(host: Host, listener: Listener, name: str) -> None:
    """Without a terminal these reach COMMAND exactly once, and mean nothing to guardrun (#7)."""
    fences = [fence for fence in ("USR1", "ALRM", "USR2") if fence != name]
    process = host.start("--", *listener.words(f"{fences[-1]}=0"))
    listener.pid()
    process.send_signal(signal.Signals[f"SIG{name}"])
    listener.heard(name)
    assert listener.heard_at_last(process.pid, *fences) == [name]
    result = finish(process)
    assert (result.code, result.finished["result"]) == (0, "success")


def test_continue_is_passed_on(host: Host, listener: Listener) -> None:
    """CONT reaches COMMAND, and means nothing to guardrun (#7)."""
    process = host.start("--", *listener.words("CONT=0"))
    listener.pid()
    process.send_signal(signal.SIGCONT)
    result = finish(process)
    assert (result.code, result.finished["result"]) == (0, "success")


@pytest.mark.parametrize("code", [0, 7])
@pytest.mark.parametrize("name", ["TERM", "INT", "QUIT"])
def test_told_to_stop_is_not_success(host: Host, listener: Listener, name: str, code: int) -> None:
    """COMMAND gets the signal once and may tidy up; whatever its code, the run was interrupted."""
    process = host.start(
        *("--key", "k", "--retries", "3", "--backoff", "1ms"),
        *("--", *listener.words(f"USR1={code}")),
    )
    listener.pid()
    process.send_signal(signal.Signals[f"SIG{name}"])
    listener.heard(name)
    assert listener.heard_at_last(process.pid, "ALRM", "USR1") == [name]
    result = finish(process)
    interrupted_by(host, result, name)
    assert result.event("attempt_finished")["result"] == "interrupted"
    assert [row["state"] for row in host.rows("SELECT state FROM keys")] == ["interrupted"]


def test_no_core_when_told_to_quit(host: Host, listener: Listener) -> None:
    """guardrun that ends by SIGQUIT leaves no core file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    process = host.start("--log-to", "none", "--", *listener.words("QUIT=0"))
    resource.prlimit(process.pid, resource.RLIMIT_CORE, (hard, hard))
    listener.pid()
    process.send_signal(signal.SIGQUIT)
    _, wait_status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(wait_status)
    assert process.returncode == -signal.SIGQUIT
    assert not os.WCOREDUMP(wait_status)
    assert (soft, hard) == resource.getrlimit(resource.RLIMIT_CORE)


def test_second_signal_is_passed_on_too(host: Host, listener: Listener) -> None:
    """Each signal that tells to stop reaches COMMAND; guardrun ends by the first (#7)."""
    process = host.start("--", *listener.words("INT=0"))
    listener.pid()
    process.send_signal(signal.SIGTERM)
    listener.heard("TERM")
    process.send_signal(signal.SIGINT)
    result = finish(process)
    interrupted_by(host, result, "TERM")
    heard = listener.heard("INT")
    assert (heard.count("TERM"), heard.count("INT")) == (1, 1)


def test_command_that_ignores_is_killed(host: Host, mark: str) -> None:
    """Told to stop, guardrun gives COMMAND --kill-after, and then kills all it started (#16)."""
    tree = stubborn_tree(host.root / "tree", mark)
    process = host.start("--kill-after", "300ms", "--", str(tree))
    sleepers(mark, 4)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    result = finish(process)
    took = time.monotonic() - sent
    assert took >= 0.3
    assert took < 0.3 + PROMPT
    assert alive(mark) == []
    interrupted_by(host, result, "TERM")


def test_shell_that_dies_first_does_not_hide_its_children(host: Host, mark: str) -> None:
    """COMMAND itself ends at once, its TERM-proof child is killed all the same (#17)."""
    code = f"(trap '' TERM; exec sleep {mark}) & sleep {mark}"
    process = host.start("--kill-after", "200ms", "--", "sh", "-c", code)
    sleepers(mark, 2)
    process.send_signal(signal.SIGTERM)
    result = finish(process)
    assert alive(mark) == []
    interrupted_by(host, result, "TERM")


def test_stopped_command_hears_the_signal(host: Host, listener: Listener) -> None:
    """A COMMAND that is stopped is continued, so that it can hear that it must end (#16)."""
    process = host.start("--kill-after", "1h", "--", *listener.words("TERM=0"))
    os.kill(listener.pid(), signal.SIGSTOP)
    eventually(lambda: stopped(listener.pid()))
    process.send_signal(signal.SIGTERM)
    result = finish(process)
    assert "TERM" in listener.heard("TERM")
    interrupted_by(host, result, "TERM")


def test_signal_to_both_at_once(host: Host, mark: str) -> None:
    """systemd and Ctrl-C hit COMMAND as well: its own death by the signal is an interrupted run."""
    process = host.start("--retries", "3", "--backoff", "1ms", "--", "sleep", mark)
    command = eventually(lambda: set(alive(mark)) - {process.pid, *family(process.pid).values()})
    process.send_signal(signal.SIGTERM)
    for pid in command:
        kill(pid, signal.SIGTERM)
    result = finish(process)
    interrupted_by(host, result, "TERM")
    assert [line["event"] for line in result.lines].count("attempt_started") == 1


def test_command_that_ends_first_hides_nothing(host: Host, mark: str) -> None:
    """Told to stop, guardrun ends all that COMMAND started, also where COMMAND's end came first."""
    tree = stubborn_tree(host.root / "tree", mark, last="while ! test -e go; do sleep 0.01; done")
    process = host.start("--kill-after", "100ms", "--", str(tree))
    sleepers(mark, 3)
    # Stopped, it finds signal and end together when it is continued.
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: stopped(process.pid))
    process.terminate()
    warden = family(process.pid)["warden"]
    (host.root / "go").touch()
    eventually(lambda: not children_named(warden, "tree"), what="the end of COMMAND")
    process.send_signal(signal.SIGCONT)
    result = finish(process)
    assert alive(mark) == []
    interrupted_by(host, result, "TERM")


def children_named(pid: int, name: str) -> list[int]:
    """The children of a process that have this name."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed if status(int(child)).get("Name") == name]


PARENT_OF_A_GROUP = """
import subprocess, sys
process = subprocess.Popen(sys.argv[2:], process_group=0)
with open(sys.argv[1], "w") as file:
    file.write(f"{process.pid}\\n")
code = process.wait()
sys.exit(code if code >= 0 else 128 - code)
"""


@contextmanager
def job_control(host: Host, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A parent that keeps guardrun in a group of its own, as a shell does; and guardrun's pid.

    Only in such a group the default action of TSTP, TTIN and TTOU is to stop.
    """
    job = host.root / "job"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT_OF_A_GROUP, job, *GUARDRUN, "--log-to", "none", *words],
        cwd=host.root,
        env=host.environment(),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    pid = int(eventually(lambda: job.read_text() if job.exists() else ""))
    try:
        yield parent, pid
    finally:
        if parent.poll() is None:
            kill(pid)
        parent.wait()


@pytest.mark.parametrize("name", ["TSTP", "TTIN", "TTOU"])
def test_suspended_together(host: Host, listener: Listener, name: str) -> None:
    """TSTP, TTIN and TTOU stop guardrun and COMMAND, CONT continues both (#11)."""
    with job_control(host, "--", *listener.words("USR1=0")) as (parent, guardrun):
        command = listener.pid()
        os.kill(guardrun, signal.Signals[f"SIG{name}"])
        eventually(lambda: stopped(guardrun) and stopped(command), what="both stopped")
        os.kill(guardrun, signal.SIGCONT)
        eventually(lambda: not stopped(guardrun) and not stopped(command), what="both run")
        os.kill(guardrun, signal.SIGUSR1)
        assert parent.wait(PROMPT) == 0
    assert [row["result"] for row in host.rows()] == ["success"]


@pytest.mark.parametrize("name", ["TSTP", "TTIN", "TTOU"])
def test_suspended_together_in_an_orphaned_group(host: Host, listener: Listener, name: str) -> None:
    """Where the kernel would ignore the default action (under cron), both are stopped too."""
    process = host.start("--log-to", "none", "--", *listener.words("USR1=0"))
    command = listener.pid()
    process.send_signal(signal.Signals[f"SIG{name}"])
    eventually(lambda: stopped(process.pid) and stopped(command), what="both stopped")
    process.send_signal(signal.SIGCONT)
    eventually(lambda: not stopped(process.pid) and not stopped(command), what="both run")
    process.send_signal(signal.SIGUSR1)
    assert finish(process).code == 0


def test_timeout_holds_while_suspended(host: Host, listener: Listener) -> None:
    """A stopped guardrun still ends COMMAND at its timeout, and says so when continued (#12)."""
    words = ["--timeout", "1s", "--kill-after", "0", "--", *listener.words()]
    with job_control(host, *words) as (parent, guardrun):
        command = listener.pid()
        os.kill(guardrun, signal.SIGTSTP)
        eventually(lambda: stopped(guardrun) and stopped(command), what="both stopped")
        eventually(lambda: not status(command), what="the end of COMMAND")
        kill(guardrun, signal.SIGCONT)  # unless its warden has done so already
        assert parent.wait(PROMPT) == 124
    assert [(row["result"], row["exit_code"]) for row in host.rows()] == [("timeout", 124)]


# ---------------------------------------------------------------- in every other phase


@contextmanager
def lock_holder(host: Host, *words: str) -> Iterator[Listener]:
    """Another run, which has the lock or the key until the end of the block."""
    other = Listener(host.root / "holder")
    process = host.start("--log-to", "none", *words, "--", *other.words("TERM=0"))
    other.pid()
    yield other
    process.terminate()
    finish(process)


def stop_while_waiting(host: Host, name: str, mark: str, *words: str) -> Result:
    """Tell a guardrun that waits for something to stop; nothing of it may be left."""
    process = host.start(*words, "--", "sleep", mark)
    eventually(lambda: waits(process.pid), what="a guardrun at rest")
    return stop_now(process, name, mark)


def stop_now(process: subprocess.Popen[bytes], name: str, mark: str) -> Result:
    """Tell a guardrun to stop; it must be prompt, and leave nothing."""
    sent = time.monotonic()
    process.send_signal(signal.Signals[f"SIG{name}"])
    result = finish(process)
    assert time.monotonic() - sent < PROMPT
    no_survivors(mark)
    return result


@pytest.mark.parametrize("name", ["TERM", "INT", "QUIT"])
def test_told_to_stop_in_splay(host: Host, mark: str, name: str) -> None:
    """While it waits for its splay to pass, guardrun ends at once by the signal (#8)."""
    result = stop_while_waiting(host, name, mark, "--splay", "365d")
    interrupted_by(host, result, name)
    assert "attempt_started" not in [line["event"] for line in result.lines]


@pytest.mark.parametrize("slots", ["1", "3"])
@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_told_to_stop_in_lock_wait(host: Host, mark: str, name: str, slots: str) -> None:
    """While it waits for a lock, guardrun ends at once, and leaves the queue (#8)."""
    lock = ("--lock", "l", "--slots", slots)
    holders = []
    for number in range(int(slots)):
        holder = Listener(host.root / f"holder{number}")
        holders.append(host.start("--log-to", "none", *lock, "--", *holder.words("TERM=0")))
        holder.pid()
    result = stop_while_waiting(host, name, mark, *lock, "--wait", "forever")
    for process in holders:
        process.terminate()
        finish(process)
    interrupted_by(host, result, name)
    assert "lock_acquired" not in [line["event"] for line in result.lines]
    assert host.run(*lock, "--", "true").code == 0


def test_told_to_stop_in_lock_file_wait(host: Host, mark: str) -> None:
    """While it waits for a --lock-file, guardrun ends at once, and leaves the queue (#8)."""
    lock = ("--lock-file", str(host.root / "lock"))
    with lock_holder(host, *lock):
        result = stop_while_waiting(host, "TERM", mark, *lock, "--wait", "forever")
    interrupted_by(host, result, "TERM")
    assert host.run(*lock, "--", "true").code == 0


def test_told_to_stop_in_key_wait(host: Host, mark: str) -> None:
    """While it waits for a key, guardrun ends at once and leaves the key alone (#8)."""
    key = ("--key", "k", "--on-mismatch", "ignore")
    with lock_holder(host, *key):
        result = stop_while_waiting(host, "TERM", mark, *key, "--wait", "forever")
        assert [row["state"] for row in host.rows("SELECT state FROM keys")] == ["running"]
    interrupted_by(host, result, "TERM")


def test_told_to_stop_in_backoff(host: Host, mark: str) -> None:
    """In the pause before another attempt guardrun ends at once, and frees its lock (#8)."""
    log = host.root / "log"
    process = host.start(
        *("--log-to", str(log), "--lock", "l", "--key", "k", "--job", mark),
        *("--retries", "3", "--backoff", "1h..1h", "--jitter", "equal", "--", "false"),
    )
    eventually(lambda: log.exists() and b"retry_scheduled" in log.read_bytes())
    result = stop_now(process, "TERM", mark)
    interrupted_by(host, Result(result.code, log.read_bytes(), b""), "TERM")
    assert [row["state"] for row in host.rows("SELECT state FROM keys")] == ["interrupted"]
    assert host.run("--lock", "l", "--", "true").code == 0


def test_told_to_stop_while_reading_stdin(host: Host, mark: str) -> None:
    """While it reads the stdin that it will replay, guardrun ends at once (#8)."""
    process = host.start("--stdin", "replay", "--", "sleep", mark, stdin=subprocess.PIPE)
    eventually(lambda: waits(process.pid), what="a guardrun at rest")
    result = stop_now(process, "TERM", mark)
    assert result.code == -signal.SIGTERM
    assert "attempt_started" not in [line["event"] for line in result.lines]


def test_told_to_stop_in_claim(host: Host, mark: str) -> None:
    """While it tries to claim its key in a busy ledger, guardrun ends at once (#8)."""
    with busy_ledger(host):
        process = host.start("--key", "k", "--store-wait", "1h", "--", "sleep", mark)
        eventually(lambda: takes_signals(process.pid), what="a guardrun that takes signals")
        result = stop_now(process, "TERM", mark)
    assert result.code == -signal.SIGTERM
    assert "attempt_started" not in [line["event"] for line in result.lines]
    assert host.run("--key", "k", "--", "true").code == 0


def test_told_to_stop_while_recording(host: Host, listener: Listener, mark: str) -> None:
    """While it tries to record in a busy ledger, guardrun ends at once, no outcome lost (#8)."""
    log = host.root / "log"
    words = ["--key", "k", "--", *listener.words("USR1=0", mark=mark)]
    process = host.start("--log-to", str(log), "--record-wait", "1h", *words)
    listener.pid()
    with busy_ledger(host):
        process.send_signal(signal.SIGUSR1)
        eventually(lambda: b"attempt_finished" in log.read_bytes())
        result = stop_now(process, "TERM", mark)
    assert result.code == -signal.SIGTERM
    again = host.run(*words)
    assert (again.code, again.finished["result"]) == (0, "skipped_duplicate")
    assert [row["command_code"] for row in host.rows() if row["attempts"]] == [0]


def test_told_to_stop_while_sweeping(host: Host, mark: str) -> None:
    """Told to stop while the last attempt's leftovers are stopped, guardrun starts no other one."""
    tree = stubborn_tree(host.root / "tree", mark, last="echo >>ran; exit 1")
    log = host.root / "log"
    process = host.start(
        *("--log-to", str(log), "--retries", "3", "--backoff", "1ms", "--kill-after", "1500ms"),
        *("--", str(tree)),
        stdout=subprocess.DEVNULL,
    )
    eventually(lambda: log.exists() and b"attempt_finished" in log.read_bytes())
    result = stop_now(process, "TERM", mark)
    assert result.code == -signal.SIGTERM
    assert (host.root / "ran").read_text() == "\n"
    assert [row["result"] for row in host.rows()] == ["interrupted"]


def test_told_to_stop_while_asking_for_a_retry(host: Host, mark: str) -> None:
    """While it asks a busy ledger for a retry, guardrun ends at once, leftovers too (#8)."""
    tree = stubborn_tree(
        host.root / "tree", mark, last="while ! test -e go; do sleep 0.01; done\nexit 1"
    )
    process = host.start(
        *(
            "--retries",
            "1",
            "--retry-budget",
            "1/1h",
            "--kill-after",
            "100ms",
            "--store-wait",
            "1h",
        ),
        *("--record-wait", "300ms", "--", str(tree)),
    )
    sleepers(mark, 3)
    warden = family(process.pid)["warden"]
    with busy_ledger(host):
        (host.root / "go").touch()
        eventually(lambda: not children_named(warden, "tree"), what="the end of COMMAND")
        result = stop_now(process, "TERM", mark)
    assert result.code == -signal.SIGTERM
    assert result.finished["result"] == "interrupted"


# ---------------------------------------------------------------- at any moment


def test_told_to_stop_at_any_moment(host: Host, mark: str) -> None:
    """Whenever the signal comes, guardrun ends by it, no COMMAND is left, the ledger knows (#9)."""
    rng = random.Random(SEED)
    command = write_script(host.root / "command", f"#!/bin/sh\nexec sleep {mark}\n")
    for round_number in range(ROUNDS):
        note = f"round {round_number}, GUARDRUN_TEST_SEED={SEED}"
        number = rng.choice([signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
        process = host.start("--lock", "l", "--key", "k", "--", str(command))
        if number == signal.SIGINT:  # an interpreter that still starts answers it with a traceback
            eventually(partial(takes_signals, process.pid))
        time.sleep(rng.uniform(0, 0.2))  # the moment is what varies: nothing is waited for
        process.send_signal(number)
        result = finish(process, 15)
        assert result.code == -number, (note, result)
        assert alive(mark) == [], note
        assert not result.lines or result.finished["result"] == "interrupted", note
    last = host.run("--lock", "l", "--key", "k", "--on-mismatch", "ignore", "--", "true")
    assert last.code == 0
    results = [row["result"] for row in host.rows()]
    assert set(results) == {"interrupted", "success"}
    assert results.count("success") == 1


def test_told_to_stop_at_the_very_end(host: Host) -> None:
    """However late the signal comes, code, log line and row say the same (#9)."""
    rng = random.Random(SEED)
    for round_number in range(ROUNDS):
        note = f"round {round_number}, GUARDRUN_TEST_SEED={SEED}"
        log = host.root / f"log-{round_number}"
        process = host.start("--log-to", str(log), "--", "true")
        time.sleep(rng.uniform(0, 0.3))
        process.terminate()
        result = finish(process, 15)
        assert result.code in (0, -signal.SIGTERM), (note, result)
        seen = Result(result.code, log.read_bytes() if log.exists() else b"", b"")
        if seen.lines or result.code == 0:
            (row,) = [row for row in host.rows() if row["job_id"] == seen.finished["job_id"]]
            assert row["result"] == seen.finished["result"], note
            assert result.code == -signal.SIGTERM or row["result"] == "success", note
    assert "running" not in {row["result"] for row in host.rows()}
