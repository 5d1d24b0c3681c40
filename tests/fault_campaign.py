"""Random faults for a given time, in everything that can break, and one table of what came of them.

``make faults SECONDS=600 SEED=7`` shares the time among the campaigns that the tests play in short:
runs with keys over Postgres, runs under a host lock over SQLite, runs under leases in every store,
and bare processes under leases. The exit code is 1 when something did not hold. A seed repeats the
faults and their moments, not what the machine makes of them.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "faults"))

import servers
import test_lease_faults as lease_faults
import test_lease_fuzz as crowds
import test_random_kills as random_kills
from campaign import Campaign, inspect, work_off
from campaign_faults import FAULTS, LONG, strike
from lease_fuzz import Arena
from lease_stores import STORES, lock_name
from support import Host, alive, compile_library, marker

_LONG = 120.0
"""s for the fleet from which on there is time for faults that outlast a claim"""
_LONGEST_WORK, _LONGER_WORK = 4.0, 14.0
"""s that COMMAND works at most; the latter is more than its claim lasts unrenewed"""
_CROWD, _VISITS, _KILLS = 8, 12, 4
"""bare processes, how often each takes the lock, and how many of them are killed meanwhile"""

FORGETFUL = lease_faults.test_a_store_that_forgets
"""There no client can help it: the store does not keep its word."""

LEASE_FAULTS: tuple[Callable[[lease_faults.Campaign], None], ...] = (
    lease_faults.test_a_store_out_of_reach,
    lease_faults.test_a_store_that_was_late_from_the_start,
    lease_faults.test_renewals_that_hang,
    lease_faults.test_an_outage_that_ends_in_time,
    lease_faults.test_an_outage_that_ends_too_late_for_some,
    lease_faults.test_a_frozen_store,
    FORGETFUL,
    lease_faults.test_a_stopped_supervisor,
    lease_faults.test_a_stopped_supervisor_with_its_keeper_cut_off,
    lease_faults.test_a_stopped_keeper,
    lease_faults.test_keeper_and_supervisor_stopped,
    lease_faults.test_a_killed_supervisor,
)
SKEWED = (
    lease_faults.test_hosts_whose_clocks_are_wrong,
    lease_faults.test_a_host_that_was_suspended,
)
"""Those that need a compiler"""


@dataclass
class Tally:
    """What was done, and what did not hold."""

    faults: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    acquisitions: int = 0
    """of bare processes"""
    overlaps: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    survivors: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """Everything that did not hold."""
        return [*self.overlaps, *self.lost, *self.survivors, *self.other]

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Note what fails in the block, and go on."""
        try:
            yield
        except Exception as error:
            self.other.append(f"{what}: {''.join(traceback.format_exception(error))}")


def table(tally: Tally, seed: int, took: float) -> str:
    """What was tried, and what came of it, for people."""
    lines: list[tuple[str, object]] = [
        *sorted(tally.faults.items()),
        ("faults in all", tally.faults.total()),
        ("runs", tally.runs),
        ("acquisitions by bare processes", tally.acquisitions),
        ("overlaps", len(tally.overlaps)),
        ("lost outcomes", len(tally.lost)),
        ("survivors", len(tally.survivors)),
        ("other promises broken", len(tally.other)),
        ("seed", seed),
        ("seconds", round(took)),
    ]
    return "\n".join(f"{name:58} {value:>8}" for name, value in lines)


# ---------------------------------------------------------------- the campaigns


@dataclass(frozen=True)
class Part:
    """One campaign's share of the time."""

    root: Path
    seed: str
    seconds: float

    def rounds(self) -> Iterator[random.Random]:
        """Random generators, one a round, until the time is over; at least one."""
        until = time.monotonic() + self.seconds
        number = 0
        while number == 0 or time.monotonic() < until:
            yield random.Random(f"{self.seed}-{number}")
            number += 1


def run_fleet(part: Part, tally: Tally) -> None:
    """Runs with keys on three hosts, over one Postgres: processes, network and server fail."""
    long = part.seconds >= _LONG
    faults = FAULTS | (LONG if long else {})
    longest = _LONGER_WORK if long else _LONGEST_WORK
    mark = marker()
    with Campaign.start(part.root, mark, random.Random(part.seed), longest) as campaign:
        with tally.attempt("the fleet"):
            for rng in part.rounds():
                strike(campaign, rng, faults)
            campaign.settle()
            tally.other += work_off(campaign)
        (part.root / "story").write_text("\n".join(campaign.story) + "\n")
        found = inspect(campaign)
        tally.faults.update({f"keys: {name}": n for name, n in campaign.faults.items()})
        tally.runs += len(campaign.ended)
        tally.overlaps += found.overlaps
        tally.lost += found.lost
        tally.other += [*found.doubles, *found.disagreements, *found.oddities]
        tally.survivors += map(str, campaign.survivors())


def kill_at_random(part: Part, tally: Tally) -> None:
    """Runs with keys under a host lock, over SQLite: any one or two processes are killed."""
    host, mark = Host(part.root), marker()
    arena = random_kills.Arena.on(host, mark)
    for number, rng in enumerate(part.rounds()):
        contenders: list[random_kills.Contender] = []
        with tally.attempt(f"random kills, round {number} of {part.seed}"):
            contenders += random_kills.one_round(arena, f"key-{number}", rng)
        for contender in contenders:
            members = " and ".join(sorted(contender.killed))
            tally.faults.update({f"host lock: kill {members}": 1} if members else {})
    told = arena.told()
    rows = {str(row["job_id"]) for row in host.rows()}
    tally.runs += len(rows)
    tally.overlaps += [job_id for what, job_id in told if what == "overlap"]
    tally.lost += [job_id for what, job_id in told if what == "start" and job_id not in rows]
    tally.survivors += map(str, alive(mark))
    host.close()


def break_leases(part: Part, tally: Tally) -> None:
    """Runs under leases in every store: stores, networks, clocks and processes fail."""
    library = None
    if shutil.which("cc"):
        library = compile_library(part.root, "skew", lease_faults.SKEWED)
    drawn = [*LEASE_FAULTS, *(SKEWED if library else ())]
    for number, rng in enumerate(part.rounds()):
        scenario = rng.choice(drawn)
        name = scenario.__name__.removeprefix("test_").replace("_", " ")
        seed = rng.getrandbits(32)
        campaign = lease_faults.Campaign(name, part.root / str(number), seed, runs=2)
        with tally.attempt(f"{name}, seed {seed}"):
            scenario(campaign, library) if scenario in SKEWED else scenario(campaign)
        tally.faults[f"leases: {name}"] += len(campaign.played)
        tally.runs += len(campaign.played)
        for case, wrong in campaign.played:
            # The lock of a session has no margin: what it may do is for the verdict to say.
            if case.overlapped and case.site.lapses and scenario is not FORGETFUL:
                tally.overlaps.append(f"{name}: {case}")
            if wrong == lease_faults.SURVIVED:
                tally.survivors.append(f"{name}: {case}")


def crowd_leases(part: Part, tally: Tally) -> None:
    """Bare processes that take one lock again and again, in one store after the other: kills."""
    for number, rng in enumerate(part.rounds()):
        kind = rng.choice(list(STORES))
        place = part.root / str(number)
        place.mkdir()
        slots, ttl = rng.choice((1, 3)), crowds.SHORT_TTL
        arena = Arena(place, lock_name(), slots, ttl)
        with contextlib.closing(STORES[kind].shared()) as leases:
            fleet = crowds.Fleet(leases, arena, _CROWD, _VISITS, f"{part.seed}-{number}")
            with tally.attempt(f"a crowd, {kind}, {fleet.seed}"), crowds.at_work(fleet):
                fleet.live(_KILLS)
                crowds.check_deaths(fleet)
            tally.faults.update({f"crowd: {death}": n for death, n in fleet.deaths.items()})
            tally.acquisitions += len(fleet.visits)
            tally.overlaps += [f"{kind}: {one}" for one in fleet.visits if one.chair is None]


PARTS: dict[str, tuple[float, Callable[[Part, Tally], None]]] = {
    "fleet": (0.4, run_fleet),
    "kills": (0.15, kill_at_random),
    "leases": (0.35, break_leases),
    "crowd": (0.1, crowd_leases),
}
"""Shares of the time"""


# ---------------------------------------------------------------- the command


def campaign(seconds: float, seed: int) -> Tally:
    """All of it."""
    tally = Tally()
    root = Path(tempfile.mkdtemp(prefix="guardrun-faults-"))
    root.chmod(0o755)  # servers are other users'
    for name, (share, run) in PARTS.items():
        print(f"{name}: about {share * seconds:.0f} s", flush=True)
        place = root / name
        place.mkdir()
        with tally.attempt(name):
            run(Part(place, f"{seed}-{name}", share * seconds), tally)
    if tally.failures:
        print(f"what is left of it is in {root}")
    else:
        shutil.rmtree(root)
    return tally


def main() -> int:
    """Break things for so long, and tell."""
    parser = argparse.ArgumentParser(description="Random faults, and whether all promises hold.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    given = parser.parse_args()
    servers.own_session()
    print(f"seed {given.seed}", flush=True)
    begun = time.monotonic()
    tally = campaign(given.seconds, given.seed)
    for failure in tally.failures:
        print(failure)
    print(table(tally, given.seed, time.monotonic() - begun))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
