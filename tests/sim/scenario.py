"""From a seed to a scene: hosts, stores, runs, and what goes wrong."""

from __future__ import annotations

from typing import Any

from guardrun.model import (
    FOREVER,
    Budget,
    ExecSpec,
    KeySpec,
    LedgerSpec,
    LockSpec,
    Plan,
    ReportSpec,
    RetrySpec,
    Run,
)

from .checks import Checker
from .consul_store import ConsulService
from .drivers import LeaseService, LedgerService
from .etcd_store import EtcdService
from .faults import Faults
from .http_service import HttpService
from .job import Job
from .lease_model import LeaseModel
from .ledger_model import LedgerModel
from .machine import Host, Program
from .network import CALM, Network, Server
from .world import World

_PROTOCOLS: dict[int, tuple[str, type[EtcdService | ConsulService]]] = {
    1: ("etcd", EtcdService),
    2: ("Consul", ConsulService),
}
"""by a seed's remainder"""
_EPOCH = 1.8e9
_RATE = 0.004
"""How far a clock may be from true time: two of them within the hundredth of ``core/lease.py``."""
_TROUBLE = 60.0
"""s of faults"""
_QUIET = 900.0
"""s after them by which everything must have ended, whatever waits for whom"""


class Scene:
    """All that takes part in one schedule."""

    def __init__(self, world: World) -> None:
        self.world = world
        rng = world.rng
        self.checker = Checker(world)
        self.checker.scene = self
        world.hooks = self.checker
        world.on_start = self._started
        world.lag = rng.choice((0.0, 0.0, 0.01, 0.05))
        self.network = Network(world)
        self.hosts = [
            Host(world, f"host{number}", self._rate(), rng.uniform(0, 1e6), self._wall())
            for number in range(rng.choice((1, 2, 2, 3)))
        ]
        world.hosts = self.hosts
        self.jobs: list[Job] = []
        self.troubles = 0
        """of network, stores and hosts, that have begun and not ended"""
        self.quiet_since = float("-inf")
        """since when there have been none, and nothing said before is on its way any more"""
        kind = rng.choice(("lease", "key", "both", "both", "together", "together"))
        self.together = kind == "together"
        self.ttl = rng.choice((10.0, 10.0, 15.0, 30.0, 60.0))
        self.claim_ttl = rng.choice((10.0, 10.0, 20.0, 60.0))
        self.slots = rng.choice((1, 1, 1, 2, 3))
        self._locks = kind != "key"
        self._draw_stores(kind)
        self._draw_jobs()
        self.faults = Faults(self, self._starts, _TROUBLE)
        world.at(_TROUBLE, self._calm_down)

    def trouble(self) -> None:
        """A trouble begins."""
        self.troubles += 1

    def relief(self, afterwards: float = 0.0) -> None:
        """It is over; what was on its way then may take so long."""
        self.troubles -= 1
        self.quiet_since = max(self.quiet_since, self.world.now + afterwards)

    def _rate(self) -> float:
        return 1.0 + self.world.rng.uniform(-_RATE, _RATE)

    def _wall(self) -> float:
        return _EPOCH + self.world.rng.uniform(-1e5, 1e5)

    def _draw_stores(self, kind: str) -> None:
        world = self.world
        self.ledger_server = Server(world, "ledger", self._rate(), self._wall())
        self.lease_server = self.ledger_server
        if kind in ("lease", "both"):
            self.lease_server = Server(world, "leases", self._rate(), self._wall())
        self.servers = list(dict.fromkeys((self.ledger_server, self.lease_server)))
        self.lease_model = LeaseModel(alive=world.rng.choice((9.0, 15.0)))
        self.leases = None if kind == "key" else self._draw_leases()
        self.ledger_model = LedgerModel(self.claim_ttl, self.lease_model)
        self.ledger = (
            None
            if kind == "lease"
            else LedgerService(self.ledger_server, self.ledger_model, self.leases, self.checker)
        )

    def _draw_leases(self) -> LeaseService | HttpService[Any, Any]:
        """Of leases in a store of their own, two seeds of three have a real protocol."""
        world, network = self.world, self.network
        service = _PROTOCOLS.get(world.seed % 3)
        if self.lease_server is self.ledger_server or service is None:
            return LeaseService(self.lease_server, self.lease_model, network, self.checker)
        name, made = service
        world.counts[f"leases in {name}"] += 1
        return made(self.lease_server, network, self.checker)

    # ------------------------------------------------------------ runs

    def _draw_jobs(self) -> None:
        rng = self.world.rng
        self._keyed = self.ledger is not None and (self.leases is None or rng.random() < 0.6)
        self.theme = rng.choice(("processes", "surroundings", "all", "all", "fading", "fading"))
        self.failing = rng.choice((0.0, 0.1, 0.5))
        """how likely COMMAND fails"""
        fading = self.theme == "fading"
        self.deaf = rng.choice((0.1, 0.1, 0.7) if not fading else (0.2, 0.8))
        """how likely it ignores what asks it to stop"""
        self.long = rng.random() < (0.8 if fading else 0.4)
        """whether it works for long"""
        self._keys = rng.choice((("key",), ("key",), ("key", "other"), ("a", "b", "c", "d")))
        spread = rng.choice((0.0, 5.0, 30.0))
        self._starts = [rng.uniform(0, spread) for _ in range(rng.choice((1, 2, 3, 3, 4, 5)))]
        for start in self._starts:
            job = self._add(rng.choice(self.hosts), self._draw_plan())
            self.world.at(start, job.start)

    def _draw_plan(self) -> Plan:
        rng = self.world.rng
        retries = rng.choice((0, 0, 1, 3))
        budget = Budget(2, 30.0) if retries and self.ledger is not None else None
        return self._plan(
            wait=rng.choice((0.0, 5.0, 60.0, FOREVER)),
            execution=ExecSpec(
                ("work",),
                RetrySpec(retries, 0.1, 5.0, budget=budget if rng.random() < 0.3 else None),
                timeout=rng.choice((FOREVER, FOREVER, 2.0, 10.0)),
                deadline=rng.choice((FOREVER, FOREVER, FOREVER, 40.0)),
                kill_after=rng.choice((0.1, 1.0, 10.0)),
            ),
            on_interrupted=rng.choice(("rerun", "rerun", "stop")),
            min_hold=rng.choice((0.0, 0.0, 0.0, 8.0)),
            on_lease_loss=rng.choice(("stop", "stop", "stop", "warn")),
            on_duplicate=rng.choice(("skip", "fail", "replay")),
        )

    def _plan(
        self,
        wait: float,
        execution: ExecSpec,
        on_interrupted: str = "rerun",
        min_hold: float = 0.0,
        on_lease_loss: str = "stop",
        on_duplicate: str = "skip",
    ) -> Plan:
        keyed = self._keyed
        lock = LockSpec(
            "lock",
            None,
            "",
            scope="distributed",
            slots=self.slots,
            min_hold=min_hold,
            lease_url=self.lease_server.url,
            ttl=self.ttl,
            on_lease_loss=on_lease_loss,
        )
        wanted = keyed or execution.retry.budget is not None
        return Plan(
            "job",
            execution,
            lock if self._locks else None,
            KeySpec(
                self.world.rng.choice(self._keys) if keyed else None,
                on_duplicate=on_duplicate,
                on_interrupted=on_interrupted,
                claim_ttl=self.claim_ttl,
            ),
            LedgerSpec(
                "none:" if self.ledger is None else self.ledger_server.url,
                "",
                on_down="stop" if wanted else "run",
            ),
            ReportSpec(to="none"),
            wait,
        )

    def _add(self, host: Host, plan: Plan, probe: bool = False) -> Job:
        number = len(self.jobs) + 1
        me = Run(
            job_id=f"{'probe' if probe else 'run'}{number}",
            job="job",
            owner="",
            host=host.name,
            user="root",
            pid=0,
            argv=plan.exec.argv,
            fingerprint="f" * 64,
            started_at=0.0,
            lock=None if plan.lock is None else plan.lock.name,
            key=plan.key.key,
            token=None if plan.key.key is None else f"{number:032x}",
        )
        job = Job(self, host, plan, me, probe)
        self.jobs.append(job)
        self.checker.jobs[me.job_id] = job
        return job

    def add_late(self, host: Host) -> None:
        """A host that crashed is up again, and starts the next run."""
        self._add(host, self._draw_plan()).start()

    def _started(self, program: Program) -> None:
        job: Job = program.run
        if program.role == "keeper" and "keeper" in job.roles:
            self.world.counts["keeper replaced"] += 1
        job.roles[program.role] = program
        job.programs.append(program)
        self.world.tell(program, f"starts, for {job}")
        self.faults.lay_trap(program)

    # ------------------------------------------------------------ the end

    def _calm_down(self) -> None:
        """Faults are over: everything works from now on, and one run on each host shows it."""
        self.world.tell("the world", "works again")
        self.faults.end()
        self.network.weather = CALM
        for host in self.hosts:
            execution = ExecSpec(("probe",), RetrySpec(0), kill_after=1.0)
            job = self._add(host, self._plan(FOREVER, execution), probe=True)
            self.world.after(self.world.rng.uniform(0.5, 3.0), job.start)

    def play(self) -> None:
        """Let it all happen, and look at what is left."""
        self.world.run(_TROUBLE + _QUIET, self._is_over)
        if not self.world.violations:
            self.checker.finish()

    def _is_over(self) -> bool:
        return self.world.now > _TROUBLE + 3.0 and all(
            job.started and job.over() and not job.alive for job in self.jobs
        )
