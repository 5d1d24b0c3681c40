"""One run, in the order that the contract promises: lock, key, execute, persist, emit, release.

Read ``run`` top-down; every step is a function below it. What a step finds out is a value: an
``Ending`` as soon as it is clear how the run ends, whatever the reason.
"""

from __future__ import annotations

import time

from guardrun import kernel
from guardrun.core import account, policy
from guardrun.core.account import Ending, Held
from guardrun.errors import DeadlineReached, GuardrunError, StoreUnavailable, ToldToStop
from guardrun.lean import NamedTuple
from guardrun.model import AROUND_US, Attempt, Busy, Claim, Outcome, Refusal
from guardrun.report import events
from guardrun.supervisor.retry import FIRST_ANSWER, insist
from guardrun.units import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from guardrun.command import Command
    from guardrun.ledger.spool import Spool
    from guardrun.model import Grant, Holder, KeySpec, Plan, Run
    from guardrun.ports import Lock, Rng, RunLedger
    from guardrun.report.log import Log
    from guardrun.reports import Reports
    from guardrun.supervisor.loop import Loop

_TOLD = 0.25
"""s that a run which was told to stop tries to record its outcome before it goes to the spool"""


class Tools(NamedTuple):
    """What a run works with; made in ``world.py``, or by a simulator."""

    loop: Loop
    log: Log
    rng: Rng
    lock: Lock | None
    ledger: RunLedger | None
    spool: Spool | None
    command: Command
    reports: Reports | None = None
    """``None``: nobody wants any"""
    lent: Grant | None = None
    """the lock is held already, by a pool, for all its items"""


def run(plan: Plan, me: Run, tools: Tools) -> Outcome:
    """Run COMMAND under guard, and account for it; nothing escapes but faults of guardrun."""
    begun = kernel.now()
    tools.log.emit(events.run_started(me.started_at, me))
    held = Held()
    attempts: list[Attempt] = []
    try:
        try:
            splay(plan, me, tools)
            held, ending = acquire_lock(plan, me, tools)
            if ending is None:
                tools.command.prepare()  # the warden gets ready while the ledger syncs
                held, ending = validate_key(plan, me, tools, held)
            if ending is None:
                ending = execute(plan, me, tools, held, attempts)
        except ToldToStop as told:
            tools.command.sweep()
            ending = told_to_stop(told.signum)
        except DeadlineReached as reached:
            tools.command.sweep()
            ending = Ending("timeout", reached.exit_code, str(reached))
        except StoreUnavailable as down:
            ending = Ending("store_unavailable", down.exit_code, str(down))
        except (GuardrunError, OSError) as error:  # OSError: no descriptors are left, say
            ending = fault(error, tools, attempts)
        captured, took = tools.command.captured(), kernel.now() - begun
        lost = tools.lock is not None and bool(attempts) and tools.lock.lost()
        outcome = account.outcome(
            plan, me, held, attempts, ending, captured, lost, time.time(), took
        )
        outcome = persist(plan, outcome, tools)
        outcome = show_output(outcome, tools)
        outcome = report(outcome, tools)
        tools.log.emit(events.run_finished(time.time(), outcome))
    finally:
        release(tools)
    return outcome


def fault(error: GuardrunError | OSError, tools: Tools, attempts: list[Attempt]) -> Ending:
    """Something of ours failed; if COMMAND was running, it is ended before anything else."""
    result = "failed"
    if tools.command.abandon():
        result = "interrupted"
        number = len(attempts) + 1
        attempts.append(Attempt(number, time.time(), 0.0, result, reason=str(error)))
    code = getattr(error, "exit_code", GuardrunError.exit_code)
    return Ending(result, code, str(error))


# ---------------------------------------------------------------- before step 1


def splay(plan: Plan, me: Run, tools: Tools) -> None:
    """Wait the time that is this host's and this job's own."""
    delay = policy.splay_delay(me.job, me.host, plan.exec.splay)
    if delay > 0:
        tools.loop.pause((), kernel.now() + delay)


# ---------------------------------------------------------------- 1. the lock


def acquire_lock(plan: Plan, me: Run, tools: Tools) -> tuple[Held, Ending | None]:
    """Take the lock, waiting at most ``--wait``; busy is an ending."""
    if tools.lock is None or tools.lent is not None:
        return Held(tools.lent), None
    asked = kernel.now()
    due = asked + plan.wait
    answer = tools.lock.acquire(me, asked)
    if isinstance(answer, Busy) and answer.reason != AROUND_US and plan.wait > 0:
        holder = answer.holders[0] if answer.holders else None
        tools.log.emit(
            events.lock_busy(time.time(), me, holder, answer.reason or "waiting", waits=True)
        )
        get_ready(tools)
        answer = tools.lock.acquire(me, due)
    waited = kernel.now() - asked
    if isinstance(answer, Busy):
        holder = answer.holders[0] if answer.holders else None
        reason = answer.reason or _held(f"lock {me.lock}", holder)
        return Held(waited=waited), busy(me, tools, holder, reason, plan.conflict_code)
    tools.log.emit(events.lock_acquired(time.time(), me, answer, waited))
    return Held(answer, waited), None


def get_ready(tools: Tools) -> None:
    """Do what can be done while waiting, so that the lock is not idle when it comes."""
    tools.log.open()
    tools.command.prepare()
    if tools.ledger is not None:
        tools.ledger.prepare(kernel.now())


def busy(me: Run, tools: Tools, holder: Holder | None, reason: str, code: int) -> Ending:
    """Somebody else has the lock or the key, and we have waited long enough."""
    tools.log.emit(events.lock_busy(time.time(), me, holder, reason, waits=False))
    return Ending("lock_busy", code, reason, held_by=holder)


def _held(what: str, holder: Holder | None) -> str:
    return f"{what} is held by {holder.owner}" if holder else f"{what} is held"


# ---------------------------------------------------------------- 2. the key


def validate_key(plan: Plan, me: Run, tools: Tools, held: Held) -> tuple[Held, Ending | None]:
    """Claim the key, durably; without one, only the run's row is stored.

    What an earlier run of this host could not record is recorded first.
    """
    ledger = tools.ledger
    if ledger is None:
        return held, None
    begin: Callable[[Run, KeySpec, float], Claim | Refusal]
    wanted = me.key is not None or bool(me.needs) or plan.exec.retry.budget is not None
    if wanted or plan.ledger.on_down == "stop":
        patience, begin = plan.ledger.store_wait, ledger.begin
        # That we are slow to start is not the store's fault.
        ledger.prepare(kernel.now() + max(patience, FIRST_ANSWER))
    else:
        patience, begin = min(plan.ledger.store_wait, ledger.prompt), ledger.announce
    give_up = kernel.now() + max(0.0, plan.wait - (held.waited or 0.0))
    waited_for: Holder | None = None
    try:
        while True:
            first = kernel.now() + FIRST_ANSWER
            answer = insist(
                tools.loop,
                tools.rng,
                kernel.now() + patience,
                ledger.retry_cap,
                lambda due: begin(me, plan.key, max(due, first)),  # noqa: B023  at once
            )
            if isinstance(answer, Claim):
                return held._replace(claim=answer), None
            holder = answer.holder
            around = holder is not None and holder.job_id in me.path
            if answer.kind != "held" or around or kernel.now() >= give_up:
                break
            if holder != waited_for:
                tools.log.emit(events.lock_busy(time.time(), me, holder, "waiting", waits=True))
            waited_for = holder
            await_end(ledger, answer, tools, give_up)
    except StoreUnavailable:
        if plan.ledger.on_down == "stop":
            raise
        return held, None
    return held, refused(plan, me, tools, answer, around)


def await_end(ledger: RunLedger, refusal: Refusal, tools: Tools, due: float) -> None:
    """Wait until the run that holds the key has ended, or ``due``."""
    assert refusal.holder is not None and refusal.holder.job_id is not None
    child = ledger.watch(refusal.holder.job_id)
    try:
        tools.loop.pause((child.fileno(),), due)
    finally:
        child.cancel()


def refused(plan: Plan, me: Run, tools: Tools, refusal: Refusal, around: bool) -> Ending:
    """Turn the ledger's no into an ending."""
    holder, reason = refusal.holder, refusal.reason
    if refusal.kind == "held":
        if around:
            reason += ", which is around this one: waiting for it would never end"
        return busy(me, tools, holder, reason, plan.conflict_code)
    if holder is not None and holder.job_id is not None:
        reason += f" (run {holder.job_id})"
    skipped = refusal.kind == "duplicate" and plan.key.on_duplicate != "fail"
    tools.log.emit(events.key_refused(time.time(), me, reason, skipped))
    if not skipped:
        return Ending("precondition_failed", 76, reason)
    if plan.key.on_duplicate == "replay":
        stored = stored_output(plan, me, tools)
        if stored is None:
            reason += "; none of its output was stored (--capture)"
        elif (told := tools.command.replay(*stored)) is not None:
            raise ToldToStop(told)
    return Ending("skipped_duplicate", 0, reason)


def stored_output(plan: Plan, me: Run, tools: Tools) -> tuple[bytes, bytes] | None:
    """Fetch what the run that succeeded for our key wrote; ``None`` when it was not captured."""
    ledger, key = tools.ledger, me.key
    if ledger is None or key is None:
        return None
    due = kernel.now() + plan.ledger.store_wait
    return insist(
        tools.loop, tools.rng, due, ledger.retry_cap, lambda due: ledger.stored_output(key, due)
    )


# ---------------------------------------------------------------- 3. COMMAND


def execute(plan: Plan, me: Run, tools: Tools, held: Held, attempts: list[Attempt]) -> Ending:
    """Run COMMAND, and again as long as that is worth it, allowed, and in time.

    ``attempts`` grows by every execution, also when this ends by an exception.
    """
    spec, loop, log = plan.exec, tools.loop, tools.log
    delay: float | None = None
    loop.check()
    while True:
        number = len(attempts) + 1
        if not is_held(tools):
            log.emit(events.lease_lost(time.time(), number, policy.LEASE_LOST))
            return Ending("lease_lost", _CAUSE_CODES["lease_lost"], policy.LEASE_LOST)
        execution = tools.command.execute(number, held.grant, held.claim)
        ended = execution.ended
        verdict = policy.judge(ended, spec)
        again = execution.told is None and policy.worth_retrying(ended, number, spec)
        attempts.append(
            account.attempt(number, ended, verdict, execution.started_at, execution.duration)
        )
        try:
            again = again and afford_retry(me, tools, plan, number)
            if again:
                attempts[-1] = attempts[-1]._replace(result="retry")
        finally:
            if ended.cause == "lease_lost":
                log.emit(events.lease_lost(time.time(), number, policy.LEASE_LOST))
            log.emit(events.attempt_finished(time.time(), attempts[-1]))
        if execution.told is not None:
            tools.command.sweep()
            return told_to_stop(execution.told)
        if not again:
            if ended.orphans:
                log.emit(events.orphans_left(time.time(), number, ended.orphans))
            code = _CAUSE_CODES.get(ended.cause or "", ended.exit_code or 0)
            die_by = ended.signal if ended.cause is None else None
            return Ending(verdict.result, code, verdict.reason, die_by)
        told = tools.command.sweep()
        if told is not None:
            return told_to_stop(told)
        delay = policy.backoff_delay(spec.retry, number, delay, tools.rng)
        log.emit(events.retry_scheduled(time.time(), number + 1, delay))
        if kernel.now() + delay >= loop.deadline:
            raise DeadlineReached("the next attempt would start after --deadline")
        loop.pause((), kernel.now() + delay)


def is_held(tools: Tools) -> bool:
    """Whether lock and claim are good for long enough to start COMMAND under them."""
    held = [store.assure() for store in (tools.lock, tools.ledger) if store is not None]
    return all(held)


_CAUSE_CODES = {"timeout": 124, "deadline": 124, "lease_lost": 74, "warden_lost": 70}


def afford_retry(me: Run, tools: Tools, plan: Plan, number: int) -> bool:
    """Take one retry out of the job's budget, which all its runs share."""
    budget = plan.exec.retry.budget
    ledger = tools.ledger
    if budget is None or ledger is None:
        return True
    due = kernel.now() + plan.ledger.store_wait
    try:
        left = insist(
            tools.loop,
            tools.rng,
            due,
            ledger.retry_cap,
            lambda due: ledger.spend_retry(me, budget, due),
        )
        reason = f"{budget.retries} retries in the last {budget.window:g} s"
    except StoreUnavailable as down:  # unknown is not a licence for a retry storm
        left, reason = False, str(down)
    if not left:
        tools.log.emit(events.budget_exhausted(time.time(), number, reason))
    return left


def told_to_stop(signum: int) -> Ending:
    """A signal ended the run: guardrun will end by it too."""
    return Ending("interrupted", 128 + signum, f"told to stop by {signal_name(signum)}", signum)


# ---------------------------------------------------------------- 4. the outcome


def persist(plan: Plan, outcome: Outcome, tools: Tools) -> Outcome:
    """Store the outcome in the ledger, else in the spool, else in the log; say which."""
    tools.loop.deadline = float("inf")  # what is still to do is bounded by itself
    ledger, spool = tools.ledger, tools.spool
    if ledger is None or spool is None:
        return outcome
    due = kernel.now() + plan.ledger.record_wait
    if outcome.result == "store_unavailable" and account.failed_at_the_ledger(plan, outcome):
        due = kernel.now()  # --store-wait has been spent on it
    elif outcome.die_by is not None and outcome.result == "interrupted":
        due = min(due, kernel.now() + _TOLD)  # whoever told us to stop waits for it
    try:
        recorded = insist(
            tools.loop, tools.rng, due, ledger.retry_cap, lambda due: ledger.record(outcome, due)
        )
        return account.disowned(plan, outcome, recorded)
    except ToldToStop as told:
        problem = f"told to stop by {signal_name(told.signum)} while recording"
        outcome = account.told_to_stop(outcome, told.signum)
    except (GuardrunError, OSError) as down:  # also a URL that turns out to make no sense
        problem = str(down)
        if outcome.result == "store_unavailable":  # why is known
            problem = outcome.reason or problem
    try:
        spool.keep(outcome)
        tools.log.emit(events.outcome_spooled(time.time(), problem))
    except (OSError, StoreUnavailable) as error:
        from guardrun.ledger.spool import to_json

        whole = to_json(outcome)
        tools.log.emit(events.outcome_unsaved(time.time(), f"{problem}; spool: {error}", whole))
    return outcome


def show_output(outcome: Outcome, tools: Tools) -> Outcome:
    """Show what ``--output on-failure`` held back, when the run was no success."""
    if outcome.result == "success":
        return outcome
    told = tools.command.show_held()
    return outcome if told is None else account.told_to_stop(outcome, told)


# ---------------------------------------------------------------- 5. what others are told


def report(outcome: Outcome, tools: Tools) -> Outcome:
    """Bring the metrics file up to date; that it cannot be is a line in the log, no more."""
    if tools.reports is None:
        return outcome
    try:
        problem = tools.reports.write_metrics(outcome)
    except ToldToStop as told:
        return account.told_to_stop(outcome, told.signum)
    if problem is not None:
        tools.log.emit(events.report_failed(time.time(), problem))
    return outcome


# ---------------------------------------------------------------- 6. release


def release(tools: Tools) -> None:
    """Let go of everything: what the run left alone, the lock, the ledger."""
    tools.command.dismiss()
    if tools.lock is not None:
        tools.lock.release()
    if tools.ledger is not None:
        tools.ledger.close()
    if tools.loop.keeper is not None:
        tools.loop.keeper.release()
    tools.command.bury()
