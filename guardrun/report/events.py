"""The log lines of contract section 5, each made in one place from the values it tells of."""

from __future__ import annotations

from guardrun.model import Event
from guardrun.units import rfc3339, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.model import Attempt, Claim, Counts, Grant, Holder, Outcome, Run

_LEVELS = {
    "success": "info",
    "skipped_duplicate": "info",
    "lock_busy": "warning",
    "precondition_failed": "warning",
    "interrupted": "warning",
}
"""of a result; every other one is an error"""


def milliseconds(seconds: float) -> int | float:
    """Milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)


def run_started(at: float, run: Run) -> Event:
    """A run begins: what it will lock, claim and need."""
    return _event(
        at, "info", "run_started", idempotency_key=run.key, lock=run.lock, queue_lag_ms=_lag(run)
    )


def lock_busy(at: float, run: Run, holder: Holder | None, reason: str | None, waits: bool) -> Event:
    """Somebody else has the lock or the key; ``waits``: and this run will wait."""
    return _event(
        at,
        "info" if waits else "warning",
        "lock_busy",
        lock=run.lock,
        idempotency_key=run.key,
        held_by=_holder(holder),
        reason=reason,
    )


def lock_acquired(at: float, run: Run, grant: Grant, waited: float) -> Event:
    """The lock is ours; whether the fence survives a crash of the store that counts it."""
    return _event(
        at,
        "info",
        "lock_acquired",
        lock=grant.lock,
        lock_owner=run.owner,
        fencing_token=grant.fence,
        fence_durable=grant.fence_durable,
        lock_wait_ms=milliseconds(waited),
    )


def key_refused(at: float, run: Run, reason: str, skipped: bool) -> Event:
    """The key, or one that is needed, says no."""
    return _event(
        at,
        "info" if skipped else "warning",
        "duplicate_skipped" if skipped else "precondition_failed",
        idempotency_key=run.key,
        reason=reason,
    )


def attempt_started(at: float, number: int, claim: Claim | None) -> Event:
    """COMMAND runs; the first attempt tells of a run that was cut off before this one."""
    reason = None
    if number == 1 and claim is not None and claim.interrupted is not None:
        reason = f"the run before, {claim.interrupted}, was interrupted"
    return _event(at, "info", "attempt_started", attempt=number, reason=reason)


def attempt_finished(at: float, attempt: Attempt) -> Event:
    """COMMAND ended, one way or another."""
    return _event(
        at,
        "info" if attempt.result == "success" else "warning",
        "attempt_finished",
        attempt=attempt.number,
        duration_ms=milliseconds(attempt.duration),
        result=attempt.result,
        exit_code=attempt.exit_code,
        signal=_signal(attempt.signal),
        reason=attempt.reason,
    )


def retry_scheduled(at: float, attempt: int, delay: float) -> Event:
    """Another attempt will follow after a backoff."""
    return _event(at, "info", "retry_scheduled", attempt=attempt, backoff_ms=milliseconds(delay))


def budget_exhausted(at: float, attempt: int, reason: str) -> Event:
    """Another attempt would be worth it, but the retry budget is used up."""
    return _event(at, "warning", "budget_exhausted", attempt=attempt, reason=reason)


def orphans_left(at: float, attempt: int, count: int) -> Event:
    """COMMAND ended by itself and left processes running, which are left alone."""
    return _event(at, "info", "orphans_left", attempt=attempt, orphans=count)


def lease_lost(at: float, attempt: int, reason: str) -> Event:
    """What COMMAND ran under could no longer be proved to be held: it was stopped, or warned of."""
    return _event(at, "error", "lease_lost", attempt=attempt, reason=reason)


def lease_renewed(at: float, attempt: int, grant: Grant | None) -> Event:
    """The lock's lease is good for its whole time to live again."""
    return _event(
        at,
        "debug",
        "lease_renewed",
        attempt=attempt,
        lock=grant.lock if grant else None,
        fencing_token=grant.fence if grant else None,
    )


def unkillable(at: float, attempt: int, pids: tuple[int, ...]) -> Event:
    """SIGKILL was sent, and the kernel has not ended these."""
    return _event(at, "error", "unkillable", attempt=attempt, pids=list(pids))


def outcome_spooled(at: float, reason: str) -> Event:
    """The ledger could not take the outcome; the spool keeps it."""
    return _event(at, "warning", "outcome_spooled", reason=reason)


def outcome_unsaved(at: float, reason: str, whole: str) -> Event:
    """Neither ledger nor spool could take the outcome: this is all there will be of it."""
    return _event(at, "error", "outcome_unsaved", reason=reason, outcome=whole)


def report_failed(at: float, reason: str) -> Event:
    """Somebody beside the ledger could not be told of the run."""
    return _event(at, "warning", "report_failed", reason=reason)


def run_finished(at: float, outcome: Outcome) -> Event:
    """The last line of a run: the whole outcome."""
    run = outcome.run
    waited = outcome.lock_wait
    return _event(
        at,
        _LEVELS.get(outcome.result, "error"),
        "run_finished",
        result=outcome.result,
        exit_code=outcome.exit_code,
        signal=_signal(outcome.die_by or outcome.signal),
        reason=outcome.reason,
        attempt=len(outcome.attempts) or None,
        duration_ms=milliseconds(outcome.duration),
        idempotency_key=run.key,
        lock=run.lock,
        lock_owner=run.owner if outcome.held else None,
        fencing_token=outcome.fence,
        lock_wait_ms=None if waited is None else milliseconds(waited),
        queue_lag_ms=_lag(run),
        held_by=_holder(outcome.held_by),
        lease_lost=True if outcome.lease_lost else None,
    )


def item_refused(at: float, item: str, number: int, reason: str) -> Event:
    """An item of a pool, the ``number``-th, that cannot be run at all: there is no run of it."""
    return _event(at, "error", "item_refused", item=item, number=number, reason=reason)


def each_progress(at: float, counts: Counts, running: int, took: float) -> Event:
    """How far a pool has come."""
    rate = round(counts.total / took, 1) if took > 0 else None
    return _event(
        at, "info", "each_progress", **_counted(counts), running=running, items_per_second=rate
    )


def each_finished(at: float, counts: Counts, level: str, reason: str | None, took: float) -> Event:
    """The last line of a pool."""
    duration = milliseconds(took)
    return _event(
        at, level, "each_finished", **_counted(counts), reason=reason, duration_ms=duration
    )


def _counted(counts: Counts) -> dict[str, object]:
    return dict(zip(counts._fields, counts, strict=True))


def _event(at: float, level: str, name: str, **fields: object) -> Event:
    given = {key: value for key, value in fields.items() if value is not None}
    return Event(at, level, name, given)


def _lag(run: Run) -> int | float | None:
    return None if run.enqueued_at is None else milliseconds(run.started_at - run.enqueued_at)


def _signal(number: int | None) -> str | None:
    return None if number is None else signal_name(number)


def _holder(holder: Holder | None) -> dict[str, object] | None:
    if holder is None:
        return None
    since = None if holder.since is None else rfc3339(holder.since)
    known = {"owner": holder.owner, "job_id": holder.job_id, "since": since}
    return {key: value for key, value in known.items() if value is not None}
