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
    from guardrun.ports import Lock, Rng, RunLedger, Waiter
    from guardrun.report.log import Log
    from guardrun.term import Term

_LOOK = 0.1
"""s"""
_NO_TERMINAL = Terminal(None)
"""Ctrl-C is for the pool: it decides what becomes of its items, which are in groups of their own"""


class Lent(NamedTuple):
    """The lock that the pool holds for all its items."""

    lock: Lock
    grant: Grant
    term: Term | None
    """of its lease, if it is one"""

    @property
    def gone(self) -> bool:
        """Whether it is not proved to be held any more: nothing may be started under it."""
        return self.term is not None and kernel.now() >= self.term.lock.term_at


class LentLock:
    """The ``Lock`` port, for one item, over a lock that is the pool's."""

    def __init__(self, lent: Lent, waiter: Waiter) -> None:
        self._lent = lent
        self._waiter = waiter

    def acquire(self, _run: Run, _due: float) -> Grant:
        """It is held."""
        return self._lent.grant

    def assure(self) -> bool:
        """As the port says; the pool's keeper renews it, which is waited for."""
        term = self._lent.term
        while term is not None and kernel.now() >= term.half_at:
            if self._lent.gone:
                return False
            self._waiter.pause((), min(kernel.now() + _LOOK, term.lock.term_at))
        return True

    def lost(self) -> bool:
        """As the port says."""
        return self._lent.lock.lost()

    def release(self) -> None:
        """It stays."""


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
    tag: bool
    lent: Lent | None = None


def run_of(plan: Plan, taken: Taken, waiter: Waiter | None) -> tuple[Plan, Run]:
    """Make a run of an item: its plan, with the item in COMMAND's words, and who it is.

    Raises GuardrunError with why it cannot be one.
    """
    if taken.refused is not None:
        raise GuardrunError(taken.refused)
    argv = words.fill(plan.exec.argv, taken.item)
    plan = plan._replace(exec=plan.exec._replace(argv=argv))
    return plan, identify(plan, None, os.environ, waiter, taken.item)


def begin(works: Works, taken: Taken, loop: ItemLoop) -> tuple[Plan, Run] | None:
    """Make a run of an item; ``None``, and a line in the log, when it cannot be one."""
    try:
        plan, me = run_of(works.plan, taken, loop)
    except GuardrunError as error:
        _refuse(works, taken, str(error))
        return None
    return plan, me._replace(path=(*me.path, works.pool))


def _refuse(works: Works, taken: Taken, why: str) -> None:
    works.log.emit(events.item_refused(time.time(), named(taken.item), taken.number, why))


def carry_out(
    works: Works, plan: Plan, me: Run, taken: Taken, loop: ItemLoop, crew: Crew, turn: Turn
) -> str:
    """Do the six steps for it; returns its result."""
    crew.tidy()  # some of it may have been killed since the last item
    try:
        link = crew.keeper(loop)
    except OSError as error:  # no descriptors are left, say: the next item may find some
        _refuse(works, taken, f"the keeper cannot be started: {error.strerror}")
        return "failed"
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
        lock=LentLock(lent, loop) if lent else lock_of(plan, me, link, loop, works.rng),
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
