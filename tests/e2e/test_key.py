"""Idempotency keys: at most one successful run per key, whatever happens to the runs."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest
from support import GUARDRUN, Host, Result, eventually, finish, kill, queued, write_script


def keyed(host: Host, *options: str, act: str = "", key: str = "k") -> Result:
    """Run ``job`` with a key."""
    return host.run("--key", key, *options, "--", host.job, env={"ACT": act})


def state(host: Host, key: str = "k") -> str:
    """The state of a key in the ledger."""
    (row,) = (row for row in host.rows("SELECT * FROM keys") if row["key"] == key)
    return str(row["state"])


def row_of(host: Host, job_id: str) -> dict[str, object]:
    """The ledger's row of a run."""
    (row,) = (row for row in host.rows() if row["job_id"] == job_id)
    return row


def cut_off(host: Host, *options: str, key: str = "k") -> str:
    """Have a run with a key killed by SIGKILL in the middle of COMMAND; its job_id."""
    process = host.hold("--key", key, *options)
    kill(process.pid)
    assert finish(process).code == -signal.SIGKILL
    return host.executions()[-1]


def refused(result: Result, code: int = 76) -> None:
    """Check that a run was refused because of a precondition."""
    assert result.code == code, result
    assert result.event("precondition_failed")["level"] == "warning"
    last = result.finished
    assert (last["result"], last["exit_code"]) == ("precondition_failed", code)
    assert last["reason"]
    assert "attempt_started" not in result.events


# ---------------------------------------------------------------- the claim


def test_the_claim_is_committed_before_command_runs(host: Host) -> None:
    """While COMMAND runs, key and run are in the ledger already, as running."""
    process = host.hold("--key", "k")
    assert state(host) == "running"
    (row,) = host.rows()
    assert (row["result"], row["key"], row["job_id"]) == ("running", "k", host.executions()[0])
    assert finish(process).code == 0
    assert state(host) == "succeeded"
    assert row_of(host, host.executions()[0])["result"] == "success"


def test_command_is_told_key_and_claim(host: Host) -> None:
    """COMMAND finds the resolved key and the token of this claim, another one for every claim."""
    tell = 'echo "$GUARDRUN_IDEMPOTENCY_KEY $GUARDRUN_CLAIM_TOKEN" >>told; exit 1'
    first = keyed(host, act=tell, key="the {job}")
    second = keyed(host, act=tell, key="the {job}")
    assert first.code == second.code == 1
    told = [line.rsplit(" ", 1) for line in (host.root / "told").read_text().splitlines()]
    assert [key for key, _ in told] == ["the job", "the job"]
    assert told[0][1] != told[1][1]
    assert all(len(token) >= 16 for _, token in told)
    assert first.finished["idempotency_key"] == "the job"


def test_without_a_key_command_hears_of_none(host: Host) -> None:
    """COMMAND without a key has neither key nor claim, not even those of a guardrun around it."""
    inner = [*GUARDRUN, "--log-to", "stderr", "--", "env"]
    result = host.run("--key", "outer", "--", *inner)
    names = {line.partition(b"=")[0] for line in result.stdout.splitlines()}
    assert b"GUARDRUN_JOB_ID" in names
    assert not {b"GUARDRUN_IDEMPOTENCY_KEY", b"GUARDRUN_CLAIM_TOKEN"} & names


def test_the_claim_token_is_no_log_line(host: Host) -> None:
    """The token that proves a claim is COMMAND's alone: it is not in the log."""
    result = keyed(host, "--log-level", "debug", act='echo "$GUARDRUN_CLAIM_TOKEN" >token')
    token = (host.root / "token").read_text().strip()
    assert token
    assert token.encode() not in result.stdout + result.stderr


# ---------------------------------------------------------------- duplicates


def test_a_key_that_succeeded_is_skipped(host: Host) -> None:
    """A second run with the key exits 0 without executing COMMAND, and says and records so."""
    first = keyed(host)
    second = keyed(host)
    assert first.code == second.code == 0
    assert len(host.executions()) == 1
    line = second.event("duplicate_skipped")
    assert line["level"] == "info"
    assert line["idempotency_key"] == "k"
    last = second.finished
    assert (last["result"], last["exit_code"]) == ("skipped_duplicate", 0)
    assert "attempt_started" not in second.events
    assert [row["result"] for row in host.rows()] == ["success", "skipped_duplicate"]


def test_a_duplicate_can_be_a_failure(host: Host) -> None:
    """`--on-duplicate fail`: exit 76, COMMAND is not executed."""
    keyed(host)
    refused(keyed(host, "--on-duplicate", "fail"))
    assert len(host.executions()) == 1
    assert host.rows()[-1]["result"] == "precondition_failed"


def test_a_duplicate_can_be_replayed(host: Host) -> None:
    """`--on-duplicate replay`: exit 0 after writing both streams of the run that succeeded."""
    log = ("--log-to", str(host.root / "log"))
    act = "printf 'out\\0\\377\\n'; printf 'err\\n' >&2"
    first = keyed(host, *log, "--capture", "1K", act=act)
    second = keyed(host, *log, "--on-duplicate", "replay", act=act)
    third = keyed(host, *log, "--on-duplicate", "replay", act=act)
    assert first == second == third
    assert first.stdout == b"out\0\xff\n"
    assert first.stderr == b"err\n"
    assert len(host.executions()) == 1
    assert host.rows()[-1]["result"] == "skipped_duplicate"


def test_a_replay_has_what_was_captured(host: Host) -> None:
    """What is replayed are the last bytes that were kept of each stream."""
    log = ("--log-to", "none")
    first = keyed(host, *log, "--capture", "4", act="printf 0123456789; printf abc >&2")
    assert (first.stdout, first.stderr) == (b"0123456789", b"abc")
    second = keyed(host, *log, "--on-duplicate", "replay", "--capture", "1K")
    assert (second.code, second.stdout, second.stderr) == (0, b"6789", b"abc")


def test_a_replay_without_anything_stored_says_so(host: Host) -> None:
    """Nothing was captured: exit 0 all the same, and the log says that there was nothing."""
    keyed(host, act="echo out")
    result = keyed(host, "--on-duplicate", "replay")
    assert result.code == 0, result
    assert "stored" in result.finished["reason"]
    assert b"out\n" not in result.stdout


def test_keys_belong_to_the_ledger(host: Host) -> None:
    """A key is the same key for every job, and for runs with and without a lock."""
    assert keyed(host, "--job", "one").code == 0
    assert keyed(host, "--job", "two", "--lock", "a").event("duplicate_skipped")
    assert len(host.executions()) == 1


def test_other_keys_are_not_concerned(host: Host) -> None:
    """Two keys, however alike, have nothing to do with each other."""
    keys = ["k", "K", "k ", "kk", "ключ", "%", "k\\"]
    for key in keys:
        assert keyed(host, key=key).code == 0
    assert len(host.executions()) == len(keys)


def test_a_success_is_what_was_said_to_be_one(host: Host) -> None:
    """With `--success-codes 0,3` an exit of 3 is a success: the key blocks, the code is its own."""
    assert keyed(host, "--success-codes", "0,3", act="exit 3").code == 3
    again = keyed(host, "--success-codes", "0,3", act="exit 3")
    assert again.code == 0, again
    assert len(host.executions()) == 1


def test_a_success_after_retries_is_one(host: Host) -> None:
    """A run whose second attempt succeeds has succeeded, under one claim of one key."""
    act = 'echo "$GUARDRUN_CLAIM_TOKEN" >>tokens; [ "$GUARDRUN_ATTEMPT" = 2 ]'
    assert keyed(host, "--retries", "3", "--backoff", "1ms", act=act).code == 0
    assert keyed(host, act=act).event("duplicate_skipped")
    assert len(host.executions()) == 2
    assert len(set((host.root / "tokens").read_text().split())) == 1


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("on_interrupted", ["rerun", "stop"])
@pytest.mark.parametrize("act", ["exit 1", "kill -KILL $$", "exec /nonexistent/command"])
def test_a_failed_key_may_run_again(host: Host, act: str, on_interrupted: str) -> None:
    """A COMMAND that failed by its own exit leaves the key free, under either policy."""
    assert keyed(host, "--on-interrupted", on_interrupted, act=act).code != 0
    assert state(host) == "failed"
    assert keyed(host, "--on-interrupted", on_interrupted).code == 0
    assert len(host.executions()) == 2
    assert state(host) == "succeeded"


def test_a_command_that_cannot_be_executed_leaves_the_key_free(host: Host) -> None:
    """127 is a failure like any other: with the mended line the key may run."""
    assert host.run("--key", "k", "--", "/nonexistent/command").code == 127
    assert keyed(host).code == 0


def test_after_a_failure_the_new_line_is_the_keys(host: Host) -> None:
    """A failed key may run with another COMMAND line, and from then on that line is the key's."""
    assert host.run("--key", "k", "--", "sh", "-c", "exit 1").code == 1
    assert keyed(host).code == 0
    assert keyed(host).event("duplicate_skipped")
    refused(host.run("--key", "k", "--", "sh", "-c", "exit 1"))


# ---------------------------------------------------------------- another COMMAND line


def test_another_line_for_a_key_that_succeeded(host: Host) -> None:
    """The same key with another COMMAND line is a mistake: exit 76, unless it is to be ignored."""
    assert keyed(host).code == 0
    refused(host.run("--key", "k", "--", host.job, "another"))
    ignored = host.run("--key", "k", "--on-mismatch", "ignore", "--", host.job, "another")
    assert ignored.code == 0, ignored
    assert ignored.event("duplicate_skipped")
    assert len(host.executions()) == 1


def test_another_line_for_a_key_that_runs(host: Host) -> None:
    """Another COMMAND line for a key that is running: exit 76, or, ignoring that, busy: 75."""
    holder = host.hold("--key", "k")
    refused(host.run("--key", "k", "-w", "60s", "--", host.job, "another"))
    ignored = host.run("--key", "k", "--on-mismatch", "ignore", "--", host.job, "another")
    finish(holder)
    assert ignored.code == 75, ignored
    assert len(host.executions()) == 1


def test_another_line_for_a_key_that_was_interrupted(host: Host) -> None:
    """Another COMMAND line for an interrupted key: exit 76, or, ignoring that, it runs."""
    cut_off(host)
    refused(host.run("--key", "k", "--", host.job, "another"))
    assert len(host.executions()) == 1
    ignored = host.run("--key", "k", "--on-mismatch", "ignore", "--", host.job, "another")
    assert ignored.code == 0, ignored
    assert len(host.executions()) == 2


def test_the_line_is_compared_before_secrets_are_taken_out(host: Host) -> None:
    """Two lines that look the same in the ledger, their secrets removed, are still two lines."""
    assert host.run("--key", "k", "--", host.job, "--password=one").code == 0
    refused(host.run("--key", "k", "--", host.job, "--password=two"))
    assert host.run("--key", "k", "--", host.job, "--password=one").code == 0


def test_where_words_end_is_part_of_the_line(host: Host) -> None:
    """`a b` as one word and as two are different COMMAND lines."""
    assert host.run("--key", "k", "--", host.job, "a", "b").code == 0
    refused(host.run("--key", "k", "--", host.job, "a b"))


# ---------------------------------------------------------------- interrupted


def test_a_run_that_was_killed_is_run_again(host: Host) -> None:
    """After `kill -9` the next run executes, tells of the one before, and sets its row right."""
    before = cut_off(host)
    result = keyed(host)
    assert result.code == 0, result
    assert len(host.executions()) == 2
    assert row_of(host, before)["result"] == "interrupted"
    others = [line for line in result.lines if line["job_id"] != before]
    assert any(before in str(line) for line in others), result
    assert state(host) == "succeeded"
    assert keyed(host).event("duplicate_skipped")


def test_a_run_that_was_killed_can_be_left_to_a_person(host: Host) -> None:
    """`--on-interrupted stop`: exit 76, as often as it is tried, until somebody says rerun."""
    before = cut_off(host)
    for _ in range(2):
        result = keyed(host, "--on-interrupted", "stop")
        refused(result)
        assert any(before in str(line) for line in result.lines), result
    assert len(host.executions()) == 1
    assert row_of(host, before)["result"] == "interrupted"
    assert keyed(host, "--on-interrupted", "rerun").code == 0
    assert len(host.executions()) == 2
    assert keyed(host, "--on-interrupted", "stop").event("duplicate_skipped")


@pytest.mark.parametrize("policy", ["rerun", "stop"])
def test_told_to_stop_is_not_success(host: Host, policy: str) -> None:
    """COMMAND tidies up at TERM and exits 0: the run is interrupted, and so is its key."""
    tidy = (
        "trap 'echo tidied >tidied; exit 0' TERM; echo ready >ready; while :; do sleep 0.05; done"
    )
    process = host.start("--key", "k", "--", host.job, env={"ACT": tidy})
    eventually((host.root / "ready").exists, what="COMMAND's trap")
    process.send_signal(signal.SIGTERM)
    result = finish(process)
    assert (host.root / "tidied").exists()
    assert result.code == -signal.SIGTERM, result
    assert result.finished["result"] == "interrupted"
    assert (host.rows()[0]["result"], state(host)) == ("interrupted", "interrupted")
    again = keyed(host, "--on-interrupted", policy)
    if policy == "rerun":
        assert again.code == 0, again
        assert host.executions()[0] in str(again.lines)
    else:
        refused(again)
    assert len(host.executions()) == (2 if policy == "rerun" else 1)


@pytest.mark.parametrize("limit", [["-t", "200ms"], ["--deadline", "400ms"]])
def test_a_timeout_is_no_exit_of_its_own(host: Host, limit: list[str]) -> None:
    """A COMMAND that was stopped by a limit leaves its key interrupted, not failed."""
    result = keyed(host, *limit, act="exec sleep 60")
    assert result.code == 124, result
    assert state(host) == "interrupted"
    refused(keyed(host, "--on-interrupted", "stop"))
    assert keyed(host).code == 0
    assert len(host.executions()) == 2


def test_at_most_once(host: Host) -> None:
    """`--on-interrupted stop --retries 0` executes once, however often the run is cut off."""
    cut_off(host, "--on-interrupted", "stop", "--retries", "0")
    for _ in range(3):
        refused(keyed(host, "--on-interrupted", "stop", "--retries", "0"))
    assert len(host.executions()) == 1


def test_interrupted_again_and_again(host: Host) -> None:
    """However often a key is interrupted, nothing has to be repaired before the next run."""
    before = [cut_off(host) for _ in range(3)]
    assert keyed(host).code == 0
    assert [row_of(host, job_id)["result"] for job_id in before] == ["interrupted"] * 3
    assert len(host.executions()) == 4


def test_told_to_stop_before_command_ran_interrupts_nothing(host: Host) -> None:
    """A run that ends while it waits has executed nothing: the key's state is left as it was."""
    holder = host.hold("--lock", "a")
    waiter = host.start("--lock", "a", "--key", "k", "-w", "60s", "--", host.job)
    eventually(lambda: queued(host.locks), what="a run that waits for the lock")
    waiter.send_signal(signal.SIGTERM)
    assert finish(waiter).code == -signal.SIGTERM
    finish(holder)
    assert host.rows("SELECT * FROM keys") == []
    assert keyed(host, "--on-interrupted", "stop").code == 0


# ---------------------------------------------------------------- while another run holds it


def test_a_key_that_is_held_is_busy(host: Host) -> None:
    """A key that another run holds right now: exit 75 at once, and `held_by` says who it is."""
    holder = host.hold("--key", "k")
    result = keyed(host)
    (job_id,) = host.executions()
    held = finish(holder)
    assert result.code == 75, result
    held_by = result.event("lock_busy")["held_by"]
    assert held_by["job_id"] == job_id
    assert held_by["owner"].split(":")[1:] == [str(holder.pid), job_id]
    assert (result.finished["result"], result.finished["exit_code"]) == ("lock_busy", 75)
    assert held.code == 0
    assert [row["result"] for row in host.rows()] == ["success", "lock_busy"]


def test_the_conflict_code_is_for_keys_too(host: Host) -> None:
    """`-E N` is the exit code also when another run holds the key."""
    holder = host.hold("--key", "k")
    result = keyed(host, "-E", "0")
    finish(holder)
    assert result.code == 0, result
    assert result.finished["result"] == "lock_busy"
    assert len(host.executions()) == 1


def test_different_locks_do_not_part_one_key(host: Host) -> None:
    """Two runs with one key under different locks, or none, never execute at the same time."""
    holder = host.hold("--key", "k", "--lock", "a")
    assert keyed(host, "--lock", "b").code == 75
    assert keyed(host).code == 75
    assert host.run("--lock", "b", "--", "true").code == 0
    finish(holder)
    assert len(host.executions()) == 1


def waiting_for_the_key(host: Host, *options: str) -> subprocess.Popen[bytes]:
    """Start a run that waits for key k, and return when it says so."""
    log = host.root / "waiter.log"
    process = host.start("--key", "k", "--log-to", str(log), *options, "--", host.job)
    eventually(
        lambda: log.exists() and b'"lock_busy"' in log.read_bytes(),
        what="a log line of a run that waits for the key",
    )
    return process


def test_waiting_for_a_key_that_succeeds(host: Host) -> None:
    """A run that waits for a key until that has succeeded is a duplicate."""
    holder = host.hold("--key", "k")
    waiter = waiting_for_the_key(host, "-w", "60s")
    assert finish(holder).code == 0
    assert finish(waiter).code == 0
    assert len(host.executions()) == 1
    assert host.rows()[-1]["result"] == "skipped_duplicate"


def test_waiting_for_a_key_that_fails(host: Host) -> None:
    """A run that waits for a key executes when the one before it has failed."""
    holder = host.hold("--key", "k", env={"ACT": "cat; exit 1"})
    waiter = waiting_for_the_key(host, "-w", "forever")
    assert finish(holder).code == 1
    assert finish(waiter).code == 0
    assert len(host.executions()) == 2
    assert state(host) == "succeeded"


def test_waiting_for_a_key_whose_run_is_killed(host: Host) -> None:
    """When the run that holds the key is killed with SIGKILL, the one that waits takes over."""
    holder = host.hold("--key", "k")
    waiter = waiting_for_the_key(host, "-w", "60s")
    kill(holder.pid)
    finish(holder)
    assert finish(waiter).code == 0
    first, _ = host.executions()
    assert row_of(host, first)["result"] == "interrupted"
    assert state(host) == "succeeded"


def test_a_wait_for_a_key_that_times_out(host: Host) -> None:
    """When `--wait` is over the key is still busy: exit 75, no sooner."""
    holder = host.hold("--key", "k")
    start = time.monotonic()
    result = keyed(host, "-w", "400ms")
    took = time.monotonic() - start
    finish(holder)
    assert result.code == 75, result
    assert 0.4 <= took < 10
    assert len(host.executions()) == 1


def test_told_to_stop_while_waiting_for_a_key(host: Host) -> None:
    """TERM ends the wait for a key at once."""
    holder = host.hold("--key", "k")
    waiter = waiting_for_the_key(host, "-w", "forever")
    waiter.send_signal(signal.SIGTERM)
    assert finish(waiter, timeout=10).code == -signal.SIGTERM
    assert finish(holder).code == 0
    assert state(host) == "succeeded"


def test_one_wait_for_lock_and_key_together(host: Host) -> None:
    """What the lock took of `--wait` is not there any more for the key."""
    lock, key = host.hold("--lock", "a"), host.hold("--key", "k")
    start = time.monotonic()
    both = host.start("--lock", "a", "--key", "k", "-w", "3s", "--", host.job)
    eventually(lambda: time.monotonic() - start > 2.0)
    finish(lock)
    result = finish(both)
    finish(key)
    assert result.code == 75, result
    assert 1000 < result.finished["lock_wait_ms"] < result.finished["duration_ms"]
    assert 3000 <= result.finished["duration_ms"] < 4700
    assert len(host.executions()) == 2


def test_a_run_does_not_wait_for_the_key_of_a_run_around_it(host: Host) -> None:
    """A guardrun that would wait for the key of the one that executes it exits 75 at once."""
    inner = [*GUARDRUN, "--key", "k", "--on-mismatch", "ignore", "-w", "forever", "--", host.job]
    result = host.run("--key", "k", "--log-to", "none", "--", *inner)
    assert result.code == 75, result
    assert "around" in result.finished["reason"]
    assert host.executions() == []


# ---------------------------------------------------------------- how long a key blocks


def test_a_success_blocks_for_its_time_to_live(host: Host) -> None:
    """`--key-ttl`: the key is blocked until so long after the success, and then free again."""
    assert keyed(host, "--key-ttl", "2s").code == 0
    assert keyed(host).event("duplicate_skipped")

    def ran_again() -> bool:
        return keyed(host).code == 0 and len(host.executions()) == 2

    eventually(ran_again, within=15, what="a second execution")
    first, second = (row_of(host, job_id) for job_id in host.executions())
    assert int(str(second["started_at"])) - int(str(first["finished_at"])) >= 1_900_000
    assert keyed(host).event("duplicate_skipped"), "the second success blocks forever"


def test_the_time_to_live_is_of_the_run_that_succeeded(host: Host) -> None:
    """A later run cannot shorten how long the success of an earlier one blocks the key."""
    assert keyed(host).code == 0
    assert keyed(host, "--key-ttl", "1ms").event("duplicate_skipped")
    assert keyed(host).event("duplicate_skipped")
    assert len(host.executions()) == 1


# ---------------------------------------------------------------- needs


def test_needs_a_key_that_has_succeeded(host: Host) -> None:
    """`--needs K`: exit 76 and nothing done until K has succeeded; then the run is free to go."""
    refused(host.run("--needs", "first", "--", host.job))
    assert host.run("--key", "first", "--", "false").code == 1
    refused(host.run("--needs", "first", "--", host.job))
    assert host.executions() == []
    assert host.run("--key", "first", "--", "true").code == 0
    assert host.run("--needs", "first", "--", host.job).code == 0
    assert len(host.executions()) == 1


def test_a_key_that_is_needed_may_not_be_running_or_interrupted(host: Host) -> None:
    """A needed key that is running, or was cut off, has not succeeded."""
    holder = host.hold("--key", "first")
    refused(host.run("--needs", "first", "-w", "60s", "--", "true"))
    kill(holder.pid)
    finish(holder)
    refused(host.run("--needs", "first", "--", "true"))


def test_a_success_that_has_expired_is_none(host: Host) -> None:
    """A needed key whose `--key-ttl` is over does not count."""
    assert keyed(host, "--key-ttl", "1ms", key="first").code == 0
    eventually(lambda: host.run("--needs", "first", "--", "true").code == 76)


def test_all_needs_must_be_met(host: Host) -> None:
    """With several `--needs` each of them must have succeeded; the line names the one missing."""
    needs = ("--needs", "one", "--needs", "two")
    assert keyed(host, key="one").code == 0
    result = host.run(*needs, "--", "true")
    refused(result)
    assert "two" in result.finished["reason"]
    assert "one" not in result.finished["reason"]
    assert keyed(host, key="two").code == 0
    assert host.run(*needs, "--", "true").code == 0


def test_needs_come_before_the_claim(host: Host) -> None:
    """A run whose needs are not met does not touch its own key."""
    refused(keyed(host, "--needs", "first"))
    assert host.rows("SELECT * FROM keys") == []
    assert keyed(host, "--on-interrupted", "stop").code == 0


def test_needs_are_checked_before_duplicates(host: Host) -> None:
    """Needs are checked first: a key that succeeded does not hide that one is not met."""
    assert keyed(host).code == 0
    refused(keyed(host, "--needs", "first"))


# ---------------------------------------------------------------- with the lock


def test_the_lock_comes_first(host: Host) -> None:
    """Step 1 before step 2: with a busy lock, even a duplicate is refused for the lock."""
    assert keyed(host).code == 0
    holder = host.hold("--lock", "a")
    result = keyed(host, "--lock", "a")
    finish(holder)
    assert result.code == 75, result
    assert "duplicate_skipped" not in result.events
    assert keyed(host, "--lock", "a").event("duplicate_skipped")


def test_without_a_ledger_there_are_no_keys(host: Host) -> None:
    """With `none:` as ledger, what needs a memory is a usage error."""
    for option in (["--key", "k"], ["--needs", "k"], ["--retry-budget", "1/1h"]):
        result = host.run("--ledger-url", "none:", *option, "--", host.job)
        assert result.code == 64, result
        assert len(result.stderr.splitlines()) == 1
    assert host.executions() == []


def test_two_ledgers_are_two_worlds(host: Host) -> None:
    """A key is known in the ledger it was claimed in, and in no other."""
    urls = [f"sqlite://{host.root}/{name}.db" for name in ("one", "two")]
    for url in urls:
        assert keyed(host, "--ledger-url", url).code == 0
        assert keyed(host, "--ledger-url", url).event("duplicate_skipped")
    assert len(host.executions()) == 2


def test_a_script_that_changed_is_the_same_line(host: Host) -> None:
    """The COMMAND line is compared, not what it names: a new version of a script is no mismatch."""
    script = write_script(host.root / "script", "#!/bin/sh\nexit 1\n")
    assert host.run("--key", "k", "--", str(script)).code == 1
    write_script(host.root / "script", "#!/bin/sh\nexit 0\n")
    assert host.run("--key", "k", "--", str(script)).code == 0
    assert host.run("--key", "k", "--", str(script)).event("duplicate_skipped")
