"""One item of a pool is one run: the same six steps, with what the pool lends it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from guardrun import kernel
from guardrun.command import Command
from guardrun.errors import GuardrunError
from guardrun.identity import identify
from guardrun.lean import NamedTuple
from guardrun.ledger.local import LocalLedger
from guardrun.pool import words
from guardrun.pool.crew import Standing
from guardrun.pool.hub import ItemLoop
from guardrun.pool.items import named
from guardrun.pool.lines import LineVoice
from guardrun.report import events
from guardrun.run import Tools, run
from guardrun.supervisor.loop import Terminal
from guardrun.world import lock_of, remote_ledger

if TYPE_CHECKING:
    from guardrun.ledger.spool import Spool
    from guardrun.model import Grant, Plan, Run
    from guardrun.pool.commits import Commits
    from guardrun.pool.crew import Crew
    from guardrun.pool.hub import Hub
    from guardrun.pool.items import Taken
    from guardrun.pool.lines import Turn
    from guardrun.ports import Lock, Rng, RunLedger
    from guardrun.report.log import Log

_NO_TERMINAL = Terminal(None)
"""Ctrl-C is for the pool: it decides what becomes of its items, which are in groups of their own"""


class Lent(NamedTuple):
    """The lock that the pool holds for all its items."""

    lock: Lock
    grant: Grant


class Works(NamedTuple):
    """What all runs of a pool have in common."""

    plan: Plan
    """of each; COMMAND's words have no item in them yet"""
    pool: str
    """the pool's own job_id"""
    hub: Hub
    log: Log
    rng: Rng
    spool: Spool | None
    ledger_file: str | None
    """the embedded ledger's"""
    commits: Commits | None
    lent: Lent | None
    tag: bool


def begin(works: Works, taken: Taken, loop: ItemLoop) -> tuple[Plan, Run] | None:
    """Make a run of an item; ``None``, and a line in the log, when it cannot be one."""
    plan = works.plan
    try:
        if taken.refused is not None:
            raise GuardrunError(taken.refused)
        argv = words.fill(plan.exec.argv, taken.item)
        plan = plan._replace(exec=plan.exec._replace(argv=argv))
        me = identify(plan, None, os.environ, loop, taken.item)
    except GuardrunError as error:
        item = named(taken.item)
        works.log.emit(events.item_refused(time.time(), item, taken.number, str(error)))
        return None
    return plan, me._replace(path=(*me.path, works.pool))


def carry_out(
    works: Works, plan: Plan, me: Run, taken: Taken, loop: ItemLoop, crew: Crew, turn: Turn
) -> str:
    """Do the six steps for it; returns its result."""
    link = crew.keeper(loop)
    loop.deadline = kernel.now() + plan.exec.deadline
    loop.keeper = None if link is None else Standing(link)
    log = works.log.bind(job_id=me.job_id, job=me.job, item=named(taken.item)).apart()
    tag = os.fsencode(taken.item.text) + b"\t" if works.tag else b""
    ledger: RunLedger | None
    if works.ledger_file is not None and works.spool is not None:
        ledger = LocalLedger(
            works.ledger_file, time.time, plan.ledger.keep, works.spool, works.commits
        )
    else:
        ledger = remote_ledger(plan, link, loop, works.rng)
    lent = works.lent
    tools = Tools(
        loop=loop,
        log=log,
        rng=works.rng,
        lock=lent.lock if lent else lock_of(plan, me, link, loop, works.rng),
        ledger=ledger,
        spool=works.spool,
        command=Command(plan.exec, me, loop, log, crew.hire, None, voice=LineVoice(turn, tag)),
        lent=lent.grant if lent else None,
    )
    result = run(plan, me, tools).result
    crew.tidy()
    return result


def new_loop(works: Works) -> ItemLoop:
    """Where one item will wait."""
    return ItemLoop(works.hub, _NO_TERMINAL, works.log)
