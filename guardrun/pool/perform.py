"""The only place where a pool's real things are made, as ``world.py`` is for a single run."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from guardrun import cli, identity, kernel
from guardrun.chance import Chance
from guardrun.core import policy
from guardrun.errors import GuardrunError, ToldToStop
from guardrun.ledger.sqlite_writer import Transactions
from guardrun.pool.commits import Commits
from guardrun.pool.crew import Children, Crew
from guardrun.pool.hub import Hub, PoolLoop
from guardrun.pool.items import Items
from guardrun.pool.lines import Pen
from guardrun.pool.lock import PoolLock
from guardrun.pool.pool import Pool
from guardrun.pool.progress import CLEAR, Bar, Lines, has_bar
from guardrun.pool.work import Works
from guardrun.report.log import Log
from guardrun.supervisor.loop import find_terminal, take_signals
from guardrun.world import keeper_of, local_file, spool_of

if TYPE_CHECKING:
    from typing import NoReturn

    from guardrun.keeper.link import Link
    from guardrun.model import EachSpec, Plan
    from guardrun.supervisor.loop import Loop
    from guardrun.term import Bond


def perform(plan: Plan, spec: EachSpec) -> NoReturn:
    """Carry out a pool, and end the process as its counts say.

    Raises GuardrunError for what is wrong before it has begun.
    """
    begun = kernel.now()
    bar = has_bar(plan.report.quiet)
    journal = Log.start(plan.report, above=CLEAR if bar else b"")
    signals, mask = take_signals()
    hub = Hub(signals)
    pool_id = identity.new_job_id(time.time())
    log = journal.bind(job_id=pool_id, job=plan.job)
    loop = PoolLoop(hub, find_terminal(), log)
    rng = Chance()
    children = Children()
    spool, file = spool_of(plan), local_file(plan)
    commits = None if file is None else Commits(hub, Transactions(file))
    items = Items(0, spec.items, plan.exec.stdin_max)
    lock = None
    if plan.lock is not None and not spec.lock_by_item:
        lock = PoolLock(plan, pool_id, loop, log, rng, children)
    bond = None if lock is None else lock.bond
    own = plan if lock is None else plan._replace(lock=None)

    def connect(loop: Loop) -> tuple[Link | None, Bond | None]:
        row = None if bond is None else bond.term.lock
        return keeper_of(own, spool, loop, rng, children.ours, row)

    works = Works(
        plan=plan._replace(exec=plan.exec._replace(splay=0.0)),
        pool=pool_id,
        hub=hub,
        log=log,
        rng=rng,
        spool=spool,
        ledger_file=file,
        commits=commits,
        tag=spec.tag,
    )
    pool = Pool(
        spec,
        works,
        loop,
        items,
        children,
        lambda: Crew(mask, children, connect, bond),
        {number: _pen(number, bar) for number in (1, 2)},
        Bar(items) if bar else Lines(log),
    )
    log.open()
    try:
        delay = policy.splay_delay(plan.job, os.uname().nodename, plan.exec.splay)
        loop.pause((), kernel.now() + delay)
        pool.work(lock)
    except ToldToStop as told:
        pool.told = told.signum
    except GuardrunError as error:
        pool.fault = error
    code = pool.finished(kernel.now() - begun)
    if lock is not None:
        lock.release()
    if commits is not None:
        commits.end()
    journal.close()
    die_by = pool.told or loop.stop_signal()
    if die_by is not None:
        code = cli.die_by(die_by)
    elif pool.fault is not None:
        cli.say(str(pool.fault))
    os._exit(code)


def _pen(number: int, bar: bool) -> Pen:
    return Pen(number, CLEAR if bar and os.isatty(number) else b"")
