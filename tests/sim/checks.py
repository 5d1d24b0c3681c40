"""The invariants, checked as things happen; what each of them leaves out is said where it does.

M  as many COMMANDs of one lock, and one of a key, at most are alive at once
F  fences grow with every grant, and a resource that checks them rejects who is behind
O  one success a key
D  no COMMAND starts before its claim and its lease are the server's truth
T  what a run has told of its end never changes
K  nothing of COMMAND is alive when its lease or claim could be another's
R  nothing is given up while COMMAND is alive, nor before its outcome is somewhere
L  once faults stop, every run ends, whoever waits gets the lock, and no outcome is lost
S  no secret in an event or a row
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardrun.model import Grant, LeaseRequest, Outcome, Run

from .command import CommandProcess
from .machine import Process
from .network import SECRET
from .promptness import Promptness
from .world import World

if TYPE_CHECKING:
    from .job import Job
    from .scenario import Scene

_AFTER_RESUME = 1.0
"""s that a host which was asleep has to kill what has lapsed meanwhile: it is the first it does"""
_SECOND_FAULT = 2.5
"""s more than what one fault leaves: two of the three that watch COMMAND failed in a row"""
_START = 1.0
"""s that may pass between the look at what is left and COMMAND's start"""
_NEVER = float("inf")


class Checker:
    """Sees all that servers and processes do, and notes what must not be."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.scene: Scene
        self.promptness = Promptness(self)
        self.jobs: dict[str, Job] = {}
        self._fences: dict[str, int] = {}
        self._register: dict[str, int] = {}
        self._terminal: dict[str, Any] = {}

    # ------------------------------------------------------------ COMMAND

    def lives(self, command: CommandProcess) -> None:
        """A process of COMMAND has started: D, and M."""
        job: Job = command.run
        (job.daemons if command.daemon else job.alive)[command.pid] = command
        if not command.main:
            return
        if job.daemons and not job.excused:
            self.violate("K", f"{job} starts another attempt beside what the last one left")
        job.executions += 1
        self.promptness.watch_term(job)
        self._count("COMMAND started")
        self.world.tell(command, f"starts, fence {command.env.get('GUARDRUN_FENCING_TOKEN')}")
        if job.excused or self._asleep(job):
            return
        now, late = self.world.now, _NEVER if job.faulted else _START
        if job.leased and not job.voided:
            left = job.lapses_at() - now
            if left < 0 or left + late < job.ttl_of_lock / 2:
                self.violate("D", f"{job} starts COMMAND with {left:.3f} s left of its lease")
        if job.me.key is not None:
            held = self.scene.ledger_model.keys.get(job.me.key)
            ours = held is not None and held.token == job.me.token and held.state == "running"
            left = job.claim_lapses_at() - now if ours else -_NEVER
            if left < 0 or left + late < job.plan.key.claim_ttl / 2:
                self.violate("D", f"{job} starts COMMAND with {left:.3f} s left of its claim")
            self._check_success(job)
        self._check_overlap(job)

    def _check_overlap(self, job: Job) -> None:
        """M. A host that sleeps runs nothing; what it must kill when it wakes up is K's matter."""
        others = [
            other
            for other in self.jobs.values()
            if other is not job and other.alive and not other.excused and not self._asleep(other)
        ]
        if job.me.lock is not None and not job.voided:
            same = [one for one in others if one.me.lock == job.me.lock and one.holds_lock()]
            if len(same) >= job.slots:
                self.violate("M", f"{job} runs beside {', '.join(map(str, same))}")
        if job.me.key is not None:
            keyed = [one for one in others if one.me.key == job.me.key]
            if keyed:
                self.violate("M", f"{job} runs beside {keyed[0]} with the same key")

    def _check_success(self, job: Job) -> None:
        """O: a key whose success is recorded is not executed again."""
        for row in self.scene.ledger_model.rows.values():
            if row.run.key == job.me.key and row.result == "success" and not row.stale:
                self.violate("O", f"{job} executes a key that {row.run.job_id} has done")

    def writes(self, command: CommandProcess) -> None:
        """COMMAND writes to a resource that checks fences."""
        fence = int(command.env.get("GUARDRUN_FENCING_TOKEN") or 0)
        lock = command.run.me.lock
        if not fence or command.run.slots > 1:
            return
        if fence < self._register.get(lock, 0):
            self._count("stale fence rejected")
        else:
            self._register[lock] = fence

    def died(self, process: Process) -> None:
        """K, when the last of COMMAND has died; a daemon that a normal end left is not COMMAND."""
        if not isinstance(process, CommandProcess):
            return
        job: Job = process.run
        self.world.tell(process, "has ended" if process.by_itself else "is dead")
        counted = job.alive.pop(process.pid, None)
        if process.by_itself and process.main:
            for left in job.alive.values():
                left.daemon = True
            job.daemons.update(job.alive)
            job.alive.clear()
        job.daemons.pop(process.pid, None)
        if counted is not None and not job.alive and not job.excused:
            self._check_time(job)

    def _check_time(self, job: Job) -> None:
        now = self.world.now
        limits = []
        if job.leased and not job.voided and not job.warns:
            limits.append((job.lapses_at(), "its lease"))
        if job.me.key is not None and job.executions:
            limits.append((job.claim_lapses_at(), "its claim"))
        for limit, what in limits:
            if job.host.resumed_at > limit - job.ttl or job.host.suspended:
                limit = max(limit, job.host.resumed_at + _AFTER_RESUME)
            if len(job.faulted - {"keeper"}) > 1:
                limit += _SECOND_FAULT
            if now > limit:
                self.violate("K", f"COMMAND of {job} outlived {what} by {now - limit:.3f} s")

    def _asleep(self, job: Job) -> bool:
        host = job.host
        return host.suspended or self.world.now < host.resumed_at + _AFTER_RESUME

    def changed(self, process: Process) -> None:
        """Somebody was stopped, continued or killed: is anybody left who can act?

        Supervisor and warden stopped together are more than the contract promises to survive, and
        so is any state in which none of the three can act.
        """
        job: Job | None = process.run
        if job is None or isinstance(process, CommandProcess):
            return
        ended = "killed" if process.status & 0x7F else "ends"
        now = ended if process.dead else "is stopped" if process.stopped else "is continued"
        self.world.tell(process, now)
        if process.stopped or process.status & 0x7F:
            job.faulted.add(process.role)
        if process.dead and process.role == "supervisor":
            self.promptness.expect_freed(job)
        roles = job.roles
        warden, supervisor = roles.get("warden"), roles.get("supervisor")
        backstop = roles.get("backstop")
        if warden is None or backstop is None or supervisor is None or not job.alive:
            return
        able = [not one.dead and not one.stopped for one in (warden, supervisor, backstop)]
        third = able[2] and (warden.dead or supervisor.dead)
        if not able[0] and not able[1] and not third:
            job.excused = True
            self._count("excused: none left to act")

    # ------------------------------------------------------------ the lease store

    def granted(self, wanted: LeaseRequest, grant: Grant, now: float) -> None:
        """F."""
        job = self.jobs[wanted.job_id]
        assert grant.fence is not None
        if job.fence != grant.fence:
            if grant.fence <= self._fences.get(wanted.lock, 0):
                self.violate("F", f"{job} gets fence {grant.fence}, which is not new")
            self._fences[wanted.lock] = job.fence = grant.fence
            self._count("lease granted")
        self.leased(wanted, now)

    def leased(self, wanted: LeaseRequest, now: float) -> None:
        """A lease is good until then."""
        self.jobs[wanted.job_id].lease_until = now + wanted.ttl

    def given_up(self, wanted: LeaseRequest) -> None:
        """R: the lock is given back when COMMAND is dead and its outcome somewhere."""
        job = self.jobs[wanted.job_id]
        self._count("lease released")
        self.promptness.expect_handoff(wanted.lock)
        if job.alive:
            self.violate("R", f"{job} gives its lock back while COMMAND is alive")
        told = job.scene.ledger is None or self._is_told(job) or job.unsaved
        supervisor = job.roles["supervisor"]
        if job.executions and not told and not supervisor.dead:
            self.violate("R", f"{job} gives its lock back before its outcome is anywhere")

    def _is_told(self, job: Job) -> bool:
        row = self.scene.ledger_model.rows.get(job.me.job_id)
        return (row is not None and row.terminal) or job.spooled()

    def took_away(self, job_id: str) -> None:
        """An operator has ended a holding, or the store forgot it: M and K do not hold for it."""
        self.jobs[job_id].voided = True

    # ------------------------------------------------------------ the ledger

    def written(self, job_id: str) -> None:
        """T, whenever anything is written."""
        model = self.scene.ledger_model
        self.jobs[job_id].note_claim()
        row = model.rows.get(job_id)
        if row is None or not row.terminal:
            return
        told = (row.result, row.exit_code, row.reason, row.attempts, row.stale, row.finished_at)
        if self._terminal.setdefault(job_id, told) != told:
            self.violate("T", f"the row of {job_id} was {self._terminal[job_id]}, and is {told}")
        if SECRET in repr(row):
            self.violate("S", f"the row of {job_id} has a secret in it")

    def recorded(self, outcome: Outcome) -> None:
        """R: an outcome is recorded when COMMAND is dead."""
        job = self.jobs[outcome.run.job_id]
        if job.alive:
            self.violate("R", f"{job} records its outcome while COMMAND is alive")

    def disowned(self, run: Run) -> None:
        """R: the same for a claim that its keeper gives up."""
        job = self.jobs[run.job_id]
        self._count("claim given up by a keeper")
        if job.alive:
            self.violate("R", f"{job} gives its claim up while COMMAND is alive")

    # ------------------------------------------------------------ events and the end

    def emitted(self, job: Job, event: str, text: str) -> None:
        """S. ``outcome_unsaved`` is the last copy of an outcome, the claim's token included."""
        for secret in (SECRET, job.me.token if event != "outcome_unsaved" else None):
            if secret is not None and secret in text:
                self.violate("S", f"{job} logs a secret: {text}")

    def finish(self) -> None:
        """L, when nothing happens any more."""
        for job in self.jobs.values():
            if job.started and not job.over():
                left = [one for one in job.roles.values() if not one.dead]
                self.violate("L", f"{job} has not ended: {left}")
            elif job.alive and not job.excused:
                self.violate("K", f"{job} left {list(job.alive.values())} behind")
            elif job.executions and job.scene.ledger is not None:
                self._check_not_lost(job)
            if job.probe and job.outcome is not None:
                self._check_probe(job)
        successes: dict[str, str] = {}
        for job_id, row in self.scene.ledger_model.rows.items():
            key = row.run.key
            if key is not None and row.result == "success" and not row.stale:
                if key in successes:
                    self.violate("O", f"{key} succeeded twice: {successes[key]}, {job_id}")
                successes[key] = job_id

    def _check_not_lost(self, job: Job) -> None:
        """No outcome is lost; of a run without a key that was killed there may be no row."""
        row = self.scene.ledger_model.rows.get(job.me.job_id)
        if self._is_told(job) or job.unsaved:
            return
        if job.outcome is not None:
            self.violate("L", f"the outcome of {job} is nowhere: {job.outcome.result}")
        elif row is None:
            if job.me.key is not None:
                self.violate("L", f"{job} executed, and there is no row of it")
        elif row.result == "running":
            self._count("row left to lapse")

    def _check_probe(self, job: Job) -> None:
        assert job.outcome is not None
        if job.outcome.result not in ("success", "skipped_duplicate", "precondition_failed"):
            self.violate("L", f"{job}, after all faults, ended: {job.outcome.result}")

    def violate(self, rule: str, what: str) -> None:
        """A rule was broken."""
        self.world.violate(f"{rule}: {what}")

    def _count(self, what: str) -> None:
        self.world.counts[what] += 1
