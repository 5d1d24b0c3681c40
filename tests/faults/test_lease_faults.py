"""Whole runs under a short lease, and a store or a process that fails: is COMMAND dead in time?

GUARDRUN_TEST_ROUNDS is how many runs there are of each fault in each store (a sixth of it),
GUARDRUN_TEST_SEED repeats the moments of a failure.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
from fleet import ask
from lease_campaign import LOST, TTL, Case, Fault, Site, Step, cases, play
from lease_fleet import wipe, wipe_consul
from lease_stores import STORES
from servers import Consul, Etcd, Postgres, Redis
from support import alive, eventually

from guardrun.core import lease

ROUNDS = int(os.environ.get("GUARDRUN_TEST_ROUNDS", "12"))
SEED = int(os.environ.get("GUARDRUN_TEST_SEED") or random.SystemRandom().getrandbits(32))
RUNS = max(ROUNDS // 6, 1)
"""of each fault in each store"""
_MANY = 100
"""rounds from which on there is something to print"""
_AT_ONCE = 6
"""runs in each store"""

LAPSING = tuple(kind for kind in STORES if kind != "advisory")
"""where a lease has a ttl"""
GRACE = TTL / 8
"""s from being told to stop to being killed, at the most"""
PATIENCE = lease.patience(TTL)
DRIFT = max(0.2, TTL / 100)
"""s; see core/lease.py"""
RENEWAL = TTL / 4
"""s from one renewal to the next, at the most"""
PROMPT = 2.0
"""s that something takes which is done at once, on a busy machine"""
LONG = 3 * TTL if ROUNDS >= _MANY else 1.3 * TTL
"""s that guardrun is stopped, and does not lose its lease"""
_LATE = {"redis": 0.9, "etcd": 0.7, "consul": 0.7}
"""s that every answer may be late, and all that a lease takes are there in half of its ttl"""
HOUR = 3600.0
"""s"""
SURVIVED = "something of it has survived"

Verdict = Callable[[Case], str | None]
"""what is wrong with what became of a run, if anything"""


# ---------------------------------------------------------------- what has to become of a run


def dies_in_time(case: Case) -> str | None:
    """All of COMMAND is dead before the store could grant the lock again, once it is told to stop.

    What is kept back for clocks that run at different rates is not used up by dying. The lock of a
    session has no margin: it is gone with that, and COMMAND as soon as that is seen.
    """
    if case.margin is None:
        return "nobody knows when it died"
    # Who tells whole seconds cannot tell what was kept back, only that it was not used up.
    least = 0.0 if case.site.grain else DRIFT
    if case.margin <= (least if case.site.lapses else -PROMPT):
        return f"the lease had {case.margin:.3f} s left when COMMAND was dead"
    if case.site.lapses and case.overlapped:
        return "the lock was granted while COMMAND was alive"
    lived_on = between(case.told_at, case.dead_at) or 0.0
    if lived_on > GRACE + PROMPT:
        return f"it lived on for {lived_on:.3f} s when it had been told to stop"
    return is_lost(case)


def dies_in_reach(case: Case) -> str | None:
    """The same where the store can be reached at the end, and may be given the lease back.

    That comes after COMMAND's death, and has no margin to keep; and it may come before we can ask
    the store how long the lease would have lasted.
    """
    if case.good_until is None and case.granted is not None:
        return "the lock was granted while COMMAND was alive" if case.overlapped else is_lost(case)
    return dies_in_time(case)


def dies_before_we_let_go(case: Case) -> str | None:
    """The same where the server keeps a session: the lock is free when guardrun itself ends it."""
    if case.overlapped:
        return "the lock was granted while COMMAND was alive"
    return dies_in_time(case)


def dies_soon(case: Case) -> str | None:
    """The store has forgotten the lease: all of COMMAND is dead with the next renewal."""
    assert case.dead_at is not None
    assert case.site.forgot_at is not None
    if case.dead_at - case.site.forgot_at > RENEWAL + PROMPT:
        return f"it lived on for {case.dead_at - case.site.forgot_at:.3f} s"
    return is_lost(case)


def is_lost(case: Case) -> str | None:
    """The run says so; a grant after it has a larger fence."""
    result = case.lines[-1].get("result")
    if (case.code, result) != (LOST, "lease_lost") or case.events.count("lease_lost") != 1:
        return f"it ended with {case.code}, as {result}: {case.events}"
    next_fence = None if case.granted is None else case.granted.fence
    if next_fence is not None and next_fence <= case.fence:
        return f"the fence {next_fence} came after {case.fence}"
    return None


def lives(case: Case) -> str | None:
    """COMMAND comes to its own end, under a lease of its own all the time."""
    result = case.lines[-1].get("result")
    if (case.code, result) != (0, "success") or "lease_lost" in case.events:
        return f"it ended with {case.code}, as {result}: {case.events}"
    if case.told_at is not None:
        return "COMMAND was told to stop"
    if case.overlapped:
        return "the lock was granted while COMMAND was alive"
    return None


def lives_unless_told(case: Case) -> str | None:
    """Either COMMAND was told to stop, and is dead in time; or it was left alone."""
    return lives(case) if case.told_at is None else dies_in_reach(case)


def dies_with_guardrun(case: Case) -> str | None:
    """All of COMMAND is dead before the lock is given back, and nobody waits until it lapses."""
    if case.overlapped:
        return "the lock was granted while COMMAND was alive"
    assert case.granted is not None
    assert case.dead_at is not None
    assert case.struck_at is not None
    waited = case.granted.since - case.struck_at
    return f"the lock was free only after {waited:.3f} s" if waited > 2 else None


# ---------------------------------------------------------------- playing, and telling of it


@dataclass
class Campaign:
    """All runs of one test, in rounds of so many as the machine can bear."""

    name: str
    root: Path
    seed: int = SEED
    runs: int = RUNS
    """of each fault in each store"""
    played: list[tuple[Case, str | None]] = field(default_factory=list)

    def play(self, fault: Fault, sites: list[Site], verdict: Verdict) -> None:
        """Do it to as many runs as wanted, and judge what became of them."""
        rng = random.Random(f"{self.seed}-{self.name}")
        while len(self.played) < self.runs * len(sites):
            number = min(_AT_ONCE, self.runs - len(self.played) // len(sites))
            place = self.root / f"{len(self.played)}"
            with cases(sites, number, place, rng) as running:
                play(fault, sites, running)
                for case in running:
                    self.played.append((case, verdict(case) or self._survivors(case)))
        wrong = [(what, case) for case, what in self.played if what is not None]
        assert not wrong, f"GUARDRUN_TEST_SEED={self.seed}: {wrong}"

    @staticmethod
    def _survivors(case: Case) -> str | None:
        try:
            eventually(lambda: not alive(case.mark), 5)
        except AssertionError:
            return SURVIVED
        return None


@pytest.fixture
def campaign(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Iterator[Campaign]:
    """The runs of this test."""
    own = Campaign(request.node.name, tmp_path)
    yield own
    if ROUNDS >= _MANY:
        with capsys.disabled():
            print(table(own))


@contextlib.contextmanager
def shared(kinds: Iterable[str]) -> Iterator[list[Site]]:
    """These stores, in the session's servers."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Site.shared(kind)) for kind in kinds]


@contextlib.contextmanager
def private(kinds: Iterable[str]) -> Iterator[list[Site]]:
    """These stores, in servers of our own."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Site.private(kind)) for kind in kinds]


def table(campaign: Campaign) -> str:
    """What became of all these runs, for people."""
    lines = [f"{campaign.name}, seed {campaign.seed}"]
    for kind in STORES:
        own = [(case, what) for case, what in campaign.played if case.site.kind == kind]
        told = [case for case, _ in own if case.told_at is not None]
        lines.append(
            f"  {kind:20}{len(own):4} runs, {sum(what is None for _, what in own)} as it must be"
            f" (exit {dict(Counter(case.code for case, _ in own))}, {len(told)} told to stop,"
            f" {sum(case.overlapped for case, _ in own)} overlaps);"
            f" dead after {_spread(between(case.struck_at, case.dead_at) for case, _ in own)} s;"
            f" then left {_spread(between(case.dead_at, case.good_until) for case, _ in own)} s;"
            f" next {_spread(between(case.dead_at, case.granted_at) for case, _ in own)} s"
        )
    lines += [f"  {what}: {case}" for case, what in campaign.played if what is not None]
    return "\n" + "\n".join(lines)


def between(earlier: float | None, at: float | None) -> float | None:
    """s, if both are known."""
    return None if earlier is None or at is None else at - earlier


def _spread(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{min(known):.3f} {statistics.median(known):.3f} {max(known):.3f}"


def phase(case: Case) -> float:
    """s into COMMAND's life: at once, or anywhere between two renewals."""
    return 0.0 if case.rng.random() < 0.3 else case.rng.uniform(0, 1.5 * RENEWAL)


def later(seconds: float, do: Callable[[], object]) -> Step:
    """Do this so many seconds later, and nothing else."""

    def done() -> None:
        do()

    return Step(seconds, done)


# ---------------------------------------------------------------- the store is out of reach


def test_a_store_out_of_reach(campaign: Campaign) -> None:
    """Nothing passes any more, from the start of COMMAND or some time after it."""
    fault = Fault(run=lambda case: [later(phase(case), case.blackhole)])
    with shared(STORES) as sites:
        campaign.play(fault, sites, dies_in_time)


def test_a_store_that_was_late_from_the_start(campaign: Campaign) -> None:
    """The lease was granted long before we heard of it; then nothing passes any more."""

    def slow(case: Case) -> None:
        # A login takes several round trips, all of them together at most half of the ttl.
        case.proxy.delay(_LATE.get(case.site.kind, 0.5), "to_client")

    fault = Fault(before=slow, run=lambda case: [later(0, case.blackhole)])
    with shared(LAPSING) as sites:
        campaign.play(fault, sites, dies_in_time)


def test_renewals_that_hang(campaign: Campaign) -> None:
    """Every answer comes, but too late; the store may even have renewed the lease."""

    def hang(case: Case) -> None:
        case.struck()
        case.proxy.delay(1.5 * PATIENCE, "to_client" if case.serial % 2 else "both")

    fault = Fault(run=lambda case: [later(phase(case), lambda: hang(case))])
    with shared(STORES) as sites:
        campaign.play(fault, sites, dies_before_we_let_go)


def test_an_outage_that_ends_in_time(campaign: Campaign) -> None:
    """Nothing passes for a while, then everything: nobody is killed, nor told to stop."""

    def outage(case: Case) -> list[Step]:
        return [
            later(begin := phase(case), case.blackhole),
            later(begin + 4, case.proxy.resume),
            later(begin + 4 + 0.8 * TTL, case.finish),
        ]

    with shared(LAPSING) as sites:
        campaign.play(Fault(run=outage), sites, lives)


def test_an_outage_that_ends_too_late_for_some(campaign: Campaign) -> None:
    """It ends about when COMMAND is told to stop: a success from then on changes nothing."""

    def outage(case: Case) -> list[Step]:
        case.blackhole()
        until = case.site.good_until(case)
        assert until is not None
        assert case.struck_at is not None
        renewed = until - TTL - case.struck_at  # at the latest, s from now
        granted = lease.Lease(TTL, renewed, HOUR)
        if case.serial % 2:  # there is time for a renewal between term and kill
            end = granted.term_at + case.rng.uniform(0.1, 0.5)
        else:
            end = case.rng.uniform(granted.term_at - 1.5 * PATIENCE, granted.kill_at + 0.2)
        return [later(end, case.proxy.resume), later(end + 0.5 * TTL, case.finish)]

    fault = Fault(run=lambda case: [Step(phase(case), lambda: outage(case))])
    with shared(LAPSING) as sites:
        campaign.play(fault, sites, lives_unless_told)


def test_a_frozen_store(campaign: Campaign) -> None:
    """The server is stopped, and goes on when all leases would have ended."""

    def freeze(site: Site, runs: list[Case]) -> None:
        for case in runs:
            case.struck()
        site.freeze(runs)

    def fault(site: Site, runs: list[Case]) -> list[Step]:
        begin = runs[0].rng.uniform(0, RENEWAL)
        return [later(begin, lambda: freeze(site, runs)), later(begin + 1.15 * TTL, site.thaw)]

    with private(STORES) as sites:
        campaign.play(Fault(site=fault), sites, dies_in_time)


def test_a_store_that_forgets(campaign: Campaign) -> None:
    """The server comes back empty: the lock may be granted, and COMMAND is dead very soon."""

    def fault(site: Site, runs: list[Case]) -> list[Step]:
        return [later(runs[0].rng.uniform(0, RENEWAL), lambda: forget(site, runs))]

    with private(STORES) as sites:
        campaign.play(Fault(site=fault), sites, dies_soon)


def forget(site: Site, runs: list[Case]) -> None:
    """Make the store lose all leases it knows of."""
    for case in runs:
        case.struck()
    if isinstance(site.own, Redis):
        site.own.kill()
        site.own.start_again()
    elif isinstance(site.own, Etcd):
        wipe(site.direct)
    elif isinstance(site.own, Consul):
        wipe_consul(site.direct)
    elif site.lapses:
        ask(site.direct, "TRUNCATE guardrun.lease_holders")
    else:
        assert isinstance(site.own, Postgres)
        site.own.stop(crash=True)
        site.own.start_again()
    site.forget()


# ---------------------------------------------------------------- hosts whose clocks are wrong


SKEWED = """\
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static time_t skew(const char *name) {
    const char *seconds = getenv(name), *since = getenv("SKEW_SINCE");
    return seconds && since && !access(since, F_OK) ? atol(seconds) : 0;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, id, at);
    if (failed) return failed;
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) at->tv_sec += skew("SKEW");
    if (id == CLOCK_BOOTTIME) at->tv_sec += skew("LEAP");
    return 0;
}

int timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old) {
    struct itimerspec own = *new;
    time_t leap = skew("LEAP");
    if (flags & TFD_TIMER_ABSTIME && own.it_value.tv_sec > leap) own.it_value.tv_sec -= leap;
    return syscall(SYS_timerfd_settime, fd, flags, &own, old);
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""
"""For LD_PRELOAD: as soon as there is a file $SKEW_SINCE, the time of day is $SKEW seconds off, and
CLOCK_BOOTTIME has leapt by $LEAP seconds, as it does during suspend.

All other clocks are right. What waits for a moment on CLOCK_BOOTTIME by then, waits on.
"""


@pytest.fixture
def skewing(library: Callable[[str, str], Path]) -> Path:
    """The library that gives a process wrong clocks."""
    return library("skew", SKEWED)


def test_hosts_whose_clocks_are_wrong(campaign: Campaign, skewing: Path) -> None:
    """What a host thinks the time is means nothing, nor that somebody sets it while COMMAND runs.

    One that is cut off is dead in time all the same.
    """

    def skew(case: Case) -> float:
        return -HOUR if case.serial % 4 in (0, 3) else HOUR

    def since(case: Case) -> Path:
        return case.host.root / "skewed"

    def before(case: Case) -> None:
        if case.serial % 2:
            since(case).touch()

    def strike(case: Case) -> None:
        case.blackhole()
        since(case).touch()

    def verdict(case: Case) -> str | None:
        assert case.dead_at is not None
        finished = datetime.fromisoformat(case.lines[-1]["timestamp"]).timestamp()
        assert abs(finished - case.dead_at - skew(case)) < 120, "its clock was right"
        return dies_in_time(case)

    fault = Fault(
        before=before,
        run=lambda case: [later(phase(case), lambda: strike(case))],
        env=lambda case: {
            "LD_PRELOAD": str(skewing),
            "SKEW": f"{skew(case):.0f}",
            "SKEW_SINCE": str(since(case)),
        },
    )
    with shared(STORES) as sites:
        campaign.play(fault, sites, verdict)


def test_a_host_that_was_suspended(campaign: Campaign, skewing: Path) -> None:
    """Its clock leaps by two ttls: COMMAND is dead as soon as anybody looks, whatever is renewed.

    The store's clock does not leap here: it renews the lease, and that changes nothing any more.
    """

    def since(case: Case) -> Path:
        return case.host.root / "suspended"

    def leap(case: Case) -> None:
        case.struck()
        since(case).touch()

    def verdict(case: Case) -> str | None:
        lived_on = between(case.struck_at, case.dead_at)
        assert lived_on is not None
        if lived_on > RENEWAL + PROMPT:
            return f"it lived on for {lived_on:.3f} s"
        return dies_in_reach(case)

    fault = Fault(
        run=lambda case: [later(phase(case), lambda: leap(case))],
        env=lambda case: {
            "LD_PRELOAD": str(skewing),
            "LEAP": f"{2 * TTL:.0f}",
            "SKEW_SINCE": str(since(case)),
        },
    )
    with shared(LAPSING if ROUNDS >= _MANY else ["redis"]) as sites:
        campaign.play(fault, sites, verdict)


# ---------------------------------------------------------------- processes that are stopped


def test_a_stopped_supervisor(campaign: Campaign) -> None:
    """The keeper renews, the warden knows: COMMAND lives on, and nobody else gets the lock."""

    def fault(case: Case) -> list[Step]:
        begin = phase(case)
        return [
            later(begin, lambda: case.stop("supervisor")),
            later(begin + LONG, case.resume),
            later(begin + LONG + 0.5, case.finish),
        ]

    with shared(STORES) as sites:
        campaign.play(Fault(run=fault), sites, lives)


def test_a_stopped_supervisor_with_its_keeper_cut_off(campaign: Campaign) -> None:
    """The warden alone is left to see that nobody renews, whatever came first."""

    def fault(case: Case) -> list[Step]:
        begin, gap = phase(case), case.rng.uniform(0, 3 if case.site.lapses else PATIENCE / 2)
        first, second = (lambda: case.stop("supervisor")), case.blackhole
        if case.serial % 2:
            first, second = second, first
        return [later(begin, first), later(begin + gap, second)]

    with shared(STORES) as sites:
        campaign.play(Fault(run=fault), sites, dies_in_time)


def test_a_stopped_keeper(campaign: Campaign) -> None:
    """It is replaced, and the new one takes up the lease; if that takes too long, COMMAND is dead.

    A lock that nobody can take up ends with its keeper, and so does COMMAND.
    """

    def fault(case: Case) -> list[Step]:
        begin = phase(case)
        stop = later(begin, lambda: case.stop("keeper"))
        return [stop, later(begin + 1.3 * TTL, case.finish)] if case.site.lapses else [stop]

    def verdict(case: Case) -> str | None:
        return lives_unless_told(case) if case.site.lapses else dies_in_time(case)

    with shared(STORES) as sites:
        campaign.play(Fault(run=fault), sites, verdict)


def test_keeper_and_supervisor_stopped(campaign: Campaign) -> None:
    """The warden alone is left."""
    fault = Fault(run=lambda case: [later(phase(case), lambda: case.stop("keeper", "supervisor"))])
    with shared(STORES) as sites:
        campaign.play(fault, sites, dies_in_time)


# ---------------------------------------------------------------- processes that are killed


def test_a_killed_supervisor(campaign: Campaign) -> None:
    """COMMAND is dead, whoever has to see to that, and only then is the lock given back.

    That holds for a keeper that has replaced another one as well.
    """

    def strike(case: Case) -> None:
        if case.serial % 2:
            case.stop("warden")
        case.kill("supervisor")

    def fault(case: Case) -> list[Step]:
        begin = phase(case)
        if not (case.site.lapses and case.serial % 4 in (1, 2)):
            return [later(begin, lambda: strike(case))]
        replace = later(begin, lambda: case.signal(signal.SIGKILL, "keeper"))
        return [replace, later(begin + RENEWAL, lambda: strike(case))]

    with shared(STORES) as sites:
        campaign.play(Fault(run=fault), sites, dies_with_guardrun)
