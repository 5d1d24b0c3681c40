"""What must happen soon, where nothing stands in its way: the part of K and L that has a clock.

"Calm" means that network and stores have been all right for a while, that nothing said earlier is
still on its way, and that at most so many of the run's own processes failed as the rule says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checks import Checker
    from .job import Job
    from .machine import Program

_DEAD = 1.0
"""s until COMMAND is dead when the loss of what it runs under is certain"""
_FREED = 3.0
"""s until lock and key are free when the supervisor is gone: a keeper that works needs a few ms,
and half a second more where the backstop waits for a warden that is stopped"""
_HANDED_OVER = 1.4
"""s until who waits has the lock; who must find out by itself needs up to three"""
_LOOK = 0.3
_SETTLED = 13.0
"""s after troubles: an answer that is lost is waited for so long"""


class Promptness:
    """Looks again after a while."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker

    def _is_calm(self, since: float) -> bool:
        scene = self._checker.scene
        return scene.troubles == 0 and scene.quiet_since <= since

    # ------------------------------------------------------------ K

    def watch_term(self, job: Job) -> None:
        """From ``term_at`` on COMMAND is being stopped, and that is not taken back."""
        assert job.term is not None
        self._look_at_term(job, job.executions, None)

    def _look_at_term(self, job: Job, execution: int, passed: float | None) -> None:
        if not job.alive or job.executions != execution or job.term is None or job.excused:
            return
        world, host = self._checker.world, job.host
        term_at = job.term.term_at
        if passed is not None and term_at > passed and not job.warns:
            self._checker.violate("K", f"{job} was to stop at {passed:.3f}, and goes on")
            return
        if term_at <= host.boottime():
            world.after(_LOOK, self._look_at_term, job, execution, term_at)
        else:
            moment = min(host.when(term_at) + 0.001, world.now + 5.0)
            world.at(moment, self._look_at_term, job, execution, None)

    def expect_dead(self, job_id: str, lock: bool) -> None:
        """The keeper has just heard that lease or claim are somebody else's."""
        job = self._checker.jobs[job_id]
        if not (lock and job.warns):
            world = self._checker.world
            keeper = job.roles["keeper"]
            world.after(_DEAD, self._is_dead, job, job.executions, keeper, world.now)

    def _is_dead(self, job: Job, execution: int, keeper: Program, since: float) -> None:
        awake = not job.host.suspended and job.host.resumed_at < since
        well = awake and not keeper.dead and not keeper.stopped and not job.faulted - {"keeper"}
        if job.alive and job.executions == execution and well:
            self._checker.violate("K", f"{job} knows of its loss, and COMMAND runs on")

    # ------------------------------------------------------------ L

    def expect_freed(self, job: Job) -> None:
        """The supervisor is gone, by its own end or killed: the keeper does the rest."""
        world = self._checker.world
        world.after(_FREED, self._is_freed, job, world.now)

    def _is_freed(self, job: Job, since: float) -> None:
        scene = self._checker.scene
        # Who has seen COMMAND dead must be there to say so: warden or backstop.
        left_to_its_ttl = (
            "keeper" in job.faulted
            or len(job.faulted) > 2
            or job.excused
            or ("backstop" in job.faulted and "warden" not in job.roles)
        )
        if left_to_its_ttl or not self._is_calm(since - _SETTLED):
            return
        # With --on-lease-loss warn a lock that was lost once is not released: the contract says so.
        if scene.leases is not None and job.leased and not job.voided and not job.warns:
            assert job.plan.lock is not None
            now, lock = scene.lease_server.clock(), job.plan.lock.name
            assert lock is not None
            for place in scene.leases.holders(lock, now):
                if place.job_id == job.me.job_id and not place.released:
                    self._checker.violate("L", f"{job} is gone, and its lock is still taken")
            if job.lease_token in scene.leases.waiters(lock, now):
                self._checker.violate("L", f"{job} is gone, and still stands in the queue")
        held = scene.ledger_model.keys.get(job.me.key or "")
        if held is not None and held.token == job.me.token and held.state == "running":
            self._checker.violate("L", f"{job} is gone, and its key is still claimed")

    def expect_handoff(self, lock: str) -> None:
        """A place is free: whoever is first in the queue gets it."""
        scene, world = self._checker.scene, self._checker.world
        assert scene.leases is not None
        now = scene.lease_server.clock()
        if len(scene.leases.holders(lock, now)) >= scene.slots:
            return  # its not-before time is to come, and nobody tells when it has
        for token in scene.leases.waiters(lock, now):
            world.after(_HANDED_OVER, self._is_handed_over, lock, token, world.now)
            return

    def _is_handed_over(self, lock: str, token: str, since: float) -> None:
        scene, now = self._checker.scene, self._checker.scene.lease_server.clock()
        assert scene.leases is not None
        waiters = scene.leases.waiters(lock, now)
        taken = scene.leases.holders(lock, now)
        job = next((job for job in scene.jobs if job.lease_token == token), None)
        well = job is not None and not job.faulted and not job.over()
        free = waiters[:1] == (token,) and len(taken) < scene.slots
        if well and free and self._is_calm(since - _SETTLED):
            self._checker.violate("L", f"{job} waits for a lock that is free")

    def lost(self, job: Job) -> None:
        """One fault of guardrun's own costs no lease while the stores can be reached."""
        well = len(job.faulted) < 2 and not job.voided
        if well and self._is_calm(job.started_at - _SETTLED):
            self._checker.violate("L", f"{job} loses what it could have kept")
