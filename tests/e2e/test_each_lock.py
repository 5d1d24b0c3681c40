"""The lock that a pool takes once, for all its items: on this host and in every lease store."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from fleet import FleetHost, fleet_host
from lease_fleet import LEASE, SHORT, LeaseFleet, keeper, took
from lease_stores import STORES, lock_name
from pools import fed, summary, wardens
from support import (
    Host,
    Result,
    alive,
    eventually,
    finish,
    kill,
    no_survivors,
    queued,
    sleepers,
    stubborn_tree,
)

PROMPT = 2.0
"""s until the next holder starts, on a busy machine; what is promised is half a second"""
TELL = 'echo "$GUARDRUN_LOCK $GUARDRUN_LOCK_OWNER $GUARDRUN_FENCING_TOKEN"'


@pytest.fixture(params=STORES)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LeaseFleet]:
    """Hosts with one kind of lease store after the other."""
    own = LeaseFleet.shared(request.param, tmp_path)
    yield own
    own.close()


@pytest.fixture
def lock() -> str:
    """A lock that nobody else has."""
    return lock_name()


def numbers(count: int) -> bytes:
    """An input of so many items."""
    return b"".join(b"%d\n" % number for number in range(count))


def held_once(result: Result, lock: str, count: int) -> None:
    """The pool took the lock once, and every COMMAND ran under that."""
    acquired = result.event("lock_acquired")
    told = {line for line in result.stdout.decode().splitlines() if line.startswith(lock)}
    assert told == {f"{lock} {acquired['lock_owner']} {acquired['fencing_token']}"}
    assert acquired["job_id"] == summary(result)["job_id"]
    assert summary(result)["succeeded"] == count


def test_a_host_lock_is_taken_once(host: Host, lock: str) -> None:
    """Every item runs under the one lock of the pool, and another pool finds it busy meanwhile."""
    result = host.run("each", "-P", "3", "--lock", lock, "-c", TELL, data=numbers(9))
    assert result.code == 0, result
    held_once(result, lock, 9)
    assert {row["held"] for row in host.rows()} == {1}
    holder = host.start("each", "--lock", lock, "--", "sleep", stdin=subprocess.PIPE)
    fed(holder, b"600\n")
    eventually(lambda: alive("600"), what="the item is executed")
    busy = host.run("each", "--lock", lock, "--", host.job, data=numbers(3))
    assert (busy.code, summary(busy)["total"], host.executions()) == (75, 0, [])
    assert busy.events == ["lock_busy", "each_finished"]
    holder.kill()
    finish(holder)
    no_survivors("600")


def test_a_killed_pool_frees_its_host_lock(
    host: Host, lock: str, tmp_path: Path, mark: str
) -> None:
    """kill -9: whoever waits gets the lock when nothing of any item is alive, and soon."""
    tree = stubborn_tree(tmp_path / "tree", mark)
    pool = host.start("each", "-P", "3", "--lock", lock, "--", str(tree), stdin=subprocess.PIPE)
    fed(pool, numbers(3))
    sleepers(mark, 12)
    act = {"ACT": f"ps -eo args | grep -c '[{mark[0]}]{mark[1:]}' >{tmp_path}/alive; exit 0"}
    waiting = host.start("--lock", lock, "-w", "1m", "--", host.job, env=act)
    eventually(lambda: queued(host.locks / sha256(lock.encode()).hexdigest()), what="it waits")
    begun = time.monotonic()
    pool.kill()
    eventually(host.executions, 30, "the next holder")
    assert took(begun) < PROMPT
    assert finish(waiting).code == 0
    assert (tmp_path / "alive").read_text().strip() == "0"
    finish(pool)


def test_a_lease_is_taken_once(fleet: LeaseFleet, lock: str) -> None:
    """Every item runs under the one lease of the pool, with its fence, and it is given back."""
    host = fleet.host()
    result = host.run("each", "-P", "3", *LEASE, "--lock", lock, "-c", TELL, data=numbers(9))
    assert result.code == 0, result
    held_once(result, lock, 9)
    assert fleet.places(lock) == ()
    assert len({row["fencing_token"] for row in host.rows()}) == 1
    again = host.run("each", *LEASE, "--lock", lock, "-c", TELL, data=numbers(1))
    fences = [one.event("lock_acquired")["fencing_token"] for one in (result, again)]
    assert fences[0] < fences[1]


def test_a_killed_pool_frees_its_lease(fleet: LeaseFleet, lock: str, mark: str) -> None:
    """kill -9: the lease is free when every warden has said that nothing of its item is alive.

    So it is where an item that was done before had left a daemon, whose warden is gone.
    """
    one, two = fleet.host("one"), fleet.host("two")
    tree = stubborn_tree(fleet.root / "tree", mark)
    daemon = f"(setsid sleep {mark}1 >/dev/null 2>&1 &)"
    string = f"case $1 in daemon) {daemon};; *) exec {tree};; esac"
    pool = one.start("each", "-P", "2", *LEASE, "--lock", lock, "-c", string, stdin=subprocess.PIPE)
    fed(pool, b"daemon\n1\n2\n")
    sleepers(mark, 8)
    waiting = two.start(*LEASE, "--lock", lock, "-w", "1m", "--", two.job, env={"ACT": "exit 0"})
    fleet.queued(lock, 1)
    begun = time.monotonic()
    pool.kill()
    eventually(two.executions, 30, "the next holder")
    handed = took(begun)
    assert alive(mark) == []
    assert handed < PROMPT
    assert finish(waiting).code == 0
    finish(pool)
    for pid in alive(f"{mark}1"):  # it ended normally: what it left is left alone
        kill(pid)


def test_a_lost_lease_ends_all_items(fleet: LeaseFleet, lock: str, mark: str) -> None:
    """The lock is taken away: every COMMAND is killed, no item is taken any more, and it is 74."""
    host = fleet.host()
    pool = host.start(
        *("each", "-P", "2", *SHORT, "--lock", lock, "--", "sleep"), stdin=subprocess.PIPE
    )
    fed(pool, f"{mark}\n".encode() * 2 + b"0\n" * 50)
    sleepers(mark, 2)
    fleet.rob(lock)
    eventually(lambda: pool.poll() is not None, 15, "the pool's end")
    result = finish(pool)
    assert result.code == 74, result
    no_survivors(mark, 0.1)
    last = summary(result)
    assert (last["succeeded"], last["failed"]) == (0, last["total"])
    assert last["total"] in (2, 3, 4)  # a place may have become free before the news had come
    assert {row["result"] for row in host.rows()} == {"lease_lost"}


def test_a_killed_pool_with_a_warden_that_is_stopped(
    fleet: LeaseFleet, lock: str, mark: str
) -> None:
    """The lease is not free before the last item is dead: its backstop takes half a second."""
    one, two = fleet.host("one"), fleet.host("two")
    pool = one.start(
        *("each", "-P", "2", *LEASE, "--lock", lock, "--", "sleep"), stdin=subprocess.PIPE
    )
    fed(pool, f"{mark}\n".encode() * 2)
    sleepers(mark, 2)
    act = {"ACT": f"ps -eo args | grep -c '[{mark[0]}]{mark[1:]}' >{fleet.root}/alive; exit 0"}
    waiting = two.start(*LEASE, "--lock", lock, "-w", "1m", "--", two.job, env=act)
    fleet.queued(lock, 1)
    stopped = wardens(pool)[-1]
    os.kill(stopped, signal.SIGSTOP)
    pool.kill()
    eventually(two.executions, 30, "the next holder")
    assert finish(waiting).code == 0
    assert (fleet.root / "alive").read_text().strip() == "0"
    finish(pool)


def test_the_keeper_of_a_pool_is_killed(fleet: LeaseFleet, lock: str) -> None:
    """kill -9: another one takes up the lease, and the pool goes on under it."""
    if not fleet.lapses:
        pytest.skip("an advisory lock is gone with the keeper's session")
    host = fleet.host()
    pool = host.start(
        *("each", "-P", "2", *SHORT, "--lock", lock, "--", host.job),
        stdin=subprocess.PIPE,
        env={"ACT": "exit 0"},
    )
    fed(pool, b"1\n2\n")
    eventually(lambda: len(host.executions()) == 2)
    first = keeper(pool)
    os.kill(first, signal.SIGKILL)
    assert keeper(pool, first)
    fed(pool, b"3\n4\n")
    eventually(lambda: len(host.executions()) == 4)
    result = finish(pool)
    assert (result.code, summary(result)["succeeded"]) == (0, 4), result
    assert fleet.places(lock) == ()


@pytest.fixture
def both(fleet: LeaseFleet, database_url: str, tmp_path: Path) -> FleetHost:
    """A host with this kind of lease store, and a ledger in Postgres."""
    return fleet_host(tmp_path / "both", database_url, GUARDRUN_LEASE_URL=fleet.url)


def test_a_lost_lease_with_both_far_away(
    fleet: LeaseFleet, both: FleetHost, lock: str, mark: str
) -> None:
    """A COMMAND with a keeper of its own is killed as well when the pool's lock is lost."""
    pool = both.start(
        *("each", "-P", "2", *SHORT, "--lock", lock, "--key", f"{lock}-{{item}}"),
        *("-c", f"exec sleep {mark}"),
        stdin=subprocess.PIPE,
    )
    fed(pool, b"1\n2\n")
    sleepers(mark, 2)
    fleet.rob(lock)
    eventually(lambda: pool.poll() is not None, 15, "the pool's end")
    result = finish(pool)
    assert (result.code, summary(result)["failed"]) == (74, 2), result
    no_survivors(mark, 0.1)


def test_a_killed_pool_with_both_far_away(
    fleet: LeaseFleet, both: FleetHost, lock: str, mark: str
) -> None:
    """kill -9: the lease is free, and every key interrupted, as soon as its item is dead."""
    tree = stubborn_tree(fleet.root / "tree", mark)
    pool = both.start(
        *("each", "-P", "2", *LEASE, "--lock", lock, "--key", f"{lock}-{{item}}", "--", str(tree)),
        stdin=subprocess.PIPE,
    )
    fed(pool, b"1\n2\n")
    sleepers(mark, 8)
    begun = time.monotonic()
    pool.kill()
    eventually(lambda: fleet.places(lock) == (), 30, "the lease is free")
    assert alive(mark) == []
    assert took(begun) < PROMPT
    keys = [f"{lock}-1", f"{lock}-2"]
    eventually(lambda: [both.key(key)["state"] for key in keys] == ["interrupted"] * 2, 5)
    finish(pool)
    again = both.run(
        *("each", *LEASE, "--lock", lock, "--key", f"{lock}-{{item}}", "--on-mismatch", "ignore"),
        *("--", "true"),
        data=b"1\n2\n",
    )
    assert (again.code, summary(again)["succeeded"]) == (0, 2), again
