"""What a ledger writes of a run and of its outcome, whatever database it writes to."""

from __future__ import annotations

from guardrun.ledger.text import json_holder, json_list, plain, plain_or_none
from guardrun.model import FOREVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.model import Attempt, Outcome, Run

CUT_OFF = "guardrun was killed or the host went down"
REFUSALS = ("skipped_duplicate", "lock_busy", "precondition_failed", "store_unavailable")
"""The results of runs that executed nothing, and are kept for days instead of months."""
SPENT_KEPT = 90 * 86400.0
"""s that a retry is counted at least: another run's window may be longer than this one's, and than
what runs are kept for"""

_KEY_STATES = {"success": "succeeded", "failed": "failed"}


def microseconds(seconds: float) -> int:
    """Seconds as a whole number of microseconds."""
    return round(seconds * 1e6)


def run_values(run: Run) -> dict[str, object]:
    """The columns that a run has from its start; instants in microseconds since 1970."""
    return {
        "job_id": run.job_id,
        "job": plain(run.job),
        "host": plain(run.host),
        "username": plain(run.user),
        "pid": run.pid,
        "owner": plain(run.owner),
        "argv": json_list(run.argv),
        "fingerprint": run.fingerprint,
        "lock": plain_or_none(run.lock),
        "key": plain_or_none(run.key),
        "needs": json_list(run.needs),
        "path": json_list(run.path),
        "started_at": microseconds(run.started_at),
        "enqueued_at": None if run.enqueued_at is None else microseconds(run.enqueued_at),
    }


def outcome_values(outcome: Outcome) -> dict[str, object]:
    """The columns of a run that has ended; as ``run_values``, durations in microseconds."""
    return run_values(outcome.run) | {
        "finished_at": microseconds(outcome.finished_at),
        "duration_us": microseconds(outcome.duration),
        "result": outcome.result,
        "exit_code": 128 + outcome.die_by if outcome.die_by else outcome.exit_code,
        "command_code": outcome.command_code,
        "signal": outcome.die_by or outcome.signal,
        "reason": plain_or_none(outcome.reason),
        "attempts": len(outcome.attempts),
        "held": outcome.held,
        "lock_wait_us": None if outcome.lock_wait is None else microseconds(outcome.lock_wait),
        "fencing_token": outcome.fence,
        "lease_lost": outcome.lease_lost,
        "held_by": json_holder(outcome.held_by),
    }


def attempt_values(run: Run, attempt: Attempt) -> dict[str, object]:
    """The columns of one attempt; as ``outcome_values``."""
    return {
        "job_id": run.job_id,
        "number": attempt.number,
        "started_at": microseconds(attempt.started_at),
        "duration_us": microseconds(attempt.duration),
        "result": attempt.result,
        "exit_code": attempt.exit_code,
        "signal": attempt.signal,
        "reason": plain_or_none(attempt.reason),
    }


def key_state(outcome: Outcome) -> str:
    """The state in which an outcome leaves its run's key."""
    # A claim under which nothing was executed has interrupted nothing: the key is free again.
    otherwise = "interrupted" if outcome.attempts else "failed"
    return _KEY_STATES.get(outcome.result, otherwise)


def key_ttl_us(outcome: Outcome) -> int | None:
    """How long a success blocks its key; ``None``: forever."""
    return None if outcome.key_ttl == FOREVER else microseconds(outcome.key_ttl)
