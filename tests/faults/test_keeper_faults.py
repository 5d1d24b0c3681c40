"""What becomes of COMMAND and its key when guardrun's own processes are killed or stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
import servers
from fleet import FleetHost, fleet_host, settled
from lease_fleet import keeper
from support import (
    eventually,
    family,
    finish,
    kill,
    no_survivors,
    sleepers,
    status,
    stubborn_tree,
    write_script,
)

SHORT = ("--claim-ttl", "10s")
"""the shortest claim that the contract allows"""


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[FleetHost]:
    """One host of a fleet."""
    host = fleet_host(tmp_path / "one", database_url)
    yield host
    host.close()


def kill_keepers(process: subprocess.Popen[bytes], number: int) -> list[int]:
    """Kill so many of a run, one after the other; their pids."""
    killed: list[int] = []
    while len(killed) < number:
        killed.append(keeper(process, *killed))
        os.kill(killed[-1], signal.SIGKILL)
    return killed


def test_a_keeper_that_is_killed_is_replaced(fleet: FleetHost) -> None:
    """COMMAND goes on, the new keeper renews the claim, and the outcome is recorded."""
    process = fleet.hold("--key", "k", *SHORT)
    until = fleet.key("k")["claim_until"]
    first = keeper(process)
    os.kill(first, signal.SIGKILL)
    assert keeper(process, first)
    eventually(lambda: fleet.key("k")["claim_until"] > until, 15, "a renewal by the new keeper")
    assert finish(process).code == 0
    assert fleet.key("k")["state"] == "succeeded"
    assert len(fleet.executions()) == 1


def test_a_keeper_that_is_stopped_is_replaced(fleet: FleetHost) -> None:
    """A keeper that shows no life is killed, and a new one renews before the term ends."""
    process = fleet.hold("--key", "k", *SHORT)
    until = fleet.key("k")["claim_until"]
    first = keeper(process)
    os.kill(first, signal.SIGSTOP)
    assert keeper(process, first)
    eventually(lambda: fleet.key("k")["claim_until"] > until, 15, "a renewal by the new keeper")
    assert finish(process).code == 0
    assert fleet.key("k")["state"] == "succeeded"


def test_a_keeper_that_is_stopped_when_it_is_asked_is_replaced(
    tmp_path: Path, fleet: FleetHost
) -> None:
    """Who waits for a stopped keeper's answer does not wait until what it held has lapsed."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = fleet.start(
        *("--key", "k", *SHORT, "--retries", "1", "--backoff", "10ms", "--retry-budget", "5/1h"),
        *("-c", f"test $GUARDRUN_ATTEMPT = 2 || {{ read line <{gate}; exit 3; }}"),
    )
    first = keeper(process)
    with gate.open("w"):  # returns when COMMAND has opened it, and ends its read
        os.kill(first, signal.SIGSTOP)
    assert keeper(process, first)
    result = finish(process)
    assert result.code == 0, result
    assert fleet.key("k")["state"] == "succeeded"


def test_keepers_that_keep_dying_do_not_end_command(fleet: FleetHost) -> None:
    """With no keeper left COMMAND runs until its term ends, and then it is stopped: 74."""
    process = fleet.hold("--key", "k", *SHORT, "--record-wait", "1s")
    kill_keepers(process, 5)
    process.wait(60)
    result = finish(process)
    assert result.code == 74
    assert "outcome_spooled" in result.events
    assert fleet.run("flush").code == 0
    assert [row["result"] for row in fleet.rows()] == ["lease_lost"]


def test_after_keepers_that_keep_dying_there_is_another(fleet: FleetHost) -> None:
    """What kills them may be over: one more is tried while COMMAND runs, and renews the claim."""
    process = fleet.hold("--key", "k", "--claim-ttl", "60s")
    until = fleet.key("k")["claim_until"]
    killed = kill_keepers(process, 5)
    assert keeper(process, *killed)
    eventually(lambda: fleet.key("k")["claim_until"] > until, 15, "a renewal by the last keeper")
    assert finish(process).code == 0
    assert fleet.key("k")["state"] == "succeeded"


def test_with_supervisor_and_keeper_killed_the_key_stays_held(
    tmp_path: Path, fleet: FleetHost, mark: str
) -> None:
    """COMMAND is dead at once; nobody can say so to the ledger, so only the ttl frees the key."""
    command = str(stubborn_tree(tmp_path / "tree", mark))
    process = fleet.start("--key", "k", *SHORT, "--", command)
    sleepers(mark, 4)
    job_id = str(fleet.key("k")["job_id"])
    own = keeper(process)
    process.send_signal(signal.SIGSTOP)  # or it would start another keeper
    os.kill(own, signal.SIGKILL)
    process.kill()
    no_survivors(mark)
    held = fleet.run("--key", "k", "--", command)
    assert held.code == 75, held
    eventually(lambda: fleet.key("k")["state"] == "interrupted", 20, "the claim's end")
    again = fleet.start("--key", "k", "--", command)
    sleepers(mark, 4)
    row = settled(fleet, job_id)
    assert row["result"] == "interrupted"
    again.terminate()
    finish(again)


@pytest.mark.parametrize("victims", [("warden",), ("supervisor", "warden"), ("backstop",)])
def test_the_key_is_interrupted_as_soon_as_command_is_dead(
    tmp_path: Path, fleet: FleetHost, mark: str, victims: tuple[str, ...]
) -> None:
    """Whichever of the guardians are killed, whoever is left ends COMMAND and frees the key."""
    command = str(stubborn_tree(tmp_path / "tree", mark))
    process = fleet.start("--key", "k", "--claim-ttl", "1h", "--", command)
    sleepers(mark, 4)
    job_id = str(fleet.key("k")["job_id"])
    processes = family(process.pid)
    pids = [processes[victim] for victim in victims]
    if victims == ("backstop",):
        pids.append(process.pid)
    for pid in pids:  # the second must not have ended by itself before it is killed
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    no_survivors(mark)
    assert settled(fleet, job_id)["result"] == "interrupted"
    assert fleet.key("k")["state"] == "interrupted"
    finish(process)


def test_a_stopped_supervisor_does_not_lose_its_claim(fleet: FleetHost, mark: str) -> None:
    """The keeper renews and the warden knows: COMMAND lives on beyond the ttl, and succeeds."""
    command = str(write_script(fleet.root / "sleeper", f"#!/bin/sh\nexec sleep {mark}\n"))
    process = fleet.start("--key", "k", *SHORT, "--", command)
    (pid,) = sleepers(mark, 1)
    job_id = fleet.key("k")["job_id"]
    first = fleet.key("k")["claim_until"]
    os.kill(process.pid, signal.SIGSTOP)
    eventually(lambda: (fleet.key("k")["claim_until"] - first).total_seconds() > 11, 30, "renewals")
    assert sleepers(mark, 1) == [pid]
    os.kill(process.pid, signal.SIGCONT)
    kill(pid, signal.SIGTERM)
    assert finish(process).code == -signal.SIGTERM
    assert settled(fleet, str(job_id))["result"] == "failed"


@pytest.mark.parametrize("stopped", [("supervisor",), ("warden",), ("supervisor", "warden")])
def test_whoever_is_stopped_command_does_not_outlive_its_claim(
    tmp_path: Path, mark: str, stopped: tuple[str, ...]
) -> None:
    """The ledger is frozen, so nobody can renew: who is left ends COMMAND before the claim lapses.

    A warden is continued by its supervisor, or else by the backstop; and it continues a supervisor
    that was stopped, to hear what became of COMMAND.
    """
    with servers.Postgres.start() as server:
        host = fleet_host(tmp_path / "one", server.url)
        command = str(stubborn_tree(tmp_path / "tree", mark))
        options = ("--key", "k", *SHORT, "-k", "1h", "--record-wait", "1s")
        process = host.start(*options, "--", command)
        sleepers(mark, 4)
        processes = family(process.pid)
        lapses = time.monotonic() + host.left("k")
        server.pause()
        for victim in stopped:
            os.kill(processes[victim], signal.SIGSTOP)
        no_survivors(mark, 15)
        assert time.monotonic() < lapses
        result = finish(process)
        assert result.code == 74, result
        server.resume()


def test_keepers_that_are_stuck_again_and_again_are_replaced_without_end(fleet: FleetHost) -> None:
    """Only deaths of their own are counted: one that we had to kill says nothing about the next."""
    # Each of the six has to be replaced, and its successor to start, before the claim's term.
    process = fleet.hold("--key", "k", "--claim-ttl", "20s")
    stuck: list[int] = []
    for _ in range(6):
        stuck.append(keeper(process, *stuck))
        until = fleet.key("k")["claim_until"]
        eventually(lambda: fleet.key("k")["claim_until"] > until, 15, "a renewal")  # noqa: B023
        os.kill(stuck[-1], signal.SIGSTOP)
    assert keeper(process, *stuck)
    assert finish(process).code == 0
    assert fleet.key("k")["state"] == "succeeded"


def test_nobody_else_has_the_ends_of_a_supervisor(fleet: FleetHost) -> None:
    """Keeper, warden and backstop know of its death by them, whichever of the others is stopped."""
    process = fleet.hold("--key", "k", *SHORT)
    ends = {role: _sockets(pid) for role, pid in family(process.pid).items()}
    own = ends["supervisor"] - ends["keeper"]  # which has the same of the way to the warden
    assert len(own) >= 3
    assert not own & (ends["backstop"] | ends["warden"])
    assert finish(process).code == 0


def _sockets(pid: int) -> set[str]:
    """Sockets that a process has open, by their numbers."""
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(fd))
    return {target for target in found if target.startswith("socket:")}


_STOPS = """\
#include <signal.h>

int posix_spawnp() {
    for (;;) raise(SIGSTOP);
}
"""
"""For LD_PRELOAD: who is about to start a program is stopped, and again when it is continued; the
kernel does that with a process group whose last parent has died."""


def test_a_warden_that_is_stopped_before_the_start(
    fleet: FleetHost, library: Callable[[str, str], Path]
) -> None:
    """Between its look at the term and the start, with all others killed: COMMAND never starts."""
    _, processes, warden = stopped_before_the_start(fleet, library)
    until = fleet.key("k")["claim_until"]
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    try:
        eventually(lambda: status(warden).get("State", "Z")[0] in "ZX", 15, "the warden's end")
    finally:
        kill(warden)
    assert time.time() < until.timestamp()
    assert fleet.executions() == []


def test_a_run_whose_warden_is_stopped_before_the_start(
    tmp_path: Path, library: Callable[[str, str], Path]
) -> None:
    """With its supervisor alive and the ledger frozen it ends as it is: the claim was lost, 74."""
    with servers.Postgres.start() as server:
        host = fleet_host(tmp_path / "one", server.url)
        process, _, _ = stopped_before_the_start(host, library, "--record-wait", "1s")
        server.pause()
        result = finish(process)
        assert result.code == 74, result
        assert "lease_lost" in result.events
        assert host.executions() == []
        server.resume()


def stopped_before_the_start(
    host: FleetHost, library: Callable[[str, str], Path], *options: str
) -> tuple[subprocess.Popen[bytes], Collection[int], int]:
    """A run whose warden is stopped, and stays so; its other processes, and that one."""
    stops = str(library("stops", _STOPS))
    words = ("--key", "k", *SHORT, *options, "--", str(host.job))
    process = host.start(*words, env={"LD_PRELOAD": stops})
    processes = family(process.pid)
    warden = processes.pop("warden")
    eventually(lambda: status(warden).get("State", "")[:1] == "T", 20, "a warden that is stopped")
    return process, processes.values(), warden
