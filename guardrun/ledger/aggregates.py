"""Numbers per job out of the ledger: the same from every kind of ledger, for people and reports.

``per_job(records, Window(...))`` gives one ``JobNumbers`` a job, in the order of their names. All
but ``last_success_at`` is exact over the window: the newest ``last`` runs of each job that started
at ``since`` or later. The bound on ``last`` is what makes the question cost the same in a ledger of
a million runs as in one of a thousand. Instants are microseconds since 1970, durations
microseconds. Percentiles are by the nearest rank: a value that occurred, never one in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from guardrun.ledger.records import JobRecord, Records, RunFacts
from guardrun.ledger.rows import REFUSALS


class Window(NamedTuple):
    """Which runs count."""

    since: float = 0.0
    """s since 1970"""
    last: int = 1000
    """of each job"""
    job: str | None = None
    """``None``: all jobs"""


class Spread(NamedTuple):
    """How a quantity is distributed."""

    known: int
    """of how many runs it is known"""
    p50: int
    p90: int
    p99: int
    most: int


class JobNumbers(NamedTuple):
    """What the runs of one job in the window amount to."""

    job: str
    results: dict[str, int]
    """runs by result, of results that occurred; ``running`` included"""
    first_at: int | None
    """when the oldest of them started"""
    last_at: int | None
    last_success_at: int | None
    """when the last success ended, in the window or not"""
    duration: Spread | None
    """of the runs that executed COMMAND and have ended; ``None``: there are none"""
    lock_wait: Spread | None
    queue_lag: Spread | None
    """of the runs with ``--enqueued-at``"""
    retries: Spread | None
    """attempts after the first, of the runs that executed COMMAND and have ended"""
    lock_failures: int
    """runs that wanted a lock and did not get it: it was busy, or its store was down"""
    budget_spent: int
    """retries charged to ``--retry-budget`` in the window, as far back as the ledger counts them"""

    @property
    def runs(self) -> int:
        """All runs of the window, refused ones included."""
        return sum(self.results.values())

    @property
    def duplicate_skips(self) -> int:
        """Runs whose key had already succeeded."""
        return self.results.get("skipped_duplicate", 0)

    @property
    def success_rate(self) -> float | None:
        """Successes among the runs that were not refused and have ended; ``None``: no such run."""
        ended = self.runs - sum(self.results.get(name, 0) for name in (*REFUSALS, "running"))
        return self.results.get("success", 0) / ended if ended else None


def per_job(records: Records, window: Window) -> tuple[JobNumbers, ...]:
    """The numbers of every job with a run in the window; raises ``StoreUnavailable``."""
    jobs = [one for one in sorted(records.jobs(window.since)) if window.job in (None, one.job)]
    told = [tally(one, records.latest(one.job, window.since, window.last)) for one in jobs]
    return tuple(numbers for numbers in told if numbers.runs)


def tally(job: JobRecord, runs: Sequence[RunFacts]) -> JobNumbers:
    """What these runs of one job, newest first, amount to."""
    executed = [run for run in runs if run.attempts and run.result != "running"]
    return JobNumbers(
        job.job,
        dict(Counter(run.result for run in runs)),
        runs[-1].started_at if runs else None,
        runs[0].started_at if runs else None,
        job.last_success_at,
        spread(run.duration for run in executed),
        spread(run.lock_wait for run in runs),
        spread(run.queue_lag for run in runs),
        spread(run.attempts - 1 for run in executed),
        sum(run.lockless and run.result in ("lock_busy", "store_unavailable") for run in runs),
        job.budget_spent,
    )


def spread(values: Iterable[int | None]) -> Spread | None:
    """Count, percentiles and maximum of what is known; ``None`` where nothing is."""
    given = sorted(value for value in values if value is not None)
    if not given:
        return None
    # The nearest rank: the smallest value that so many of a hundred do not exceed.
    p50, p90, p99 = (given[-(-len(given) * percent // 100) - 1] for percent in (50, 90, 99))
    return Spread(len(given), p50, p90, p99, given[-1])
