"""The only place where real things are made: clock, random numbers, signals, stores, processes."""

from __future__ import annotations

import os
import time

from guardrun import cli, identity, kernel, safety
from guardrun.chance import Chance
from guardrun.command import Command
from guardrun.core.policy import NOT_EXECUTED
from guardrun.errors import StoreUnavailable, ToldToStop
from guardrun.report.log import Log
from guardrun.run import Tools, run
from guardrun.supervisor.guard import Guard
from guardrun.supervisor.loop import ProcessLoop, find_terminal, take_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from guardrun.keeper.link import Link
    from guardrun.keeper.stores import Stores
    from guardrun.ledger.spool import Spool
    from guardrun.model import Outcome, Plan, Run
    from guardrun.ports import Lock, Rng, RunLedger
    from guardrun.reports import Reports
    from guardrun.supervisor.loop import Loop
    from guardrun.term import Bond, Row


def perform(plan: Plan) -> NoReturn:
    """Carry out a plan, and end the process as its outcome says.

    Raises GuardrunError for what is wrong before the run has begun.
    """
    journal = Log.start(plan.report)
    signals, mask = take_signals()
    loop = ProcessLoop(signals, find_terminal(), journal)
    loop.deadline = kernel.now() + plan.exec.deadline
    stdin = None
    if plan.exec.stdin == "replay":
        from guardrun.supervisor.stdin import Stdin

        stdin = Stdin(loop, plan.exec.stdin_max)
    rng = Chance()
    spare: set[int] = set()
    spool = spool_of(plan)
    ledger = _local_ledger(plan, spool)
    link, bond = keeper_of(plan, spool, loop, rng, spare)
    reports = _reports(plan, loop, spare)
    me = identity.identify(plan, stdin, os.environ, loop)
    log = journal.bind(job_id=me.job_id, job=me.job)
    tools = Tools(
        loop=loop,
        log=log,
        rng=rng,
        lock=lock_of(plan, me, link, loop, rng),
        ledger=ledger or remote_ledger(plan, link, loop, rng),
        spool=spool,
        command=Command(
            plan.exec,
            me,
            loop,
            log,
            lambda: Guard(loop.terminal.group, mask, bond, spare, ends_of(link)),
            stdin,
            reports,
        ),
        reports=reports,
    )
    outcome = run(plan, me, tools)
    log.close()
    if reports is not None:
        outcome = _tell(reports, outcome)
    code = _end(outcome, loop, plan.report.to)
    # Everything that matters is closed. What the interpreter would still tidy up takes 6 ms, of
    # the very core on which the next holder of the lock wants to start.
    os._exit(code)


def lock_of(plan: Plan, me: Run, link: Link | None, loop: Loop, rng: Rng) -> Lock | None:
    """The lock that ``plan`` asks for; ``link`` is to whoever keeps it, if that is remote."""
    spec = plan.lock
    if spec is None:
        return None
    if spec.lease_url is not None:
        from guardrun.keeper.lease_proxy import LeaseProxy
        from guardrun.locks.stores import time_to_live

        assert link is not None
        spec = spec._replace(ttl=time_to_live(spec.lease_url, spec.ttl))
        return LeaseProxy(link, spec, loop, rng, plan.ledger.store_wait)
    if spec.file is not None:
        from guardrun.locks.lock_file import FileLock

        return FileLock(spec.file, spec.shared, loop)
    from guardrun.locks.flock import HostLock

    assert me.lock is not None
    return HostLock(spec, me.lock, loop, rng)


# ---------------------------------------------------------------- what others are told


def _reports(plan: Plan, loop: Loop, spare: set[int]) -> Reports | None:
    if plan.report.metrics_textfile is None and plan.report.ping_url is None:
        return None
    from guardrun.reports import Reports

    return Reports(plan.report, loop, spare)


def _tell(reports: Reports, outcome: Outcome) -> Outcome:
    """Tell the monitor how it ended: last, because nothing of the run shall wait for it."""
    try:
        problem = reports.end(outcome)
    except ToldToStop as told:
        return outcome._replace(die_by=told.signum)
    if problem is not None:
        cli.say(problem)
    return outcome


# ---------------------------------------------------------------- ledger and spool


def spool_of(plan: Plan) -> Spool | None:
    """The spool of whatever ledger there is; ``None``: there is none."""
    spec = plan.ledger
    if spec.url == "none:":
        return None
    from guardrun.ledger.spool import open_spool

    os.close(safety.private_directory(spec.state_dir, "state directory"))
    return open_spool(spec, os.environ)


def local_file(plan: Plan) -> str | None:
    """The embedded ledger's file, in a directory that is there and safe, if it is that."""
    if not plan.ledger.url.startswith("sqlite:"):
        return None
    path = plan.ledger.url.removeprefix("sqlite://")
    os.close(safety.private_directory(os.path.dirname(path), "ledger directory"))
    return path


def _local_ledger(plan: Plan, spool: Spool | None) -> RunLedger | None:
    path = local_file(plan)
    if path is None or spool is None:
        return None
    from guardrun.ledger.local import LocalLedger

    return LocalLedger(path, time.time, plan.ledger.keep, spool)


def remote_ledger(plan: Plan, link: Link | None, loop: Loop, rng: Rng) -> RunLedger | None:
    """The ledger in Postgres, if it is that."""
    if link is None or not _is_remote(plan.ledger.url):
        return None
    from guardrun.keeper.ledger_proxy import LedgerProxy

    return LedgerProxy(link, loop, rng)


def _is_remote(ledger_url: str) -> bool:
    return ledger_url.startswith("postgresql:")


# ---------------------------------------------------------------- what is far away


def keeper_of(
    plan: Plan,
    spool: Spool | None,
    loop: Loop,
    rng: Rng,
    spare: set[int],
    lock: Row | None = None,
) -> tuple[Link | None, Bond | None]:
    """The process that owns what is remote, where anything is, and what ties COMMAND to it.

    ``lock`` is the row of a lock that another keeper holds for this run.
    """
    ledger_url = plan.ledger.url
    lease_url = None if plan.lock is None else plan.lock.lease_url
    if lease_url is None and not _is_remote(ledger_url):
        return None, None
    from guardrun.keeper.stores import Stores
    from guardrun.locks.stores import is_session_bound, open_leases

    def connect() -> Stores:  # called in the keeper, so that only it loads the drivers
        leases = None if lease_url in (None, ledger_url) else open_leases(lease_url)
        if not _is_remote(ledger_url):
            return Stores(None, None, leases, together=False)
        from guardrun.ledger.postgres import PostgresLedger
        from guardrun.postgres.connection import BOTH, LEDGER
        from guardrun.postgres.session import Session

        together = lease_url == ledger_url
        session = Session(ledger_url, BOTH if together else LEDGER)
        if together:
            from guardrun.locks.postgres import PostgresLeases

            leases = PostgresLeases(ledger_url, session)
        ledger = PostgresLedger(ledger_url, time.time, plan.key.claim_ttl, session)
        return Stores(ledger, spool, leases, together)

    session_bound = lease_url is not None and is_session_bound(lease_url)
    return start_keeper(plan, connect, session_bound, loop, rng, spare, lock)


def start_keeper(
    plan: Plan,
    connect: Callable[[], Stores],
    session_bound: bool,
    loop: Loop,
    rng: Rng,
    spare: set[int],
    lock: Row | None = None,
) -> tuple[Link, Bond]:
    """Start the keeper of whatever ``connect`` opens, and tie COMMAND's life to it."""
    from guardrun import channel
    from guardrun.keeper.link import Link
    from guardrun.keeper.stores import Terms
    from guardrun.term import Bond, Term

    on_lease_loss = "stop" if plan.lock is None else plan.lock.on_lease_loss
    ours, wardens = channel.pair()
    term = Term(on_lease_loss, lock)
    terms = Terms(plan.key.claim_ttl, plan.exec.kill_after, on_lease_loss)
    link = Link(ours, term, connect, terms, session_bound, rng, spare)
    try:
        link.start()
    except StoreUnavailable:
        pass  # the first question starts it, or says why not
    loop.keeper = link
    return link, Bond(term, (wardens,))


def ends_of(link: Link | None) -> tuple[int, ...]:
    """Our end of the way to the keeper, which nobody else may have: it knows of our end by that.

    A backstop that was stopped would keep it, and with it a lock whose run is over.
    """
    return () if link is None or link.fileno() < 0 else (link.fileno(),)


def _end(outcome: Outcome, loop: Loop, log_to: str) -> int:
    """Tell whoever started us how it ended; by the signal, where one is the reason."""
    die_by = outcome.die_by or loop.stop_signal()
    if die_by is not None:
        return cli.die_by(die_by)
    if outcome.exit_code in _OURS and not outcome.attempts and outcome.reason:
        cli.say(outcome.reason)
    elif log_to == "none" and (outcome.reason or "").startswith(NOT_EXECUTED):
        # Else nobody would ever hear of it.
        cli.say(f"{outcome.run.argv[0]}: {outcome.reason}")
    return outcome.exit_code


_OURS = frozenset({64, 69, 70, 73, 78})
"""exit codes that deserve a line on stderr, wherever the log goes"""
