"""The lock that a pool takes once, for all its items: step 1, before there is any of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from guardrun.command import Command
from guardrun.errors import GuardrunError
from guardrun.identity import identify
from guardrun.model import KeySpec
from guardrun.pool.crew import PoolBond
from guardrun.pool.work import Lent
from guardrun.run import Tools, acquire_lock
from guardrun.world import keeper_of, lock_of

if TYPE_CHECKING:
    from guardrun.core.account import Ending
    from guardrun.model import Plan
    from guardrun.pool.crew import Children
    from guardrun.pool.hub import PoolLoop
    from guardrun.ports import Lock, Rng
    from guardrun.report.log import Log
    from guardrun.supervisor.guard import Guard


class PoolLock:
    """The lock of one pool; ``plan`` is that of its items. Raises ``ConfigError``."""

    def __init__(
        self, plan: Plan, pool_id: str, loop: PoolLoop, log: Log, rng: Rng, children: Children
    ) -> None:
        self._plan = plan = plan._replace(
            key=KeySpec(None, claim_ttl=plan.key.claim_ttl),
            ledger=plan.ledger._replace(url="none:"),
        )
        found = identify(plan, None, os.environ, loop)
        owner = f"{found.host}:{found.pid}:{pool_id}"
        self._me = found._replace(job_id=pool_id, owner=owner)
        self._loop = loop
        self._log = log
        self._rng = rng
        link, bond = keeper_of(plan, None, loop, rng, children.ours)
        self.bond = None if bond is None else PoolBond(bond)
        """ties every item's COMMAND to the lease's keeper"""
        lock = lock_of(plan, self._me, link, loop, rng)
        assert lock is not None
        self._lock: Lock = lock

    def take(self) -> Lent | Ending:
        """Take it, waiting at most ``--wait``.

        Raises ToldToStop, StoreUnavailable, and what is wrong with the lock.
        """
        tools = Tools(
            loop=self._loop,
            log=self._log,
            rng=self._rng,
            lock=self._lock,
            ledger=None,
            spool=None,
            command=_NoCommand(self._plan.exec, self._me, self._loop, self._log, _nobody, None),
        )
        held, ending = acquire_lock(self._plan, self._me, tools)
        if ending is not None:
            return ending
        assert held.grant is not None
        term = None if self.bond is None else self.bond.term
        return Lent(self._lock, held.grant._replace(owner=self._me.owner), term)

    def release(self) -> None:
        """Give it back: nothing of any item is alive but what ended normally."""
        self._lock.release()
        if self._loop.keeper is not None:
            self._loop.keeper.release()


class _NoCommand(Command):
    def prepare(self) -> None:
        """There is none before there is an item."""


def _nobody() -> Guard:
    raise GuardrunError("a pool has no COMMAND of its own")
