"""The only place where real things are made: clock, random numbers, signals, stores, processes."""

from __future__ import annotations

import os
import time

from guardrun import cli, identity, kernel, safety
from guardrun.chance import Chance
from guardrun.command import Command
from guardrun.errors import StoreUnavailable
from guardrun.report.log import Log
from guardrun.run import Tools, run
from guardrun.supervisor.loop import Loop, find_terminal, take_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from guardrun.ledger.spool import Spool
    from guardrun.model import Outcome, Plan, Run
    from guardrun.ports import Lock, RemoteLedger, Rng, RunLedger
    from guardrun.term import Bond


def perform(plan: Plan) -> NoReturn:
    """Carry out a plan, and end the process as its outcome says.

    Raises GuardrunError for what is wrong before the run has begun.
    """
    journal = Log.start(plan.report)
    signals, mask = take_signals()
    loop = Loop(signals, find_terminal(), journal)
    loop.deadline = kernel.now() + plan.exec.deadline
    stdin = None
    if plan.exec.stdin == "replay":
        from guardrun.supervisor.stdin import Stdin

        stdin = Stdin(loop, plan.exec.stdin_max)
    rng = Chance()
    spare: set[int] = set()
    ledger, spool, bond = _ledger(plan, loop, rng, spare)
    me = identity.identify(plan, stdin, os.environ, loop)
    log = journal.bind(job_id=me.job_id, job=me.job)
    tools = Tools(
        loop=loop,
        log=log,
        rng=rng,
        lock=_lock(plan, me, loop, rng),
        ledger=ledger,
        spool=spool,
        command=Command(plan.exec, me, loop, log, mask, stdin, bond, spare),
    )
    outcome = run(plan, me, tools)
    log.close()
    code = _end(outcome, loop)
    # Everything that matters is closed. What the interpreter would still tidy up takes 6 ms, of
    # the very core on which the next holder of the lock wants to start.
    os._exit(code)


def _lock(plan: Plan, me: Run, loop: Loop, rng: Rng) -> Lock | None:
    spec = plan.lock
    if spec is None:
        return None
    from guardrun.locks.flock import FileLock, HostLock

    if spec.file is not None:
        return FileLock(spec.file, spec.shared, loop)
    assert me.lock is not None
    return HostLock(spec, me.lock, loop, rng)


def _ledger(
    plan: Plan, loop: Loop, rng: Rng, spare: set[int]
) -> tuple[RunLedger | None, Spool | None, Bond | None]:
    spec = plan.ledger
    if spec.url == "none:":
        return None, None, None
    from guardrun.ledger.spool import open_spool

    os.close(safety.private_directory(spec.state_dir, "state directory"))
    spool = open_spool(spec, os.environ)
    if spec.url.startswith("sqlite:"):
        from guardrun.ledger.local import LocalLedger

        path = spec.url.removeprefix("sqlite://")
        os.close(safety.private_directory(os.path.dirname(path), "ledger directory"))
        return LocalLedger(path, time.time, spec.keep, spool), spool, None
    from guardrun import channel
    from guardrun.keeper.link import Link
    from guardrun.keeper.proxy import LedgerProxy
    from guardrun.term import Bond, Term

    def connect() -> RemoteLedger:  # called in the keeper, so that only it loads the driver
        from guardrun.ledger.postgres import PostgresLedger

        return PostgresLedger(spec.url, time.time, plan.key.claim_ttl)

    ours, wardens = channel.pair()
    term = Term()
    link = Link(ours, term, connect, spool, rng, plan.key.claim_ttl, plan.exec.kill_after, spare)
    try:
        link.start()
    except StoreUnavailable:
        pass  # the first question starts it, or says why not
    loop.keeper = link
    return LedgerProxy(link, loop, rng), spool, Bond(term, wardens)


def _end(outcome: Outcome, loop: Loop) -> int:
    """Tell whoever started us how it ended; by the signal, where one is the reason."""
    die_by = outcome.die_by or loop.stop_signal()
    if die_by is not None:
        return cli.die_by(die_by)
    if outcome.exit_code in _OURS and not outcome.attempts and outcome.reason:
        cli.say(outcome.reason)
    return outcome.exit_code


_OURS = frozenset({64, 69, 70, 73, 78})
"""exit codes that deserve a line on stderr, wherever the log goes"""
