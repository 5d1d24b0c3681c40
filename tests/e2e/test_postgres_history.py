"""`history` and `show` over Postgres tell what they tell over the embedded ledger."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from ledgers import NOON, claimed, ended, make_run, refused
from places import SHORT, Place, make_place
from servers import PgBouncer
from support import GUARDRUN, Host, eventually

from guardrun.commands.history import RESULTS
from guardrun.ledger.rows import CUT_OFF
from guardrun.model import Attempt, Captured, Holder, KeySpec

WIDE = 2500
"""runs: more than two pages"""


@pytest.fixture
def place(host: Host) -> Iterator[Place]:
    """An empty ledger in Postgres."""
    made = make_place("postgres", host)
    yield made
    made.close()


def fill(place: Place, number: int) -> None:
    """So many runs, one a microsecond and some at the same one, written behind guardrun's back."""
    with psycopg.connect(place.url) as connection:
        connection.execute(
            """
            INSERT INTO guardrun.runs (job_id, job, host, username, pid, owner, argv, fingerprint,
                                       needs, path, started_at, result)
            SELECT gen_random_uuid(), 'many', 'h', 'u', 1, 'h:1:x', '["true"]', 'f', '[]', '[]',
                   timestamptz '2026-11-18 12:00Z' + (i / 3) * interval '1 microsecond', 'success'
              FROM generate_series(1, %s) AS i
            """,
            [number],
        )


def test_newest_first_to_the_end(place: Place) -> None:
    """A list longer than its pages has every run once, newest first, also where many started at
    the same moment."""
    fill(place, WIDE)
    found = place.objects("history", "--limit", "0")
    assert len({run["job_id"] for run in found}) == len(found) == WIDE
    starts = [run["started_at"] for run in found]
    assert starts == sorted(starts, reverse=True)
    assert place.objects("history", "--limit", "1500") == found[:1500]
    assert place.objects("history") == found[:50]


def test_all_keys_to_the_end(place: Place) -> None:
    """A list of keys longer than its pages has every key once, the latest claimed first, also where
    many were claimed at the same moment; so has that of one state."""
    with psycopg.connect(place.url) as connection:
        connection.execute(
            """
            INSERT INTO guardrun.keys (id, key, state, token, job_id, owner, fingerprint,
                                       claimed_at)
            SELECT sha256(i::text::bytea), i::text,
                   CASE WHEN i %% 2 = 0 THEN 'succeeded' ELSE 'interrupted' END,
                   md5(i::text), gen_random_uuid(), 'h:1:x', 'f',
                   timestamptz '2026-11-18 12:00Z' + (i / 3) * interval '1 microsecond'
              FROM generate_series(1, %s) AS i
            """,
            [WIDE],
        )
    found = place.objects("keys", "--limit", "0")
    assert {key["idempotency_key"] for key in found} == {str(i + 1) for i in range(WIDE)}
    assert len(found) == WIDE
    claims = [key["claimed_at"] for key in found]
    assert claims == sorted(claims, reverse=True)
    assert place.objects("keys", "--limit", "1500") == found[:1500]
    interrupted = [key for key in found if key["state"] == "interrupted"]
    assert len(interrupted) == WIDE / 2
    assert place.objects("keys", "--state", "interrupted", "--limit", "0") == interrupted
    assert place.objects("keys", "--state", "interrupted") == interrupted[:50]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "654321"),
        (["--job", "a"], "64"),
        (["--job", "b"], "5321"),
        (["--key", "k"], "61"),
        (["--result", "failed"], "42"),
        (["--result", "success"], "631"),
        (["--result", "interrupted"], "5"),
        (["--result", "running"], ""),
        (["--result", "failed", "--job", "b"], "2"),
        (["--since", "2026-11-18T12:00:02Z"], "65432"),
        (["--until", "2026-11-18T12:00:02Z"], "1"),
        (["--since", "2026-11-18T12:00:02Z", "--until", "2026-11-18T13:00:04+01:00"], "32"),
        (["--since", "2026-11-18T12:00:01.000001Z", "--limit", "1"], "6"),
        (["--job", "never"], ""),
    ],
)
def test_filters(place: Place, words: list[str], expected: str) -> None:
    """Filters by job, key, result and time narrow down what is told, together and alone."""
    ledger = place.open()
    rows = [("b", "k", "success"), ("b", "x", "failed"), ("b", None, "success")]
    rows += [("a", "y", "failed"), ("b", None, "running"), ("a", "k", "success")]
    for number, (job, key, result) in enumerate(rows, 1):
        run = make_run(key, job=job, started_at=NOON + number, argv=(str(number),))
        if result == "running":
            place.open(SHORT).begin(run, KeySpec(key))
        else:
            ledger.finish(ended(run, None, result))
    eventually(lambda: not place.objects("history", "--result", "running") or None)
    assert "".join(run["command"][0] for run in place.objects("history", *words)) == expected


@pytest.mark.parametrize("result", RESULTS)
def test_every_result_can_be_asked_for(place: Place, result: str) -> None:
    """Each word of --result finds its own runs, and no other."""
    ledger = place.open()
    for one in RESULTS:
        run = make_run(job=one)
        if one == "running":
            ledger.begin(run, KeySpec(None))
        else:
            ledger.finish(refused(run, one))
    assert [run["job"] for run in place.objects("history", "--result", result)] == [result]


def test_the_longest_names(place: Place) -> None:
    """Jobs and keys of any length and content are found, and only those."""
    names = ["x" * 4096, "x" * 4095 + "y", "a'b\"%\\", "ü\x1b[31m"]
    ledger = place.open()
    for name in names:
        ledger.finish(ended(make_run(name, job=name), None))
    for name in names:
        for option in ("--job", "--key"):
            (found,) = place.objects("history", option, name)
            assert (found["job"], found["idempotency_key"]) == (name, name)


def test_a_run_that_is_not_renewed_is_interrupted(place: Place) -> None:
    """A run whose host is gone is told as interrupted once its time is over, and as running until
    then."""
    place.open().begin(make_run(job="alive"), KeySpec(None))
    gone = make_run(job="gone")
    place.open(SHORT).begin(gone, KeySpec(None))
    eventually(lambda: place.objects("history", "--result", "interrupted"))
    assert {run["job"]: run["result"] for run in place.objects("history")} == {
        "alive": "running",
        "gone": "interrupted",
    }
    (whole,) = place.objects("show", gone.job_id)
    assert (whole["result"], whole["reason"]) == ("interrupted", CUT_OFF)


def test_one_run(place: Place) -> None:
    """All of a run in one object, to the microsecond and the byte."""
    ledger = place.open()
    run = make_run(
        "k", job="ü", lock="l", path=("p",), argv=("a\udcff", "b"), enqueued_at=NOON - 1.000001
    )
    claim = claimed(ledger.begin(run, KeySpec("k")))
    attempts = (
        Attempt(1, NOON + 0.000001, 0.5, "retry", None, int(signal.SIGKILL), "because"),
        Attempt(2, NOON + 2, 0.25, "success", 0),
    )
    outcome = ended(
        run,
        claim,
        attempts=attempts,
        captured=Captured("ü\n".encode(), b"a\xff\0b"),
        held=True,
        fence=1 << 62,
        lock_wait=0.25,
        lease_lost=True,
        held_by=Holder("o", "j", NOON),
    )
    assert ledger.finish(outcome)
    (whole,) = place.objects("show", run.job_id)
    expected: dict[str, Any] = {
        "job": "ü",
        "result": "success",
        "exit_code": 0,
        "started_at": "2026-11-18T12:00:00.000000Z",
        "finished_at": "2026-11-18T12:00:01.500000Z",
        "duration_ms": 1500.0,
        "idempotency_key": "k",
        "lock": "l",
        "lock_owner": run.owner,
        "fencing_token": 1 << 62,
        "lock_wait_ms": 250.0,
        "queue_lag_ms": 1000.001,
        "lease_lost": True,
        "held_by": {"owner": "o", "job_id": "j", "since": "2026-11-18T12:00:00.000000Z"},
        "command": ["a\\xff", "b"],
        "job_path": ["p"],
        "claim_lost": False,
        "stdout": "ü\n",
    }
    assert {name: whole[name] for name in expected} == expected
    assert base64.b64decode(whole["stderr_base64"]) == b"a\xff\0b"
    first, second = whole["attempts"]
    assert (first["started_at"], first["signal"]) == ("2026-11-18T12:00:00.000001Z", "SIGKILL")
    assert (second["exit_code"], second["duration_ms"]) == (0, 250.0)
    assert place.run("show", run.job_id).code == 0


def test_a_run_goes_by_either_end_of_its_id(place: Place) -> None:
    """Six characters or more of the beginning or the end will do, in any case, if they are one
    run's alone."""
    ledger = place.open()
    early = make_run(job_id="01900000-aaaa-7000-8000-0000000abcde", argv=("early",))
    late = make_run(job_id="01911111-bbbb-7000-8000-1111111abcde", argv=("late",))
    for run in (early, late):
        ledger.finish(ended(run, None))
    for part in ("019000", "01900000-aaaa", "0abcde", "0000000ABCDE", early.job_id.upper()):
        (whole,) = place.objects("show", part)
        assert whole["command"] == ["early"], part
    shared = place.run("show", "8000-0")
    assert shared.code == 1
    for odd in ("%%%%%%", "______", b"x\xffyzzy", "'; --'; --", "0190-0000", "g" * 40, "0" * 36):
        result = place.run("show", odd)
        assert (result.code, result.stdout) == (1, b""), odd
        assert len(result.stderr.splitlines()) == 1


def test_an_ambiguous_part_is_refused(place: Place) -> None:
    """A part that several runs share is one line, with what they are."""
    for end in ("1", "2"):
        run = make_run(job_id=f"01900000-aaaa-7000-8000-00000000000{end}")
        place.open().finish(ended(run, None))
    result = place.run("show", "01900000")
    assert result.code == 1
    assert b"more than one run" in result.stderr


def test_every_question_is_served_by_an_index(place: Place) -> None:
    """No question about runs or keys that has a limit reads a large table from end to end."""
    fill(place, 20_000)
    run = make_run("k", job="one")
    ledger = place.open()
    ledger.finish(ended(run, claimed(ledger.begin(run, KeySpec("k"))), "failed"))
    ledger.close()
    with psycopg.connect(place.url, autocommit=True) as connection:

        def counted() -> tuple[int, int, int]:
            row = connection.execute(_SCANS).fetchone()
            assert row is not None
            return row[0], row[1], row[2]

        connection.execute("ANALYZE guardrun.runs")
        connection.execute("SELECT pg_stat_force_next_flush()")
        full, served, read = counted()
        for words in (
            [],
            ["--job", "one"],
            ["--job", "many", "--until", "2026-11-18T12:00:00.003Z"],
            ["--key", "k"],
            *(["--result", result] for result in RESULTS),
            ["--since", "2026-11-18T12:00:00.003Z"],
        ):
            assert place.run("history", *words).code == 0
        for words in (
            ["why", "many"],
            ["dead"],
            ["dead", "--job", "many"],
            ["stats", "--last", "100"],
        ):
            assert place.run(*words).code == 0
        for part in (run.job_id, run.job_id[:8], run.job_id[-8:]):
            assert place.objects("show", part)[0]["job"] == "one"
        eventually(lambda: counted()[1] > served + 15)
        assert counted()[0] == full
        assert counted()[2] < read + 5000


_SCANS = """
    SELECT (SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'runs'),
           sum(idx_scan)::bigint, sum(idx_tup_read)::bigint
      FROM pg_stat_user_indexes
     WHERE relname = 'runs'
"""


def test_a_reader_that_has_seen_enough(place: Place) -> None:
    """With | head -1 there is no traceback, and what was left is not read."""
    fill(place, WIDE)
    process = subprocess.Popen(
        [*GUARDRUN, "history", "--limit", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=place.host.environment({"GUARDRUN_LEDGER_URL": place.url}),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == -signal.SIGPIPE
    assert said == b""


def test_a_reader_that_pauses_stands_in_nobodys_way(place: Place) -> None:
    """While `history` waits for its reader it holds no transaction open, so that nothing is kept
    from vacuum."""
    fill(place, 4 * WIDE)
    process = place.host.start(
        "history", "--limit", "0", "--json", env={"GUARDRUN_LEDGER_URL": place.url}
    )
    query = """
        SELECT state FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'guardrun'
    """
    with psycopg.connect(place.url, autocommit=True) as connection:
        eventually(lambda: connection.execute(query).fetchall() == [("idle",)])
    assert process.poll() is None  # the pipe is full: it has not come to its end
    out, _ = process.communicate(timeout=60)
    assert out.count(b"\n") == 4 * WIDE


def test_through_pgbouncer(place: Place) -> None:
    """In transaction mode, too, everything can be read, and a key be forgotten."""
    fill(place, WIDE)
    run = make_run("k")
    ledger = place.open()
    ledger.finish(ended(run, claimed(ledger.begin(run, KeySpec("k")))))
    with PgBouncer.start(place.url, default_pool_size=1) as bouncer:
        there = Place(place.host, bouncer.url_for(place.url))
        assert len(there.objects("history", "--limit", "0")) == WIDE + 1
        assert there.objects("show", run.job_id)[0]["result"] == "success"
        assert len(there.objects("keys", "--limit", "0")) == 1
        assert there.run("keys", "forget", "--force", "k").code == 0
    assert place.state("k") == "expired"


def test_who_may_only_read(place: Place) -> None:
    """SELECT is enough for looking; what needs more is refused in one line, with the reason."""
    role = f"reader{os.getpid()}"
    statements = (
        f"CREATE ROLE {role} LOGIN PASSWORD 'swordfish'",
        f"GRANT USAGE ON SCHEMA guardrun TO {role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA guardrun TO {role}",
    )
    with psycopg.connect(place.url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
        try:
            run = make_run("k")
            ledger = place.open()
            ledger.finish(ended(run, claimed(ledger.begin(run, KeySpec("k")))))
            at = urlsplit(place.url)
            url = at._replace(netloc=f"{role}:swordfish@{at.hostname}:{at.port}").geturl()
            there = Place(place.host, url)
            assert len(there.objects("history")) == 1
            assert there.objects("show", run.job_id)[0]["result"] == "success"
            assert there.objects("keys", "show", "k")[0]["state"] == "succeeded"
            for words in (("keys", "forget", "--force", "k"), ("prune", "--older-than", "1d")):
                result = there.run(*words, timeout=90)
                assert (result.code, result.stdout) == (69, b""), result
                (line,) = result.stderr.decode().splitlines()
                assert "permission denied" in line
                assert "swordfish" not in line
        finally:
            connection.execute(f"DROP OWNED BY {role}".encode())
            connection.execute(f"DROP ROLE {role}".encode())


def test_a_wrong_password(place: Place) -> None:
    """Who is not let in is told so in one line, without the password."""
    at = urlsplit(place.url)
    url = at._replace(netloc=f"postgres:swordfish@{at.hostname}:{at.port}").geturl()
    began = time.monotonic()
    result = Place(place.host, url).run("history", timeout=90)
    assert (result.code, result.stdout) == (69, b""), result
    (line,) = result.stderr.decode().splitlines()
    assert "password" in line
    assert "swordfish" not in line
    assert time.monotonic() - began < 60
