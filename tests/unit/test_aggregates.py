"""The numbers per job: pure over what a ledger tells."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrun.ledger.aggregates import Spread, spread, tally
from guardrun.ledger.records import JobRecord, RunFacts

JOB = JobRecord("backup", 7, 3)


def facts(result: str, attempts: int = 0, **fields: Any) -> RunFacts:
    """A run."""
    whole = RunFacts("id", result, 1, None, None, None, attempts, False)
    return whole._replace(**fields)


def test_what_is_counted() -> None:
    """Runs by result; times and retries of the runs that executed COMMAND and have ended; lock
    failures of the runs that wanted a lock and had none."""
    runs = (
        facts("running", 0, started_at=9),
        facts("success", 1, duration=10, lock_wait=4, queue_lag=2),
        facts("failed", 3, duration=30, lock_wait=6),
        facts("skipped_duplicate", duration=1),
        facts("lock_busy", lockless=True, duration=1),
        facts("lock_busy", duration=1),
        facts("store_unavailable", lockless=True, started_at=2),
    )
    told = tally(JOB, runs)
    assert told.results == {
        "running": 1,
        "success": 1,
        "failed": 1,
        "skipped_duplicate": 1,
        "lock_busy": 2,
        "store_unavailable": 1,
    }
    assert (told.runs, told.success_rate, told.duplicate_skips) == (7, 0.5, 1)
    assert (told.first_at, told.last_at, told.last_success_at) == (2, 9, 7)
    assert told.duration == Spread(2, 10, 30, 30, 30)
    assert told.lock_wait == Spread(2, 4, 6, 6, 6)
    assert told.queue_lag == Spread(1, 2, 2, 2, 2)
    assert told.retries == Spread(2, 0, 2, 2, 2)
    assert (told.lock_failures, told.budget_spent) == (2, 3)


def test_nothing_is_not_zero() -> None:
    """What no run tells is unknown: no rate of success, no percentile."""
    told = tally(JOB, [facts("lock_busy", lockless=True)])
    assert told.success_rate is None
    assert told.duration is told.lock_wait is told.queue_lag is told.retries is None
    assert spread([None, None]) is None


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, (1, 1, 1)), (2, (1, 2, 2)), (10, (5, 9, 10)), (100, (50, 90, 99)), (101, (51, 91, 100))],
)
def test_percentiles_are_by_the_nearest_rank(size: int, expected: tuple[int, ...]) -> None:
    """Of 1 to N the percentile P is the P-th of a hundred, rounded up."""
    found = spread(range(size, 0, -1))
    assert found is not None
    assert found == (size, *expected, size)


@given(st.lists(st.integers(0, 9), min_size=1), st.sampled_from([(1, 50), (2, 90), (3, 99)]))
def test_a_percentile_is_the_smallest_that_so_many_do_not_exceed(
    values: list[int], which: tuple[int, int]
) -> None:
    """At least P of a hundred values are at most the percentile, and fewer are less than it."""
    found = spread(values)
    assert found is not None
    place, percent = which
    value = int(found[place])
    assert sum(one <= value for one in values) * 100 >= percent * len(values)
    assert sum(one < value for one in values) * 100 < percent * len(values)
