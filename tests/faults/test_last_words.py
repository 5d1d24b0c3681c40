"""What the ledger did not hear in time, the keeper goes on telling it when the run is over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from fleet import FleetHost, fleet_host, settled
from proxy import Proxy
from support import GUARDRUN, Host, eventually, family, finish, write_script


@pytest.fixture
def path(database_url: str) -> Iterator[Proxy]:
    """A way to the ledger that can be disturbed."""
    with Proxy.before(database_url) as proxy:
        yield proxy


@pytest.fixture
def far(tmp_path: Path, database_url: str, path: Proxy) -> Iterator[FleetHost]:
    """A host that reaches the ledger that way alone."""
    fleet_host(tmp_path / "near", database_url)
    host = FleetHost(tmp_path / "far", {"GUARDRUN_LEDGER_URL": path.url_for(database_url)})
    host.root.mkdir()
    yield host
    host.close()


def test_told_to_stop_far_away(far: FleetHost, path: Proxy) -> None:
    """A slow ledger does not delay the end, and the key is free as soon as it has been told."""
    path.delay(0.1)
    process = far.hold("--key", "k", "--claim-ttl", "1h", "--store-wait", "30s")
    process.terminate()
    result = finish(process)
    assert result.code == -signal.SIGTERM
    row = settled(far, far.executions()[0])
    assert (row["result"], row["finished_at"] is None) == ("interrupted", False)
    assert far.key("k")["state"] == "interrupted"


def test_an_outcome_in_the_spool_is_told_as_soon_as_that_is_possible(
    far: FleetHost, path: Proxy
) -> None:
    """--record-wait is over, the way is free again: the success is recorded without another run."""
    process = far.hold("--key", "k", "--claim-ttl", "1h", "--record-wait", "0.5s")
    path.blackhole()
    result = finish(process)
    assert "outcome_spooled" in result.events
    path.resume()
    assert settled(far, far.executions()[0])["result"] == "success"
    assert far.key("k")["state"] == "succeeded"
    assert far.run("flush").code == 0
    assert far.spooled() == []
    assert len(far.rows()) == 1


def test_a_claim_that_nobody_heard_of_is_given_back(far: FleetHost, path: Proxy) -> None:
    """The claim was committed, its answer lost, and the run gave up: the key does not stay held."""
    path.cut_at(r"insert into guardrun\.keys.*commit", "after", then="blackhole")
    options = ("--key", "k", "--claim-ttl", "1h", "--store-wait", "3s")
    assert far.run(*options, "--", far.job).code == 69
    path.resume()
    eventually(lambda: far.key("k")["state"] == "failed", 30, "a key that is free")
    assert far.run(*options, "--", far.job).code == 0
    assert len(far.executions()) == 1


def test_a_warden_that_was_stopped_at_its_birth_is_continued(
    tmp_path: Path, database_url: str
) -> None:
    """Stopped before COMMAND is started, it is continued after a while, by the backstop."""
    host = fleet_host(tmp_path / "one", database_url)
    process = host.start("--key", "k", "--", host.job)
    os.kill(family(process.pid)["warden"], signal.SIGSTOP)
    assert finish(process, 30).code == 0
    assert len(host.executions()) == 1


def test_a_driver_that_cannot_be_loaded_is_a_ledger_that_is_down(host: Host) -> None:
    """--on-ledger-down decides, as with any other reason."""
    broken = host.root / "broken" / "psycopg"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('no libpq')\n")
    env = {"PYTHONPATH": str(broken.parent), "GUARDRUN_LEDGER_URL": "postgresql://h/db"}
    options = ("--key", "k", "--record-wait", "0.2s", "--store-wait", "2s")
    stopped = host.run(*options, "--", host.job, env=env)
    assert stopped.code == 69
    assert b"no libpq" in stopped.stderr
    assert host.executions() == []
    run = host.run(*options, "--on-ledger-down", "run", "--", host.job, env=env)
    assert run.code == 0
    assert len(host.executions()) == 1
    assert "outcome_spooled" in run.events


def test_a_guardrun_around_sees_no_keeper(tmp_path: Path, database_url: str) -> None:
    """When a run has been recorded its keeper is gone: nothing is left for whoever waits for us."""
    host = fleet_host(tmp_path / "one", database_url)
    inner = write_script(
        tmp_path / "inner", f'#!/bin/sh\nexec {" ".join(GUARDRUN)} -q --key "k$1" -- true\n'
    )
    for number in range(3):
        outer = host.run("--ledger-url", "none:", "--", str(inner), str(number))
        assert outer.code == 0
        assert "orphans_left" not in outer.events


def test_a_keeper_does_not_stay_for_ever(tmp_path: Path) -> None:
    """With a ledger that is gone for good it gives up, and ends."""
    with servers.Postgres.start() as server:
        host = fleet_host(tmp_path / "one", server.url)
        process = host.hold("--key", "k", "--record-wait", "0.2s")
        keeper = family(process.pid)["keeper"]
        server.kill()
        assert "outcome_spooled" in finish(process).events
        begun = time.monotonic()
        eventually(lambda: not Path(f"/proc/{keeper}").exists(), 90, "the keeper's end")
        assert time.monotonic() - begun > 1, "it is expected to go on trying for a while"
