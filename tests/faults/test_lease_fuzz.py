"""Many processes on one lock, in every lease store: who is inside, in which order, after how long.

GUARDRUN_TEST_ROUNDS is how often each process takes the lock, GUARDRUN_TEST_SEED repeats the pauses
and the kills of a failure.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import statistics
import subprocess
import time
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, count, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from lease_fuzz import WORKER, Arena, Visit, visits
from lease_stores import STORES, Leases, await_ready, end_workers, lock_name, start_worker
from ledgers import release

from guardrun import kernel

ROUNDS = int(os.environ.get("GUARDRUN_TEST_ROUNDS", "12"))
SEED = int(os.environ.get("GUARDRUN_TEST_SEED") or random.SystemRandom().getrandbits(32))
_MANY = 100
"""rounds from which on there is time for a crowd, and something to print"""
_VISITS_A_KILL = 100
_TTL, SHORT_TTL = 30.0, 2.0
"""s; the short one where holders are killed"""
_PATIENCE = 15.0
"""s beyond a ttl that it may take the queue to find out that somebody in it is dead"""
_PROMPT = 0.5
"""s; stores ask those whom they wake to ask again after several times that long"""
_STUCK = 120.0
"""s without anybody coming in"""


@pytest.fixture(params=STORES)
def leases(request: pytest.FixtureRequest) -> Iterator[Leases]:
    """One kind of store after the other."""
    store: Leases = STORES[request.param].shared()
    yield store
    store.close()


@pytest.mark.parametrize("slots", [1, 3])
def test_crowd(
    leases: Leases, slots: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never more inside than there are places, fences grow, first come first served, all get in."""
    with _fleet(leases, Arena(tmp_path, lock_name(), slots, _TTL)) as fleet:
        fleet.live(kills=0)
        if ROUNDS >= _MANY:
            with capsys.disabled():
                print(table(fleet))
        assert not fleet.deaths, "somebody was held up for a ttl"
        check_inside(fleet)
        check_fences(fleet)
        check_order(fleet)
        check_patience(fleet)


@pytest.mark.parametrize(
    "leases", list(STORES) if ROUNDS >= _MANY else ["redis", "postgres"], indirect=True
)
@pytest.mark.parametrize("slots", [1, 3] if ROUNDS >= _MANY else [1])
def test_deaths(
    leases: Leases, slots: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills inside and in the queue change nothing of that, and hold up the others for a ttl."""
    with _fleet(leases, Arena(tmp_path, lock_name(), slots, SHORT_TTL)) as fleet:
        fleet.live(kills=max(fleet.expected // _VISITS_A_KILL, 2))
        if ROUNDS >= _MANY:
            with capsys.disabled():
                print(table(fleet))
        check_deaths(fleet)


# ---------------------------------------------------------------- the fleet


class Worker(NamedTuple):
    """One process, and how often it is to come in."""

    process: subprocess.Popen[str]
    times: int


@dataclass
class Fleet:
    """Workers that take one lock, and those that come for the ones that died."""

    leases: Leases
    arena: Arena
    crowd: int
    rounds: int
    seed: str = str(SEED)
    workers: dict[int, Worker] = field(default_factory=dict)
    """by the number that each has as ``Visit.who``"""
    deaths: Counter[str] = field(default_factory=Counter)
    doomed: int = 0
    """how many of the first workers die inside"""
    took: float = 0.0

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed}-fleet")

    @property
    def expected(self) -> int:
        """How often all of them together come in."""
        return self.crowd * self.rounds

    @functools.cached_property
    def visits(self) -> list[Visit]:
        """Who came in, in this order; to be asked for at the end."""
        return self._so_far()

    def live(self, kills: int) -> None:
        """Have all of them come in as often as they are to; half of the ``kills`` are inside."""
        self.doomed = kills // 2
        moments = sorted(self.rng.sample(range(1, self.expected), kills - self.doomed))
        names = count()
        for _ in range(self.crowd):
            self._start(next(names), self.rounds)
        await_ready(worker.process for worker in self.workers.values())
        release([worker.process for worker in self.workers.values()])
        begun = moved_at = kernel.now()
        came = 0
        with self.arena.journal.open("rb") as journal:
            while self.workers:
                lines = journal.read().count(b"\n")
                came, moved_at = came + lines, kernel.now() if lines else moved_at
                assert kernel.now() - moved_at < _STUCK, "nobody comes in any more"
                if moments and came >= 2 * moments[0]:
                    self.rng.choice(list(self.workers.values())).process.kill()
                    del moments[0]
                for who, worker in list(self.workers.items()):
                    if worker.process.poll() is not None:
                        self._bury(who, worker, next(names))
                time.sleep(0.005)
        self.took = kernel.now() - begun

    def _start(self, who: int, times: int) -> None:
        end = self.rng.randrange(times) if who < self.doomed else -1
        words = (*self.arena.words(), str(who), str(times), str(end), f"{self.seed}-{who}")
        self.workers[who] = Worker(start_worker(self.leases, WORKER, *words), times)

    def _bury(self, who: int, worker: Worker, heir: int) -> None:
        """Have somebody else come in as often as this one did not."""
        del self.workers[who]
        worker.process.communicate()
        if worker.process.returncode == 0:
            return
        assert worker.process.returncode < 0, "a worker failed: see what it wrote"
        own = [visit for visit in self._so_far() if visit.who == who]
        where = "inside" if own and own[-1].leaving is None else "outside"
        self.deaths[f"{signal.Signals(-worker.process.returncode).name} {where}"] += 1
        if worker.times > len(own):
            self._start(heir, worker.times - len(own))
            release([self.workers[heir].process])

    def _so_far(self) -> list[Visit]:
        return visits(self.arena.journal.read_text().splitlines())


@contextlib.contextmanager
def _fleet(leases: Leases, arena: Arena) -> Iterator[Fleet]:
    if ROUNDS >= _MANY:
        crowd, rounds = 20, ROUNDS
    else:  # without being woken, each comes in but a few times a second
        crowd, rounds = (8, ROUNDS) if leases.wakes else (4, max(ROUNDS // 3, 2))
    with at_work(Fleet(leases, arena, crowd, rounds)) as fleet:
        yield fleet


@contextlib.contextmanager
def at_work(fleet: Fleet) -> Iterator[Fleet]:
    """None of its workers is left when the block ends."""
    fleet.arena.journal.touch()
    try:
        yield fleet
    except BaseException as error:
        error.add_note(f"GUARDRUN_TEST_SEED={fleet.seed}, in {fleet.arena.root}")
        raise
    finally:
        end_workers(worker.process for worker in fleet.workers.values())


# ---------------------------------------------------------------- what it must have been like


def check_inside(fleet: Fleet) -> None:
    """Never more inside than places, as the kernel saw it and as the counter shows."""
    came = fleet.visits
    assert len(came) == fleet.expected
    crowded = [visit for visit in came if visit.chair is None]
    assert not crowded, crowded[:3]
    if fleet.arena.slots > 1:  # then nothing protects the counter
        return
    assert came[0].value == 0
    for before, visit in pairwise(came):
        # Whether one that died has written, nobody knows.
        added = {1} if before.leaving else {0, 1}
        assert visit.value - before.value in added, (before, visit)
    last = int(fleet.arena.counter.read_text())
    assert last - came[-1].value in ({1} if came[-1].leaving else {0, 1})


def check_deaths(fleet: Fleet) -> None:
    """Kills have changed nothing of that, and have held up the others for a ttl at most."""
    check_inside(fleet)
    check_fences(fleet)
    check_order(fleet)
    # Where nobody was so slow that his own lease ended him, the machine was fast enough.
    if not fleet.deaths.keys() & {"SIGALRM inside", "SIGALRM outside"}:
        assert max(pauses(fleet.visits)) <= fleet.arena.ttl + _PATIENCE


def check_fences(fleet: Fleet) -> None:
    """Every fence is higher than all that were known when it was asked for."""
    came = fleet.visits
    # With several places, one that was granted later may come in earlier.
    order = came
    if fleet.arena.slots > 1:
        timed = fleet.leases.timed  # else whole seconds are all that is told
        order = sorted(came, key=lambda visit: visit.since if timed else visit.fence)
    for before, visit in pairwise(order):
        assert before.fence < visit.fence, (before, visit)
    known = sorted((visit.granted, visit.fence) for visit in came)
    highest = list(accumulate((fence for _, fence in known), max))
    for visit in came:
        earlier = bisect_left(known, (visit.sent, 0))
        assert not earlier or highest[earlier - 1] < visit.fence, visit


def check_order(fleet: Fleet) -> None:
    """Nobody gets in before more earlier waiters than would have found a place as well.

    Earlier: they had heard that they are in the queue before the other one asked, and kept their
    place there.
    """
    passed = overtaken(fleet.visits)
    assert max(passed) < fleet.arena.slots, passed


def check_patience(fleet: Fleet) -> None:
    """While one waits, the others come in once, or twice; and who is woken comes at once."""
    came = fleet.visits
    handed = handoffs(came, fleet.arena.slots)
    if not handed and fleet.leases.kind == "etcd" and fleet.arena.slots > 1:
        return  # it answers so slowly that there is a place for everybody who comes
    assert max(turns(came)) <= 2 * fleet.crowd
    if fleet.leases.wakes:
        assert statistics.median(handed) < _PROMPT


def overtaken(came: list[Visit]) -> Counter[int]:
    """How many visits came in before so many that had waited for longer."""
    queues: dict[int, list[Visit]] = defaultdict(list)
    for visit in came:
        if visit.queued is not None and visit.kept:
            queues[visit.who].append(visit)
    found: Counter[int] = Counter()
    for visit in came:
        passed = 0
        for queue in queues.values():  # of one process: in the order of both time and fences
            here = bisect_left(queue, visit.asked, key=lambda other: other.queued or 0)
            later = bisect_right(queue, visit.fence, key=lambda other: other.fence)
            passed += max(here - later, 0)
        found[passed] += 1
    return found


def turns(came: list[Visit]) -> list[int]:
    """How many came in while one waited, of each that kept its place in the queue."""
    fences = sorted(visit.fence for visit in came)
    known = sorted(visit.granted for visit in came)
    return [
        bisect_left(fences, visit.fence) - bisect_left(known, visit.queued)
        for visit in came
        if visit.queued is not None and visit.kept
    ]


def waited(came: list[Visit]) -> list[float]:
    """s, of each that waited."""
    return [visit.granted - visit.queued for visit in came if visit.queued is not None]


def pauses(came: list[Visit]) -> list[float]:
    """s in which nobody came in."""
    moments = sorted(visit.granted for visit in came)
    return [after - before for before, after in pairwise(moments)]


def handoffs(came: list[Visit], slots: int) -> list[float]:
    """s from giving a place back to the one who waited for it; nobody may have died."""
    left = sorted(visit.leaving or 0 for visit in came)
    entered = sorted(came, key=lambda visit: visit.granted)[slots:]
    return [
        visit.granted - leaving
        for leaving, visit in zip(left, entered, strict=False)
        if visit.queued is not None and visit.queued < leaving
    ]


def table(fleet: Fleet) -> str:
    """What happened, for people."""
    came = fleet.visits
    passed = overtaken(came)
    lines: list[tuple[str, object]] = [
        ("store", fleet.leases.kind),
        ("slots", fleet.arena.slots),
        ("processes", fleet.crowd),
        ("acquisitions", len(came)),
        ("seconds", f"{fleet.took:.1f}"),
        ("acquisitions/s", f"{len(came) / fleet.took:.1f}"),
        ("wait", _spread(waited(came))),
        ("others let in meanwhile", _spread(list(map(float, turns(came))))),
        ("pause between two", _spread(pauses(came))),
        ("came in past so many", dict(sorted(passed.items()))),
        ("lost their turn", sum(not visit.kept for visit in came)),
        ("sat in each chair", dict(Counter(visit.chair for visit in came))),
    ]
    if fleet.deaths:
        lines += sorted(fleet.deaths.items())
    else:
        lines.append(("handoff", _spread(handoffs(came, fleet.arena.slots))))
    lines.append(("seed", SEED))
    return "\n" + "\n".join(f"{name:24} {value}" for name, value in lines)


def _spread(values: list[float]) -> str:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    mean = statistics.mean(values)
    return f"mean {mean:.4f}  p50 {cuts[49]:.4f}  p99 {cuts[98]:.4f}  longest {max(values):.4f}"
