"""What a run has found out, put together: how it ended, what it held, what is recorded of it."""

from __future__ import annotations

from guardrun.lean import NamedTuple
from guardrun.model import Attempt, Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from guardrun.core.policy import Verdict
    from guardrun.model import Captured, Claim, Ended, Grant, Holder, Plan, Recorded, Run


class Ending(NamedTuple):
    """How a run ends."""

    result: str
    exit_code: int
    reason: str | None = None
    die_by: int | None = None
    held_by: Holder | None = None


class Held(NamedTuple):
    """What the first two steps got hold of."""

    grant: Grant | None = None
    waited: float | None = None
    claim: Claim | None = None


def attempt(
    number: int, ended: Ended, verdict: Verdict, started_at: float, duration: float
) -> Attempt:
    """Put together what is recorded of one execution."""
    return Attempt(
        number,
        started_at,
        duration,
        verdict.result,
        ended.exit_code,
        ended.signal,
        verdict.reason,
    )


def outcome(
    plan: Plan,
    me: Run,
    held: Held,
    attempts: Sequence[Attempt],
    ending: Ending,
    captured: Captured | None,
    lock_lost: bool,
    now: float,
    duration: float,
) -> Outcome:
    """Put together what is recorded, logged, and turned into an exit code.

    ``lock_lost``: COMMAND ran on although the lock was. ``now`` is seconds since 1970,
    ``duration`` seconds.
    """
    last = attempts[-1] if attempts else None
    return Outcome(
        run=me,
        result=ending.result,
        exit_code=ending.exit_code if ending.die_by is None else 128 + ending.die_by,
        finished_at=now,
        duration=duration,
        die_by=ending.die_by,
        signal=last.signal if last else None,
        command_code=last.exit_code if last else None,
        reason=ending.reason,
        attempts=tuple(attempts),
        claim=held.claim,
        held=held.grant is not None,
        fence=held.grant.fence if held.grant else None,
        held_by=ending.held_by,
        lock_wait=held.waited,
        key_ttl=plan.key.ttl,
        lease_lost=lock_lost or ending.result == "lease_lost",
        captured=captured,
    )


def failed_at_the_ledger(plan: Plan, outcome: Outcome) -> bool:
    """Whether the store that could not be reached is the ledger, and not the lease store alone."""
    lock = plan.lock
    leased = lock is not None and lock.lease_url not in (None, plan.ledger.url)
    return outcome.held or not leased


def told_to_stop(outcome: Outcome, signum: int) -> Outcome:
    """The outcome of a run that is over, and whose guardrun is to end by a signal."""
    return outcome._replace(die_by=signum, exit_code=128 + signum)


def disowned(plan: Plan, outcome: Outcome, recorded: Recorded) -> Outcome:
    """Tell of what turned out to be somebody else's by the time the outcome was stored."""
    if not recorded.claim:
        stale = "the key was taken over meanwhile, and was left alone"
        return outcome._replace(reason=stale, exit_code=74, lease_lost=True)
    if recorded.lease:
        return outcome
    if plan.lock is not None and plan.lock.on_lease_loss == "warn":
        return outcome._replace(lease_lost=True)
    gone = "the lock was not ours any more when the outcome was stored"
    return outcome._replace(reason=gone, exit_code=74, lease_lost=True)
