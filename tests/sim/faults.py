"""What goes wrong: drawn from the seed, at some moment or at some system call of some process."""

from __future__ import annotations

from collections.abc import Callable
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import TYPE_CHECKING

from .command import CommandProcess
from .machine import Host, Program
from .network import CALM, Weather

if TYPE_CHECKING:
    from .scenario import Scene

_ROLES = ("supervisor", "keeper", "warden", "backstop")
_AFTER_RESUME = 2.0
"""s"""
_WEATHERS = (
    Weather(slowest=0.05),
    Weather(slowest=0.01, sluggish=0.5),
    Weather(sluggish=0.9, crawl=0.95, lost=0.1),
    Weather(slowest=0.3, lost=0.1, unheard=0.1),
    Weather(unheard=0.3, doubled=0.1, late=0.1),
    Weather(late=0.3, latest=60.0, doubled=0.2),
    Weather(lost=0.5, unheard=0.2, sluggish=0.3, crawl=4.0),
    Weather(stuck=0.03, late=0.05),
    Weather(broken=0.05),
)


class Faults:
    """The troubles of one schedule, all over at ``until``; ``starts`` is when runs start.

    Both are true time. Troubles come where something is going on.
    """

    def __init__(self, scene: Scene, starts: list[float], until: float) -> None:
        self._scene = scene
        self._world = world = scene.world
        self._until = until
        self._over = False
        self._traps: list[tuple[str, int, Callable[[Program], None]]] = []
        rng = world.rng
        processes = (
            *(self._kill, self._kill, self._stop, self._stop, self._tell_to_stop),
            *(self._kill_two, self._kill_group, self._kill_three, self._stop_command),
        )
        surroundings = (
            *(self._cut, self._cut, self._cut, self._worsen, self._worsen, self._fade),
            *(self._crash_store, self._freeze_store, self._freeze_store, self._fill_disk),
            *(self._crash_host, self._suspend_host, self._take_away, self._take_away),
        )
        kinds = {
            "processes": processes,
            "surroundings": surroundings,
            "all": (*processes, *surroundings),
            "fading": (self._fade,),
        }[scene.theme]
        for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
            moment = rng.choice(starts) + rng.expovariate(1 / rng.choice((2.0, 10.0))) - 0.5
            world.at(min(moment, until), self._guarded, rng.choice(kinds))
        traps = (self._trap_kill, self._trap_kill, self._trap_stop, self._trap_starve)
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            call = 1 + int(rng.expovariate(1 / rng.choice((20, 100))))
            self._traps.append((rng.choice(_ROLES), call, rng.choice(traps)))

    def end(self) -> None:
        """Undo what does not undo itself."""
        self._over = True
        self._traps.clear()
        for host in self._scene.hosts:
            for process in tuple(host.processes.values()):
                if isinstance(process, Program):
                    process.trapped = None
                if process.stopped:
                    process.signal(SIGCONT)

    def _trouble(self, longest: float, undo: Callable[[], None], afterwards: float = 0.0) -> None:
        """Something outside of guardrun is wrong for a while."""
        self._scene.trouble()
        seconds = longest * self._world.rng.random() ** 2
        self._world.at(min(self._world.now + seconds, self._until), self._relieve, undo, afterwards)

    def _relieve(self, undo: Callable[[], None], afterwards: float) -> None:
        undo()
        self._scene.relief(afterwards)

    def _guarded(self, fault: Callable[[], None]) -> None:
        if not self._over:
            fault()

    def _count(self, what: str, on: object) -> None:
        self._world.counts[f"fault: {what}"] += 1
        self._world.tell("FAULT", f"{what}: {on}")

    def _later(self, longest: float, do: Callable[[], None]) -> None:
        """Undo a fault; at the end ``end`` does it."""
        rng = self._world.rng
        seconds = longest * rng.random() ** 2
        self._world.after(seconds, self._guarded, do)

    # ------------------------------------------------------------ processes

    def _programs(self) -> list[Program]:
        return [
            process
            for host in self._scene.hosts
            for process in host.processes.values()
            if isinstance(process, Program) and not process.dead and not host.suspended
        ]

    def _victim(self) -> Program | None:
        programs = self._programs()
        role = self._world.rng.choice(_ROLES)
        wanted = [program for program in programs if program.role == role] or programs
        return self._world.rng.choice(wanted) if wanted else None

    def lay_trap(self, program: Program) -> None:
        """Have something happen to a process at a certain system call of its life."""
        for trap in self._traps:
            role, call, do = trap
            if role == program.role and self._world.rng.random() < 0.7:
                self._traps.remove(trap)
                program.trap, program.trapped = call, do
                return

    def _trap_kill(self, program: Program) -> None:
        self._count(f"{program.role} killed at a system call", program)
        program.signal(SIGKILL)

    def _trap_stop(self, program: Program) -> None:
        self._count(f"{program.role} stopped at a system call", program)
        self._halt(program)

    def _trap_starve(self, program: Program) -> None:
        """No descriptor and no process is left, for one call. The two that only watch need none."""
        if program.role in ("supervisor", "keeper"):
            self._count(f"{program.role} out of descriptors", program)
            program.starved = True

    def _halt(self, program: Program) -> None:
        program.signal(SIGSTOP)
        self._later(60.0, lambda: program.signal(SIGCONT))

    def _kill(self) -> None:
        if victim := self._victim():
            self._count(f"{victim.role} killed", victim)
            victim.signal(SIGKILL)

    def _stop(self) -> None:
        if victim := self._victim():
            self._count(f"{victim.role} stopped", victim)
            self._halt(victim)

    def _tell_to_stop(self) -> None:
        supervisors = [one for one in self._programs() if one.role == "supervisor"]
        if supervisors:
            victim = self._world.rng.choice(supervisors)
            self._count("told to stop", victim)
            victim.signal(SIGTERM)

    def _kill_two(self) -> None:
        """Two of one run's processes at the same moment."""
        if victim := self._victim():
            family = [one for one in victim.run.programs if not one.dead]
            self._world.rng.shuffle(family)
            self._count("two processes killed at once", family[:2])
            for one in family[:2]:
                one.signal(SIGKILL)

    def _kill_three(self) -> None:
        """All that could end COMMAND: then its lock and key are free when their time is over."""
        if victim := self._victim():
            family = [one for one in victim.run.programs if one.role != "keeper"]
            self._count("all but the keeper killed at once", family)
            for one in family:
                one.signal(SIGKILL)

    def _kill_group(self) -> None:
        """As ``kill -9 -PGID``: supervisor and backstop."""
        if victim := self._victim():
            family = [one for one in victim.run.programs if one.role in ("supervisor", "backstop")]
            self._count("process group killed", family)
            for one in family:
                one.signal(SIGKILL)

    def _stop_command(self) -> None:
        commands = [
            process
            for host in self._scene.hosts
            for process in host.processes.values()
            if isinstance(process, CommandProcess) and not process.dead
        ]
        if commands:
            victim = self._world.rng.choice(commands)
            self._count("COMMAND stopped", victim)
            victim.signal(SIGSTOP)
            self._later(20.0, lambda: victim.signal(SIGCONT))

    # ------------------------------------------------------------ hosts

    def _host(self) -> Host:
        return self._world.rng.choice(self._scene.hosts)

    def _crash_host(self) -> None:
        host = self._host()
        if not host.suspended:
            self._count("host crashed", host.name)
            host.crash()
            self._trouble(20.0, lambda: self._scene.add_late(host))

    def _suspend_host(self) -> None:
        host = self._host()
        if not host.suspended:
            self._count("host suspended", host.name)
            host.suspend()
            self._trouble(60.0, host.resume, _AFTER_RESUME)

    def _fill_disk(self) -> None:
        host = self._host()
        self._count("disk full", host.name)
        host.disk_full = True

        def free() -> None:
            host.disk_full = False

        self._trouble(60.0, free)

    # ------------------------------------------------------------ stores and network

    def _cut(self) -> None:
        """Between one host or all, and one store or all."""
        rng, scene = self._world.rng, self._scene
        hosts = scene.hosts if rng.random() < 0.3 else [self._host()]
        servers = scene.servers if rng.random() < 0.6 else [rng.choice(scene.servers)]
        how = rng.choice(("dropped", "dropped", "refused"))
        pairs = [(host.name, server.name) for host in hosts for server in servers]
        self._count(f"network cut, {how}", pairs)
        for pair in pairs:
            scene.network.cut[pair] = how

        def heal() -> None:
            for pair in pairs:
                scene.network.cut.pop(pair, None)

        self._trouble(60.0, heal)

    def _worsen(self) -> None:
        network = self._scene.network
        network.weather = weather = self._world.rng.choice(_WEATHERS)
        self._count("bad network", weather)

        def clear() -> None:
            network.weather = CALM

        self._trouble(60.0, clear, weather.latest if weather.late or weather.doubled else 0.0)

    def _fade(self) -> None:
        """Answers come late, and then none at all: what the last ones allowed is what counts."""
        rng, network = self._world.rng, self._scene.network
        crawl = rng.choice((0.95, 0.95, 2.9, 4.5))
        network.weather = weather = Weather(sluggish=1.0, least=0.7 * crawl, crawl=crawl)
        self._count("network fades", weather)
        pairs = [(host.name, one.name) for host in self._scene.hosts for one in self._scene.servers]

        healed = False

        def cut() -> None:
            if not healed:
                network.cut.update(dict.fromkeys(pairs, "dropped"))

        def heal() -> None:
            nonlocal healed
            healed, network.weather = True, CALM
            for pair in pairs:
                network.cut.pop(pair, None)

        self._world.after(rng.uniform(0.5, 12.0), self._guarded, cut)
        self._trouble(100.0, heal)

    def _freeze_store(self) -> None:
        server = self._world.rng.choice(self._scene.servers)
        self._count("store frozen", server.name)
        server.freeze()
        self._trouble(40.0, server.thaw)

    def _crash_store(self) -> None:
        """It comes again, a ledger with all it had said; a lease store may have forgotten."""
        scene = self._scene
        server = self._world.rng.choice(scene.servers)
        self._count("store crashed", server.name)
        server.crash()
        forgets = scene.leases is not None and scene.leases.forgets
        if server is not scene.ledger_server and forgets and self._world.rng.random() < 0.4:
            self._count("store forgot everything", server.name)
            scene.lease_model.forget()
            for job in scene.jobs:
                scene.checker.took_away(job.me.job_id)
        self._trouble(30.0, server.start)

    def _take_away(self) -> None:
        """``guardrun unlock --force``."""
        leases = self._scene.leases
        if leases is not None and leases.server.up and not leases.server.frozen:
            taken = leases.take_away("lock")
            if taken is not None:
                self._count("lock taken away", taken)
                self._scene.checker.took_away(taken)
