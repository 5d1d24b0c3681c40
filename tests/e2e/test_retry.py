"""Attempts: how many, after what, how long apart, and what is cleared up in between."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support import (
    Host,
    Result,
    alive,
    eventually,
    finish,
    sleepers,
    stubborn_tree,
    write_script,
)

from guardrun.core.policy import splay_delay

FAST = ("--backoff", "1ms..2ms")


@pytest.fixture
def flaky(host: Host) -> Path:
    """A COMMAND that writes its attempt down and exits with the next of its words."""
    return write_script(
        host.root / "flaky",
        '#!/bin/sh\necho "$GUARDRUN_JOB_ID $GUARDRUN_ATTEMPT" >>attempts\n'
        'shift $(($(wc -l <attempts) - 1))\nexit "$1"\n',
    )


def attempts(host: Host) -> list[list[str]]:
    """What the attempts wrote down: job_id and number of each."""
    return [line.split() for line in (host.root / "attempts").read_text().splitlines()]


def events(result: Result, name: str) -> list[dict[str, Any]]:
    """The log lines with this event."""
    return [line for line in result.lines if line["event"] == name]


def at(line: dict[str, Any]) -> float:
    """When a line says that it happened."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


# ---------------------------------------------------------------- how many


def test_until_it_succeeds(host: Host, flaky: Path) -> None:
    """A COMMAND that failed is run again: one run, one job_id, attempts counted from 1."""
    result = host.run("--retries", "5", *FAST, "--", str(flaky), "1", "2", "0")
    assert result.code == 0
    job_id = result.finished["job_id"]
    assert attempts(host) == [[job_id, "1"], [job_id, "2"], [job_id, "3"]]
    assert {line["job_id"] for line in result.lines} == {job_id}
    finished = events(result, "attempt_finished")
    assert [line["attempt"] for line in finished] == [1, 2, 3]
    assert [line["result"] for line in finished] == ["retry", "retry", "success"]
    assert [line["exit_code"] for line in finished] == [1, 2, 0]
    assert [line["attempt"] for line in events(result, "attempt_started")] == [1, 2, 3]
    assert result.finished["result"] == "success"
    (row,) = host.rows()
    assert (row["result"], row["attempts"], row["command_code"]) == ("success", 3, 0)
    stored = host.rows("SELECT number, result, exit_code FROM attempts ORDER BY number")
    assert [tuple(one.values()) for one in stored] == [
        (1, "retry", 1),
        (2, "retry", 2),
        (3, "success", 0),
    ]


def test_until_retries_are_used_up(host: Host, flaky: Path) -> None:
    """After the last attempt guardrun exits with that one's code."""
    result = host.run("--retries", "2", *FAST, "--", str(flaky), "1", "2", "3", "4")
    assert result.code == 3
    assert len(attempts(host)) == 3
    assert [line["result"] for line in events(result, "attempt_finished")] == [
        "retry",
        "retry",
        "failed",
    ]
    assert result.finished["result"] == "failed"


def test_no_retries_by_default(host: Host, flaky: Path) -> None:
    """Without --retries there is one attempt."""
    assert host.run("--", str(flaky), "1", "0").code == 1
    assert len(attempts(host)) == 1


def test_success_code_is_not_retried(host: Host, flaky: Path) -> None:
    """A code among --success-codes needs no other attempt."""
    result = host.run("--retries", "3", "--success-codes", "3", *FAST, "--", str(flaky), "3", "0")
    assert (result.code, result.finished["result"]) == (3, "success")
    assert len(attempts(host)) == 1


@pytest.mark.parametrize(
    ("retry_on", "codes", "number"),
    [
        (None, ["1", "75", "255", "0"], 4),
        (None, ["126", "0"], 1),
        (None, ["127", "0"], 1),
        ("75", ["75", "1", "0"], 2),
        ("1,5-9", ["1", "5", "7", "9", "4", "0"], 5),
        ("126,127", ["126", "127", "1", "0"], 3),
        ("timeout", ["1", "0"], 1),
        ("signal", ["130", "0"], 1),
    ],
)
def test_what_is_worth_another_attempt(
    host: Host, flaky: Path, retry_on: str | None, codes: list[str], number: int
) -> None:
    """--retry-on says which exit codes are; by default all but 126 and 127."""
    words = [] if retry_on is None else ["--retry-on", retry_on]
    result = host.run("--retries", "9", *words, *FAST, "--", str(flaky), *codes)
    assert len(attempts(host)) == number
    assert result.code == int(codes[number - 1])


@pytest.mark.parametrize(("retry_on", "number"), [("signal", 3), ("1-255", 1), ("timeout", 1)])
def test_death_by_signal_and_retries(host: Host, retry_on: str, number: int) -> None:
    """A death by signal is `signal` for --retry-on, not the code that a shell would make of it."""
    result = host.run(
        *("--retries", "2", "--retry-on", retry_on, *FAST), *("--", "sh", "-c", "kill -USR1 $$")
    )
    assert result.code == -signal.SIGUSR1
    assert len(events(result, "attempt_finished")) == number


@pytest.mark.parametrize(
    ("retry_on", "number"), [("timeout", 3), ("124", 1), ("signal", 1), (None, 3)]
)
def test_timeout_and_retries(host: Host, retry_on: str | None, number: int) -> None:
    """A timeout is `timeout` for --retry-on, and by default worth another attempt."""
    words = [] if retry_on is None else ["--retry-on", retry_on]
    result = host.run(
        *("--retries", "2", "--timeout", "100ms", *words, *FAST), *("--", "sleep", "60")
    )
    assert (result.code, result.finished["result"]) == (124, "timeout")
    assert len(events(result, "attempt_finished")) == number


# ---------------------------------------------------------------- how long apart


@pytest.mark.parametrize("jitter", ["full", "equal", "decorrelated"])
def test_backoff_bounds(host: Host, jitter: str) -> None:
    """Each wait is random within the bounds of its kind of jitter, and is really waited for."""
    base, cap, retries = 20, 100, 7
    result = host.run(
        *("--retries", str(retries), "--backoff", f"{base}ms..{cap}ms", "--jitter", jitter),
        *("--", "false"),
    )
    waits = [line["backoff_ms"] for line in events(result, "retry_scheduled")]
    assert len(waits) == retries
    before = float(base)
    for number, wait in enumerate(waits):
        ceiling = min(cap, base * 2**number)
        lowest, highest = {
            "full": (0, ceiling),
            "equal": (ceiling / 2, ceiling),
            "decorrelated": (base, min(cap, before * 3)),
        }[jitter]
        assert lowest <= wait <= highest + 0.001, (number, waits)
        before = max(wait, base)
    assert len(set(waits)) > 1, "a fixed delay"
    ends = [at(line) for line in events(result, "attempt_finished")]
    starts = [at(line) for line in events(result, "attempt_started")][1:]
    for end, wait, start in zip(ends, waits, starts, strict=False):
        assert start - end >= wait / 1000 - 0.002  # two clocks, rounded


def test_backoff_differs_from_run_to_run(host: Host) -> None:
    """Two runs that fail together do not try again together."""
    words = ["--retries", "1", "--backoff", "50ms..50ms", "--", "false"]
    results = [finish(process) for process in [host.start(*words) for _ in range(4)]]
    assert len({result.event("retry_scheduled")["backoff_ms"] for result in results}) > 1


def test_lock_is_held_between_attempts(host: Host) -> None:
    """Lock and key belong to the run, not to an attempt: nobody gets in during the backoff."""
    log = host.root / "log"
    process = host.start(
        *("--log-to", str(log), "--lock", "l", "--key", "k", "--retries", "1"),
        *("--backoff", "1h..1h", "--jitter", "equal", "--", "false"),
    )
    eventually(lambda: log.exists() and b"retry_scheduled" in log.read_bytes())
    assert host.run("--lock", "l", "--", "true").code == 75
    assert host.run("--key", "k", "--on-mismatch", "ignore", "--", "true").code == 75
    process.terminate()
    assert finish(process).code == -signal.SIGTERM


def test_deadline_in_backoff(host: Host) -> None:
    """A backoff that would end after --deadline ends the run at once, with 124."""
    begun = time.monotonic()
    result = host.run(
        *("--retries", "3", "--backoff", "1h..1h", "--jitter", "equal", "--deadline", "30s"),
        *("--", "false"),
    )
    assert time.monotonic() - begun < 15
    assert (result.code, result.finished["result"]) == (124, "timeout")
    assert len(events(result, "attempt_finished")) == 1
    (row,) = host.rows()
    assert (row["attempts"], row["command_code"]) == (1, 1)


# ---------------------------------------------------------------- splay


def splayed(host: Host, share: tuple[float, float]) -> str:
    """The name of a job whose share of any splay on this host is within these bounds."""
    assert host.run("--job", "any", "--", "true").code == 0
    name = host.rows()[0]["host"]
    return next(
        job
        for job in (f"job-{number}" for number in itertools.count())
        if share[0] <= splay_delay(job, name, 1.0) < share[1]
    )


def test_splay_is_waited_for(host: Host) -> None:
    """A run starts COMMAND not before its own part of the splay has passed."""
    job = splayed(host, (0.8, 1.0))
    begun = time.time()
    result = host.run("--job", job, "--splay", "1s", "--", "true")
    assert result.code == 0
    assert at(result.event("attempt_started")) - begun >= 0.8


def test_splay_is_the_jobs_own(host: Host) -> None:
    """On one host a job's part of the splay is always the same, here next to nothing of a day."""
    job = splayed(host, (0.0, 1e-5))
    for _ in range(2):
        begun = time.monotonic()
        assert host.run("--job", job, "--splay", "1d", "--", "true").code == 0
        assert time.monotonic() - begun < 15


def test_splay_comes_once(host: Host) -> None:
    """A retry waits for its backoff only."""
    job = splayed(host, (0.9, 1.0))
    result = host.run("--job", job, "--splay", "1s", "--retries", "3", *FAST, "--", "false")
    starts = [at(line) for line in events(result, "attempt_started")]
    assert starts[-1] - starts[0] < 0.9


# ---------------------------------------------------------------- retry budget


def test_retry_budget_of_one_run(host: Host, flaky: Path) -> None:
    """When the budget is used up the run ends with COMMAND's own code, and says why."""
    words = ["--job", "a", "--retries", "9", "--retry-budget", "2/1h", *FAST]
    result = host.run(*words, "--", str(flaky), "1", "2", "3", "4")
    assert (result.code, result.finished["result"]) == (3, "failed")
    assert len(attempts(host)) == 3
    assert result.event("budget_exhausted")["job_id"] == result.finished["job_id"]


def test_retry_budget_is_shared_by_runs_of_a_job(host: Host) -> None:
    """Runs of one job that fail together have one budget between them; other jobs have theirs."""
    words = ["--retries", "9", "--retry-budget", "3/1h", "--backoff", "1ms..20ms"]
    command = ["--", "sh", "-c", 'echo >>"attempts-$GUARDRUN_JOB"; exit 5']
    storm = [host.start("--job", "storm", *words, *command) for _ in range(5)]
    other = host.run("--job", "other", *words, *command)
    assert [finish(process).code for process in storm] == [5] * 5
    assert other.code == 5
    assert (host.root / "attempts-storm").read_text().count("\n") == 5 + 3
    assert (host.root / "attempts-other").read_text().count("\n") == 1 + 3


def test_retry_budget_comes_back(host: Host, flaky: Path) -> None:
    """A retry is counted within the window only."""
    words = ["--job", "a", "--retries", "1", "--retry-budget", "1/300ms", *FAST]
    assert host.run(*words, "--", str(flaky), "1", "0").code == 0
    spent = max(row["spent_at"] for row in host.rows("SELECT spent_at FROM budgets")) / 1e6
    eventually(lambda: time.time() > spent + 0.3)
    (host.root / "attempts").unlink()
    assert host.run(*words, "--", str(flaky), "1", "0").code == 0


# ---------------------------------------------------------------- what is left in between


def counting_tree(host: Host, mark: str) -> list[str]:
    """A COMMAND that writes down how many processes of attempts before it are alive, leaves some,
    and fails."""
    tree = stubborn_tree(host.root / "tree", mark, last="exit 1")
    count = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent.parent)!r});"
        f"import support; print(len(support.alive({mark!r})))"
    )
    return ["sh", "-c", '"$1" -c "$2" >>alive; exec "$3"', "sh", sys.executable, count, str(tree)]


def test_nothing_of_the_last_attempt_is_left(host: Host, mark: str) -> None:
    """Before another attempt all that the last one left running is stopped, daemons too."""
    result = host.run(
        *("--retries", "2", "--kill-after", "200ms", *FAST, "--", *counting_tree(host, mark)),
    )
    assert result.code == 1
    assert (host.root / "alive").read_text().split() == ["0", "0", "0"]
    assert result.event("orphans_left")["attempt"] == 3
    assert len(sleepers(mark, 3)) == 3  # the last one's: a normal end leaves them alone


def test_nothing_is_left_after_a_timeout(host: Host, mark: str) -> None:
    """An attempt that ended by its timeout has left nothing when the next begins."""
    code = f"while :; do sleep {mark}; done"
    tree = counting_tree(host, mark)
    result = host.run(
        *("--retries", "2", "--timeout", "2s", "--kill-after", "100ms", *FAST),
        *("--", "sh", "-c", f'"$@"; {code}', "sh", *tree),
    )
    assert result.code == 124
    assert (host.root / "alive").read_text().split() == ["0", "0", "0"]
    assert alive(mark) == []


def test_sweep_asks_first(host: Host) -> None:
    """What the last attempt left running is asked to stop before it is killed."""
    leaver = write_script(
        host.root / "leaver",
        "#!/bin/sh\n"
        'test "$GUARDRUN_ATTEMPT" = 2 && exit 0\n'
        'setsid sh -c \'trap "echo asked >asked; exit" TERM; echo >ready;'
        " while :; do sleep 0.01; done' >/dev/null 2>&1 &\n"
        "while ! test -e ready; do sleep 0.01; done\n"
        "exit 1\n",
    )
    result = host.run("--retries", "1", "--kill-after", "1h", *FAST, "--", str(leaver))
    assert result.code == 0
    assert (host.root / "asked").read_text() == "asked\n"


def test_kill_during_sweep(host: Host, mark: str) -> None:
    """kill -9 of guardrun while the last attempt's leftovers have their time ends them at once."""
    tree = stubborn_tree(host.root / "tree", mark, last="exit 1")
    log = host.root / "log"
    process = host.start(
        *("--log-to", str(log), "--retries", "1", "--kill-after", "1h", *FAST, "--", str(tree)),
        stdout=None,
    )
    eventually(lambda: log.exists() and b"attempt_finished" in log.read_bytes())
    sleepers(mark, 3)
    os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: not alive(mark), 5)
    assert finish(process).code == -signal.SIGKILL
