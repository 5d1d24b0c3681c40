"""``history`` and ``show``: what ran, for people and for programs."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from ledgers import NOON, SqliteStore, claimed, ended, job_id, make_run, refused, run_key
from support import GUARDRUN, Host

from guardrun.commands import table
from guardrun.commands.history import NoSuchRun, history, show
from guardrun.errors import ConfigError, GuardrunError, StoreUnavailable
from guardrun.model import Attempt, Captured, Holder, KeySpec, LedgerSpec, Run


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An empty ledger."""
    made = SqliteStore(tmp_path / "state")
    made.directory.mkdir()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """80 columns, UTC, and no opinion on colours."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def call(command: Any, store: SqliteStore, *words: str) -> Result:
    """Call a subcommand as the command line does."""
    return CliRunner().invoke(command, words, obj=store.spec, catch_exceptions=True)


def listed(store: SqliteStore, *words: str) -> list[dict[str, Any]]:
    """What history --json says."""
    result = call(history, store, "--json", *words)
    assert result.exit_code == 0, result
    return [json.loads(line) for line in result.stdout.splitlines()]


def shown(store: SqliteStore, run: Run) -> dict[str, Any]:
    """What show --json says."""
    result = call(show, store, "--json", run.job_id)
    assert result.exit_code == 0, result
    whole: dict[str, Any] = json.loads(result.stdout)
    return whole


def refusal(result: Result) -> GuardrunError:
    """The error a subcommand ended with: one line."""
    assert isinstance(result.exception, GuardrunError), result
    assert "\n" not in str(result.exception)
    assert result.stdout == ""
    return result.exception


# ---------------------------------------------------------------- history


def test_a_ledger_that_is_not_there_has_no_runs(store: SqliteStore) -> None:
    """Before the first run there is nothing to tell, nothing is made, and nothing is wrong."""
    result = call(history, store)
    assert (result.exit_code, result.stdout) == (0, "no runs yet\n")
    assert listed(store) == []
    assert list(store.directory.iterdir()) == []


def test_newest_come_first(store: SqliteStore) -> None:
    """Runs are told by their start, whatever the order in which they were recorded."""
    ledger = store.open()
    for second in (2, 0, 1):
        run_key(ledger, f"k{second}", started_at=NOON + second)
    assert [line["idempotency_key"] for line in listed(store)] == ["k2", "k1", "k0"]


def test_the_limit(store: SqliteStore) -> None:
    """Fifty runs are told, or as many as asked for; 0 is all."""
    ledger = store.open()
    for number in range(60):
        ledger.finish(refused(make_run(started_at=NOON + number)))
    assert len(listed(store)) == 50
    assert len(listed(store, "--limit", "7")) == 7
    assert len(listed(store, "--limit", "0")) == 60
    assert call(history, store, "--limit", "-1").exit_code == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--job", "a"], "64"),
        (["--job", "b"], "5321"),
        (["--key", "k"], "61"),
        (["--result", "failed"], "42"),
        (["--result", "success"], "631"),
        (["--result", "interrupted"], "5"),
        (["--result", "running"], ""),
        (["--result", "failed", "--job", "b"], "2"),
        (["--since", "2026-11-18T12:00:02Z"], "65432"),
        (["--until", "2026-11-18T12:00:02Z"], "1"),
        (["--since", "2026-11-18T12:00:02Z", "--until", "2026-11-18T13:00:04+01:00"], "32"),
        (["--job", "a", "--limit", "1"], "6"),
        (["--job", "never"], ""),
    ],
)
def test_filters(store: SqliteStore, words: list[str], expected: str) -> None:
    """Filters by job, key, result and time narrow down what is told, together and alone."""
    ledger = store.open()
    rows = [("b", "k", "success"), ("b", "x", "failed"), ("b", None, "success")]
    rows += [("a", "y", "failed"), ("b", None, "running"), ("a", "k", "success")]
    for number, (job, key, result) in enumerate(rows, 1):
        run = make_run(key, job=job, started_at=NOON + number, argv=(str(number),))
        if result == "running":
            gone = store.open()
            gone.begin(run, KeySpec(key))
            gone.close()
        else:
            ledger.finish(ended(run, None, result))
    assert "".join(line["command"][0] for line in listed(store, *words)) == expected


def test_times_may_be_durations_ago(store: SqliteStore) -> None:
    """--since 1h is an hour ago."""
    ledger = store.open()
    for ago in (60, 7200):
        ledger.finish(refused(make_run(started_at=time.time() - ago, argv=(str(ago),))))
    assert [line["command"] for line in listed(store, "--since", "1h")] == [["60"]]
    assert [line["command"] for line in listed(store, "--until", "1h")] == [["7200"]]


@pytest.mark.parametrize("word", ["yesterday", "-1h", "2026-11-18", "2026-11-18T12:00:02", ""])
def test_a_wrong_time_is_a_usage_error(store: SqliteStore, word: str) -> None:
    """What is neither a duration nor RFC 3339 is refused, with both ways to write it."""
    result = call(history, store, "--since", word)
    assert result.exit_code == 2
    said = " ".join(re.sub("[│╭╰─╮╯]", "", result.stderr).split())
    assert "neither a duration ago (90m, 2d) nor a time (2026-11-24T08:15:00Z)" in said


def test_a_line_for_programs(store: SqliteStore) -> None:
    """The fields are those of the log, with null for what does not apply."""
    ledger = store.open()
    run = make_run("k", lock="l", enqueued_at=NOON - 2.5, argv=("dump", "ü"))
    claim = claimed(ledger.begin(run, KeySpec("k")))
    holder = Holder("h:2:x", "x", NOON - 60)
    outcome = ended(
        run,
        claim,
        "failed",
        exit_code=139,
        signal=int(signal.SIGSEGV),
        reason="why",
        held=True,
        fence=17,
        lock_wait=0.0125,
        held_by=holder,
        lease_lost=True,
    )
    ledger.finish(outcome)
    other = make_run(started_at=NOON - 1)
    ledger.finish(refused(other, exit_code=75))
    first, second = listed(store)
    assert first == {
        "job_id": run.job_id,
        "job": "backup",
        "result": "failed",
        "exit_code": 139,
        "signal": "SIGSEGV",
        "started_at": "2026-11-18T12:00:00.000000Z",
        "finished_at": "2026-11-18T12:00:01.500000Z",
        "duration_ms": 1500.0,
        "idempotency_key": "k",
        "lock": "l",
        "lock_owner": run.owner,
        "fencing_token": 17,
        "lock_wait_ms": 12.5,
        "queue_lag_ms": 2500.0,
        "attempts": 1,
        "reason": "why",
        "held_by": {"owner": "h:2:x", "job_id": "x", "since": "2026-11-18T11:59:00.000000Z"},
        "lease_lost": True,
        "command": ["dump", "ü"],
    }
    assert second.keys() == first.keys()
    empty = {name for name, value in second.items() if value is None}
    assert empty == {
        *("signal", "idempotency_key", "lock", "lock_owner", "fencing_token"),
        *("lock_wait_ms", "queue_lag_ms", "reason", "held_by"),
    }


def test_a_run_that_is_not_alive_is_told_as_interrupted(store: SqliteStore) -> None:
    """A reader sees who is dead, and leaves it to the next run to write it down."""
    gone, alive = store.open(), store.open()
    dead, living = make_run("a"), make_run("b", started_at=NOON - 1)
    gone.begin(dead, KeySpec("a"))
    alive.begin(living, KeySpec("b"))
    gone.close()
    assert [line["result"] for line in listed(store)] == ["interrupted", "running"]
    assert "killed" in listed(store, "--result", "interrupted")[0]["reason"]
    assert shown(store, dead)["result"] == "interrupted"
    assert shown(store, living)["result"] == "running"
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT DISTINCT result FROM runs").fetchall() == [("running",)]
    db.close()


def test_a_table_for_people(store: SqliteStore) -> None:
    """A line a run, in local time, with how to ask for more of it, and how it ended."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, KeySpec("k")))
    ledger.finish(ended(run, claim, "interrupted", die_by=int(signal.SIGTERM)))
    head, line = call(history, store).stdout.splitlines()
    assert head.split() == ["RUN", "STARTED", "TOOK", "RESULT", "EXIT", "JOB"]
    assert line.split() == [
        run.job_id[-8:],
        *("2026-11-18", "12:00:00", "1.5s", "interrupted", "TERM", "backup"),
    ]


def test_times_are_local(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """People read their own zone's time."""
    run_key(store.open(), "k")
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    assert "2026-11-18 17:30:00" in call(history, store).stdout


def test_a_table_fits_eighty_columns(store: SqliteStore) -> None:
    """However long its fields, no line is longer than a terminal is wide; many rows line up."""
    ledger = store.open()
    for number, result in enumerate(["precondition_failed", "skipped_duplicate"] * 400):
        ledger.finish(refused(make_run(job=f"{number}-" + "j" * 100), result))
    lines = call(history, store, "--limit", "0").stdout.splitlines()
    assert len(lines) == 801
    assert max(map(len, lines)) <= 80
    assert {line.index("p") for line in lines if "precondition_failed" in line} == {36}


def test_no_colours_unless_on_a_terminal(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Escape sequences are for terminals, and NO_COLOR is honoured there, too."""
    run_key(store.open(), "k")
    assert "\x1b" not in call(history, store).stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[32m" in call(history, store).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in call(history, store).stdout


HOSTILE = "[red]x[/red]\x1b[2J\r\n\udcff:smile:"


def test_names_cannot_move_the_cursor(store: SqliteStore) -> None:
    """Control characters and markup in what others wrote are shown, not obeyed."""
    ledger = store.open()
    run = make_run(HOSTILE, job=HOSTILE, lock=HOSTILE, argv=(HOSTILE,))
    claim = claimed(ledger.begin(run, KeySpec(HOSTILE)))
    captured = Captured(HOSTILE.encode(errors="surrogateescape"), b"\x1b]0;title\x07")
    ledger.finish(ended(run, claim, "failed", reason=HOSTILE, captured=captured))
    for text in (call(history, store).stdout, call(show, store, run.job_id).stdout):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
        assert "[red]x[/red]\\x1b" in text
        assert ":smile:" in text or "…" in text


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (None, ""),
        (0, "0ms"),
        (999_499, "999ms"),
        (999_500, "1.0s"),
        (59_940_000, "59.9s"),
        (59_950_000, "1m00s"),
        (3_599_499_000, "59m59s"),
        (3_599_500_000, "1h00m"),
        (86_399_499_000, "23h59m"),
        (86_400_000_000, "1d00h"),
        (999 * 86_400_000_000, "999d00h"),
        (-5, "0ms"),
    ],
)
def test_durations_are_short(duration: int | None, text: str) -> None:
    """Two units are enough for people, and no rounding carries into the next one."""
    assert table.took(duration) == text


# ---------------------------------------------------------------- show


def test_one_run_for_programs(store: SqliteStore) -> None:
    """All of a run in one object: the fields of history, its attempts, and its output."""
    ledger = store.open()
    run = make_run("k", needs=("n",), path=("p",))
    run_key(ledger, "n")
    claim = claimed(ledger.begin(run, KeySpec("k")))
    attempts = (
        Attempt(1, NOON + 1, 0.5, "retry", None, int(signal.SIGKILL), "because"),
        Attempt(2, NOON + 2, 0.25, "success", 0),
    )
    captured = Captured("ü\n".encode(), b"a\xffb")
    ledger.finish(ended(run, claim, attempts=attempts, captured=captured))
    whole = shown(store, run)
    assert whole["attempts"] == [
        {
            "attempt": 1,
            "started_at": "2026-11-18T12:00:01.000000Z",
            "duration_ms": 500.0,
            "result": "retry",
            "exit_code": None,
            "signal": "SIGKILL",
            "reason": "because",
        },
        {
            "attempt": 2,
            "started_at": "2026-11-18T12:00:02.000000Z",
            "duration_ms": 250.0,
            "result": "success",
            "exit_code": 0,
            "signal": None,
            "reason": None,
        },
    ]
    assert whole["stdout"] == "ü\n"
    assert "stdout_base64" not in whole
    assert whole["stderr"] == "a\\xffb"
    assert base64.b64decode(whole["stderr_base64"]) == b"a\xffb"
    assert (whole["needs"], whole["job_path"]) == (["n"], ["p"])
    assert (whole["host"], whole["user"], whole["pid"]) == ("h", "u", 1)
    assert (whole["command_exit_code"], whole["claim_lost"]) == (0, False)
    (line,) = (one for one in listed(store) if one["job_id"] == run.job_id)
    assert {**whole, "attempts": 2}.items() >= line.items()


def test_one_run_for_people(store: SqliteStore) -> None:
    """What happened, attempt by attempt, and what COMMAND printed."""
    ledger = store.open()
    run = make_run("k", lock="l", argv=("sh", "-c", "a b"))
    claim = claimed(ledger.begin(run, KeySpec("k")))
    attempts = (
        Attempt(1, NOON + 1, 0.5, "retry", 3, None, "exit code 3"),
        Attempt(2, NOON + 2, 0.25, "failed", 4),
    )
    captured = Captured(b"first\r\nsecond\tline\n", b"")
    ledger.finish(ended(run, claim, "failed", attempts=attempts, captured=captured, fence=9))
    text = call(show, store, run.job_id).stdout
    facts = dict(line.split(None, 1) for line in text.splitlines() if len(line.split()) > 1)
    assert facts["run"].strip() == run.job_id
    assert facts["command"].strip() == "sh -c 'a b'"
    assert facts["result"].strip() == "failed"
    assert facts["started"].strip() == "2026-11-18 12:00:00"
    assert facts["took"].strip() == "1.5s"
    assert facts["lock"].strip() == "l"
    assert facts["1"].split() == ["2026-11-18", "12:00:01", "500ms", "retry", "3", *_WHY]
    assert facts["2"].split()[3:] == ["failed", "4"]
    assert text.endswith("\nfirst\nsecond  line\n")
    assert "stderr" not in text


_WHY = ("exit", "code", "3")


def test_a_run_goes_by_either_end_of_its_id(store: SqliteStore) -> None:
    """Six characters or more of the beginning or the end will do, in any case, if they are one
    run's alone."""
    ledger = store.open()
    early = make_run(job_id="01900000-aaaa-7000-8000-0000000abcde", argv=("early",))
    late = make_run(job_id="01911111-bbbb-7000-8000-1111111abcde", argv=("late",))
    for run in (early, late):
        ledger.finish(ended(run, None))
    for part in ("019000", "01900000-aaaa", "0abcde", "0000000ABCDE", early.job_id.upper()):
        result = call(show, store, "--json", part)
        assert json.loads(result.stdout)["command"] == ["early"], part
    both = call(show, store, "abcde")
    assert "too short" in str(refusal(both))


def test_an_ambiguous_part_is_refused(store: SqliteStore) -> None:
    """A part that several runs share is one line, with what they are."""
    ledger = store.open()
    for end in ("1", "2"):
        ledger.finish(ended(make_run(job_id=f"01900000-aaaa-7000-8000-00000000000{end}"), None))
    error = refusal(call(show, store, "01900000"))
    assert error.exit_code == 1
    assert "more than one run" in str(error)
    assert "000000000001, 01900000" in str(error)


@pytest.mark.parametrize("part", ["0123456", "%%%%%%", "______", "x\udcffyzzy", "'; --'; --"])
def test_an_unknown_run_is_refused(store: SqliteStore, part: str) -> None:
    """Nothing that is not a part of an id matches one, wildcards of SQL included."""
    ledger = store.open()
    ledger.finish(ended(make_run(job_id=job_id(0)), None))
    error = refusal(call(show, store, part))
    assert isinstance(error, NoSuchRun)
    assert error.exit_code == 1


def test_nothing_to_show_before_the_first_run(store: SqliteStore) -> None:
    """Without a ledger no run has any name, and none is made."""
    assert "nothing has been recorded yet" in str(refusal(call(show, store, "01234567")))
    assert list(store.directory.iterdir()) == []


# ---------------------------------------------------------------- ledgers that do not answer


def test_a_ledger_that_keeps_nothing_is_refused(store: SqliteStore) -> None:
    """With none: there is nothing to look at, and the line says what to name instead."""
    result = CliRunner().invoke(history, [], obj=LedgerSpec("none:", str(store.directory)))
    assert isinstance(refusal(result), ConfigError)


def test_an_unreadable_ledger_is_reported(store: SqliteStore) -> None:
    """A file that is no database is one line and exit code 69."""
    store.path.write_text("no database, but long enough to be taken for one" * 100)
    error = refusal(call(history, store))
    assert isinstance(error, StoreUnavailable)
    assert error.exit_code == 69


def test_a_run_in_progress_does_not_stand_in_the_way(store: SqliteStore) -> None:
    """Reading works while another process is in the middle of a write."""
    run_key(store.open(), "k")
    writer = sqlite3.connect(store.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM runs")
    assert len(listed(store)) == 1
    writer.execute("ROLLBACK")
    writer.close()


# ---------------------------------------------------------------- the command line


def fill(host: Host, runs: int) -> None:
    """Give a host a ledger with so many runs."""
    host.state.mkdir(mode=0o700)
    store = SqliteStore(host.state)
    ledger = store.open()
    for number in range(runs):
        ledger.finish(refused(make_run(started_at=NOON + number)))
    store.close()


@pytest.mark.parametrize("words", [["--json"], []])
def test_a_reader_that_has_seen_enough(host: Host, words: list[str]) -> None:
    """With | head -1 there is no traceback: history ends by SIGPIPE, as other tools do."""
    fill(host, 3000)
    process = subprocess.Popen(
        [*GUARDRUN, "history", "--limit", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=host.environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == -signal.SIGPIPE
    assert said == b""


def test_an_unknown_run_on_the_command_line(host: Host) -> None:
    """One line on stderr, exit code 1."""
    fill(host, 1)
    result = host.run("show", "00000000")
    assert (result.code, result.stdout) == (1, b"")
    assert result.stderr.count(b"\n") == 1
    assert b"there is no run '00000000'" in result.stderr


def test_any_locale_will_do(host: Host) -> None:
    """JSON is UTF-8 also where the locale is not."""
    host.state.mkdir(mode=0o700)
    store = SqliteStore(host.state)
    store.open().finish(refused(make_run(job="ü")))
    store.close()
    env = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = host.run("history", "--json", env=env)
    assert result.code == 0
    assert json.loads(result.stdout)["job"] == "ü"
    assert os.environ.get("LC_ALL") != "POSIX"
