"""Numbers per job, out of either ledger."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from ledgers import ended, make_run, refused
from places import KINDS, SHORT, Place, make_place
from support import Host, eventually

from guardrun.ledger.aggregates import JobNumbers, Spread, Window, per_job
from guardrun.ledger.records import open_records
from guardrun.model import Attempt, Budget, KeySpec

START = time.time() // 1 - 1000
"""of the first run; refusals of last week would not stay in the embedded ledger"""


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, host: Host) -> Iterator[Place]:
    """An empty ledger."""
    made = make_place(request.param, host)
    yield made
    made.close()


def numbers(place: Place, window: Window | None = None) -> tuple[JobNumbers, ...]:
    """What the ledger says."""
    records = open_records(place.spec)
    if records is None:
        return ()
    try:
        return per_job(records, window or Window())
    finally:
        records.close()


def fill(place: Place) -> None:
    """Two successes of ``a`` around a failure after three attempts and a refusal; one of ``b``."""
    ledger = place.open()
    for number, result in enumerate(("success", "failed", "success"), 1):
        at = START + number
        run = make_run(job="a", started_at=at, lock="l", enqueued_at=at - number)
        tried = 3 if result == "failed" else 1
        attempts = tuple(Attempt(n + 1, at, 0.1, result, 1) for n in range(tried))
        ledger.finish(
            ended(run, None, result, duration=number, lock_wait=0.5, held=True, attempts=attempts)
        )
    ledger.finish(refused(make_run(job="a", lock="l", started_at=START + 4), duration=0.0))
    ledger.finish(ended(make_run(job="b", started_at=START + 5), None))
    assert ledger.spend_retry(make_run(job="a"), Budget(10, 3600))


def test_numbers_of_every_job(place: Place) -> None:
    """Either ledger tells the same numbers, jobs in the order of their names."""
    fill(place)
    first, second = numbers(place)
    assert first == JobNumbers(
        "a",
        {"success": 2, "failed": 1, "lock_busy": 1},
        int(START + 1) * 1_000_000,
        int(START + 4) * 1_000_000,
        int((START + 4.5) * 1_000_000),
        Spread(3, 2_000_000, 3_000_000, 3_000_000, 3_000_000),
        Spread(3, 500_000, 500_000, 500_000, 500_000),
        Spread(3, 2_000_000, 3_000_000, 3_000_000, 3_000_000),
        Spread(3, 0, 2, 2, 2),
        1,
        1,
    )
    assert (second.job, second.runs, second.success_rate) == ("b", 1, 1.0)


def test_windows(place: Place) -> None:
    """A window is the newest so many runs of each job, of those since a moment, or of one job; the
    last success is told whenever it was."""
    fill(place)
    assert [(one.job, one.runs) for one in numbers(place, Window(last=2))] == [("a", 2), ("b", 1)]
    (late, _) = numbers(place, Window(since=START + 4))
    assert late.results == {"lock_busy": 1}
    assert late.last_success_at == int((START + 4.5) * 1_000_000)
    assert [one.job for one in numbers(place, Window(job="b"))] == ["b"]
    assert numbers(place, Window(since=START + 6)) == ()


def test_long_names_are_told_apart(place: Place) -> None:
    """Jobs whose names have the same beginning, however long, are jobs of their own."""
    names = ["x" * 128, "x" * 4095 + "y", "x" * 4096, "Z", "ü"]
    ledger = place.open()
    for name in names:
        ledger.finish(ended(make_run(job=name), None))
    assert [(one.job, one.runs) for one in numbers(place)] == [(n, 1) for n in sorted(names)]


def test_what_was_cut_off_is_no_running_run(place: Place) -> None:
    """A run whose process is gone counts as interrupted, a living one as running."""
    place.open().begin(make_run(job="alive"), KeySpec(None))
    gone = place.open(SHORT)
    gone.begin(make_run(job="gone"), KeySpec(None))
    gone.close()
    eventually(lambda: numbers(place)[1].results == {"interrupted": 1})
    assert numbers(place)[0].results == {"running": 1}
