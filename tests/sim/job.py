"""One run of guardrun in the simulated world: its plan, its processes, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from guardrun import run as running
from guardrun.command import Command
from guardrun.keeper.lease_proxy import LeaseProxy
from guardrun.keeper.ledger_proxy import LedgerProxy
from guardrun.keeper.stores import Stores
from guardrun.ledger.spool import Spool
from guardrun.model import Event, Outcome, Plan, Run
from guardrun.supervisor.guard import Guard
from guardrun.supervisor.loop import PASSED, STOP, ProcessLoop, Terminal
from guardrun.world import ends_of, start_keeper

from .command import CommandProcess, Habits, draw_habits
from .drivers import SimLedger, SimSpool
from .machine import Host, Program

if TYPE_CHECKING:
    from guardrun.term import Term

    from .scenario import Scene

SIGNALS = frozenset({*STOP, *PASSED, 17})
"""what the supervisor's loop reads; 17 is SIGCHLD"""


_SHORT, _LONG = (0.0, 0.05, 1.0, 5.0, 15.0), (10.0, 20.0, 40.0)
"""s that COMMAND works"""


class Diary:
    """The log of one run, as far as it concerns us."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def bind(self, **fields: object) -> Diary:  # noqa: ARG002
        return self

    def emit(self, event: Event) -> None:
        self._job.emit(event)

    def open(self) -> None: ...

    def interests(self) -> list[tuple[int, int]]:
        return []


class Job:
    """One run. ``probe``: it is started when all faults are over, to see whether things work."""

    def __init__(self, scene: Scene, host: Host, plan: Plan, me: Run, probe: bool = False) -> None:
        self.scene = scene
        self.host = host
        self.plan = plan
        self.me = me
        self.probe = probe
        self.started = False
        self.outcome: Outcome | None = None
        """what the supervisor came to in the end"""
        self.unsaved = False
        self.started_at = 0.0
        """true time"""
        self.term: Term | None = None
        self.roles: dict[str, Program] = {}
        """the latest process of each role"""
        self.programs: list[Program] = []
        self.alive: dict[int, CommandProcess] = {}
        """processes of COMMAND"""
        self.daemons: dict[int, CommandProcess] = {}
        """what COMMAND left running when it ended by itself"""
        self.executions = 0
        self.faulted: set[str] = set()
        """which of guardrun's processes were stopped or killed"""
        self.excused = False
        """nobody was left who could have ended COMMAND"""
        self.voided = False
        """its lease was taken away, or forgotten by the store"""
        self.fence: int | None = None
        self.lease_token: str | None = None
        """of its place, or of its place in the queue"""
        self.lease_until = float("-inf")
        """by the lease store's clock, as ``claim_until`` is by the ledger's"""
        self.claim_until = float("-inf")

    def __str__(self) -> str:
        return self.me.job_id

    # ------------------------------------------------------------ its life

    def start(self) -> None:
        """Start guardrun, as cron would."""
        if self.host.suspended:  # cron sleeps as well
            self.scene.world.after(1.0, self.start)
            return
        self.started, self.started_at = True, self.scene.world.now
        self.me = self.me._replace(started_at=self.host.wall())
        program = Program(self.host, None, self, "supervisor", self._perform)
        program.blocked = SIGNALS
        self.me = self.me._replace(
            pid=program.pid, owner=f"{self.host.name}:{program.pid}:{self.me.job_id}"
        )

    def _perform(self) -> None:
        try:
            tools = self._make_tools()
        except OSError:
            return  # nothing has begun: cli.py tells, and the exit code is 70
        self.outcome = running.run(self.plan, self.me, tools)

    def _make_tools(self) -> running.Tools:
        """As ``world.perform``, with the world's real things replaced."""
        scene, plan, rng = self.scene, self.plan, self.scene.world.rng
        log: Any = Diary(self)
        loop = ProcessLoop(SIGNALS, Terminal(None), log)
        spare: set[int] = set()
        spool = None if scene.ledger is None else SimSpool(self.host)
        link, bond = start_keeper(plan, lambda: self._connect(spool), False, loop, rng, spare)
        self.term = bond.term
        lock = (
            None
            if plan.lock is None
            else LeaseProxy(link, plan.lock, loop, rng, plan.ledger.store_wait)
        )
        return running.Tools(
            loop=loop,
            log=log,
            rng=rng,
            lock=lock,
            ledger=None if scene.ledger is None else LedgerProxy(link, loop, rng),
            spool=spool,
            command=Command(
                plan.exec,
                self.me,
                loop,
                log,
                lambda: Guard(None, frozenset(), bond, spare, ends_of(link)),
                None,
            ),
        )

    def _connect(self, spool: Spool | None) -> Stores:
        """In the keeper: load the drivers, which takes its time."""
        scene = self.scene
        keeper = scene.world.current
        assert keeper is not None
        awake = self.host.awake() + scene.world.rng.uniform(0.02, 0.2)
        keeper.wait(lambda: False, awake_due=awake)
        leases = (
            None if scene.leases is None or self.plan.lock is None else scene.leases.connect(keeper)
        )
        if scene.ledger is None:
            return Stores(None, None, leases, together=False)
        ledger = SimLedger(scene.ledger, scene.network, self.host)
        together = scene.together and leases is not None
        return Stores(ledger, spool, leases, together=together)

    def emit(self, event: Event) -> None:
        """The run logs something."""
        world = self.scene.world
        world.counts[f"event {event.name}"] += 1
        if event.name == "outcome_unsaved":
            self.unsaved = True
        fields: Mapping[str, object] = event.fields
        if world.tracing:
            world.tell(self.me.job_id, f"logs {event.name} {dict(fields)}")
        if event.name == "lease_lost":
            self.scene.checker.promptness.lost(self)
        self.scene.checker.emitted(self, event.name, repr(fields))

    def draw_habits(self) -> Habits:
        """How COMMAND behaves this time."""
        rng, scene = self.scene.world.rng, self.scene
        works = rng.choice(_LONG if scene.long else _SHORT) + rng.expovariate(1.0)
        if self.probe:
            return draw_habits(rng, 0.1, 0.0, 0.0)
        return draw_habits(rng, works, scene.failing, scene.deaf)

    # ------------------------------------------------------------ what it has

    @property
    def leased(self) -> bool:
        """Whether it runs under a lock."""
        return self.plan.lock is not None

    @property
    def warns(self) -> bool:
        """Whether COMMAND runs on when the lock is lost."""
        return self.plan.lock is not None and self.plan.lock.on_lease_loss == "warn"

    @property
    def slots(self) -> int:
        return 1 if self.plan.lock is None else self.plan.lock.slots

    @property
    def ttl_of_lock(self) -> float:
        return 0.0 if self.plan.lock is None else self.plan.lock.ttl

    @property
    def ttl(self) -> float:
        """s; the longer of its two"""
        return max(self.plan.key.claim_ttl, self.ttl_of_lock)

    def holds_lock(self) -> bool:
        """Whether its COMMAND counts as a holder."""
        return not self.voided and not (self.warns and self.lapses_at() < self.scene.world.now)

    def lapses_at(self) -> float:
        """The true moment when its lease is over."""
        assert self.scene.lease_server is not None
        return self.scene.lease_server.when(self.lease_until)

    def claim_lapses_at(self) -> float:
        """The true moment when its claim is over."""
        return self.scene.ledger_server.when(self.claim_until)

    def note_claim(self) -> None:
        """See until when the ledger says that its claim is good."""
        key = self.me.key
        held = None if key is None else self.scene.ledger_model.keys.get(key)
        if held is not None and held.token == self.me.token and held.claim_until is not None:
            self.claim_until = max(self.claim_until, held.claim_until)

    def spooled(self) -> bool:
        """Whether its outcome waits on its host's disk."""
        return any(self.me.job_id in path for path in self.host.spool)

    def over(self) -> bool:
        """Whether nothing of guardrun is left of it."""
        return all(program.dead for program in self.programs)
