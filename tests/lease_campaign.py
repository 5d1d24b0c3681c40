"""Many runs under leases at once, each with its own lock, what is done to them, and when they died.

COMMAND and its grandchild hold the only writers of a pipe: the kernel's end of file on it is the
proof that both are dead, and it can only be seen too late. At that moment the store is asked, past
all that is broken, how long the lease would still have been good by the store's own clock. And a
rival stands in the lock's queue, and gets it as soon as the store grants it again.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import servers
from lease_fleet import environment_url
from lease_stores import STORES, due, lock_name, opener, request
from proxy import Proxy
from support import Host, alive, family, kill, log_lines, marker

from guardrun.errors import StoreUnavailable
from guardrun.model import Grant, LeaseRequest
from guardrun.postgres.schema import migrate

if TYPE_CHECKING:
    from guardrun.ports import LeaseStore

TTL = 10.0
"""s; the shortest lease that the contract allows"""
LOST = 74
"""as an exit code"""
_CALM = 2.5
"""s that a lease is good for after COMMAND's death: then nobody waits to see it granted again"""
_ASK_DOWN = 0.05
"""s until a store is asked again that does not answer"""
_LOOK = 0.1
"""s between two looks at who has ended"""
_LONGEST = 120.0
"""s that a round may take after its runs have started"""

COMMAND = """\
import os, select, signal, sys
place, mark = sys.argv[1:]
heard, hear = os.pipe()
os.set_blocking(hear, False)
signal.set_wakeup_fd(hear)
signal.signal(signal.SIGTERM, lambda *_: None)
life = os.open(place, os.O_WRONLY)
os.set_inheritable(life, True)
words = ["/bin/sh", "-c", 'trap "" TERM; exec setsid sleep "$0"', mark]
grandchild = os.posix_spawn(words[0], words, os.environ)
os.write(life, f"{os.environ['GUARDRUN_FENCING_TOKEN']}\\n".encode())
while 0 not in select.select([0, heard], [], [])[0]:
    os.read(heard, 64)
    os.write(life, b"TERM\\n")
os.kill(grandchild, signal.SIGKILL)
os.waitpid(grandchild, 0)
"""
"""Ends when its stdin does, and by nothing else; says its fence, and when it is told to stop."""


class Step(NamedTuple):
    """Something that is done to a run, or to its store."""

    after: float
    """s after COMMAND has started, or all COMMANDs of the store have, or the step before"""
    do: Callable[[], Iterable[Step] | None]
    """what follows from it is its value"""


class Fault(NamedTuple):
    """What is done to runs, and to the store that they use."""

    run: Callable[[Case], Iterable[Step]] = lambda _: ()
    """from the start of the run's COMMAND"""
    site: Callable[[Site, list[Case]], Iterable[Step]] = lambda _site, _cases: ()
    """from when all of the store's COMMANDs run"""
    before: Callable[[Case], None] = lambda _: None
    """before the run is started"""
    env: Callable[[Case], Mapping[str, str]] = lambda _: {}
    """of its guardrun"""


Server = servers.Redis | servers.Postgres | servers.Etcd | servers.Consul

_SIMPLE: dict[str, Callable[[], contextlib.AbstractContextManager[Server]]] = {
    "redis": servers.Redis.start,
    "etcd": servers.Etcd.start,
    "consul": servers.Consul.start,
}


@dataclass
class Site:
    """One store, its server, and our own way to it, past pooler and proxies."""

    kind: str
    url: str
    store: LeaseStore
    server: Server | None = None
    """a private one"""
    direct: str = ""
    """the same database, past a pooler"""
    frozen: bool = False
    forgot_at: float | None = None
    """when it could be reached again after it had lost all it knew"""

    @classmethod
    @contextlib.contextmanager
    def shared(cls, kind: str) -> Iterator[Site]:
        """In the session's server."""
        leases = STORES[kind].shared()
        direct = leases.url
        if kind == "postgres-pgbouncer":
            direct = servers.in_database(servers.postgres_url(), leases.url.rpartition("/")[2])
        with contextlib.closing(leases), contextlib.closing(_view(kind, direct)) as store:
            yield cls(kind, leases.url, store, direct=direct)

    @classmethod
    @contextlib.contextmanager
    def private(cls, kind: str) -> Iterator[Site]:
        """In a server of its own."""
        with contextlib.ExitStack() as stack:
            server: Server
            if kind in _SIMPLE:
                server = stack.enter_context(_SIMPLE[kind]())
                url = direct = server.url
            else:
                server = stack.enter_context(servers.Postgres.start(max_connections=100))
                url = direct = server.database()
                migrate(direct, due(60))
            if isinstance(server, servers.Postgres) and kind == "postgres-pgbouncer":
                bouncer = stack.enter_context(servers.PgBouncer.start(server.url))
                url = bouncer.url_for(direct)
            stack.callback(server.resume)
            store = stack.enter_context(contextlib.closing(_view(kind, direct)))
            yield cls(kind, url, store, server, direct)

    @property
    def own(self) -> Server:
        """The server that only we use."""
        assert self.server is not None
        return self.server

    @property
    def lapses(self) -> bool:
        """A lease has a ttl; else it is gone with its connection."""
        return self.kind != "advisory"

    @property
    def grain(self) -> float:
        """s that a lease lasts at most longer than the store tells: some round down."""
        return 1.0 if self.kind in ("etcd", "consul") else 0.0

    def good_until(self, case: Case) -> float | None:
        """When a run's lease ends, by the store's own clock; ``None``: it has ended, or never."""
        if not self.lapses:
            return None
        try:
            places = self.store.holders(case.lock, due())
        except StoreUnavailable:
            return None
        read_at = time.time()
        held = [place for place in places if place.fence == case.fence and not place.released]
        return read_at + held[0].expires_in + self.grain if held else None

    def freeze(self, cases: Collection[Case]) -> None:
        """Stop the server, at a moment when it is known until when these runs' leases are good."""
        for case in cases:
            case.proxy.blackhole()
        for _ in range(2):  # what it was doing when we began is done by the second time
            for case in cases:
                case.good_until = self.good_until(case)
        self.own.pause()
        self.frozen = True
        for case in cases:
            case.proxy.resume()

    def forget(self) -> None:
        """Write down that it has lost all it knew."""
        self.forgot_at = time.time()

    def thaw(self) -> None:
        """Let it go on."""
        self.own.resume()
        self.frozen = False


def _view(kind: str, url: str) -> LeaseStore:
    return opener("postgres" if kind == "postgres-pgbouncer" else kind, url)


@dataclass
class Case:
    """One run, and what became of it. All moments are seconds since 1970."""

    site: Site
    serial: int
    """of the runs in one store, from 0"""
    host: Host
    proxy: Proxy
    rng: random.Random
    lock: str = field(default_factory=lock_name)
    mark: str = field(default_factory=marker)
    struck_at: float | None = None
    """when what was done to it began"""
    told_at: float | None = None
    """when COMMAND was told to stop"""
    dead_at: float | None = None
    """when nothing of COMMAND was alive any more, or soon after"""
    good_until: float | None = None
    """when its lease would have ended by the store's clock, as the store knew it at that moment"""
    granted: Grant | None = None
    """what the rival got"""
    overlapped: bool = False
    """something of COMMAND was alive when the rival had been granted the lock"""
    fence: int = 0
    code: int | None = None
    _pipe: int = -1
    _process: subprocess.Popen[bytes] | None = None
    _victims: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rival: LeaseRequest = request(self.lock)
        self.ask_at = float("inf")

    # ------------------------------------------------------------ what is done to it

    def start(self, env: Mapping[str, str]) -> None:
        """Start it; ``env`` is its guardrun's."""
        life = self.host.root / "life"
        os.mkfifo(life)
        self._pipe = os.open(life, os.O_RDONLY | os.O_NONBLOCK)
        url = environment_url(self.site.kind, self.proxy.url_for(self.site.url))
        with self.log.open("wb") as log:
            self._process = self.host.start(
                *("--scope", "distributed", "--ttl", f"{TTL}s", "--lock", self.lock),
                *("--kill-after", "1h", "--ledger-url", "none:", "--log-level", "debug"),
                *("--", sys.executable, "-ISc", COMMAND, str(life), self.mark),
                env={"GUARDRUN_LEASE_URL": url, **env},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )

    def struck(self) -> None:
        """Write down that it begins."""
        self.struck_at = self.struck_at or time.time()

    def blackhole(self) -> None:
        """Cut it off from the store."""
        self.struck()
        self.proxy.blackhole()

    def stop(self, *members: str) -> None:
        """Freeze some of its processes."""
        self.struck()
        self.signal(signal.SIGSTOP, *members)

    def resume(self) -> None:
        """Let all that was frozen go on."""
        for victim in self._victims:
            signal.pidfd_send_signal(victim, signal.SIGCONT)

    def kill(self, *members: str) -> None:
        """Kill some of its processes, in this order."""
        self.struck()
        self.signal(signal.SIGKILL, *members)

    def signal(self, signum: int, *members: str) -> None:
        """Send a signal to some of its processes."""
        if self.process.poll() is not None:  # what was done to it before was enough
            return
        pids = family(self.process.pid)
        for member in members:
            self._victims.append(os.pidfd_open(pids[member]))
            signal.pidfd_send_signal(self._victims[-1], signum)

    def finish(self) -> None:
        """Let COMMAND come to its end."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        """Leave nothing of it."""
        for victim in self._victims:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(victim, signal.SIGKILL)
            os.close(victim)
        self._victims.clear()
        self.host.close()
        for pid in alive(self.mark):
            kill(pid)
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    # ------------------------------------------------------------ what becomes of it

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Its guardrun."""
        assert self._process is not None
        return self._process

    @property
    def log(self) -> Path:
        """What its guardrun says."""
        return self.host.root / "log"

    @property
    def events(self) -> list[str]:
        """What its log lines are about."""
        return [line["event"] for line in self.lines]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its log lines."""
        return log_lines(self.log.read_bytes())

    @property
    def pipe(self) -> int:
        """Readable when COMMAND has said something, or is dead; -1 when that is known."""
        return self._pipe

    def read(self) -> None:
        """Read what COMMAND says; ask the store about the lease of one that is dead."""
        data = os.read(self._pipe, 4096)
        now = time.time()
        for line in data.split():
            if line == b"TERM":
                self.told_at = self.told_at or now
            else:
                self.fence, self.ask_at = int(line), 0.0
        if not data:
            self._close_pipe()
            self.dead_at = now
            if not self.site.frozen:
                self.good_until = self.site.good_until(self)

    def ask(self) -> None:
        """Have the rival ask for the lock."""
        store = self.site.store
        try:
            said = store.acquire(self.rival, True, due(2))
            if isinstance(said, Grant):
                self.granted, self.ask_at = said, float("inf")
                if self.site.grain:
                    self.granted = said._replace(since=time.time())
                if self.pipe >= 0 and select.select([self.pipe], [], [], 0)[0]:
                    self.read()
                self.overlapped = self.dead_at is None
                store.release(self.rival, due(2))
            else:
                self.ask_at = time.monotonic() + said.ask_again
        except StoreUnavailable:
            self.ask_at = time.monotonic() + _ASK_DOWN

    def bury(self) -> None:
        """Take note of the end of its guardrun, if it has ended."""
        if self.code is None and self.process.poll() is not None:
            assert self.fence, self.log.read_text()
            self.code = self.process.returncode
            if self.code == LOST:  # or the server would never hear of the end of a session
                self.proxy.cut()
                self.proxy.resume()

    @property
    def granted_at(self) -> float | None:
        """When the rival got the lock, by the store's clock."""
        return None if self.granted is None else self.granted.since

    @property
    def margin(self) -> float | None:
        """s from COMMAND's death to the moment when its lease could be granted again."""
        if self.dead_at is None:
            return None
        if self.good_until is not None:
            return self.good_until - self.dead_at
        return None if self.granted_at is None else self.granted_at - self.dead_at

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to see."""
        if self.code is None or self.dead_at is None:
            return False
        if self.granted is not None:
            return True
        # What is lost is not given back, but left to lapse.
        return self.code == LOST and self.margin is not None and self.margin > _CALM


# ---------------------------------------------------------------- many of them at once


@contextlib.contextmanager
def cases(
    sites: Iterable[Site], number: int, root: Path, rng: random.Random
) -> Iterator[list[Case]]:
    """So many runs for each of the stores, each on a host of its own, behind a proxy of its own."""
    with contextlib.ExitStack() as stack:
        found = []
        for site in sites:
            for serial in range(number):
                place = root / f"{site.kind}-{serial}"
                place.mkdir(parents=True)
                proxy = stack.enter_context(Proxy.before(site.url))
                own = random.Random(rng.random())
                found.append(Case(site, serial, Host(place), proxy, own))
                stack.callback(found[-1].close)
        yield found


def play(fault: Fault, sites: list[Site], played: list[Case]) -> None:
    """Run all of them, do to them what the fault says, and wait until everything has come of it."""
    for case in played:
        fault.before(case)
        case.start(fault.env(case))
    steps: list[tuple[float, int, Step]] = []
    serial = itertools.count()

    def plan(more: Iterable[Step] | None) -> None:
        for step in more or ():
            heapq.heappush(steps, (time.monotonic() + step.after, next(serial), step))

    started: set[int] = set()
    waiting = {id(site): site for site in sites}
    until = time.monotonic() + _LONGEST
    while not all(case.is_over for case in played):
        assert time.monotonic() < until, [case for case in played if not case.is_over]
        _wait(played, sites, steps[0][0] if steps else until)
        for case in played:
            if case.fence and id(case) not in started:
                started.add(id(case))
                plan(fault.run(case))
            case.bury()
            _hear(played)
        for site in list(waiting.values()):
            own = [case for case in played if case.site is site]
            if all(case.fence for case in own):
                del waiting[id(site)]
                plan(fault.site(site, own))
        while steps and steps[0][0] <= time.monotonic():
            plan(heapq.heappop(steps)[2].do())
        now = time.monotonic()
        for case in played:
            if case.ask_at <= now and not case.site.frozen:
                case.ask()
                _hear(played)  # or the deaths meanwhile would seem to be later than they were


def _wait(played: list[Case], sites: list[Site], until: float) -> None:
    """Wait until something happens; who has died is known before any rival asks."""
    bells: dict[int, Site] = {}
    for site in sites:
        fd = None if site.frozen else site.store.wake_fd()
        if fd is not None:
            bells[fd] = site
    asks = [case.ask_at for case in played if not case.site.frozen]
    left = min([until, *asks]) - time.monotonic()
    for fd in _hear(played, min(max(left, 0.0), _LOOK), bells):
        bells[fd].store.drain()
        for case in played:
            if case.site is bells[fd] and case.fence and case.granted is None:
                case.ask_at = 0.0


def _hear(played: list[Case], seconds: float = 0, others: Iterable[int] = ()) -> list[int]:
    """Read what COMMANDs have to say, as soon as there is something; which others are readable."""
    poll = select.poll()
    pipes = {case.pipe: case for case in played if case.pipe >= 0}
    for fd in (*pipes, *others):
        poll.register(fd, select.POLLIN)
    ready = [fd for fd, _ in poll.poll(1000 * seconds)]
    for fd in ready:
        if fd in pipes:
            pipes[fd].read()
    return [fd for fd in ready if fd not in pipes]
