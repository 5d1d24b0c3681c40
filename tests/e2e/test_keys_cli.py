"""`keys`: what blocks and what does not, and how a person lets a key run again."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from ledgers import claimed, ended, make_run, refusal, run_key
from places import KINDS, SHORT, Place, make_place
from support import Host, Result, eventually, finish

from guardrun.ledger.records import forget_key
from guardrun.model import Claim, KeySpec, Run


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, host: Host) -> Iterator[Place]:
    """An empty ledger of each kind."""
    made = make_place(request.param, host)
    yield made
    made.close()


def one_line(result: Result, code: int) -> str:
    """The line on stderr of a subcommand that was refused with this code."""
    assert (result.code, result.stdout) == (code, b""), result
    (line,) = result.stderr.decode().splitlines()
    assert line.startswith("guardrun: ")
    return line


def shown(place: Place, key: str) -> dict[str, Any]:
    """What `keys show --json` tells."""
    (whole,) = place.objects("keys", "show", key)
    return whole


# ---------------------------------------------------------------- keys


def fill(place: Place) -> None:
    """One key in each state, one second after the other; the last one is alive."""
    now = time.time() - 100
    ledger = place.open()
    run_key(ledger, "succeeded", started_at=now)
    run_key(ledger, "lasts", started_at=now, key_ttl=86400.0)
    run_key(ledger, "expired", started_at=now, finished_at=now, key_ttl=1.0)
    run_key(ledger, "failed", "failed", started_at=now)
    run_key(ledger, "interrupted", "timeout", started_at=now)
    place.cut_off("cut off")
    place.begin("running")


def test_the_state_of_every_key(place: Place) -> None:
    """`keys` tells the state as the next run would find it: what has expired or was cut off too,
    the latest claim first."""
    fill(place)
    found = place.objects("keys")
    assert [(one["idempotency_key"], one["state"], one["blocks"]) for one in found] == [
        ("running", "running", True),
        ("cut off", "interrupted", None),
        ("interrupted", "interrupted", None),
        ("failed", "failed", False),
        ("expired", "expired", False),
        ("lasts", "succeeded", True),
        ("succeeded", "succeeded", True),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--state", "running"), ["running"]),
        (("--state", "succeeded"), ["lasts", "succeeded"]),
        (("--state", "succeeded", "--limit", "1"), ["lasts"]),
        (("--state", "expired"), ["expired"]),
        (("--state", "failed"), ["failed"]),
        (("--state", "interrupted"), ["cut off", "interrupted"]),
        (("--state", "interrupted", "--limit", "1"), ["cut off"]),
        (("--limit", "2"), ["running", "cut off"]),
    ],
)
def test_keys_of_one_state(place: Place, words: tuple[str, ...], expected: list[str]) -> None:
    """`--state` and `--limit` narrow down what is told."""
    fill(place)
    assert [one["idempotency_key"] for one in place.objects("keys", *words)] == expected


def test_fifty_keys_unless_told_otherwise(place: Place) -> None:
    """`--limit` is 50, and 0 is all."""
    ledger = place.open()
    for number in range(60):
        run_key(ledger, f"k{number}")
    assert len(place.objects("keys")) == 50
    assert len(place.objects("keys", "--limit", "0")) == 60


def test_keys_for_people(place: Place) -> None:
    """A table that fits 80 columns, and nothing in it that a terminal obeys."""
    fill(place)
    run_key(place.open(), "\x1b[31m" + "long " * 40)
    result = place.run("keys")
    lines = result.stdout.decode().splitlines()
    assert result.code == 0
    assert lines[0].split() == ["STATE", "SINCE", "BLOCKS", "RUN", "KEY"]
    assert len(lines) == 9
    assert all(len(line) <= 80 for line in lines)
    assert "\x1b" not in result.stdout.decode()
    blocks = {line[51:].strip(): line[32:41].strip() for line in lines[2:]}
    assert (blocks["running"], blocks["cut off"]) == ("yes", "with stop")
    assert (blocks["failed"], blocks["expired"], blocks["succeeded"]) == ("no", "no", "forever")
    assert re.fullmatch(r"23h5\dm", blocks["lasts"])


def test_no_keys(place: Place) -> None:
    """Where no key was used there is nothing to tell, and nothing is wrong."""
    assert place.objects("keys") == []
    assert place.run("keys").stdout.startswith(b"no ")


# ---------------------------------------------------------------- keys show


def test_one_key_for_programs(place: Place) -> None:
    """All that is known of a key in one object, with its last runs, newest first."""
    ledger = place.open()
    first = run_key(ledger, "k", "failed", started_at=time.time() - 60)
    last = run_key(ledger, "k", started_at=time.time() - 30, key_ttl=3600.0)
    whole = shown(place, "k")
    assert whole["idempotency_key"] == "k"
    assert (whole["state"], whole["blocks"]) == ("succeeded", True)
    assert (whole["job_id"], whole["owner"]) == (last.job_id, last.owner)
    assert whole["fingerprint"] == last.fingerprint
    assert whole["claimed_at"].endswith("Z")
    assert whole["expires_at"] > whole["finished_at"]
    assert [run["job_id"] for run in whole["runs"]] == [last.job_id, first.job_id]
    assert [run["result"] for run in whole["runs"]] == ["success", "failed"]


def test_one_key_for_people(place: Place) -> None:
    """Whether it blocks, in words, and its runs in a table."""
    fill(place)
    words = {
        "succeeded": "forever",
        "lasts": "until 20",
        "expired": "no more since 20",
        "failed": "no",
        "interrupted": "only a run with --on-interrupted stop",
    }
    for key, said in words.items():
        result = place.run("keys", "show", key)
        assert result.code == 0, result
        facts = dict(
            line.split(None, 1) for line in result.stdout.decode().splitlines() if " " in line
        )
        assert facts["key"].strip() == key
        assert facts["blocks"].strip().startswith(said), key
        assert "backup" in result.stdout.decode()


def test_a_key_that_runs(place: Place) -> None:
    """Of a running key there is its owner, and in Postgres until when its claim holds."""
    run, _ = place.begin("k")
    whole = shown(place, "k")
    assert (whole["state"], whole["job_id"]) == ("running", run.job_id)
    assert (whole["finished_at"], whole["expires_at"]) == (None, None)
    assert (whole["claim_until"] is None) == (place.kind == "sqlite")
    assert [one["result"] for one in whole["runs"]] == ["running"]


@pytest.mark.parametrize("words", [("show",), ("forget", "--force")])
def test_an_unknown_key(place: Place, words: tuple[str, ...]) -> None:
    """A key that nobody has used is one line and exit code 1."""
    assert "there is no key 'never'" in one_line(place.run("keys", *words, "never"), 1)
    run_key(place.open(), "k")
    assert "there is no key 'never'" in one_line(place.run("keys", *words, "never"), 1)


@pytest.mark.parametrize("key", ["", "a'; DROP TABLE keys; --", "%", "ü\x1b[31m", "x" * 4096])
def test_any_key_can_be_named(place: Place, key: str) -> None:
    """Keys are taken literally, whatever is in them."""
    run_key(place.open(), key)
    run_key(place.open(), "other")
    assert shown(place, key)["idempotency_key"] == key
    assert place.run("keys", "forget", "--force", key).code == 0
    assert shown(place, key)["state"] == "expired"
    assert shown(place, "other")["state"] == "succeeded"


def test_a_key_that_is_not_text(place: Place) -> None:
    """A key with bytes that are no UTF-8 is found by the same bytes."""
    run_key(place.open(), "k\udcff")
    result = place.run("keys", "show", b"k\xff", "--json")
    assert json.loads(result.stdout)["state"] == "succeeded"


# ---------------------------------------------------------------- keys forget


@pytest.mark.parametrize("result", ["success", "timeout"])
def test_a_forgotten_key_runs_again(place: Place, result: str) -> None:
    """After `keys forget` the next run executes, also with another COMMAND line, and where a
    person was to decide; the key is no longer one that has succeeded."""
    run_key(place.open(), "k", result)
    careful = KeySpec("k", on_interrupted="stop")
    again = make_run("k", fingerprint="another")
    needs = make_run("other", needs=("k",))
    assert refusal(place.open().begin(again, careful)).kind in ("mismatch", "interrupted")
    said = place.run("keys", "forget", "--force", "k")
    assert (said.code, said.stderr) == (0, b""), said
    assert said.stdout == b"the key 'k' blocks no longer: its next run executes COMMAND\n"
    assert refusal(place.open().begin(needs, KeySpec("other"))).kind == "needs"
    claim = claimed(place.open().begin(again, careful))
    assert claim.interrupted is None


def test_a_key_that_was_cut_off_can_be_forgotten(place: Place) -> None:
    """The claim of a run that is gone counts for nothing; should its truth come late, the run's
    row is completed and the key is left alone."""
    run = place.cut_off("k")
    assert place.run("keys", "forget", "--force", "k").code == 0
    assert shown(place, "k")["state"] == "failed"
    late = ended(run, claimed_by(run))
    assert not place.open().finish(late)
    assert shown(place, "k")["state"] == "failed"
    claimed(place.open().begin(make_run("k"), KeySpec("k", on_interrupted="stop")))


def claimed_by(run: Run) -> Claim:
    """The claim that a run has, or had."""
    return Claim(run.token)


def test_a_key_that_runs_is_not_forgotten(place: Place) -> None:
    """While a run holds the key it is refused with 75, and the line says who that is."""
    run, ledger = place.begin("k")
    assert run.owner in one_line(place.run("keys", "forget", "k", "--force"), 75)
    assert shown(place, "k")["state"] == "running"
    assert ledger.finish(ended(run, claimed_by(run)))
    assert shown(place, "k")["state"] == "succeeded"


@pytest.mark.parametrize("now", ["running", "succeeded", "interrupted"])
def test_only_what_was_seen_is_forgotten(place: Place, now: str) -> None:
    """Between what a person was asked about and the answer another run may have had the key: then
    nothing is changed."""
    place.cut_off("k")
    seen = place.key("k")
    assert seen is not None
    if now == "running":
        place.begin("k")
    else:
        run_key(place.open(), "k", {"succeeded": "success", "interrupted": "timeout"}[now])
    before = place.key("k")
    assert not forget_key(place.spec, seen)
    after = place.key("k")
    assert after is not None
    assert (after, after.state) == (before, now)


@pytest.mark.parametrize("result", ["failed", "success"])
def test_a_key_that_does_not_block(place: Place, result: str) -> None:
    """There is nothing to forget, and nobody is asked."""
    run_key(place.open(), "k", result, key_ttl=SHORT)
    eventually(lambda: place.state("k") in ("failed", "expired"))
    before = shown(place, "k")
    said = place.run("keys", "forget", "k")
    assert (said.code, said.stdout) == (
        0,
        b"the key 'k' does not block: there is nothing to forget\n",
    )
    assert shown(place, "k") == before


def test_without_a_terminal_nobody_is_asked(place: Place) -> None:
    """A script says `--force`; without it there is one line that says so."""
    run_key(place.open(), "k")
    assert "--force" in one_line(place.run("keys", "forget", "k"), 64)
    assert shown(place, "k")["state"] == "succeeded"


@pytest.mark.parametrize(("answer", "code", "state"), [("y", 0, "expired"), ("n", 1, "succeeded")])
def test_a_person_is_asked(place: Place, answer: str, code: int, state: str) -> None:
    """At a terminal it asks, and does nothing without a yes."""
    run_key(place.open(), "k")
    said = place.typed(f"{answer}\n".encode(), "keys", "forget", "k")
    assert said[0] == code, said
    assert "The key 'k' has succeeded (20" in said[1]
    assert shown(place, "k")["state"] == state


@pytest.mark.parametrize(
    ("commits", "code", "state"), [(True, 1, "succeeded"), (False, 0, "failed")]
)
def test_forgetting_waits_for_commands_own_transaction(
    host: Host, commits: bool, code: int, state: str
) -> None:
    """A claim whose time is over, while COMMAND's transaction has completed it and not committed
    yet: what becomes of that transaction decides."""
    place = make_place("postgres", host)
    run = make_run("k")
    ledger = place.open(LAPSES)
    with psycopg.connect(place.url) as theirs:
        claimed(ledger.begin(run, KeySpec("k")))
        theirs.execute("SELECT guardrun.complete(%s, %s)", ["k", run.token])
        eventually(lambda: place.state("k") == "interrupted")
        env = {"GUARDRUN_LEDGER_URL": place.url}
        process = host.start("keys", "forget", "k", "--force", env=env)
        with psycopg.connect(place.url, autocommit=True) as watcher:
            eventually(lambda: watcher.execute(_WAITS).fetchall() == [(1,)])
        if commits:
            theirs.commit()
        else:
            theirs.rollback()
        result = finish(process)
    assert result.code == code, result
    assert place.state("k") == state
    if commits:
        assert result.stderr == b"guardrun: the key 'k' has succeeded meanwhile: nothing changed\n"
    place.close()


LAPSES = 1.0
"""s; long enough for COMMAND to complete its claim"""
_WAITS = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def test_a_key_that_command_completed(host: Host) -> None:
    """A key whose claim COMMAND completed has succeeded, whatever became of guardrun; it can be
    forgotten like any other, and what it forgot does not come back."""
    place = make_place("postgres", host)
    run = make_run("k")
    claim = claimed(place.open().begin(run, KeySpec("k")))
    with psycopg.connect(place.url) as theirs:
        theirs.execute("SELECT guardrun.complete(%s, %s)", ["k", run.token])
    assert place.state("k") == "succeeded"
    (listed,) = place.objects("keys", "--state", "succeeded")
    assert listed["finished_at"] == shown(place, "k")["finished_at"] is not None
    assert place.run("keys", "forget", "k", "--force").code == 0
    assert shown(place, "k")["state"] == "expired"
    place.open().finish(ended(run, claim))
    assert shown(place, "k")["state"] == "expired"
    claimed(place.open().begin(make_run("k"), KeySpec("k")))
    place.close()


# ---------------------------------------------------------------- the command line


def test_options_belong_to_what_they_are_for(place: Place) -> None:
    """`keys --limit 5 show k` is not understood, and the line says how to write it."""
    line = one_line(place.run("keys", "--limit", "5", "show", "k"), 64)
    assert "guardrun keys show" in line


def test_unknown_words_are_refused(place: Place) -> None:
    """What is neither an option nor a subcommand of `keys` is exit code 64."""
    one_line(place.run("keys", "frobnicate"), 64)
    one_line(place.run("keys", "show"), 64)
    one_line(place.run("keys", "--state", "odd"), 64)
