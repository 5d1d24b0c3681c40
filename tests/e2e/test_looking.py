"""``stats``, ``dead`` and ``why``, over either ledger: what an operator asks at night."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ledgers import claimed, ended, make_run, refused, run_key
from places import KINDS, SHORT, Place, make_place
from support import Host, eventually

from guardrun.model import Attempt, Holder, KeySpec, Run
from guardrun.units import rfc3339

START = time.time() // 1 - 1000
"""of the first run; refusals of last week would not stay in the embedded ledger"""

HOLDER = Holder("db1:4711:01900000-aaaa-7000-8000-0000000abcde", None, START - 300)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, host: Host) -> Iterator[Place]:
    """An empty ledger."""
    made = make_place(request.param, host)
    yield made
    made.close()


def run(place: Place, result: str, at: float, **fields: Any) -> Run:
    """A run without a key that executed COMMAND and ended so; ``at`` seconds after the start."""
    made = make_run(started_at=START + at, **fields)
    place.open().finish(ended(made, None, result))
    return made


def utc(at: float) -> str:
    """So many seconds after the start, for programs."""
    return rfc3339(START + at)


def shown(at: float) -> str:
    """So many seconds after the start, for people in UTC, without the date."""
    return utc(at)[11:19]


def dead(place: Place, *words: str) -> list[str]:
    """The job_ids that `dead` tells."""
    return [found["job_id"] for found in place.objects("dead", *words)]


def test_what_no_success_has_made_good_is_dead(place: Place) -> None:
    """Without a key the job's next success makes up for what failed; a refusal is no failure."""
    run(place, "failed", 1)
    run(place, "success", 2)
    late = run(place, "timeout", 3)
    later = run(place, "failed", 4)
    other = run(place, "lease_lost", 5, job="other")
    place.open().finish(refused(make_run(started_at=START + 6)))
    assert dead(place) == [other.job_id, later.job_id, late.job_id]
    assert dead(place, "--job", "other") == [other.job_id]
    assert dead(place, "--limit", "2") == [other.job_id, later.job_id]
    assert dead(place, "--since", utc(5)) == [other.job_id]
    run(place, "success", 7)
    assert dead(place) == [other.job_id]


def test_a_key_is_made_good_by_its_own_success(place: Place) -> None:
    """What failed under a key stays dead until that key succeeds, whatever else does."""
    ledger = place.open()
    first = run_key(ledger, "k", "failed", started_at=START)
    run(place, "success", 1)
    run_key(ledger, "x", started_at=START + 2)
    assert dead(place) == [first.job_id]
    run_key(ledger, "k", started_at=START + 3, job="renamed")
    assert dead(place) == []


def test_who_waited_for_the_key_makes_good_what_started_later(place: Place) -> None:
    """Which of two started first is no matter, on one host or by two clocks: who had it last is."""
    ledger = place.open()
    failed = run_key(ledger, "k", "failed", started_at=START + 1)
    assert dead(place) == [failed.job_id]
    run_key(ledger, "k", started_at=START, key_ttl=0.0)
    assert dead(place) == []
    again = run_key(ledger, "k", "failed", started_at=START + 2)
    assert dead(place) == [again.job_id]


def test_what_was_cut_off_is_dead_and_what_runs_is_not(place: Place) -> None:
    """A run whose host is gone is among the dead, a living one is not."""
    place.open().begin(make_run(job="alive"), KeySpec(None))
    gone = make_run(job="gone")
    ledger = place.open(SHORT)
    ledger.begin(gone, KeySpec(None))
    ledger.close()
    eventually(lambda: dead(place) == [gone.job_id])


def test_stats_for_programs(place: Place) -> None:
    """Each job is one object: results, rate, percentiles in milliseconds, counts, times in UTC."""
    ledger = place.open()
    for number, result in enumerate(("success", "failed"), 1):
        made = make_run(started_at=START + number, enqueued_at=START, lock="l")
        tries = tuple(Attempt(n, START, 0.1, result, 1) for n in range(1, number + 1))
        ledger.finish(ended(made, None, result, lock_wait=0.25, held=True, attempts=tries))
    ledger.finish(refused(make_run(started_at=START + 3, lock="l"), lock_wait=9.0))
    ledger.finish(refused(make_run(started_at=START + 4), "skipped_duplicate"))
    (told,) = place.objects("stats")
    assert told == {
        "job": "backup",
        "runs": 4,
        "results": {"success": 1, "failed": 1, "lock_busy": 1, "skipped_duplicate": 1},
        "success_rate": 0.5,
        "first_started_at": utc(1),
        "last_started_at": utc(4),
        "last_success_at": utc(2.5),
        "duration_ms": {"runs": 2, "p50": 1500.0, "p90": 1500.0, "p99": 1500.0, "max": 1500.0},
        "lock_wait_ms": {"runs": 3, "p50": 250.0, "p90": 9000.0, "p99": 9000.0, "max": 9000.0},
        "queue_lag_ms": {"runs": 2, "p50": 1000.0, "p90": 2000.0, "p99": 2000.0, "max": 2000.0},
        "retries": {"runs": 2, "p50": 0, "p90": 1, "p99": 1, "max": 1},
        "lock_failures": 1,
        "duplicate_skips": 1,
        "budget_spent": 0,
    }
    assert place.objects("stats", "--last", "1")[0]["results"] == {"skipped_duplicate": 1}
    assert place.objects("stats", "--since", utc(3))[0]["runs"] == 2
    assert place.objects("stats", "--job", "never") == []


def test_why_a_job_did_not_run(place: Place) -> None:
    """Its last runs, newest first, each with who stood in the way and since when."""
    ledger = place.open()
    done = run_key(ledger, "k", started_at=START)
    ledger.finish(refused(make_run("k", started_at=START + 60), "skipped_duplicate"))
    held = HOLDER._replace(job_id=HOLDER.owner[-36:])
    busy = make_run(started_at=START + 120, lock="nightly")
    ledger.finish(refused(busy, held_by=held, lock_wait=5.0, finished_at=START + 125))
    run(place, "failed", 180)
    place.host.env["TZ"] = "UTC"
    result = place.run("why", "backup", "--limit", "0")
    assert result.code == 0, result
    failed, skipped, duplicate, success = re.sub(
        r"\d{4}-\d\d-\d\d ", "", result.stdout.decode()
    ).splitlines()
    assert failed.startswith(f"failed at {shown(181.5)}: one attempt in 1.5s")
    assert skipped.startswith(
        f"before that: skipped at {shown(125)}: lock nightly held by db1:4711 "
        f"since {shown(-300)}, run 000abcde, waited 5.0s (run "
    )
    assert "key k had already succeeded, by h:1 at " in duplicate
    assert f"run {done.job_id[-8:]}" in duplicate
    assert success.startswith(f"before that: succeeded at {shown(1.5)}")
    assert success.endswith(f"(run {done.job_id[-8:]})")


def test_why_for_programs(place: Place) -> None:
    """The sentence stands beside the fields of the run, with times in UTC."""
    ledger = place.open()
    busy = make_run("k", started_at=START, lock="l")
    ledger.finish(refused(busy, held_by=HOLDER, held=True, finished_at=START))
    run(place, "success", 60)
    (newest,) = place.objects("why", "backup", "--limit", "1")
    assert newest["result"] == "success"
    told = place.objects("why", "backup")[1]
    assert told["job_id"] == busy.job_id
    assert told["explanation"] == (
        f"skipped at {utc(0)}: key k held by "
        f"{HOLDER.owner} since {utc(-300)} (run {busy.job_id[-8:]})"
    )


def test_why_of_a_run_under_way(place: Place) -> None:
    """A run that goes on is told as running, and by whom."""
    begun = make_run(job="now", started_at=time.time())
    claimed(place.open().begin(begun, KeySpec(None)))
    (told,) = place.objects("why", "now")
    assert "running since" in told["explanation"]
    assert "by u on h, process 1" in told["explanation"]


def test_why_of_a_job_that_nobody_knows(place: Place) -> None:
    """One line that says what may be the matter, and exit code 1."""
    result = place.run("why", "never")
    assert (result.code, result.stdout) == (1, b"")
    (line,) = result.stderr.decode().splitlines()
    assert "has no run of a job 'never'" in line


@pytest.mark.parametrize("words", [("stats",), ("dead",)], ids=str)
def test_nothing_to_tell(place: Place, words: tuple[str, ...]) -> None:
    """An empty ledger is no error: a word for people, no line for programs."""
    result = place.run(*words)
    assert (result.code, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"no ")
    assert place.objects(*words) == []


@pytest.mark.parametrize("words", [("stats",), ("stats", "--job", "j"), ("dead",)], ids=str)
def test_tables_fit_80_columns(place: Place, words: tuple[str, ...]) -> None:
    """Whatever is in the ledger, a line for people is at most 80 characters, and no byte of it
    moves a cursor."""
    ledger = place.open()
    name = words[-1] if len(words) > 1 else "j\x1b[31m" * 40
    for number in range(3):
        made = make_run(job=name, started_at=START + number, enqueued_at=0.0, lock="l")
        ledger.finish(ended(made, None, "failed", duration=9e6, lock_wait=9e6, held=True))
    result = place.run(*words)
    assert result.code == 0, result
    shown = result.stdout.decode()
    assert max(map(len, shown.splitlines())) <= 80
    assert "\x1b" not in shown
