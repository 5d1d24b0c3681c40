"""`prune --older-than`: what is old goes, and nothing that still means something."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from ledgers import claimed, ended, job_id, make_run, refused, run_key
from places import KINDS, Place, make_place
from support import Host

from guardrun.model import Captured, KeySpec

DAY = 86400.0


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, host: Host) -> Iterator[Place]:
    """An empty ledger of each kind."""
    made = make_place(request.param, host)
    yield made
    made.close()


def jobs(place: Place) -> set[str]:
    """The jobs of which there are runs."""
    return {run["job"] for run in place.objects("history", "--limit", "0")}


def keys(place: Place) -> set[str]:
    """The keys there are."""
    return {key["idempotency_key"] for key in place.objects("keys", "--limit", "0")}


def test_old_runs_go(place: Place) -> None:
    """Runs that started before the age go with all that belongs to them, refused ones too."""
    ledger = place.open()
    now = time.time()
    for age in (1, 2, 4, 6):
        old = make_run(job=f"{age} run", started_at=now - age * DAY)
        ledger.finish(ended(old, None, "failed", captured=Captured(b"x", b"")))
        ledger.finish(refused(make_run(job=f"{age} refused", started_at=now - age * DAY)))
    result = place.run("prune", "--older-than", "3d")
    assert (result.code, result.stderr) == (0, b""), result
    assert result.stdout == b"deleted 4 rows\n"
    assert jobs(place) == {"1 run", "1 refused", "2 run", "2 refused"}
    again = place.run("prune", "--older-than", "3d")
    assert (again.code, again.stdout) == (0, b"there is nothing that old\n")


def test_what_means_something_stays(place: Place) -> None:
    """However old: a run that is alive, and a key that runs, blocks, or was interrupted."""
    past = time.time() - 1000 * DAY
    ledger = place.open()
    run, alive = place.begin("running", job="alive", started_at=past)
    run_key(ledger, "succeeded", started_at=past)
    run_key(ledger, "lasts", started_at=past, key_ttl=2000 * DAY)
    run_key(ledger, "expired", started_at=past, key_ttl=60.0)
    run_key(ledger, "failed", "failed", started_at=past)
    run_key(ledger, "interrupted", "timeout", started_at=past)
    place.cut_off("cut off", started_at=past, job="cut off")
    assert place.run("prune", "--older-than", "90d").code == 0
    assert jobs(place) == {"alive"}
    kept = {"running", "succeeded", "lasts", "interrupted", "cut off"}
    assert kept <= keys(place)
    assert "expired" not in keys(place)
    assert alive.finish(ended(run, claimed(alive.begin(run, KeySpec("running")))))
    assert place.state("succeeded") == "succeeded"


def test_thousands_go_in_batches(place: Place) -> None:
    """All of it goes, however much there is, and programs are told how much that was."""
    ledger = place.open()
    past = time.time() - 60 * DAY  # younger than what the embedded ledger prunes by itself
    for number in range(2100):
        ledger.finish(ended(make_run(started_at=past + number), None))
    (said,) = place.objects("prune", "--older-than", "30d")
    assert said["pruned"] == 2100
    assert place.objects("history") == []


def test_progress_is_for_terminals(place: Place) -> None:
    """At a terminal the number grows; what is left on it in the end is the result alone."""
    ledger = place.open()
    for number in range(3):
        ledger.finish(ended(make_run(started_at=time.time() - 60 * DAY + number), None))
    code, shown = place.typed(b"", "prune", "--older-than", "30d")
    assert code == 0
    assert "3 deleted …" in shown
    assert shown.rpartition("\r\x1b[K")[2].strip() == "deleted 3 rows"


@pytest.mark.parametrize("words", [[], ["--older-than", "old"], ["--older-than", "-1d"]])
def test_the_age_must_be_said(place: Place, words: list[str]) -> None:
    """Without a duration nothing is deleted: exit code 64, and one line."""
    place.open().finish(ended(make_run(job_id=job_id(0.0)[:-1] + "1", started_at=0.0), None))
    result = place.run("prune", *words)
    assert (result.code, result.stdout) == (64, b"")
    assert len(result.stderr.splitlines()) == 1
    assert len(place.objects("history")) == 1


def test_nothing_to_prune_before_the_first_run(host: Host) -> None:
    """Without a ledger nothing is old, and no file is made."""
    result = host.run("prune", "--older-than", "1d", "--json")
    assert (result.code, json.loads(result.stdout)) == (0, {"pruned": 0})
    assert not host.state.exists()


def test_a_ledger_that_keeps_nothing(host: Host) -> None:
    """With none: there is nothing to look after, and the line says what to name instead."""
    for words in (("prune", "--older-than", "1d"), ("keys",), ("flush",)):
        result = host.run(*words, "--ledger-url", "none:")
        assert result.code == 78, result
        assert b"--ledger-url" in result.stderr
