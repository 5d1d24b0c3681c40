"""Whole runs under a lease, from outside: every store, several hosts, real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import servers
from fleet import ask, fleet_host
from lease_fleet import (
    LEASE,
    LONGEST_RENEWAL,
    SHORT,
    LeaseFleet,
    Written,
    environment_url,
    keeper,
    let_go,
    took,
)
from lease_stores import STORES, due, lock_name, request
from support import (
    GENTLY,
    GUARDRUN,
    Host,
    alive,
    eventually,
    family,
    finish,
    kill,
    no_survivors,
    sleepers,
    stubborn_tree,
    write_script,
)
from test_terminal import CTRL_Z, Shell

from guardrun.postgres.schema import migrate

PROMPT = 2.0
"""s until the next holder starts, on a busy machine; what is promised is half a second"""
TTL = 10.0
"""s; of ``SHORT``"""


@pytest.fixture(params=STORES)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LeaseFleet]:
    """Hosts with one kind of lease store after the other."""
    own = LeaseFleet.shared(request.param, tmp_path)
    yield own
    own.close()


@pytest.fixture
def fleets(tmp_path: Path) -> Iterator[list[LeaseFleet]]:
    """A fleet for each kind of store: what takes long, they do at the same time."""
    with contextlib.ExitStack() as stack:
        found = []
        for kind in STORES:
            found.append(LeaseFleet.shared(kind, tmp_path))
            stack.callback(found[-1].close)
        yield found


@pytest.fixture
def lock() -> str:
    """A lock that nobody else has."""
    return lock_name()


def moment(text: str) -> float:
    """Seconds since 1970 of a time in a log line."""
    return datetime.fromisoformat(text).timestamp()


# ---------------------------------------------------------------- held while COMMAND runs


def test_command_runs_under_the_lease(fleet: LeaseFleet, lock: str) -> None:
    """COMMAND knows its lock, owner and fence, which are those of the store and of the log."""
    host = fleet.host()
    told = host.root / "told"
    act = f'echo "$GUARDRUN_LOCK $GUARDRUN_LOCK_OWNER $GUARDRUN_FENCING_TOKEN" >"{told}"; exec cat'
    process = host.hold(*LEASE, "--lock", lock, env={"ACT": act})
    place = eventually(lambda: fleet.places(lock))[0]
    words = eventually(lambda: told.read_text().split() if told.exists() else [])
    assert words == [lock, place.owner, str(place.fence)]
    assert place.owner == f"{os.uname().nodename}:{process.pid}:{host.executions()[0]}"
    assert place.slots == 1
    result = finish(process)
    assert result.code == 0, result
    acquired = result.event("lock_acquired")
    assert (acquired["lock"], acquired["lock_owner"]) == (lock, place.owner)
    assert acquired["fencing_token"] == result.finished["fencing_token"] == place.fence
    # The servers of the tests do without fsync, which etcd does not tell; Consul never does.
    assert acquired["fence_durable"] is (fleet.kind in ("etcd", "consul"))
    assert "lease_lost" not in result.finished
    assert fleet.places(lock) == ()
    (row,) = host.rows()
    assert (row["result"], row["held"], row["fencing_token"]) == ("success", 1, place.fence)


def test_a_fence_that_survives_a_crash(tmp_path: Path, lock: str) -> None:
    """``fence_durable`` is true where the store has it on disk before it is granted."""
    with (
        servers.Redis.start(appendonly="yes", appendfsync="always") as one,
        servers.Postgres.start(fsync="on") as other,
    ):
        migrate(other.url, due(60))
        for url in (one.url, other.url):
            host = Host(tmp_path, {"GUARDRUN_LEASE_URL": url})
            result = host.run(*LEASE, "--lock", lock, "--", "true")
            assert result.code == 0, result
            assert result.event("lock_acquired")["fence_durable"] is True


def test_the_lock_is_free_when_a_run_has_ended(fleet: LeaseFleet, lock: str) -> None:
    """Runs that start one after the other's end never find it busy; their fences grow."""
    hosts = [fleet.host("one"), fleet.host("two")]
    fences = []
    for number in range(20):
        result = hosts[number % 2].run(*LEASE, "--lock", lock, "-n", "--", "true")
        assert result.code == 0, (number, result)
        fences.append(result.finished["fencing_token"])
    assert fences == sorted(set(fences))


def test_a_failed_or_refused_run_gives_the_lock_back(fleet: LeaseFleet, lock: str) -> None:
    """However a run ends, nothing of it is left in the store: no place, no waiter."""
    host = fleet.host()
    assert host.run(*LEASE, "--lock", lock, "--", "sh", "-c", "exit 3").code == 3
    assert fleet.places(lock) == ()
    assert host.run(*LEASE, "--lock", lock, "--", "/nowhere").code == 127
    assert fleet.places(lock) == ()
    assert host.run(*LEASE, "--lock", lock, "--needs", "never", "--", "true").code == 76
    assert fleet.places(lock) == ()
    process = host.hold(*LEASE, "--lock", lock)
    process.terminate()
    assert finish(process).code == -signal.SIGTERM
    assert fleet.places(lock) == ()
    assert fleet.queue(lock) == 0


# ---------------------------------------------------------------- busy


def test_a_busy_lock(fleet: LeaseFleet, lock: str) -> None:
    """75, or what -E says, and who holds it since when; COMMAND is not executed."""
    one, two = fleet.host("one"), fleet.host("two")
    begun = time.time()
    process = one.hold(*LEASE, "--lock", lock)
    busy = two.run(*LEASE, "--lock", lock, "--", two.job)
    other = two.run(*LEASE, "--lock", lock, "-E", "9", "--", two.job)
    assert (busy.code, other.code) == (75, 9)
    assert two.executions() == []
    assert busy.finished["result"] == "lock_busy"
    held_by = busy.event("lock_busy")["held_by"]
    place = fleet.place(lock)
    assert held_by["owner"] == place.owner
    assert held_by["job_id"] == one.executions()[0]
    assert moment(held_by["since"]) == pytest.approx(place.since, abs=0.001)
    assert place.since == pytest.approx(begun, abs=20)
    assert busy.finished["held_by"] == held_by
    assert [row["result"] for row in two.rows()] == ["lock_busy", "lock_busy"]
    assert finish(process).code == 0


def await_in_queue(fleet: LeaseFleet, host: Host, lock: str, *words: str) -> Any:
    """Start a run that waits for a lock, and return when it is in the queue."""
    before = fleet.queue(lock)
    process = host.start(*LEASE, "--lock", lock, *words, "--", host.job, program=GENTLY)
    fleet.queued(lock, before + 1)
    return process


def test_waiters_get_it_in_the_order_they_came(fleet: LeaseFleet, lock: str) -> None:
    """First come, first served; each says once that it waits, and how long that took."""
    holder, host = fleet.host("holder"), fleet.host("waiters")
    process = holder.hold(*LEASE, "--lock", lock)
    waiting = [await_in_queue(fleet, host, lock, "-w", "2m") for _ in range(5)]
    assert finish(process).code == 0
    results = [finish(one) for one in waiting]
    assert [result.code for result in results] == [0] * 5, results
    assert host.executions() == [result.finished["job_id"] for result in results]
    fences = [result.finished["fencing_token"] for result in results]
    assert fences == sorted(set(fences))
    for result in results:
        assert result.event("lock_busy")["reason"] == "waiting"
        assert result.event("lock_acquired")["lock_wait_ms"] > 0
    assert (fleet.queue(lock), fleet.places(lock)) == (0, ())


def handed_over(process: subprocess.Popen[bytes], host: Host) -> float:
    """End a run, which holds a lock, and wait for the next to start; how long that took, in s."""
    before = len(host.executions())
    begun = time.monotonic()
    let_go(process)
    eventually(lambda: len(host.executions()) > before, 30, "the next holder")
    return took(begun)


@pytest.mark.parametrize("together", [False, True])
def test_a_connection_is_kept_for_who_waits(tmp_path: Path, lock: str, together: bool) -> None:
    """Between renewals a holder has none, unless somebody waits for what it holds.

    No run has more than one, also where its ledger is in that database.
    """
    sessions = (
        "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
        "   AND application_name = 'guardrun'"
    )
    idle = sessions + " AND clock_timestamp() - state_change > interval '1 s'"
    with contextlib.closing(LeaseFleet.shared("postgres", tmp_path)) as fleet:
        host = fleet.host("one", **({"GUARDRUN_LEDGER_URL": fleet.url} if together else {}))
        first = host.hold(*SHORT, "--lock", lock, "--key", "one")
        eventually(lambda: fleet.places(lock))
        eventually(lambda: ask(fleet.direct, sessions)[0]["n"] == 0, 20, "no session")
        second = host.start(*SHORT, "--lock", lock, "--key", "two", "-w", "1m", "--", "true")
        eventually(lambda: ask(fleet.direct, idle)[0]["n"] == 2, 20, "the waiter's and another")
        assert ask(fleet.direct, sessions)[0]["n"] == 2
        assert finish(first).code == 0
        assert finish(second).code == 0


def test_a_wait_that_runs_out(fleet: LeaseFleet, lock: str) -> None:
    """75 after --wait; the queue is left at once, so that who waits behind is not held up."""
    holder, host = fleet.host("holder"), fleet.host("waiters")
    process = holder.hold(*LEASE, "--lock", lock)
    short = await_in_queue(fleet, host, lock, "-w", "8s")
    patient = await_in_queue(fleet, host, lock, "-w", "2m")
    result = finish(short)
    assert fleet.queue(lock) == 1
    assert (result.code, result.finished["result"]) == (75, "lock_busy")
    assert 8000 <= result.finished["lock_wait_ms"] < 11000
    assert result.finished["held_by"]["job_id"] == holder.executions()[0]
    assert handed_over(process, host) < PROMPT
    assert finish(patient).code == 0
    assert host.executions() == [finish_of(host, "success")]


def finish_of(host: Host, result: str) -> str:
    """The job_id of the one run that ended so."""
    (row,) = (row for row in host.rows() if row["result"] == result)
    return str(row["job_id"])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_waiter_that_is_ended(fleet: LeaseFleet, lock: str, signum: signal.Signals) -> None:
    """It ends by the signal within a second, and the queue goes on without it."""
    holder, host = fleet.host("holder"), fleet.host("waiters")
    process = holder.hold(*LEASE, "--lock", lock)
    first = await_in_queue(fleet, host, lock, "-w", "forever")
    second = await_in_queue(fleet, host, lock, "-w", "2m")
    begun = time.monotonic()
    first.send_signal(signum)
    first.wait(20)
    ended = took(begun)
    eventually(lambda: fleet.queue(lock) == 1, PROMPT, "a queue of one")
    assert first.returncode == -signum
    assert ended < 1
    assert handed_over(process, host) < PROMPT
    assert finish(second).code == 0
    assert len(host.executions()) == 1


def test_a_waiters_keeper_is_killed(fleet: LeaseFleet, lock: str) -> None:
    """kill -9: another one stands in the queue for the same run, which gets the lock all the same.

    It is in time even if nobody tells it that the lock is free.
    """
    holder, host = fleet.host("holder"), fleet.host("waiters")
    process = holder.hold(*LEASE, "--lock", lock)
    waiting = await_in_queue(fleet, host, lock, "-w", "2m")
    first = keeper(waiting)
    os.kill(first, signal.SIGKILL)
    assert keeper(waiting, first)
    fleet.queued(lock, 1)
    assert handed_over(process, host) < 12
    result = finish(waiting)
    assert (result.code, len(host.executions())) == (0, 1), result
    assert fleet.queue(lock) == 0


def test_a_waiter_that_is_stopped(fleets: list[LeaseFleet], lock: str) -> None:
    """SIGSTOP: it is passed over after about ten seconds at the most; continued, it gets its turn.

    It does not take a place that it could not use.
    """
    under_way = []
    for fleet in fleets:
        holder, host = fleet.host("holder"), fleet.host("waiters")
        process = holder.hold(*LEASE, "--lock", lock)
        first = await_in_queue(fleet, host, lock, "-w", "2m")
        second = await_in_queue(fleet, host, lock, "-w", "2m")
        under_way.append((fleet, host, process, first, second))
    for _, _, process, first, _ in under_way:
        first.send_signal(signal.SIGSTOP)
        let_go(process)
    begun = time.monotonic()
    passed: dict[str, float] = {}

    def all_passed() -> bool:
        for fleet, host, *_ in under_way:
            if fleet.kind not in passed and host.executions():
                passed[fleet.kind] = took(begun)
        return len(passed) == len(under_way)

    eventually(all_passed, 30, f"second waiters; so far {passed}")
    print(f"passed over, s: {passed}")
    assert max(passed.values()) < 12, passed
    for fleet, host, process, first, second in under_way:
        first.send_signal(signal.SIGCONT)
        results = [finish(second), finish(first)]
        assert [result.code for result in results] == [0, 0], (fleet.kind, results)
        assert host.executions() == [result.finished["job_id"] for result in results]
        assert finish(process).code == 0


# ---------------------------------------------------------------- slots, min-hold, nesting


def test_a_semaphore(fleet: LeaseFleet, lock: str) -> None:
    """-j 3: of ten runs three are alive at once, and never more."""
    hosts = [fleet.host("one"), fleet.host("two")]
    journal = fleet.root / "journal"
    command = write_script(
        fleet.root / "command",
        f"#!/bin/sh\necho 1 >>{journal}\nsleep 0.5\necho -1 >>{journal}\n",
    )
    started = [
        hosts[n % 2].start(
            *(*LEASE, "--lock", lock, "-j", "3", "-w", "2m", "--", str(command)), program=GENTLY
        )
        for n in range(10)
    ]
    results = [finish(process, 120) for process in started]
    assert [result.code for result in results] == [0] * 10, results
    alive_at_once = list(accumulate(int(line) for line in journal.read_text().split()))
    assert len(alive_at_once) == 20
    assert max(alive_at_once) == 3
    fences = {result.finished["fencing_token"] for result in results}
    assert len(fences) == 10


def test_another_number_of_slots(fleet: LeaseFleet, lock: str) -> None:
    """While a lock is held another N is exit 78, waiting or not; when it is free, it is fine."""
    host = fleet.host()
    process = host.hold(*LEASE, "--lock", lock, "-j", "2")
    for words in (("-j", "3"), ("-j", "3", "-w", "1m"), ()):
        result = host.run(*LEASE, "--lock", lock, *words, "--", "true")
        assert result.code == 78, result
        (line,) = result.stderr.decode().splitlines()
        assert "--slots 2" in line
        assert "--slots" in result.finished["reason"]
    assert host.run(*LEASE, "--lock", lock, "-j", "2", "--", "true").code == 0
    assert finish(process).code == 0
    assert host.run(*LEASE, "--lock", lock, "-j", "3", "--", "true").code == 0


def test_min_hold(fleet: LeaseFleet, lock: str, mark: str) -> None:
    """The lock stays taken beyond the run's end until its time is over, and nobody waits for that.

    An advisory lock cannot outlive its session, so it is refused.
    """
    host = fleet.host()
    hold = ("--min-hold", "5s", "--job", mark)
    first = host.run(*LEASE, "--lock", lock, *hold, "--", "true")
    if not fleet.lapses:
        assert first.code == 64, first
        assert b"--min-hold" in first.stderr
        assert fleet.places(lock) == ()
        return
    assert first.code == 0, first
    eventually(lambda: not alive(mark), 1, "no process that waits")
    busy = host.run(*LEASE, "--lock", lock, "-n", "--", "true")
    assert busy.code == 75
    assert busy.event("lock_busy")["held_by"]["job_id"] == first.finished["job_id"]
    later = host.run(*LEASE, "--lock", lock, "-w", "1m", "--", "true")
    assert later.code == 0
    since, until = (moment(one.event("lock_acquired")["timestamp"]) for one in (first, later))
    assert 4.5 < until - since < 5 + 4, "neither before nor long after its time"


def test_a_run_inside_a_run(fleet: LeaseFleet, lock: str) -> None:
    """Waiting for the lock of a run around it would never end: 75 at once, and it says so."""
    host = fleet.host()
    words = (*LEASE, "--lock", lock, "-w", "forever")
    result = host.run(*words, "--", *GUARDRUN, *words, "--", "true", timeout=30)
    assert result.code == 75
    inner = next(line for line in result.lines if line["event"] == "run_finished")
    assert inner["result"] == "lock_busy"
    assert "around this one" in inner["reason"]
    assert fleet.queue(lock) == 0


# ---------------------------------------------------------------- the store is down


DOWN = ("redis", "postgres", "advisory", "etcd", "consul")


def nowhere(kind: str, port: int) -> str:
    """A URL with a password where nobody is, or nobody answers."""
    return environment_url(kind, STORES[kind].nowhere.format(port=port))


@contextlib.contextmanager
def silent() -> Iterator[socket.socket]:
    """A port that takes connections, and never answers."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        nobody.listen()
        nobody.settimeout(30)
        yield nobody


def is_refused(host: Host, result: Any) -> None:
    """Check that nothing was executed, and why is said in one line, without the password."""
    assert result.code == 69, result
    assert host.executions() == []
    assert result.finished["result"] == "store_unavailable"
    assert len(result.stderr.splitlines()) == 1
    assert b"hunter2" not in result.stdout + result.stderr


@pytest.mark.parametrize("kind", DOWN)
def test_nobody_listens(host: Host, lock: str, kind: str) -> None:
    """69 when --store-wait is over, and the run is a row of the embedded ledger."""
    url = nowhere(kind, servers.free_port())
    begun = time.monotonic()
    result = host.run(
        *(*LEASE, "--lock", lock, "--store-wait", "1s", "--", host.job),
        env={"GUARDRUN_LEASE_URL": url},
    )
    assert 1 <= took(begun) < 4
    is_refused(host, result)
    assert b"refused" in result.stderr
    assert [row["result"] for row in host.rows()] == ["store_unavailable"]


def test_no_patience_at_all(fleet: LeaseFleet, lock: str) -> None:
    """With --store-wait 0 the store is asked once, and has the time that an answer takes."""
    result = fleet.host().run(*LEASE, "--lock", lock, "--store-wait", "0", "--", "true")
    assert result.code == 0, result


@pytest.mark.parametrize("kind", DOWN)
def test_nobody_answers(host: Host, lock: str, kind: str) -> None:
    """The same where connections are made and then nothing comes."""
    with silent() as nobody:
        url = nowhere(kind, nobody.getsockname()[1])
        begun = time.monotonic()
        result = host.run(
            *(*LEASE, "--lock", lock, "--store-wait", "1s", "--", host.job),
            env={"GUARDRUN_LEASE_URL": url},
        )
        assert 1 <= took(begun) < 4
    is_refused(host, result)
    assert [row["result"] for row in host.rows()] == ["store_unavailable"]


@pytest.mark.parametrize("kind", DOWN)
def test_told_to_stop_while_nobody_answers(host: Host, lock: str, kind: str) -> None:
    """SIGTERM ends the run by that signal, and waits for nobody."""
    with silent() as nobody:
        url = nowhere(kind, nobody.getsockname()[1])
        process = host.start(
            *(*LEASE, "--lock", lock, "--", host.job), env={"GUARDRUN_LEASE_URL": url}
        )
        taken, _ = nobody.accept()
        begun = time.monotonic()
        process.terminate()
        process.wait(20)
        ended = took(begun)
        taken.close()
    assert process.returncode == -signal.SIGTERM
    assert ended < 2
    assert [row["result"] for row in host.rows()] == ["interrupted"]
    assert host.executions() == []


@pytest.mark.parametrize("kind", DOWN)
def test_a_ledger_elsewhere_is_told(
    tmp_path: Path, database_url: str, lock: str, kind: str
) -> None:
    """That the lease store is down is a row of a ledger that is not."""
    host = fleet_host(tmp_path / "one", database_url)
    url = nowhere(kind, servers.free_port())
    result = host.run(
        *(*LEASE, "--lock", lock, "--key", "k", "--store-wait", "1s", "--", host.job),
        env={"GUARDRUN_LEASE_URL": url},
    )
    is_refused(host, result)
    assert [row["result"] for row in host.rows()] == ["store_unavailable"]
    assert host.spooled() == []
    assert host.rows("TABLE guardrun.keys") == []
    host.close()


@pytest.mark.parametrize("kind", ["redis", "postgres", "etcd", "consul"])
def test_a_store_that_comes_up_in_time(tmp_path: Path, lock: str, kind: str) -> None:
    """Within --store-wait it is tried again, and then used."""
    with STORES[kind].private() as leases:
        host = Host(tmp_path, {"GUARDRUN_LEASE_URL": leases.url})
        if kind == "postgres":
            leases.own.stop()
        else:
            leases.own.kill()
        process = host.start(*LEASE, "--lock", lock, "--store-wait", "1m", "--", host.job)
        time.sleep(1.5)  # so that it has been refused by now
        assert process.poll() is None
        leases.own.start_again()
        result = finish(process)
    assert result.code == 0, result
    assert result.event("lock_acquired")["fencing_token"] > 0


def test_a_deadline_in_the_queue(fleet: LeaseFleet, lock: str) -> None:
    """--deadline ends the wait for a lock: 124, and the queue is left."""
    host = fleet.host()
    process = host.hold(*LEASE, "--lock", lock)
    begun = time.monotonic()
    result = host.run(*LEASE, "--lock", lock, "-w", "forever", "--deadline", "2s", "--", "true")
    assert 2 <= took(begun) < 5
    assert (result.code, result.finished["result"]) == (124, "timeout")
    eventually(lambda: fleet.queue(lock) == 0, PROMPT, "an empty queue")
    assert finish(process).code == 0


def test_advisory_locks_behind_a_pooler(tmp_path: Path, lock: str) -> None:
    """They need a session of their own: a usage error, at once."""
    leases = STORES["postgres-pgbouncer"].shared()
    try:
        host = Host(tmp_path, {"GUARDRUN_LEASE_URL": environment_url("advisory", leases.url)})
        result = host.run(*LEASE, "--lock", lock, "--", host.job)
        assert result.code == 64, result
        (line,) = result.stderr.decode().splitlines()
        assert "pooler" in line
        assert host.executions() == []
        host.close()
    finally:
        leases.close()


@pytest.mark.parametrize("kind", ["postgres", "advisory"])
def test_a_database_without_the_schema(host: Host, database_url: str, lock: str, kind: str) -> None:
    """69 at once, since waiting does not help, and the line says what does."""
    env = {"GUARDRUN_LEASE_URL": environment_url(kind, database_url)}
    begun = time.monotonic()
    words = (*LEASE, "--lock", lock, "--store-wait", "1m", "--", host.job)
    result = host.run(*words, env=env)
    assert took(begun) < 10
    is_refused(host, result)
    assert b"guardrun migrate" in result.stderr
    assert host.run("migrate", env={"GUARDRUN_LEDGER_URL": database_url}).code == 0
    assert host.run(*words, env=env).code == 0


# ---------------------------------------------------------------- the lease is lost


def test_a_lease_that_is_taken_away(fleet: LeaseFleet, lock: str, mark: str) -> None:
    """The next renewal finds out: all of COMMAND is killed, 74; the successor keeps the lock."""
    host = fleet.host()
    log = Written(fleet.root / "log")
    tree = stubborn_tree(fleet.root / "tree", mark)
    process = host.start(*SHORT, *log.words, "--lock", lock, "-k", "1h", "--", str(tree))
    sleepers(mark, 4)
    fleet.rob(lock)
    begun = time.monotonic()
    store = fleet.open()
    successor = request(lock)
    eventually(lambda: granted_now(store.acquire(successor, False, due())), 5, "the successor")
    no_survivors(mark, 10)
    noticed = took(begun)
    assert process.wait(20) == 74
    # The end of a session is seen at once; what has a ttl is asked for.
    within = LONGEST_RENEWAL + 1 if fleet.lapses else PROMPT
    assert noticed < within, "the grace of a loss that is certain is none"
    assert store.renew(successor, due()), "the old run's end touched another's lease"
    assert len(log.lines("lease_lost")) == 1
    (finished,) = log.lines("run_finished")
    assert (finished["result"], finished["exit_code"]) == ("lease_lost", 74)
    (row,) = host.rows()
    assert (row["result"], row["exit_code"]) == ("lease_lost", 74)


def granted_now(answer: Any) -> Any:
    """The grant, if it is one."""
    return answer if hasattr(answer, "fence") else None


def test_a_loss_that_is_only_told(fleet: LeaseFleet, lock: str) -> None:
    """--on-lease-loss warn: COMMAND runs on to its own end, which is recorded as without a lease.

    What somebody else holds by then is left alone.
    """
    host = fleet.host()
    log = Written(fleet.root / "log")
    act = {"ACT": "read line; exit 3"}
    process = host.hold(*SHORT, *log.words, "--lock", lock, "--on-lease-loss", "warn", env=act)
    fleet.rob(lock)
    store = fleet.open()
    successor = request(lock)
    eventually(lambda: granted_now(store.acquire(successor, False, due())), 5, "the successor")
    log.await_line("lease_lost", LONGEST_RENEWAL + 2)
    assert process.poll() is None
    renewals = len(log.lines("lease_renewed"))
    assert finish(process).code == 3
    assert store.renew(successor, due()), "the old run's end touched another's lease"
    assert len(log.lines("lease_lost")) == 1
    assert len(log.lines("lease_renewed")) == renewals
    (finished,) = log.lines("run_finished")
    assert (finished["result"], finished["exit_code"]) == ("failed", 3)
    assert finished["lease_lost"] is True
    (row,) = host.rows()
    assert (row["result"], row["exit_code"], row["lease_lost"]) == ("failed", 3, 1)


# ---------------------------------------------------------------- something of ours is killed


def test_guardrun_is_killed(fleet: LeaseFleet, lock: str, mark: str) -> None:
    """kill -9: all of COMMAND is dead, and whoever waits starts within half a second."""
    one, two = fleet.host("one"), fleet.host("two")
    tree = stubborn_tree(fleet.root / "tree", mark)
    process = one.start(*LEASE, "--lock", lock, "--", str(tree))
    sleepers(mark, 4)
    act = {"ACT": f"ps -eo args | grep -c '[{mark[0]}]{mark[1:]}' >{fleet.root}/alive; exit 0"}
    waiting = two.start(*LEASE, "--lock", lock, "-w", "1m", "--", two.job, env=act)
    fleet.queued(lock, 1)
    begun = time.monotonic()
    process.kill()
    eventually(two.executions, 30, "the next holder")
    handed = took(begun)
    result = finish(waiting)
    assert result.code == 0, result
    assert (fleet.root / "alive").read_text().strip() == "0"
    print(f"{fleet.kind}: next holder {1000 * handed:.0f} ms after kill -9")
    assert handed < PROMPT
    finish(process)


def test_the_keeper_is_killed(fleets: list[LeaseFleet], lock: str, mark: str) -> None:
    """kill -9: another one takes up the lease, and COMMAND runs on beyond the old one's ttl.

    An advisory lock is gone with the keeper's session, and so COMMAND is killed at once.
    """
    under_way = []
    for fleet in fleets:
        host = fleet.host()
        log = Written(fleet.root / f"{fleet.kind}.log")
        process = host.hold(*SHORT, *log.words, "--lock", lock)
        under_way.append((fleet, host, log, process, fleet.place(lock)))
    for fleet, _, _, process, _ in under_way:
        first = keeper(process)
        begun = time.monotonic()
        os.kill(first, signal.SIGKILL)
        if fleet.lapses:
            assert keeper(process, first)
        else:
            process.wait(10)
            assert took(begun) < PROMPT
    begun = time.monotonic()
    for fleet, host, log, process, place in under_way:
        if not fleet.lapses:
            finish(process)
            assert process.returncode == 74
            assert [row["result"] for row in host.rows()] == ["lease_lost"]
            assert fleet.places(lock) == ()
            continue
        eventually(lambda: took(begun) > TTL + 4, TTL + 10)
        now = fleet.place(lock)
        assert (now.token, now.fence, now.owner) == (place.token, place.fence, place.owner)
        assert len(log.lines("lease_renewed")) >= 4
        assert process.poll() is None
        result = finish(process)
        assert result.code == 0, (fleet.kind, log.lines("run_finished"))
        assert log.lines("lease_lost") == []
        assert fleet.places(lock) == ()
    no_survivors(mark)


def test_the_warden_is_killed(fleet: LeaseFleet, lock: str, mark: str) -> None:
    """kill -9: COMMAND is stopped by whoever is left, 70, and then the lock is free at once."""
    host = fleet.host()
    tree = stubborn_tree(fleet.root / "tree", mark)
    process = host.start(*LEASE, "--lock", lock, "--", str(tree))
    sleepers(mark, 4)
    os.kill(family(process.pid)["warden"], signal.SIGKILL)
    assert process.wait(10) == 70
    assert alive(mark) == []
    assert fleet.places(lock) == ()


@pytest.mark.parametrize("also", ["keeper", "warden"])
def test_guardrun_is_killed_with(fleet: LeaseFleet, lock: str, mark: str, also: str) -> None:
    """With a second process killed nothing of COMMAND is left; a lock may have to lapse."""
    host = fleet.host()
    tree = stubborn_tree(fleet.root / "tree", mark)
    process = host.start(*SHORT, "--lock", lock, "--", str(tree))
    sleepers(mark, 4)
    victim = family(process.pid)[also]
    kill(victim)
    process.kill()
    begun = time.monotonic()
    no_survivors(mark)
    eventually(lambda: not fleet.places(lock), TTL * fleet.leases.lasts + 2, "a free lock")
    if not (fleet.lapses and also == "keeper"):
        assert took(begun) < PROMPT
    finish(process)


def test_a_stopped_guardrun(fleets: list[LeaseFleet], lock: str) -> None:
    """SIGSTOP for 3 x ttl: the keeper renews, nobody else gets the lock, and COMMAND succeeds."""
    under_way = []
    for fleet in fleets:
        host = fleet.host()
        process = host.hold(*SHORT, "--lock", lock)
        under_way.append((fleet, process, fleet.place(lock)))
    for _, process, _ in under_way:
        process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    while took(begun) < 3 * TTL:
        for fleet, _, place in under_way:
            assert fleet.place(lock).token == place.token
        time.sleep(1)
    for fleet, process, place in under_way:
        process.send_signal(signal.SIGCONT)
        assert fleet.place(lock).token == place.token
        result = finish(process)
        assert result.code == 0, (fleet.kind, result)
        assert "lease_lost" not in result.events
        assert fleet.places(lock) == ()


def test_a_suspended_job_keeps_its_lease(fleets: list[LeaseFleet], lock: str) -> None:
    """Ctrl-Z stops guardrun and COMMAND beyond the ttl, the lease lives on; `fg` finishes it."""
    with contextlib.ExitStack() as stack:
        under_way = []
        for fleet in fleets:
            host = fleet.host()
            shell = stack.enter_context(contextlib.closing(Shell(host)))
            code = 'echo begun; read line; echo "got $line"'
            words = ("--log-to", "none", *SHORT, "--lock", lock, "--", "sh", "-c", code)
            shell.guardrun(*words)
            shell.shows("\nbegun")
            shell.type(CTRL_Z)
            shell.shows("Stopped")
            under_way.append((fleet, host, shell, fleet.place(lock)))
        begun = time.monotonic()
        eventually(lambda: took(begun) > TTL + 3, TTL + 10)
        for fleet, host, shell, place in under_way:
            assert fleet.place(lock).token == place.token
            shell.type("fg\n")
            shell.type("hello\n")
            shell.shows("got hello")
            assert shell.says("$?") == "0"
            assert [row["result"] for row in host.rows()] == ["success"]
            assert fleet.places(lock) == ()
