"""Many items through ``guardrun each`` while its processes are killed, again and again until done.

The long form is ``make each``. GUARDRUN_TEST_ITEMS is the number of items, GUARDRUN_TEST_SEED
repeats the kills of a failure.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from each_campaign import EVERY, Arena, Terms, lay_command
from fleet import fleet_host
from lease_fleet import SHORT, LeaseFleet, took
from lease_stores import STORES, lock_name
from pools import children, fed, lines
from support import Host, eventually, finish, no_survivors

ITEMS = int(os.environ.get("GUARDRUN_TEST_ITEMS", "300"))
SEED = int(os.environ.get("GUARDRUN_TEST_SEED") or random.SystemRandom().getrandbits(32))


def survive(root: Path, hosts: list[Host], parallel: int, items: int) -> None:
    """Work off so many items, kill what can be killed meanwhile, and see that all holds."""
    terms = Terms(parallel, budget=items // EVERY, longest=0.01, pause=max(items // 5, 20))
    arena = Arena.lay(root, hosts, terms, random.Random(SEED))
    try:
        arena.work_off(1, items)
        tally = arena.judge()
    except BaseException as error:
        error.add_note(f"GUARDRUN_TEST_SEED={SEED}, in {root}")
        raise
    assert not tally.failures, f"GUARDRUN_TEST_SEED={SEED}, in {root}: {tally}"
    assert tally.executed >= items


def test_random_kills(host: Host, tmp_path: Path) -> None:
    """Each item succeeds once, never twice at a time, with never too many at once or too often."""
    survive(tmp_path, [host], 20, ITEMS)


@pytest.mark.parametrize("pools", [1, 2])
def test_random_kills_over_postgres(database_url: str, tmp_path: Path, pools: int) -> None:
    """The same with the ledger in Postgres, and with two pools over the same items at a time."""
    hosts = [fleet_host(tmp_path / f"host-{number}", database_url) for number in range(pools)]
    try:
        survive(tmp_path, [*hosts], 4, ITEMS // 5)
    finally:
        for host in hosts:
            host.close()


def test_dead_keepers_do_not_pile_up(database_url: str, tmp_path: Path) -> None:
    """The keeper of a place that has to begin anew is reaped when it has ended."""
    host = fleet_host(tmp_path, database_url)
    pool = host.start("each", "-c", "kill -9 $PPID", stdin=subprocess.PIPE)
    fed(pool, lines(1, 2, 3))
    ended = "SELECT job_id FROM guardrun.runs WHERE result = 'interrupted'"
    eventually(lambda: len(host.rows(ended)) == 3, what="the ends of three items")
    eventually(lambda: len(children(pool.pid)) <= 1, what="reaped")
    assert finish(pool).code == 1
    host.close()


HOSTS, PLACES, SLOTS, EACH = 3, 2, 3, 9
"""hosts, items at a time on each, over all of them, and items of each"""


@pytest.fixture(params=STORES)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LeaseFleet]:
    """Hosts with one kind of lease store after the other."""
    own = LeaseFleet.shared(request.param, tmp_path)
    yield own
    own.close()


def test_slots_over_three_hosts(fleet: LeaseFleet, mark: str) -> None:
    """Never more than --slots at a time over the fleet, nor than -P on a host, when one is killed.

    The others go on at once: its places are free by its keepers' word, and not by the ttl.
    """
    hosts = [fleet.host(str(number)) for number in range(HOSTS)]
    command = lay_command(fleet.root, ("fleet", *map(str, range(HOSTS))))
    executed, lock = fleet.root / "executed", lock_name()

    def start(number: int) -> subprocess.Popen[bytes]:
        items = fleet.root / f"items-{number}"
        first = 1 + 100 * number  # none is one that fails
        items.write_bytes(b"".join(b"item %d\n" % (first + one) for one in range(EACH)))
        limits = f"{number}:{PLACES},fleet:{SLOTS}"
        with items.open("rb") as stdin:
            return hosts[number].start(
                *("each", "-P", str(PLACES), *SHORT, "--lock", lock, "-j", str(SLOTS)),
                *("--wait", "forever", "--key", "{item}", "--kill-after", "50ms"),
                *("--", str(command), str(fleet.root), limits, "0.2", mark),
                stdin=stdin,
            )

    pools = [start(number) for number in range(HOSTS)]
    eventually(lambda: executed.stat().st_size >= EACH, 60, "a third of the items")
    pools[0].kill()
    begun, before = time.monotonic(), executed.stat().st_size
    done = min(before + SLOTS, (HOSTS - 1) * EACH)
    eventually(lambda: executed.stat().st_size >= done, 30, "the others' items")
    handed = took(begun)
    assert finish(pools[0]).code == -signal.SIGKILL
    again = start(0)
    for pool in (*pools[1:], again):
        assert (result := finish(pool, 90)).code == 0, result
    no_survivors(mark)
    assert not (fleet.root / "wrong").exists(), (fleet.root / "wrong").read_text()
    assert handed < 8, "longer than its processes need, nearly as long as a lease lasts"
    for host in hosts:
        successes = host.rows("SELECT key FROM runs WHERE result = 'success'")
        assert len({row["key"] for row in successes}) == len(successes) == EACH
    assert fleet.places(lock) == ()
