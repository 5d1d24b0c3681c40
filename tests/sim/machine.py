"""Simulated hosts, and processes that the scheduler (``world.py``) may stop or kill anywhere.

A process of guardrun is a greenlet that runs the real code. Only one runs at a time, until it
makes a system call (``syscalls.py``): there, and nowhere else, time passes, and whatever the seed
says happens to it. Time is ``World.now``, in seconds, true and known to nobody; each host has a
clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from signal import SIGCHLD, SIGCONT, SIGKILL, SIGSTOP
from typing import TYPE_CHECKING, Any, Protocol

from greenlet import GreenletExit, greenlet

if TYPE_CHECKING:
    from .world import World

_MOST_CALLS = 100_000
"""system calls of one process; one that works makes a few thousand"""
TICK = 2e-6
"""s that a system call takes"""
_LATE = 1e-6
"""s that a timer fires after its moment, never before"""


class File:
    """An open file description; closed when no process has a descriptor of it."""

    def __init__(self) -> None:
        self.references = 0
        self.waiters: dict[Process, None] = {}
        self.pollers: dict[File, None] = {}
        """epolls in which it is"""

    def events(self, process: Process) -> int:
        """What poll(2) would say of it to this process."""
        raise NotImplementedError

    def closed(self) -> None:
        """Its last descriptor is closed."""

    def notify(self, world: World) -> None:
        """It may have become ready."""
        for process in tuple(self.waiters):
            world.wake(process)
        for poller in tuple(self.pollers):
            poller.notify(world)


class Hooks(Protocol):
    """Who watches what processes do."""

    def died(self, process: Process) -> None: ...

    def changed(self, process: Process) -> None:
        """It was stopped, continued or killed."""


class Host:
    """A machine with a clock that runs a little too fast or too slow, and shows any date."""

    def __init__(self, world: World, name: str, rate: float, boot: float, wall: float) -> None:
        self.world = world
        self.name = name
        self.rate = rate
        self._boot = boot
        self._wall = wall
        self.suspended = False
        self.resumed_at = float("-inf")
        self._slept = 0.0
        self._asleep_since = 0.0
        self.processes: dict[int, Process] = {}
        self.spool: dict[str, Any] = {}
        """path → outcome: what is on its disk"""
        self.disk_full = False

    def boottime(self) -> float:
        """CLOCK_BOOTTIME: goes on during suspend."""
        return self._boot + self.world.now * self.rate

    def wall(self) -> float:
        """CLOCK_REALTIME."""
        return self._wall + self.world.now * self.rate

    def awake(self) -> float:
        """CLOCK_MONOTONIC, near enough: stands still during suspend."""
        asleep = self.world.now - self._asleep_since if self.suspended else 0.0
        return self.world.now - self._slept - asleep

    def when(self, boottime: float) -> float:
        """The true moment of a reading of CLOCK_BOOTTIME."""
        return (boottime - self._boot) / self.rate + _LATE

    def suspend(self) -> None:
        """Stop everything but the clock."""
        self.suspended, self._asleep_since = True, self.world.now

    def resume(self) -> None:
        """Go on."""
        self.suspended = False
        self._slept += self.world.now - self._asleep_since
        self.resumed_at = self.world.now
        for process in tuple(self.processes.values()):
            process.go_on()

    def crash(self) -> None:
        """Lose all processes at once; nobody on this host is told, there is nobody."""
        processes = tuple(self.processes.values())
        for process in processes:
            process.dead, process.parent = True, None
        for process in processes:
            process.close_all()
            process.ended()
        self.processes.clear()


class Process:
    """What every process has; what it does is in its subclasses."""

    role = "?"

    def __init__(self, host: Host, parent: Process | None, run: Any) -> None:
        world = host.world
        self.world = world
        self.host = host
        self.parent = parent
        self.run = run
        """of which run it is part"""
        self.pid = world.new_pid()
        self.group: int = self.pid if parent is None else parent.group
        self.subreaper = False
        self.children: dict[int, Process] = {}
        self.fds: dict[int, File] = {} if parent is None else dict(parent.fds)
        for file in self.fds.values():
            file.references += 1
        self.watchers: list[File] = []
        """pidfds of it"""
        self.stopped = False
        self.stop_seen = True
        """whether its parent has been told of its stop"""
        self.dead = False
        self.status = 0
        """as of wait(2), once it is dead"""
        self.pending: set[int] = set()
        host.processes[self.pid] = self
        if parent is not None:
            parent.children[self.pid] = self

    def __repr__(self) -> str:
        return f"{self.host.name}/{self.role}[{self.pid}]"

    # ------------------------------------------------------------ descriptors

    def open(self, file: File) -> int:
        """Give it a descriptor; numbers are not used again, so that a stale one is found out."""
        fd = self.world.new_fd()
        self.fds[fd] = file
        file.references += 1
        return fd

    def close(self, fd: int) -> None:
        """Let go of a descriptor; ``KeyError`` when it has none of that number."""
        file = self.fds.pop(fd)
        file.references -= 1
        if file.references == 0:
            file.closed()

    def close_all(self, but: Collection[int] = ()) -> None:
        """Let go of all others."""
        for fd in [fd for fd in self.fds if fd not in but]:
            self.close(fd)

    # ------------------------------------------------------------ signals, death

    def signal(self, signum: int) -> None:
        """Send it a signal."""
        if self.dead:
            return
        if signum == SIGKILL:
            self.die(SIGKILL)
        elif signum == SIGSTOP:
            if not self.stopped:
                self.stopped, self.stop_seen = True, False
                self.world.hooks.changed(self)
                self._tell_parent()
        elif signum == SIGCONT:
            self.take(SIGCONT)
            if self.stopped:
                self.stopped = False
                self.world.hooks.changed(self)
                self.go_on()
        else:
            self.take(signum)

    def take(self, signum: int) -> None:
        """A signal that can be blocked has come."""
        raise NotImplementedError

    def go_on(self) -> None:
        """It was stopped or its host asleep, and is not any more."""

    def die(self, status: int) -> None:
        """End: children go to the nearest subreaper, the parent is told."""
        if self.dead:
            return
        self.dead, self.status = True, int(status)
        self.close_all()
        heir = self.parent
        while heir is not None and not heir.subreaper:
            heir = heir.parent
        for child in tuple(self.children.values()):
            child.parent = heir
            if heir is not None:
                heir.children[child.pid] = child
                if child.dead:
                    heir.signal(SIGCHLD)
            elif child.dead:
                child.reaped()
        self.children.clear()
        self.ended()
        if self.parent is None:
            self.reaped()
        else:
            self._tell_parent()
        for watcher in self.watchers:
            watcher.notify(self.world)
        self.world.hooks.changed(self)

    def ended(self) -> None:
        """It is dead, however that came."""
        self.world.hooks.died(self)

    def reaped(self) -> None:
        """Its status has been read: nothing of it is left."""
        self.host.processes.pop(self.pid, None)
        if self.parent is not None:
            self.parent.children.pop(self.pid, None)

    def _tell_parent(self) -> None:
        if self.parent is not None:
            self.parent.signal(SIGCHLD)


class Program(Process):
    """A process of guardrun: a greenlet over the real code."""

    def __init__(
        self, host: Host, parent: Process | None, run: Any, role: str, main: Callable[[], object]
    ) -> None:
        super().__init__(host, parent, run)
        self.role = role
        self.blocked: Collection[int] = parent.blocked if isinstance(parent, Program) else ()
        self.ignored: Collection[int] = ()
        self.sleeping = True
        self.scheduled = False
        self.missed = False
        """a wake-up while it was stopped"""
        self.calls = 0
        self.trap = 0
        """at which system call something happens to it"""
        self.trapped: Callable[[Program], None] | None = None
        self.starved = False
        """its next call for a descriptor or a process fails"""
        self.next_lag = self.world.draw_lag()
        self._burns = 0
        self._main = main
        self.greenlet = greenlet(self._live, parent=self.world.hub)
        self.world.started(self)

    def _live(self) -> None:
        status = 1 << 8
        try:
            self._main()
            status = 0
        except BaseException as error:
            if self.world.closed:
                return
            self.world.fault(self, error)
        self.die(status)

    def take(self, signum: int) -> None:
        if signum in self.ignored:
            return
        if signum in self.blocked:
            self.pending.add(signum)
            self.world.wake(self)
        elif signum not in (SIGCHLD, SIGCONT):
            self.die(signum)

    def go_on(self) -> None:
        if self.missed:
            self.missed = False
            self.world.wake(self)

    def burn(self, due: float) -> None:
        """Be killed at a reading of CLOCK_BOOTTIME, unless another is set by then.

        On a host that is asleep as well: nobody there can tell that from being killed at its end.
        """
        self._burns += 1
        if due != float("inf"):
            self.world.at(self.host.when(due), self._burnt, self._burns)

    def _burnt(self, burn: int) -> None:
        if burn == self._burns and not self.dead:
            self.world.counts["killed before it was too late to start"] += 1
            self.signal(SIGKILL)

    def step(self) -> None:
        """A system call begins: the place where anything may happen to the process."""
        self.calls += 1
        self.world.now += TICK
        if self.calls == self.trap and self.trapped is not None:
            self.trapped(self)
        if self.calls > _MOST_CALLS:
            self.world.violate(f"L: {self!r} does not come to rest")
            self.die(SIGKILL)
        if self.calls >= self.next_lag:
            self.next_lag = self.calls + self.world.draw_lag()
            self.world.at(self.world.now + self.world.latency(), self.world.resume, self)
            self.pause()
        while self.stopped or self.dead or self.host.suspended:
            self.missed = True
            self.pause()

    def pause(self) -> None:
        """Let others run until somebody wakes us; who is dead is never woken."""
        self.sleeping = True
        self.world.hub.switch()
        if self.world.closed:
            raise GreenletExit
        self.sleeping = False

    def wait(
        self,
        check: Callable[[], Any],
        files: Iterable[File] = (),
        boot_due: float | None = None,
        awake_due: float | None = None,
    ) -> Any:
        """Sleep until ``check`` is true, and return what it says; ``None``: time is over."""
        world, host = self.world, self.host
        while True:
            found = check()
            if found:
                return found
            if boot_due is not None:
                if host.boottime() >= boot_due:
                    return None
                if boot_due != float("inf"):
                    world.at(host.when(boot_due), world.wake, self)
            if awake_due is not None:
                left = awake_due - host.awake()
                if left <= 0:
                    return None
                world.at(world.now + left + _LATE, world.wake, self)
            for file in files:
                file.waiters[self] = None
            self.pause()
            for file in files:
                file.waiters.pop(self, None)
