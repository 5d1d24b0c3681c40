"""The connection is cut at a COMMIT: nobody knows whether it happened, and it must not matter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
from campaign_faults import CLAIM, FINISH, RENEWAL
from fleet import FleetHost, ask, fleet_host
from proxy import Proxy
from support import eventually, finish

When = Literal["before", "after"]
BOTH = pytest.mark.parametrize("when", ["before", "after"])
"""The server never got the COMMIT, or it has executed it, and the answer did not arrive."""


class Cut(NamedTuple):
    """A host, the proxy between it and its ledger, and the way past that."""

    host: FleetHost
    proxy: Proxy
    url: str

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Rows of the ledger, past the proxy."""
        return ask(self.url, query)

    def runs(self) -> list[dict[str, Any]]:
        """All runs, oldest first."""
        return self.rows("SELECT * FROM guardrun.runs ORDER BY started_at, job_id")

    def key(self) -> dict[str, Any]:
        """The one key, as it really is."""
        (row,) = self.rows("TABLE guardrun.key_states")
        return row

    def has_fired(self) -> None:
        """Wait until the connection has been cut."""
        eventually(lambda: self.proxy.stats().fired == 1, 20, "the cut")

    def recorded_once(self, result: str = "success", code: int = 0) -> None:
        """Check that the ledger has one run, which ended so after one attempt."""
        (row,) = self.runs()
        assert (row["result"], row["exit_code"], row["stale"]) == (result, code, False)
        assert len(self.rows("TABLE guardrun.attempts")) == row["attempts"] == 1
        key = self.key()
        assert key["job_id"] == row["job_id"]
        assert key["state"] == {"success": "succeeded"}.get(result, result)


@pytest.fixture
def cut(tmp_path: Path, database_url: str) -> Iterator[Cut]:
    """A host behind a proxy that can cut."""
    with Proxy.before(database_url) as proxy:
        host = fleet_host(tmp_path / "one", proxy.url_for(database_url))
        yield Cut(host, proxy, database_url)
        host.close()


# ---------------------------------------------------------------- the claim


@BOTH
def test_a_claim_is_made_once(cut: Cut, when: When) -> None:
    """Cut at the claim's COMMIT: COMMAND is executed once, under a claim that is its own."""
    token = cut.host.root / "token"
    cut.proxy.cut_at(CLAIM, when)
    act = f'echo "$GUARDRUN_CLAIM_TOKEN" >"{token}"'
    result = cut.host.run("--key", "k", "--", cut.host.job, env={"ACT": act})
    assert result.code == 0, result
    assert cut.proxy.stats().fired == 1
    assert len(cut.host.executions()) == 1
    cut.recorded_once()
    assert token.read_text().strip() == cut.key()["token"]


@BOTH
@pytest.mark.parametrize("then", ["refuse", "blackhole"])
def test_nothing_is_executed_before_a_claim_is_known(
    cut: Cut, when: When, then: Literal["refuse", "blackhole"]
) -> None:
    """As long as nobody can tell whose the key is COMMAND waits; within --store-wait it runs."""
    cut.proxy.cut_at(CLAIM, when, then=then)
    process = cut.host.start("--key", "k", "--store-wait", "1m", "--", cut.host.job)
    cut.has_fired()
    committed = cut.rows("TABLE guardrun.key_states")
    assert [key["state"] for key in committed] == (["running"] if when == "after" else [])
    assert cut.host.executions() == []
    assert process.poll() is None
    if then == "refuse":
        cut.proxy.accept()
    else:
        cut.proxy.resume()
    result = finish(process)
    assert result.code == 0, result
    assert cut.host.executions() == [result.finished["job_id"]]
    cut.recorded_once()


@BOTH
def test_a_claim_that_stays_unknown_executes_nothing(cut: Cut, when: When) -> None:
    """69 when --store-wait is over; what was committed all the same is given back by flush."""
    cut.proxy.cut_at(CLAIM, when, then="refuse")
    result = cut.host.run("--key", "k", "--store-wait", "1s", "--", cut.host.job)
    assert result.code == 69, result
    assert cut.host.executions() == []
    assert "outcome_spooled" in result.events
    cut.proxy.accept()
    assert cut.host.run("flush").code == 0
    (row,) = cut.runs()
    assert row["result"] == "store_unavailable"
    assert cut.host.run("--key", "k", "--", cut.host.job).code == 0
    assert len(cut.host.executions()) == 1
    assert cut.key()["state"] == "succeeded"


# ---------------------------------------------------------------- the outcome


@BOTH
@pytest.mark.parametrize(("code", "said"), [(0, "success"), (3, "failed")])
def test_an_outcome_is_recorded_once(cut: Cut, when: When, code: int, said: str) -> None:
    """Cut at the COMMIT of the outcome: it is there once, and the exit code is COMMAND's own."""
    cut.proxy.cut_at(FINISH, when)
    act = {"ACT": f"exit {code}"}
    result = cut.host.run("--key", "k", "--", cut.host.job, env=act)
    assert cut.proxy.stats().fired == 1
    assert (result.code, result.finished["result"]) == (code, said)
    assert "outcome_spooled" not in result.events
    assert cut.host.spooled() == []
    cut.recorded_once(said, code)


@BOTH
@pytest.mark.parametrize("then", ["refuse", "blackhole"])
def test_an_outcome_that_cannot_be_told_waits_in_the_spool(
    cut: Cut, when: When, then: Literal["refuse", "blackhole"]
) -> None:
    """Unreachable from the COMMIT on: spooled, and flushed as often as one likes recorded once."""
    cut.proxy.cut_at(FINISH, when, then=then)
    result = cut.host.run("--key", "k", "--record-wait", "1s", "--", cut.host.job)
    assert (result.code, result.finished["result"]) == (0, "success")
    assert "outcome_spooled" in result.events
    (waiting,) = cut.host.spooled()
    assert cut.key()["state"] == ("succeeded" if when == "after" else "running")
    if then == "refuse":
        cut.proxy.accept()
    else:
        cut.proxy.resume()
    kept = waiting.read_bytes()
    for _ in range(2):
        flushed = cut.host.run("flush", "--json")
        assert flushed.code == 0, flushed
        assert json.loads(flushed.stdout)["recorded"] == 1
        assert cut.host.spooled() == []
        cut.recorded_once()
        waiting.write_bytes(kept)  # as if the machine had died before it was removed
    again = cut.host.run("--key", "k", "--", cut.host.job)
    assert again.finished["result"] == "skipped_duplicate"
    assert len(cut.host.executions()) == 1


def test_a_spooled_outcome_yields_to_a_later_run(
    tmp_path: Path, database_url: str, cut: Cut
) -> None:
    """Its claim has lapsed, another host has run the key: the late success changes nothing."""
    cut.proxy.cut_at(FINISH, "before", then="refuse")
    ttl = ("--claim-ttl", "10s", "--record-wait", "100ms")
    late = cut.host.run("--key", "k", *ttl, "--", cut.host.job)
    assert "outcome_spooled" in late.events
    other = fleet_host(tmp_path / "two", database_url)
    # The same COMMAND, or it would be a mismatch.
    later = other.run("--key", "k", "--wait", "30s", "--", cut.host.job)
    assert (later.code, later.finished["result"]) == (0, "success")
    before = cut.key()
    cut.proxy.accept()
    assert cut.host.run("flush").code == 0
    rows = {str(row["job_id"]): row for row in cut.runs()}
    first, second = rows[late.finished["job_id"]], rows[later.finished["job_id"]]
    assert (first["result"], first["stale"]) == ("success", True)
    assert (second["result"], second["stale"]) == ("success", False)
    assert cut.key() == before
    assert str(before["job_id"]) == later.finished["job_id"]


# ---------------------------------------------------------------- the renewal


@BOTH
def test_a_lost_renewal_changes_nothing(cut: Cut, when: When) -> None:
    """It is asked for again; COMMAND runs on, and its outcome is recorded."""
    process = cut.host.hold("--key", "k", "--claim-ttl", "10s")
    cut.proxy.cut_at(RENEWAL, when)
    before = cut.key()
    cut.has_fired()
    renewed = eventually(
        lambda: key if (key := cut.key())["claim_until"] > before["claim_until"] else None,
        10,
        "a renewal",
    )
    assert (renewed["state"], renewed["token"]) == ("running", before["token"])
    assert process.poll() is None
    result = finish(process)
    assert (result.code, result.finished["result"]) == (0, "success")
    assert "lease_lost" not in result.events
    cut.recorded_once()
