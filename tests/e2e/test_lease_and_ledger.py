"""A lock's lease and the ledger: in one Postgres, where they are one truth, and in two stores."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import servers
from campaign_faults import FINISH
from fleet import FleetHost, ask, fleet_host, transaction
from lease_fleet import LEASE, SHORT, LeaseFleet, Written, keeper, let_go, took
from lease_stores import PostgresLeaseStore, due, lock_name, request
from proxy import Proxy
from support import Host, eventually, finish, no_survivors, sleepers, stubborn_tree

from guardrun.model import Grant

When = Literal["before", "after"]


@pytest.fixture
def lock() -> str:
    """A lock that nobody else has."""
    return lock_name()


class Both(NamedTuple):
    """A host whose leases and ledger are in one database, and the ways to that."""

    host: FleetHost
    proxy: Proxy
    url: str
    """past the proxy"""

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Rows of the database."""
        return ask(self.url, query)

    def run(self) -> dict[str, Any]:
        """The one run."""
        (row,) = self.rows("SELECT *, xmin::text AS changed_by FROM guardrun.runs")
        return row

    def key(self) -> dict[str, Any]:
        """The one key."""
        (row,) = self.rows("TABLE guardrun.key_states")
        return row

    def taken(self) -> bool:
        """Whether the lock is held."""
        return bool(self.rows("TABLE guardrun.leases_taken"))

    def rob(self) -> None:
        """Take the lock away by hand."""
        query = "UPDATE guardrun.lease_holders SET expires_at = '-infinity' RETURNING token"
        assert self.rows(query)

    def recorded_once(self, lease_lost: bool = False) -> None:
        """Check that the one run has succeeded, after one attempt, and that the lock is free."""
        row = self.run()
        assert (row["result"], row["stale"], row["lease_lost"]) == ("success", False, lease_lost)
        assert len(self.rows("TABLE guardrun.attempts")) == row["attempts"] == 1
        assert self.key()["state"] == "succeeded"
        assert not self.taken()


@pytest.fixture
def both(tmp_path: Path, database_url: str) -> Iterator[Both]:
    """A host that names a ledger in Postgres, and no lease store: so that is there as well."""
    with Proxy.before(database_url) as proxy:
        host = fleet_host(tmp_path / "one", proxy.url_for(database_url))
        yield Both(host, proxy, database_url)
        host.close()


# ---------------------------------------------------------------- one database, one transaction


CHANGED_BY = """
SELECT (SELECT xmin::text FROM guardrun.runs) AS run,
       (SELECT xmin::text FROM guardrun.attempts) AS attempt,
       (SELECT xmin::text FROM guardrun.keys) AS key,
       (SELECT xmin::text FROM guardrun.lease_holders) AS place
"""


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pgbouncer"])
def test_outcome_and_release_are_one_transaction(
    tmp_path: Path, database_url: str, lock: str, pooled: bool
) -> None:
    """Run, attempt, key and the lock's place were last changed by the same transaction."""
    url = servers.pgbouncer_url(database_url) if pooled else database_url
    host = fleet_host(tmp_path / "one", url)
    process = host.hold(*LEASE, "--lock", lock, "--key", "k")
    (meanwhile,) = ask(database_url, CHANGED_BY)
    assert meanwhile["run"] != meanwhile["place"]
    assert finish(process).code == 0
    (changed_by,) = ask(database_url, CHANGED_BY)
    assert len(set(changed_by.values())) == 1, changed_by
    assert ask(database_url, "TABLE guardrun.leases_taken") == []
    host.close()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("then", ["cut", "refuse", "blackhole"])
def test_cut_at_the_commit(
    both: Both, lock: str, when: When, then: Literal["cut", "refuse", "blackhole"]
) -> None:
    """Either both are done, or neither; and in the end both are, once, and the lock is free."""
    both.proxy.cut_at(FINISH, when, then=then)
    words = (*LEASE, "--lock", lock, "--key", "k", "--record-wait", "1m")
    process = both.host.start(*words, "--", both.host.job)
    eventually(lambda: both.proxy.stats().fired == 1, 20, "the cut")
    if then != "cut":
        recorded = both.run()["finished_at"] is not None
        assert recorded == (when == "after")
        assert both.taken() == (not recorded)
        assert process.poll() is None
        both.proxy.accept() if then == "refuse" else both.proxy.resume()
    result = finish(process)
    assert (result.code, result.finished["result"]) == (0, "success"), result
    assert "lease_lost" not in result.finished
    assert both.proxy.stats().fired == 1
    assert both.host.spooled() == []
    both.recorded_once()


@pytest.mark.parametrize("when", ["before", "after"])
def test_cut_off_from_the_commit_on(both: Both, lock: str, when: When) -> None:
    """Spooled; the lock is free when its ttl is over, and flush records what was not."""
    both.proxy.cut_at(FINISH, when, then="refuse")
    words = (*SHORT, "--lock", lock, "--key", "k", "--record-wait", "1s")
    result = both.host.run(*words, "--", both.host.job)
    assert (result.code, result.finished["result"]) == (0, "success"), result
    assert "outcome_spooled" in result.events
    assert both.taken() == (when == "before")
    eventually(lambda: not both.taken(), 12, "a free lock")
    both.proxy.accept()
    assert both.host.run("flush").code == 0
    both.recorded_once()


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "rolled back"])
def test_killed_between_outcome_and_release(both: Both, lock: str, committed: bool) -> None:
    """kill -9 of guardrun and keeper while the server is at the release: both are done, or neither.

    Somebody has the row of the place locked: the run's is written by then, and nobody sees it.
    """
    process = both.host.hold(*SHORT, "--lock", lock, "--key", "k", "--claim-ttl", "10s")
    # In this order: a supervisor that saw its keeper die would have another.
    pids = (process.pid, keeper(process))

    def at_the_release() -> bool:
        query = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'guardrun' AND wait_event_type = 'Lock'"
        )
        return bool(both.rows(query))

    with transaction(both.url) as somebody:
        assert somebody.execute("SELECT FROM guardrun.lease_holders FOR UPDATE").rowcount == 1
        let_go(process)
        eventually(at_the_release, 10, "a guardrun that waits for the row")
        assert both.run()["finished_at"] is None
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        if not committed:
            eventually(lambda: not at_the_release(), 10, "the end of the server's patience")
    if committed:
        eventually(lambda: both.run()["finished_at"] is not None, 10, "what was sent")
        both.recorded_once()
    else:
        assert both.run()["finished_at"] is None
        assert both.key()["state"] in ("running", "interrupted")
        eventually(lambda: not both.taken(), 12, "a free lock")
        words = (*LEASE, "--lock", lock, "--key", "k", "-w", "1m")
        assert both.host.run(*words, "--", both.host.job).code == 0
        assert len(both.host.executions()) == 2
    finish(process)


@pytest.mark.parametrize("on_loss", ["stop", "warn"])
def test_taken_away_just_before_the_end(both: Both, lock: str, on_loss: str) -> None:
    """The transaction with the outcome finds out: 74 or, with warn, COMMAND's own code.

    What was done is done: the key has succeeded. The successor's lease is left alone.
    """
    options = ("--on-lease-loss", on_loss, "--key", "k", "--ttl", "10m")
    process = both.host.hold(*LEASE, "--lock", lock, *options)
    both.rob()
    leases = PostgresLeaseStore("postgres", both.url)
    store, successor = leases.open(), request(lock)
    assert isinstance(store.acquire(successor, False, due()), Grant)
    result = finish(process)
    assert result.code == (74 if on_loss == "stop" else 0), result
    assert result.finished["lease_lost"] is True
    assert store.renew(successor, due())
    assert store.release(successor, due())
    leases.let_go()
    both.recorded_once(lease_lost=True)
    again = both.host.run(*LEASE, "--lock", lock, "--key", "k", "--", both.host.job)
    assert (again.code, again.finished["result"]) == (0, "skipped_duplicate")


def test_a_refused_run_gives_the_lock_back_with_its_row(both: Both, lock: str) -> None:
    """Skipped as a duplicate, or missing what it needs: a row, a free lock, no loss told of."""
    words = (*LEASE, "--lock", lock)
    assert both.host.run(*words, "--key", "k", "--", both.host.job).code == 0
    skipped = both.host.run(*words, "--key", "k", "--", both.host.job)
    assert (skipped.code, skipped.finished["result"]) == (0, "skipped_duplicate")
    missing = both.host.run(*words, "--needs", "never", "--", both.host.job)
    assert (missing.code, missing.finished["result"]) == (76, "precondition_failed")
    assert not both.taken()
    rows = both.host.rows()
    assert [row["result"] for row in rows] == [
        "success",
        "skipped_duplicate",
        "precondition_failed",
    ]
    assert not any(row["lease_lost"] for row in rows)


# ---------------------------------------------------------------- in two stores


@pytest.fixture
def redis_fleet(tmp_path: Path) -> Iterator[LeaseFleet]:
    """Hosts with their leases in Redis."""
    own = LeaseFleet.shared("redis", tmp_path)
    yield own
    own.close()


def test_a_key_in_the_embedded_ledger(redis_fleet: LeaseFleet, lock: str, mark: str) -> None:
    """A lease far away and a key at home: once to success, interrupted when killed."""
    host = redis_fleet.host()
    words = (*LEASE, "--lock", lock, "--key", "k")
    tree = str(stubborn_tree(redis_fleet.root / "tree", mark))
    process = host.start(*words, "--", tree)
    sleepers(mark, 4)
    process.kill()
    no_survivors(mark)
    finish(process)
    again = host.start(*words, "-w", "10s", "--", tree)
    sleepers(mark, 4)
    again.terminate()
    finish(again)
    ignoring = (*words, "--on-mismatch", "ignore")
    assert host.run(*ignoring, "--", host.job).code == 0
    skipped = host.run(*ignoring, "--", host.job)
    assert (skipped.code, skipped.finished["result"]) == (0, "skipped_duplicate")
    found = [row["result"] for row in host.rows()]
    assert found == ["interrupted", "interrupted", "success", "skipped_duplicate"]
    assert redis_fleet.places(lock) == ()


class Apart(NamedTuple):
    """A host with its leases in Redis and, behind a proxy, its ledger in Postgres."""

    host: FleetHost
    proxy: Proxy
    url: str
    """of the ledger, past the proxy"""
    fleet: LeaseFleet


@pytest.fixture
def apart(tmp_path: Path, database_url: str, redis_fleet: LeaseFleet) -> Iterator[Apart]:
    """Leases and ledger in two stores."""
    with Proxy.before(database_url) as proxy:
        env = {"GUARDRUN_LEASE_URL": redis_fleet.url}
        host = fleet_host(tmp_path / "one", proxy.url_for(database_url), **env)
        yield Apart(host, proxy, database_url, redis_fleet)
        host.close()


def stays_held(apart: Apart, lock: str, run: subprocess.Popen[bytes], seconds: float) -> None:
    """Check for so long that a run holds a lock, which never is about to lapse, by one keeper."""
    place, pid = apart.fleet.place(lock), keeper(run)
    begun = time.monotonic()
    least = place.expires_in
    while took(begun) < seconds:
        now = apart.fleet.place(lock)
        assert now.token == place.token
        least = min(least, now.expires_in)
        time.sleep(0.1)
    print(f"never less than {least:.1f} s left")
    assert least > 2
    assert keeper(run) == pid, "a keeper that waits for the ledger is not stuck"


def test_a_ledger_that_hangs_does_not_cost_the_lease(apart: Apart, lock: str) -> None:
    """Blackholed for longer than the lease lasts: that is renewed all the same, COMMAND lives."""
    log = Written(apart.host.root / "log")
    words = (*SHORT, *log.words, "--lock", lock, "--key", "k", "--claim-ttl", "15m")
    process = apart.host.hold(*words)
    apart.proxy.blackhole()
    stays_held(apart, lock, process, 13)
    assert process.poll() is None
    apart.proxy.resume()
    assert finish(process).code == 0
    assert log.lines("lease_lost") == []
    assert len(log.lines("lease_renewed")) >= 4
    assert [row["result"] for row in ask(apart.url, "TABLE guardrun.runs")] == ["success"]
    assert apart.fleet.places(lock) == ()


def test_whose_turn_is_near_has_the_ledger_ready(apart: Apart, lock: str) -> None:
    """Of the queue the first two with a key have a connection to it; nobody behind them has one."""

    def connections() -> int:
        query = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'guardrun'"
        )
        return len(ask(apart.url, query))

    words = (*LEASE, "--lock", lock, "-w", "1m")
    holder = apart.host.hold(*words, "--key", "first")
    waiting = []
    for number, key in enumerate([(), ("--key", "a"), ("--key", "b"), ("--key", "c")], start=1):
        waiting.append(apart.host.start(*words, *key, "--", apart.host.job))
        apart.fleet.queued(lock, number)
    eventually(lambda: connections() == 1, 20, "the connection of the second")
    waiting.pop(0).terminate()
    eventually(lambda: connections() == 2, 20, "the connection of who is second now")
    let_go(holder)
    for one in waiting:
        result = finish(one)
        assert (result.code, result.finished["result"]) == (0, "success"), result
    eventually(lambda: connections() == 0, 20, "no connection")


@pytest.mark.parametrize("ttls", [("10s", "15m"), ("10s", "10s")], ids=["lease", "both"])
def test_the_lease_lasts_until_the_outcome_is_kept(
    apart: Apart, lock: str, ttls: tuple[str, str]
) -> None:
    """A ledger that hangs when COMMAND has ended: the lock is held for --record-wait, then free."""
    lease_ttl, claim_ttl = ttls
    words = (*LEASE, "--ttl", lease_ttl, "--claim-ttl", claim_ttl, "--lock", lock, "--key", "k")
    process = apart.host.hold(*words, "--record-wait", "14s")
    apart.proxy.blackhole()
    let_go(process)
    stays_held(apart, lock, process, 12)
    result = finish(process)
    assert (result.code, result.finished["result"]) == (0, "success"), result
    assert "outcome_spooled" in result.events
    assert "lease_lost" not in result.finished
    assert apart.fleet.places(lock) == ()
    apart.proxy.resume()
    flushed = apart.host.run("flush", "--json")
    assert flushed.code == 0, flushed
    assert json.loads(flushed.stdout)["recorded"] in (0, 1)  # the keeper may have been first
    (row,) = ask(apart.url, "TABLE guardrun.runs")
    assert (row["result"], row["lease_lost"]) == ("success", False)


def test_a_lost_lease_is_recorded_elsewhere(
    tmp_path: Path, database_url: str, lock: str, mark: str
) -> None:
    """The lease store hangs for good: COMMAND is dead in time, and the ledger knows why."""
    with servers.Redis.start() as server:
        host = fleet_host(tmp_path / "one", database_url, GUARDRUN_LEASE_URL=server.url)
        tree = str(stubborn_tree(tmp_path / "tree", mark))
        process = host.start(*SHORT, "--lock", lock, "--key", "k", "-k", "1h", "--", tree)
        sleepers(mark, 4)
        server.pause()
        begun = time.monotonic()
        no_survivors(mark, 15)
        died = took(begun)
        process.wait(30)
        ended = took(begun)
        server.resume()
        result = finish(process)
    assert result.code == 74, result
    assert died < 10, "it was granted before the pause"
    print(f"dead after {died:.1f} s, ended after {ended:.1f} s")
    assert ended - died < 5
    (row,) = host.rows()
    assert (row["result"], row["lease_lost"]) == ("lease_lost", True)
    assert host.key("k")["state"] == "interrupted"
    host.close()


def test_a_killed_guardrun_tells_both_stores(apart: Apart, lock: str, mark: str) -> None:
    """kill -9: the key is interrupted and the lock is free, both at once."""
    tree = str(stubborn_tree(apart.host.root / "tree", mark))
    process = apart.host.start(*LEASE, "--lock", lock, "--key", "k", "--", tree)
    sleepers(mark, 4)
    process.kill()
    begun = time.monotonic()
    eventually(lambda: not apart.fleet.places(lock), 10, "a free lock")
    assert took(begun) < 2
    no_survivors(mark)
    eventually(lambda: apart.host.key("k")["state"] == "interrupted", 10, "an interrupted key")
    finish(process)


def test_a_killed_guardrun_frees_its_lock_although_the_ledger_hangs(
    apart: Apart, lock: str, mark: str
) -> None:
    """kill -9 while the ledger does not answer: the lock does not wait for it."""
    tree = str(stubborn_tree(apart.host.root / "tree", mark))
    process = apart.host.start(*LEASE, "--lock", lock, "--key", "k", "--", tree)
    sleepers(mark, 4)
    apart.proxy.blackhole()
    process.kill()
    begun = time.monotonic()
    no_survivors(mark)
    eventually(lambda: not apart.fleet.places(lock), 20, "a free lock")
    freed = took(begun)
    print(f"free after {freed:.2f} s")
    assert freed < 3
    apart.proxy.resume()
    eventually(lambda: apart.host.key("k")["state"] == "interrupted", 30, "an interrupted key")
    finish(process)


def test_held_by_somebody_else_is_no_loss(apart: Apart, lock: str) -> None:
    """A busy lock is a row of the ledger, with who has it; the key stays as it was."""
    process = apart.host.hold(*LEASE, "--lock", lock)
    busy = apart.host.run(*LEASE, "--lock", lock, "--key", "k", "--", apart.host.job)
    assert busy.code == 75
    rows = {str(row["job_id"]): row for row in ask(apart.url, "TABLE guardrun.runs")}
    row = rows[busy.finished["job_id"]]
    assert (row["result"], row["lease_lost"], row["held"]) == ("lock_busy", False, False)
    assert ask(apart.url, "TABLE guardrun.keys") == []
    assert finish(process).code == 0


def test_no_ledger_at_all(redis_fleet: LeaseFleet, lock: str) -> None:
    """none: leaves the lease as it is: held while COMMAND runs, free at its end."""
    host: Host = redis_fleet.host(GUARDRUN_LEDGER_URL="none:")
    process = host.hold(*LEASE, "--lock", lock)
    assert host.run(*LEASE, "--lock", lock, "--", "true").code == 75
    assert finish(process).code == 0
    assert redis_fleet.places(lock) == ()
