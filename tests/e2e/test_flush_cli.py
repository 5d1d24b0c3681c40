"""`flush`: what waits in the spool is recorded, and what is left is said."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import ended, make_run, run_key
from places import KINDS, Place, make_place
from support import Host

from guardrun.ledger.spool import Spool, open_spool
from guardrun.model import Claim, LedgerSpec, Run


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, host: Host) -> Iterator[Place]:
    """An empty ledger of each kind."""
    host.state.mkdir(mode=0o700)
    made = make_place(request.param, host)
    yield made
    made.close()


def spool_of(place: Place, url: str | None = None) -> Spool:
    """The spool of a place's ledger, or of another one."""
    return open_spool(LedgerSpec(url or place.url, str(place.host.state)), os.environ)


def keep(place: Place, key: str) -> Run:
    """The success of a run that was cut off from the ledger waits in the spool."""
    run = place.cut_off(key)
    spool_of(place).keep(ended(run, Claim(run.token)))
    return run


def test_what_waits_is_recorded(place: Place) -> None:
    """After `flush` the outcomes are in the ledger, their keys have succeeded, nothing waits."""
    runs = [keep(place, key) for key in ("a", "b")]
    result = place.run("flush")
    assert (result.code, result.stdout) == (0, b"recorded 2 outcomes\n"), result
    assert [place.state(key) for key in ("a", "b")] == ["succeeded", "succeeded"]
    found = {one["job_id"]: one["result"] for one in place.objects("history")}
    assert found == {run.job_id: "success" for run in runs}
    assert spool_of(place).entries() == ()
    again = place.run("flush")
    assert (again.code, again.stdout) == (0, b"there was nothing to record\n")


def test_later_truth_is_not_overwritten(place: Place) -> None:
    """An outcome whose key another run has claimed since completes its own row only."""
    run = keep(place, "k")
    run_key(place.open(), "k", "failed")
    (said,) = place.objects("flush")
    assert (said["recorded"], said["left"]) == (1, 0)
    assert place.state("k") == "failed"
    (whole,) = place.objects("show", run.job_id)
    assert (whole["result"], whole["claim_lost"]) == ("success", True)


def test_what_nobody_can_read_is_left(place: Place) -> None:
    """Damaged files and those of a newer version stay, are named, and make the exit code 1."""
    keep(place, "k")
    (path,) = map(Path, spool_of(place).entries())
    (path.parent / "0-damaged.json").write_text('{"version":')
    newer = path.parent / "1-newer.json"
    newer.write_text('{"version": 999}')
    result = place.run("flush")
    assert result.code == 1, result
    recorded, left, damaged = result.stdout.decode().splitlines()
    assert recorded == "recorded 1 outcome"
    assert left == "left: 1 outcome of a newer guardrun: upgrade this one"
    assert "0-damaged.bad" in damaged
    assert place.state("k") == "succeeded"
    newer.unlink()
    assert place.run("flush").code == 1
    (path.parent / "0-damaged.bad").unlink()
    assert place.run("flush").code == 0


def test_other_ledgers_are_left_alone(place: Place) -> None:
    """What waits for another ledger is not recorded here; it is said what waits, and for whom."""
    other = f"sqlite://{place.host.root}/other.db"
    run = make_run("k", started_at=time.time())
    spool_of(place, other).keep(ended(run, None))
    result = place.run("flush")
    assert result.code == 0, result
    nothing, elsewhere = result.stdout.decode().splitlines()
    assert nothing == "there was nothing to record"
    assert elsewhere == f"another ledger: 1 outcome waiting for {other}"
    (said,) = place.objects("flush")
    assert said["elsewhere"] == [{"ledger": other, "waiting": 1}]
    assert place.state("k") is None
    there = place.host.run("flush", "--ledger-url", other, "--json")
    assert (there.code, json.loads(there.stdout)["recorded"]) == (0, 1)


def test_a_ledger_that_is_down(host: Host) -> None:
    """While the ledger cannot be written it is one line and exit code 69; nothing is lost."""
    host.state.mkdir(mode=0o700)
    place = make_place("sqlite", host)
    keep(place, "k")
    config = host.root / "guardrun.toml"
    config.write_text('[defaults]\nstore_wait = "200ms"\n')
    db = sqlite3.connect(place.url.removeprefix("sqlite://"), isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    result = place.run("flush", "--config", str(config))
    db.execute("ROLLBACK")
    db.close()
    assert (result.code, result.stdout) == (69, b""), result
    (line,) = result.stderr.decode().splitlines()
    assert "another process is writing" in line
    assert "1 outcome of 1 still waiting" in line
    assert place.run("flush").code == 0
    place.close()


def test_a_server_that_is_down(host: Host) -> None:
    """Where no server answers nothing is lost, and no password is in the line."""
    url = "postgresql://me:hunter2-swordfish@127.0.0.1:1/nowhere"
    config = host.root / "guardrun.toml"
    config.write_text('[defaults]\nstore_wait = "200ms"\n')
    host.state.mkdir(mode=0o700)
    place = Place(host, url)
    spool_of(place).keep(ended(make_run("k"), None))
    result = place.run("flush", "--config", str(config))
    assert (result.code, result.stdout) == (69, b""), result
    (line,) = result.stderr.decode().splitlines()
    assert "1 outcome of 1 still waiting" in line
    assert "swordfish" not in line
    assert len(spool_of(place).entries()) == 1


def test_nothing_waits_where_nothing_ran(host: Host) -> None:
    """Without a state directory there is nothing to record, and none is made."""
    result = host.run("flush")
    assert (result.code, result.stdout) == (0, b"there was nothing to record\n")
    assert not host.state.exists()


def test_an_empty_spool_needs_no_ledger(host: Host) -> None:
    """With nothing to record the ledger is not even asked."""
    url = "postgresql://127.0.0.1:1/nowhere"
    assert host.run("flush", env={"GUARDRUN_LEDGER_URL": url}).code == 0
