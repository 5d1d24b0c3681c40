"""Named host locks: who gets one, who does not, what the others are told, and when it is free."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from support import GUARDRUN, Host, alive, eventually, finish, kill, queued

ROOT = os.geteuid() == 0


def moment(text: str) -> float:
    """Seconds since 1970 of a time in a log line."""
    return datetime.fromisoformat(text).timestamp()


def elapsed(start: float) -> float:
    """Seconds since a reading of the monotonic clock."""
    return time.monotonic() - start


# ---------------------------------------------------------------- busy


def test_a_busy_lock_is_refused_at_once_and_says_who_holds_it(host: Host) -> None:
    """A busy lock: COMMAND is not executed, exit 75, and `held_by` names owner, run and time."""
    before = time.time()
    holder = host.hold("--lock", "a")
    result = host.run("--lock", "a", "--", host.job)
    held = finish(holder)
    (job_id,) = host.executions()
    assert result.code == 75, result
    line = result.event("lock_busy")
    assert line["level"] == "warning"
    assert line["lock"] == "a"
    assert line["held_by"]["job_id"] == job_id
    assert line["held_by"]["owner"] == f"{os.uname().nodename}:{holder.pid}:{job_id}"
    assert before <= moment(line["held_by"]["since"]) <= time.time()
    assert "attempt_started" not in result.events
    last = result.finished
    assert (last["result"], last["exit_code"], last["level"]) == ("lock_busy", 75, "warning")
    assert "fencing_token" not in last
    assert held.code == 0, held
    assert held.finished["result"] == "success"


@pytest.mark.parametrize("code", [0, 1, 255])
def test_the_exit_code_for_a_busy_lock_can_be_chosen(host: Host, code: int) -> None:
    """`-E N` is the exit code when the lock is busy, and the log says the same."""
    holder = host.hold("--lock", "a")
    result = host.run("--lock", "a", "-E", str(code), "--", host.job)
    finish(holder)
    assert result.code == code, result
    assert result.finished["exit_code"] == code
    assert result.finished["result"] == "lock_busy"
    assert len(host.executions()) == 1


def test_the_conflict_code_is_for_a_busy_lock_only(host: Host) -> None:
    """`-E N` changes nothing about a run that got its lock."""
    assert host.run("--lock", "a", "-E", "9", "--", host.job).code == 0
    assert host.run("--lock", "a", "-E", "9", "--", "sh", "-c", "exit 4").code == 4


@pytest.mark.parametrize("words", [["-n"], ["--nonblock"], ["-w", "0"], ["-nw0"]])
def test_nonblock_is_a_wait_of_nothing(host: Host, words: list[str]) -> None:
    """`-n` says what is so without it: no waiting."""
    holder = host.hold("--lock", "a")
    result = host.run("--lock", "a", *words, "--", host.job)
    finish(holder)
    assert result.code == 75, result
    assert result.event("lock_busy")


def test_other_locks_are_not_concerned(host: Host) -> None:
    """Two locks with different names, however alike, have nothing to do with each other."""
    holder = host.hold("--lock", "a")
    names = ["A", "a ", "aa", "b", "a.1", "a.info", "../a", "a/a"]
    results = {name: host.run("--lock", name, "--", host.job).code for name in names}
    finish(holder)
    assert results == dict.fromkeys(names, 0)


@pytest.mark.parametrize(
    "name", ["../../escape", "/etc/passwd", "with blanks", "ключ-鍵-🔑", "x" * 1000, ".", "-n"]
)
def test_a_lock_may_have_any_name(host: Host, name: str) -> None:
    """A lock's name is only a name: whatever it is, it locks, and nothing leaves the directory."""
    holder = host.hold(f"--lock={name}")
    result = host.run(f"--lock={name}", "--", host.job)
    held = finish(holder)
    assert result.code == 75, result
    assert held.event("lock_acquired")["lock"] == name
    assert {path.parent for path in host.locks.rglob("*")} == {host.locks}
    assert not list(host.root.rglob("*escape*"))


def test_without_a_lock_runs_overlap(host: Host) -> None:
    """No `--lock`, no lock: a second run of the same job is not held up, and nothing is made."""
    holder = host.hold()
    result = host.run("--", host.job)
    assert holder.poll() is None
    assert finish(holder).code == result.code == 0
    assert len(host.executions()) == 2
    assert not host.locks.exists()
    assert not {"lock_acquired", "lock_busy"} & set(result.events)


def test_a_run_that_is_refused_is_no_obstacle(host: Host) -> None:
    """Runs that were refused leave nothing behind that would keep the next one out."""
    holder = host.hold("--lock", "a")
    for _ in range(3):
        assert host.run("--lock", "a", "--", host.job).code == 75
    finish(holder)
    assert host.run("--lock", "a", "--", host.job).code == 0


# ---------------------------------------------------------------- what COMMAND and the log know


def test_command_and_log_know_lock_owner_and_token(host: Host) -> None:
    """COMMAND finds the lock, its owner and the fencing token that the log names as well."""
    names = ("GUARDRUN_LOCK", "GUARDRUN_LOCK_OWNER", "GUARDRUN_FENCING_TOKEN", "GUARDRUN_JOB_ID")
    dump = "; ".join(f'echo "${name}" >&2' for name in names)
    result = host.run("--lock", "the {job}", "--job", "x", "--", "sh", "-c", dump)
    lock, owner, token, job_id = result.stderr.decode().splitlines()
    line = result.event("lock_acquired")
    assert lock == line["lock"] == result.finished["lock"] == "the x"
    assert owner == line["lock_owner"] == result.finished["lock_owner"]
    assert int(token) == line["fencing_token"] == result.finished["fencing_token"]
    assert job_id == line["job_id"]
    node, pid, last = owner.rsplit(":", 2)
    assert (node, last) == (os.uname().nodename, job_id)
    assert int(pid) > 0
    assert line["lock_wait_ms"] >= 0


def test_without_a_lock_command_hears_of_none(host: Host) -> None:
    """COMMAND without a lock has no lock variables, not even those of a guardrun around it."""
    inner = [*GUARDRUN, "--log-to", "stderr", "--", "env"]
    result = host.run("--lock", "outer", "--", *inner)
    names = {line.partition(b"=")[0] for line in result.stdout.splitlines()}
    assert b"GUARDRUN_JOB_ID" in names
    assert not {b"GUARDRUN_LOCK", b"GUARDRUN_LOCK_OWNER", b"GUARDRUN_FENCING_TOKEN"} & names


def token_of(host: Host, *options: str) -> int:
    """The fencing token that one run got."""
    result = host.run("--lock", "a", *options, "--", "true")
    assert result.code == 0, result
    token = result.event("lock_acquired")["fencing_token"]
    assert isinstance(token, int)
    return token


def test_the_fencing_token_grows_with_every_acquisition(host: Host) -> None:
    """Every exclusive acquisition of a lock gets a larger token, whatever came of the last."""
    tokens = [token_of(host)]
    host.run("--lock", "a", "--", "false")
    tokens.append(token_of(host))
    holder = host.hold("--lock", "a")
    kill(holder.pid)
    finish(holder)
    tokens.append(token_of(host, "-w", "10s"))
    tokens.append(token_of(host))
    assert tokens == sorted(set(tokens))


def test_the_fencing_token_grows_across_a_lost_lock_directory(host: Host) -> None:
    """The lock directory is lost at a reboot; the token grows all the same."""
    before = token_of(host)
    shutil.rmtree(host.locks)
    assert token_of(host) > before


def test_the_fencing_token_grows_over_slots(host: Host) -> None:
    """Two holders of one semaphore never have the same token."""
    holders = [host.hold("--lock", "a", "-j", "2") for _ in range(2)]
    tokens = [finish(holder).event("lock_acquired")["fencing_token"] for holder in holders]
    assert tokens[0] < tokens[1] < token_of(host, "-j", "2")


# ---------------------------------------------------------------- waiting


def test_a_waiter_gets_the_lock_when_it_is_free(host: Host) -> None:
    """`-w` waits as long as it takes, and no longer: the run follows the holder's end."""
    holder = host.hold("--lock", "a")
    waiter = host.start("--lock", "a", "-w", "60s", "--", host.job)
    eventually(lambda: queued(host.locks), what="a waiter in the kernel's queue")
    assert len(host.executions()) == 1
    first = finish(holder)
    second = finish(waiter)
    assert first.code == second.code == 0, (first, second)
    assert first.finished["timestamp"] <= second.event("lock_acquired")["timestamp"]
    acquired = second.event("lock_acquired")
    assert 0 < acquired["lock_wait_ms"] < 60_000
    assert acquired["lock_wait_ms"] == second.finished["lock_wait_ms"]
    assert acquired["fencing_token"] > first.finished["fencing_token"]


def test_a_wait_that_times_out_is_a_busy_lock(host: Host) -> None:
    """When `--wait` is over the run is refused as without it, no sooner and not much later."""
    holder = host.hold("--lock", "a")
    start = time.monotonic()
    result = host.run("--lock", "a", "-w", "400ms", "--", host.job)
    took = elapsed(start)
    finish(holder)
    assert result.code == 75, result
    assert 0.4 <= took < 10
    assert result.finished["result"] == "lock_busy"
    assert 400 <= result.finished["lock_wait_ms"] < 10_000
    assert result.finished["held_by"]["job_id"] == host.executions()[0]
    assert len(host.executions()) == 1


def test_a_waiter_that_gave_up_leaves_the_queue(host: Host) -> None:
    """A waiter whose time is over cannot get the lock afterwards and keep it from others."""
    holder = host.hold("--lock", "a")
    assert host.run("--lock", "a", "-w", "200ms", "--", host.job).code == 75
    assert queued(host.locks) == 0
    finish(holder)
    assert host.run("--lock", "a", "--", host.job).code == 0


def test_all_waiters_get_their_turn(host: Host) -> None:
    """Waiters in the kernel's queue all get the lock, one after the other, none twice."""
    holder = host.hold("--lock", "a")
    edges = 'echo "+" >>edges; echo "-" >>edges'
    waiters: list[subprocess.Popen[bytes]] = []
    for _ in range(5):
        waiters.append(
            host.start("--lock", "a", "-w", "forever", "--", host.job, env={"ACT": edges})
        )
        eventually(lambda: queued(host.locks) == len(waiters), what="one more waiter")
    finish(holder)
    results = [finish(waiter) for waiter in waiters]
    assert [result.code for result in results] == [0] * 5, results
    assert (host.root / "edges").read_text().split() == ["+", "-"] * 5
    assert len(set(host.executions())) == 6


def test_told_to_stop_while_waiting(host: Host) -> None:
    """TERM ends a wait at once: nothing is executed, no place in the queue is kept."""
    holder = host.hold("--lock", "a")
    waiter = host.start("--lock", "a", "-w", "forever", "--", host.job)
    eventually(lambda: queued(host.locks), what="a waiter in the kernel's queue")
    waiter.send_signal(signal.SIGTERM)
    result = finish(waiter, timeout=10)
    assert queued(host.locks) == 0
    finish(holder)
    assert result.code == -signal.SIGTERM, result
    assert result.finished["result"] == "interrupted"
    assert len(host.executions()) == 1


def test_a_killed_waiter_leaves_the_queue(host: Host) -> None:
    """A waiter that is killed with SIGKILL neither gets the lock later nor blocks anybody."""
    holder = host.hold("--lock", "a")
    waiter = host.start("--lock", "a", "-w", "forever", "--", host.job)
    eventually(lambda: queued(host.locks), what="a waiter in the kernel's queue")
    kill(waiter.pid)
    finish(waiter)
    eventually(lambda: queued(host.locks) == 0, what="an empty queue")
    finish(holder)
    assert host.run("--lock", "a", "--", host.job).code == 0
    assert len(host.executions()) == 2


def test_a_lock_file_that_was_removed_does_not_make_two_holders(host: Host) -> None:
    """Who got the lock of a file that is not in its place any more, queues at the new one."""
    holder = host.hold("--lock", "a")
    edges = 'echo "+" >>edges; echo "-" >>edges'
    waiter = host.start("--lock", "a", "-w", "60s", "--", host.job, env={"ACT": edges})
    eventually(lambda: queued(host.locks), what="a waiter in the kernel's queue")
    for path in host.locks.iterdir():
        path.unlink()
    second = host.hold("--lock", "a")
    assert finish(holder).code == 0
    eventually(lambda: queued(host.locks), what="the waiter in the queue of the new file")
    assert len(host.executions()) == 2
    assert finish(second).code == 0
    assert finish(waiter).code == 0
    assert (host.root / "edges").read_text().split() == ["+", "-"]


# ---------------------------------------------------------------- shared and exclusive


def test_readers_share_a_lock_and_keep_writers_out(host: Host) -> None:
    """Any number of `-s` runs hold a lock together; an exclusive run waits for all of them."""
    readers = [host.hold("--lock", "a", flag) for flag in ("-s", "--shared")]
    assert host.run("--lock", "a", "--", host.job).code == 75
    assert host.run("--lock", "a", "-x", "--", host.job).code == 75
    results = [finish(readers.pop())]
    assert host.run("--lock", "a", "--", host.job).code == 75
    results.append(finish(readers.pop()))
    assert host.run("--lock", "a", "--exclusive", "--", host.job).code == 0
    for result in results:
        assert result.code == 0, result
        assert "fencing_token" not in result.event("lock_acquired")


def test_a_writer_keeps_readers_out(host: Host) -> None:
    """While a run holds the lock exclusively, a shared one is refused, or waits."""
    writer = host.hold("--lock", "a")
    assert host.run("--lock", "a", "-s", "--", host.job).code == 75
    reader = host.start("--lock", "a", "-s", "-w", "60s", "--", host.job)
    eventually(lambda: queued(host.locks), what="a reader in the kernel's queue")
    finish(writer)
    assert finish(reader).code == 0


def test_a_shared_lock_has_no_fencing_token(host: Host) -> None:
    """A reader has no token, in its environment or in the log, but it has lock and owner."""
    result = host.run("--lock", "a", "-s", "--log-to", "stderr", "--", "env")
    names = {line.partition(b"=")[0] for line in result.stdout.splitlines()}
    assert {b"GUARDRUN_LOCK", b"GUARDRUN_LOCK_OWNER"} <= names
    assert b"GUARDRUN_FENCING_TOKEN" not in names


# ---------------------------------------------------------------- slots


def test_as_many_as_there_are_slots(host: Host) -> None:
    """`-j 2`: two hold the lock at once, the third is refused until one of them ends."""
    holders = [host.hold("--lock", "a", "-j", "2"), host.hold("--lock", "a", "--slots", "2")]
    refused = host.run("--lock", "a", "-j", "2", "--", host.job)
    assert refused.code == 75, refused
    assert refused.event("lock_busy")["held_by"]["job_id"] in host.executions()
    assert finish(holders.pop(0)).code == 0
    assert host.run("--lock", "a", "-j", "2", "--", host.job).code == 0
    assert finish(holders.pop()).code == 0


def test_a_waiter_gets_whichever_slot_is_free_first(host: Host) -> None:
    """With all slots taken a waiter gets the one that comes free, not the one it saw first."""
    holders = [host.hold("--lock", "a", "-j", "3") for _ in range(3)]
    waiter = host.start("--lock", "a", "-j", "3", "-w", "60s", "--", host.job)
    eventually(lambda: queued(host.locks) == 3, what="a waiter at every slot")
    finish(holders.pop(1))
    assert finish(waiter).code == 0
    assert queued(host.locks) == 0
    for holder in holders:
        assert holder.poll() is None
        assert finish(holder).code == 0


@pytest.mark.parametrize(("first", "second"), [("2", "3"), ("3", "2"), ("1", "2"), ("2", "1")])
def test_users_of_a_held_lock_agree_about_its_slots(host: Host, first: str, second: str) -> None:
    """While a lock is held with one number of slots, another number is exit 78, waiting or not."""
    holder = host.hold("--lock", "a", "-j", first)
    for options in (["-n"], ["-w", "60s"]):
        result = host.run("--lock", "a", "-j", second, *options, "--", host.job)
        assert result.code == 78, result
        assert "attempt_started" not in result.events
    assert finish(holder).code == 0
    assert host.run("--lock", "a", "-j", second, "--", host.job).code == 0


def test_one_slot_is_a_lock(host: Host) -> None:
    """`-j 1` and no `-j` at all are the same lock."""
    holder = host.hold("--lock", "a", "-j", "1")
    assert host.run("--lock", "a", "--", host.job).code == 75
    finish(holder)


# ---------------------------------------------------------------- usage


@pytest.mark.parametrize(
    "options",
    [
        ["--lock", "a", "--lock-file", "/tmp"],
        ["--lock", "a", "-s", "-j", "2"],
        ["--lock-file", "/tmp", "-j", "2"],
        ["--lock-file", "/tmp", "--min-hold", "1s"],
        ["--lock", "a", "-j", "0"],
        ["--lock", "a", "-j", "x"],
        ["--lock", "a", "-w", "soon"],
        ["--lock", "a", "-w", "-1"],
        ["--lock", "a", "-E", "256"],
        ["--lock", "a", "--scope", "planet"],
        ["--lock", "a", "-s", "-x"],
        ["--lock", "a", "-n", "-w", "1s"],
    ],
)
def test_lock_options_that_make_no_sense(host: Host, options: list[str]) -> None:
    """A wrong option, or two that exclude each other, is exit 64, one line, and no run."""
    result = host.run(*options, "--", host.job)
    assert result.code == 64, result
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == b""
    assert host.executions() == []


# ---------------------------------------------------------------- min-hold


def test_min_hold_outlives_the_run(host: Host) -> None:
    """A lock with `--min-hold` stays taken after its run, without a process that keeps it."""
    start = time.monotonic()
    result = host.run("--lock", "a", "--min-hold", "1h", "--", host.job)
    assert result.code == 0, result
    assert elapsed(start) < 60
    refused = host.run("--lock", "a", "--", host.job)
    assert refused.code == 75, refused
    assert refused.event("lock_busy")["held_by"]["job_id"] == host.executions()[0]
    assert len(host.executions()) == 1


def test_min_hold_counts_from_the_acquisition(host: Host) -> None:
    """A waiter gets the lock once `--min-hold` is over, counted from when the lock was taken."""
    first = host.run("--lock", "a", "--min-hold", "1500ms", "--", host.job)
    second = host.run("--lock", "a", "-w", "60s", "--", host.job)
    assert first.code == second.code == 0, (first, second)
    taken, given = (
        moment(result.event("lock_acquired")["timestamp"]) for result in (first, second)
    )
    assert 1.5 <= given - taken < 15


def test_min_hold_adds_nothing_to_a_longer_run(host: Host) -> None:
    """Where COMMAND runs longer than `--min-hold`, the lock is free when it ends."""
    holder = host.hold("--lock", "a", "--min-hold", "1ms")
    finish(holder)
    assert host.run("--lock", "a", "--", host.job).code == 0


def test_a_wait_shorter_than_min_hold_is_over_in_time(host: Host) -> None:
    """Waiting for a lock that only its not-before time keeps taken ends with `--wait`."""
    host.run("--lock", "a", "--min-hold", "1h", "--", host.job)
    start = time.monotonic()
    assert host.run("--lock", "a", "-w", "300ms", "--", host.job).code == 75
    assert 0.3 <= elapsed(start) < 10


def test_a_readers_min_hold_is_not_shortened_by_another(host: Host) -> None:
    """Of two readers' `--min-hold` the one that ends last keeps writers out."""
    for hold in ("1h", "1ms"):
        assert host.run("-s", "--lock", "a", "--min-hold", hold, "--", host.job).code == 0
    assert host.run("--lock", "a", "--", host.job).code == 75
    assert host.run("-s", "--lock", "a", "--", host.job).code == 0


def test_min_hold_is_per_slot(host: Host) -> None:
    """With slots, `--min-hold` keeps the one slot taken, and only that."""
    assert host.run("--lock", "a", "-j", "2", "--min-hold", "1h", "--", host.job).code == 0
    assert host.run("--lock", "a", "-j", "2", "--", host.job).code == 0
    holder = host.hold("--lock", "a", "-j", "2")
    assert host.run("--lock", "a", "-j", "2", "--", host.job).code == 75
    finish(holder)


def test_another_number_of_slots_gets_around_no_min_hold(host: Host) -> None:
    """A lock that only its not-before time keeps is taken: another `-j N` is exit 78, not a run."""
    assert host.run("--lock", "a", "--min-hold", "1h", "--", host.job).code == 0
    refused = host.run("--lock", "a", "-j", "2", "--", host.job)
    assert refused.code == 78, refused
    assert b"--slots 1, not 2" in refused.stderr
    assert host.run("--lock", "a", "--", host.job).code == 75
    assert len(host.executions()) == 1


def test_min_hold_survives_a_kill(host: Host) -> None:
    """A run with `--min-hold` that is killed keeps the lock taken as long as it had promised."""
    holder = host.hold("--lock", "a", "--min-hold", "1h")
    kill(holder.pid)
    finish(holder)
    eventually(
        lambda: host.run("--lock", "a", "-w", "0", "--", host.job).code == 75, what="refusal"
    )
    assert len(host.executions()) == 1


# ---------------------------------------------------------------- a run around a run


def test_a_run_does_not_wait_for_a_run_around_itself(host: Host) -> None:
    """A guardrun that would wait for the one that executes it says so, and exits 75 at once."""
    inner = [*GUARDRUN, "--lock", "a", "-w", "forever", "--", host.job]
    result = host.run("--lock", "a", "--log-to", "none", "--", *inner)
    assert result.code == 75, result
    line = result.event("lock_busy")
    assert "around" in line["reason"], line
    assert result.finished["result"] == "lock_busy"
    assert host.executions() == []


def test_the_run_around_may_be_further_out(host: Host) -> None:
    """The run that would be waited for is found across other runs, and other locks, between."""
    inner = [*GUARDRUN, "--lock", "a", "-w", "forever", "--", host.job]
    inner = [*GUARDRUN, "--lock", "b", "--", *inner]
    result = host.run("--lock", "a", "--", *inner)
    assert result.code == 75, result
    assert host.executions() == []


def test_a_free_slot_is_given_to_a_run_within(host: Host) -> None:
    """With a slot left, a run inside another one's COMMAND gets it."""
    inner = [*GUARDRUN, "--lock", "a", "-j", "2", "--", host.job]
    result = host.run("--lock", "a", "-j", "2", "--log-to", "none", "--", *inner)
    assert result.code == 0, result
    assert len(host.executions()) == 1


def test_a_run_within_waits_for_a_stranger(host: Host) -> None:
    """Where one slot is a stranger's, the run within may hope, and waits."""
    stranger = host.hold("--lock", "a", "-j", "2")
    inner = [*GUARDRUN, "--lock", "a", "-j", "2", "-w", "60s", "--", host.job]
    outer = host.start("--lock", "a", "-j", "2", "--log-to", "none", "--", *inner)
    eventually(lambda: queued(host.locks), what="the inner run in the kernel's queue")
    finish(stranger)
    result = finish(outer)
    assert result.code == 0, result
    assert len(host.executions()) == 2


# ---------------------------------------------------------------- when it is free


@pytest.mark.parametrize(
    ("options", "command", "code"),
    [
        ([], ["true"], 0),
        ([], ["sh", "-c", "exit 9"], 9),
        ([], ["sh", "-c", "kill -KILL $$"], -signal.SIGKILL),
        ([], ["/nonexistent/command"], 127),
        (["--retries", "2", "--backoff", "1ms"], ["false"], 1),
        (["-t", "100ms"], ["sleep", "60"], 124),
        (["--deadline", "300ms"], ["sleep", "60"], 124),
        (["--needs", "never"], ["true"], 76),
    ],
)
def test_the_lock_is_free_when_the_run_has_ended(
    host: Host, options: list[str], command: list[str], code: int
) -> None:
    """However a run ends, the next one finds the lock free at once."""
    result = host.run("--lock", "a", *options, "--", *command)
    assert result.code == code, result
    assert host.run("--lock", "a", "--", "true").code == 0


def test_a_daemon_does_not_keep_the_lock(host: Host, mark: str) -> None:
    """A run that ended normally gives the lock back although COMMAND left a daemon behind."""
    daemon = f"setsid sleep {mark} </dev/null >/dev/null 2>&1 &"
    result = host.run("--lock", "a", "--", "sh", "-c", daemon)
    assert result.code == 0, result
    assert alive(mark)
    assert result.event("orphans_left")
    assert host.run("--lock", "a", "--", "true").code == 0
    assert alive(mark)


def test_the_lock_is_held_until_all_of_a_stopped_command_is_dead(host: Host, mark: str) -> None:
    """While COMMAND, told to stop, tidies up, and its children with it, the lock is not free."""
    tree = f"trap '' TERM; setsid sleep {mark} & sleep {mark}"
    holder = host.start("--lock", "a", "-k", "700ms", "--", "sh", "-c", tree)
    eventually(lambda: len(alive(mark)) == 2, what="COMMAND's tree")
    pids = alive(mark)
    look = "; ".join(f"cat /proc/{pid}/stat 2>/dev/null" for pid in pids)
    waiter = host.start(
        "--lock", "a", "-w", "60s", "--log-to", "none", "--", "sh", "-c", f"{look}; true"
    )
    eventually(lambda: queued(host.locks), what="a waiter in the kernel's queue")
    holder.send_signal(signal.SIGTERM)
    result, seen = finish(holder), finish(waiter)
    assert result.code == -signal.SIGTERM, result
    assert seen.code == 0, seen
    assert seen.stdout == b"", "of COMMAND's tree something was left when the lock was free"


def test_kill_9_frees_the_lock_when_command_is_dead(host: Host, mark: str) -> None:
    """After `kill -9` of guardrun COMMAND's tree is ended, and only then is the lock free."""
    tree = f"trap '' TERM; env -i setsid sleep {mark} & sleep {mark}"
    holder = host.start("--lock", "a", "--", "sh", "-c", tree)
    eventually(lambda: len(alive(mark)) == 2, what="COMMAND's tree")
    pids = alive(mark)
    look = "; ".join(f"grep -h State: /proc/{pid}/status 2>/dev/null" for pid in pids)
    waiter = host.start(
        "--lock", "a", "-w", "60s", "--log-to", "none", "--", "sh", "-c", f"{look}; true"
    )
    eventually(lambda: queued(host.locks), what="a waiter in the kernel's queue")
    kill(holder.pid)
    finish(holder)
    seen = finish(waiter)
    assert seen.code == 0, seen
    states = [line.split()[1] for line in seen.stdout.splitlines()]
    assert set(states) <= {b"Z"}, states


# ---------------------------------------------------------------- files


def test_what_is_made_belongs_to_its_user_alone(host: Host) -> None:
    """Directories are made 0700 and files 0600, whatever the umask says."""
    for mask in (0, 0o022, 0o077):
        where = Host(host.root / f"umask-{mask:o}")
        where.root.mkdir()
        result = where.run("--lock", "a", "--key", "k", "--", "true", umask=mask)
        assert result.code == 0, result
        found = [where.state, where.locks, *where.state.rglob("*"), *where.locks.rglob("*")]
        for path in found:
            wanted = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.lstat().st_mode) == wanted, (oct(mask), path)


def test_parents_of_the_lock_directory_are_made(host: Host) -> None:
    """A lock directory whose parents are missing too is made, for its user alone."""
    deep = host.root / "one" / "two"
    result = host.run("--lock", "a", "--", "true", env={"GUARDRUN_LOCK_DIR": str(deep)})
    assert result.code == 0, result
    assert stat.S_IMODE(deep.stat().st_mode) == stat.S_IMODE(deep.parent.stat().st_mode) == 0o700


def test_lock_files_are_never_unlinked(host: Host) -> None:
    """The files of a lock stay, with their inodes, from one run to the next."""
    assert host.run("--lock", "a", "--", "true").code == 0
    before = {path.name: path.stat().st_ino for path in host.locks.iterdir()}
    assert before
    assert host.run("--lock", "a", "--", "false").code == 1
    assert {path.name: path.stat().st_ino for path in host.locks.iterdir()} == before


@pytest.mark.parametrize("rubbish", [b"", b"\0" * 100, b"slots\nfence x\nholder 0\nhold 0 x"])
def test_what_a_power_cut_may_leave_is_in_nobodys_way(host: Host, rubbish: bytes) -> None:
    """Files of a lock that are empty or damaged need no repair, and the token still grows."""
    before = token_of(host)
    for path in host.locks.iterdir():
        path.write_bytes(rubbish)
    assert token_of(host) > before
    holder = host.hold("--lock", "a")
    assert host.run("--lock", "a", "--", host.job).code == 75
    finish(holder)


def refused(host: Host, *options: str) -> None:
    """Check that a run is refused with 73 and one line, without executing anything."""
    result = host.run("--lock", "a", "--on-ledger-down", "run", *options, "--", host.job)
    assert result.code == 73, result
    said = result.stderr.decode().splitlines() or [str(result.finished["reason"])]
    assert len(said) == 1
    assert "Traceback" not in said[0]
    assert host.executions() == []


def symlink(path: Path) -> None:
    """A symbolic link to a file that must not be touched."""
    target = path.parent.parent / "target"
    target.write_text("untouched")
    path.unlink()
    path.symlink_to(target)


def fifo(path: Path) -> None:
    """A FIFO, which must not hang us."""
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    """A directory in a file's place."""
    path.unlink()
    path.mkdir()


def hard_link(path: Path) -> None:
    """A second name of a file that must not be touched."""
    target = path.parent.parent / "target"
    target.write_text("untouched")
    target.chmod(0o600)
    path.unlink()
    path.hardlink_to(target)


def somebody_elses(path: Path) -> None:
    """A file of another user."""
    os.chown(path, 65534, 65534)


NEEDS_ROOT = pytest.mark.skipif(not ROOT, reason="only root can give a file to another user")


@pytest.mark.parametrize(
    "spoil",
    [
        symlink,
        fifo,
        directory,
        hard_link,
        pytest.param(somebody_elses, marks=NEEDS_ROOT),
    ],
)
def test_a_lock_file_that_is_not_ours_is_refused(host: Host, spoil: Callable[[Path], None]) -> None:
    """Whatever stands where one of a lock's files should be, and is none, is refused: 73."""
    assert host.run("--lock", "a", "--", "true").code == 0
    names = [path.name for path in host.locks.iterdir() if path.is_file()]
    assert names
    for name in names:
        spoil(host.locks / name)
        refused(host)
        path = host.locks / name
        path.rmdir() if path.is_dir() else path.unlink()
        target = host.root / "target"
        assert not target.exists() or target.read_text() == "untouched"
        assert host.run("--lock", "a", "--", "true").code == 0


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
@pytest.mark.parametrize("which", ["locks", "state"])
def test_a_directory_others_can_write_to_is_refused(host: Host, which: str, mode: int) -> None:
    """Lock and state directory are refused when others can write to them, sticky or not."""
    assert host.run("--lock", "a", "--", "true").code == 0
    (host.root / which).chmod(mode)
    refused(host)


@pytest.mark.skipif(not ROOT, reason="only root can give a directory to another user")
@pytest.mark.parametrize("which", ["locks", "state"])
def test_a_directory_of_somebody_else_is_refused(host: Host, which: str) -> None:
    """Lock and state directory are refused when they belong to another user."""
    path = host.root / which
    path.mkdir(mode=0o700)
    os.chown(path, 65534, 65534)
    refused(host)


@pytest.mark.parametrize("which", ["locks", "state"])
def test_a_file_in_a_directorys_place_is_refused(host: Host, which: str) -> None:
    """Lock and state directory are refused when they are files, or cannot be made below one."""
    (host.root / which).write_text("")
    refused(host)
    name = {"locks": "GUARDRUN_LOCK_DIR", "state": "GUARDRUN_STATE_DIR"}[which]
    below = {name: str(host.root / which / "below")}
    result = host.run("--lock", "a", "--", host.job, env=below)
    assert result.code == 73, result
    assert host.executions() == []
