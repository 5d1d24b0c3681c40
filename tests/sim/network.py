"""Servers, and a network that delays, loses, doubles and cuts what is said to them.

Whatever was asked may be done at any later time, also when whoever asked is long dead: that is all
that a lost answer tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from guardrun.errors import StoreUnavailable

from .machine import File, Host
from .world import World

SECRET = "s3cret-p4ssword"
"""in the URL of every store; must be seen nowhere"""


_PAUSE, _LONGEST_PAUSE = 0.3, 3.0
"""s until something is sent again"""


@dataclass(frozen=True)
class Weather:
    """How bad the network is: probabilities for each request, times in seconds."""

    slowest: float = 0.002
    lost: float = 0.0
    """the request never arrives"""
    unheard: float = 0.0
    """it is done, and the answer is lost"""
    doubled: float = 0.0
    late: float = 0.0
    """it arrives up to ``latest`` later"""
    latest: float = 30.0
    sluggish: float = 0.0
    """answers that take from ``least`` to ``crawl``"""
    least: float = 0.0
    crawl: float = 1.0
    stuck: float = 0.0
    """the driver hangs (in a resolver), whatever it was told"""
    broken: float = 0.0
    """the driver raises what nobody expects"""


CALM = Weather()


class Answer(File):
    """What a client waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.done = False
        self.value: Any = None
        self.error: Exception | None = None

    def events(self, process: Any) -> int:  # noqa: ARG002
        return int(self.done)

    def give(self, world: World, value: Any, error: Exception | None) -> None:
        if not self.done:
            self.done, self.value, self.error = True, value, error
            self.notify(world)


class Server:
    """A store's machine: it answers, is frozen, or is down."""

    def __init__(self, world: World, name: str, rate: float, epoch: float) -> None:
        self.world = world
        self.name = name
        self.url = f"postgresql://guardrun:{SECRET}@{name}/guardrun"
        self.up = True
        self.frozen = False
        self._rate = rate
        self._epoch = epoch
        self._waiting: list[Callable[[], None]] = []
        self.on_crash: Callable[[], None] = lambda: None
        self.on_start: Callable[[], None] = lambda: None

    def clock(self) -> float:
        """Its own time, in seconds since 1970."""
        return self._epoch + self.world.now * self._rate

    def when(self, clock: float) -> float:
        """The true moment of a reading of its clock."""
        return (clock - self._epoch) / self._rate

    def receive(
        self, do: Callable[[float], Any], reply: Callable[[Any, Exception | None], None]
    ) -> None:
        """A request has arrived."""
        if not self.up:
            reply(None, StoreUnavailable(f"{self.name} refuses the connection"))
        elif self.frozen:
            self._waiting.append(lambda: self.receive(do, reply))
        else:
            try:
                value = do(self.clock())
            except Exception as error:
                reply(None, error)
            else:
                reply(value, None)

    def freeze(self) -> None:
        """Stop answering; connections stay."""
        self.frozen = True

    def thaw(self) -> None:
        """Answer what came meanwhile."""
        self.frozen = False
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            request()

    def crash(self) -> None:
        """Be down; what was not answered never will be."""
        self.up = False
        self._waiting.clear()
        self.on_crash()

    def start(self) -> None:
        """Be up again."""
        self.up = True
        self.on_start()


class Network:
    """What lies between hosts and servers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.weather = CALM
        self.cut: dict[tuple[str, str], str] = {}
        """(host, server) → ``dropped``: nobody answers, or ``refused``: at once"""

    def call(self, server: Server, what: str, do: Callable[[float], Any], due: float) -> Any:
        """Have a server do something, for the process that runs; StoreUnavailable after ``due``."""
        world = self.world
        program = world.current
        assert program is not None
        program.step()
        answer = Answer()
        drawn = world.rng.random()
        weather = self.weather
        if drawn < weather.stuck:
            self._count("driver stuck", program)
            program.wait(lambda: False, boot_due=program.host.boottime() + world.rng.uniform(5, 60))
        elif drawn < weather.stuck + weather.broken:
            self._count("driver broken", program)
            raise RuntimeError(f"unexpected words from {server.url}")
        self._send(program.host, server, what, do, answer)
        program.wait(lambda: answer.done, (answer,), boot_due=due)
        if not answer.done:
            raise StoreUnavailable(f"{server.name} does not answer")
        if answer.error is not None:
            raise answer.error
        return answer.value

    def push(self, server: Server, host: Host, tell: Callable[[], None]) -> None:
        """A server tells a client something: it may get lost."""
        cut = (host.name, server.name) in self.cut or not server.up
        if not cut and self.world.rng.random() >= self.weather.lost + self.weather.unheard:
            self.world.after(self._delay(), tell)

    def carry(
        self, server: Server, host: Host, arrive: Callable[[], None], pause: float = _PAUSE
    ) -> None:
        """Have something arrive over a connection that is there: what is lost TCP sends again."""
        cut = (host.name, server.name) in self.cut
        if cut or self.world.rng.random() < self.weather.lost:
            longer = min(2 * pause, _LONGEST_PAUSE)
            self.world.after(pause, self.carry, server, host, arrive, longer)
        else:
            self.world.after(self._delay(), arrive)

    def _send(
        self, host: Host, server: Server, what: str, do: Callable[[float], Any], answer: Answer
    ) -> None:
        world, weather, rng = self.world, self.weather, self.world.rng
        cut = self.cut.get((host.name, server.name))
        if world.tracing:
            world.tell(world.current, f"asks {server.name}: {what}{f' ({cut})' if cut else ''}")
        if cut == "refused":
            error = StoreUnavailable(f"{server.name} cannot be reached")
            world.after(self._delay(), answer.give, world, None, error)
        if cut is not None:
            return

        def reply(value: Any, error: Exception | None) -> None:
            if world.tracing:
                said = error if error is not None else value
                world.tell(server.name, f"to {host.name}, {what}: {said!r}")
            if (host.name, server.name) in self.cut or rng.random() < weather.unheard:
                self._count("answer lost", server.name)
                if rng.random() < 0.5:  # the connection breaks, and that is noticed
                    broken = StoreUnavailable(f"the connection to {server.name} broke")
                    world.after(self._delay(), answer.give, world, None, broken)
                return
            slow = rng.random() < weather.sluggish
            delay = rng.uniform(weather.least, weather.crawl) if slow else self._delay()
            world.after(delay, answer.give, world, value, error)

        if rng.random() < weather.lost:
            self._count("request lost", server.name)
            return
        delay = self._delay()
        if rng.random() < weather.late:
            self._count("request late", server.name)
            delay += rng.uniform(0, weather.latest)
        world.after(delay, server.receive, do, reply)
        if rng.random() < weather.doubled:
            self._count("request doubled", server.name)
            again = delay + rng.uniform(0, weather.latest)
            world.after(again, server.receive, do, lambda _value, _error: None)

    def _delay(self) -> float:
        return self.world.rng.random() * self.weather.slowest

    def _count(self, what: str, who: object) -> None:
        self.world.counts[what] += 1
        self.world.tell(who, what)
