"""The only place where a pool's real things are made, as ``world.py`` is for a single run."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from guardrun import cli, identity, kernel
from guardrun.chance import Chance
from guardrun.core import policy
from guardrun.errors import ToldToStop
from guardrun.ledger.sqlite_writer import Transactions
from guardrun.pool.commits import Commits
from guardrun.pool.crew import Children, Crew
from guardrun.pool.hub import Hub, PoolLoop
from guardrun.pool.items import Items
from guardrun.pool.lines import Pen
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
    log.open()
    loop = PoolLoop(hub, find_terminal(), log)
    rng = Chance()
    children = Children()
    spool, file = spool_of(plan), local_file(plan)
    commits = None if file is None else Commits(hub, Transactions(file))
    items = Items(0, spec.items, plan.exec.stdin_max)
    own = plan if spec.lock_by_item else plan._replace(lock=None)

    def connect(loop: Loop) -> tuple[Link | None, Bond | None]:
        return keeper_of(own, spool, loop, rng, children.ours)

    works = Works(
        plan=plan._replace(exec=plan.exec._replace(splay=0.0)),
        pool=pool_id,
        hub=hub,
        log=log,
        rng=rng,
        spool=spool,
        ledger_file=file,
        commits=commits,
        lent=None,
        tag=spec.tag,
    )
    pens = {number: _pen(number, bar) for number in (1, 2)}
    progress = Bar(items) if bar else Lines(log)
    pool = Pool(
        spec,
        works,
        loop,
        items,
        children,
        lambda: Crew(mask, children, connect),
        pens,
        progress,
    )
    delay = policy.splay_delay(plan.job, os.uname().nodename, plan.exec.splay)
    try:
        loop.pause((), kernel.now() + delay)
        pool.work()
    except ToldToStop as told:
        pool.told = told.signum
    progress.hide()
    code = pool.finished(kernel.now() - begun)
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
