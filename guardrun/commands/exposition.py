"""Metrics of ledger, locks and spool in Prometheus' text format.

The number of series is bounded: labels are jobs (``MOST_JOBS`` of them), results, percentiles,
scopes and kinds of stores; never a lock, a key, a host or a run. A job is ``job_name``: ``job`` is
Prometheus' own word for what it scrapes, and ours would be renamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from guardrun.ledger.aggregates import JobNumbers, Spread

MOST_JOBS = 200


class JobState(NamedTuple):
    """One job."""

    numbers: JobNumbers
    retries: int
    """attempts after the first, of all its runs together"""


class LedgerState(NamedTuple):
    """What the ledger tells."""

    window: float
    """s; how long ago a run that counts began at most"""
    most: int
    """so many runs of a job count at most: the newest ones"""
    jobs: Sequence[JobState]
    """by name; also those without a run in the window"""
    omitted: int
    """jobs beyond those"""


class LocksState(NamedTuple):
    """The locks of one scope that are held."""

    scope: str
    held: int
    oldest: float
    """s; 0 where none is held"""


class SpoolState(NamedTuple):
    """What waits to be recorded, for whatever ledger."""

    waiting: int
    damaged: int
    oldest: float
    """s; 0 where nothing waits"""


class _Registry(CollectorRegistry):
    def gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"guardrun_{name}", help, labels, registry=self)


def render(
    up: dict[str, bool],
    ledger: LedgerState | None,
    locks: Iterable[LocksState],
    spool: SpoolState,
) -> bytes:
    """All that is known, as text; ``up`` says of each kind of store whether it answered."""
    registry = _Registry()
    answered = registry.gauge("store_up", "Whether the store answered (1) or not (0).", "store")
    for store, is_up in up.items():
        answered.labels(store).set(is_up)
    if ledger is not None:
        _of_ledger(registry, ledger)
    held = registry.gauge("locks_held", "Places of locks that are held now.", "scope")
    age = registry.gauge(
        "lock_age_seconds", "For how long the oldest of them has been held.", "scope"
    )
    for state in locks:
        held.labels(state.scope).set(state.held)
        age.labels(state.scope).set(state.oldest)
    registry.gauge("spool_outcomes", "Outcomes that wait to be recorded.").set(spool.waiting)
    registry.gauge("spool_damaged", "Outcomes that cannot be read.").set(spool.damaged)
    oldest = registry.gauge("spool_oldest_seconds", "For how long the oldest one has waited.")
    oldest.set(spool.oldest)
    return generate_latest(registry)


def _of_ledger(registry: _Registry, state: LedgerState) -> None:
    window = registry.gauge("window_seconds", "What the window metrics are about: so much time.")
    window.set(state.window)
    truncated = registry.gauge("window_truncated", "Jobs with more runs in it than are counted.")
    truncated.set(sum(one.numbers.runs >= state.most for one in state.jobs))
    registry.gauge("jobs_omitted", "Jobs that are not shown.").set(state.omitted)
    runs = registry.gauge("window_runs", "Runs begun in the window.", "job_name", "result")
    counts = [
        (registry.gauge(f"window_{name}", help, "job_name"), field)
        for name, (field, help) in _COUNTED.items()
    ]
    spreads = [
        (registry.gauge(f"window_{name}", help, "job_name", "percentile"), field, unit)
        for name, (field, unit, help) in _MEASURED.items()
    ]
    success = registry.gauge(
        "job_last_success_timestamp_seconds", "When the last success ended.", "job_name"
    )
    retries = registry.gauge("window_retries", "Their attempts beyond a run's first.", "job_name")
    for one, retried in state.jobs:
        retries.labels(one.job).set(retried)
        for result, number in one.results.items():
            runs.labels(one.job, result).set(number)
        for gauge, field in counts:
            gauge.labels(one.job).set(getattr(one, field))
        for gauge, field, unit in spreads:
            for percentile, value in _percentiles(getattr(one, field)):
                gauge.labels(one.job, percentile).set(value * unit)
        if one.last_success_at is not None:
            success.labels(one.job).set(one.last_success_at / 1e6)


def _percentiles(spread: Spread | None) -> Iterator[tuple[str, float]]:
    if spread is not None:
        yield from (("50", spread.p50), ("90", spread.p90), ("99", spread.p99))
        yield "100", spread.most


_COUNTED = {
    "lock_failures": ("lock_failures", "Those that did not get their lock."),
    "budget_spent": ("budget_spent", "Retries paid from a budget."),
}
"""name: (field of ``JobNumbers``, HELP)"""

_MEASURED = {
    "run_retries": ("retries", 1, "Attempts beyond its first of a run that was executed."),
    "duration_seconds": ("duration", 1e-6, "How long a run that was executed took."),
    "lock_wait_seconds": ("lock_wait", 1e-6, "How long a run waited for its lock."),
    "queue_lag_seconds": ("queue_lag", 1e-6, "How late a run began (--enqueued-at)."),
}
"""name: (field of ``JobNumbers``, unit, HELP)"""
