"""Runs whose ledger is in Postgres, from outside."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import servers
from fleet import FleetHost, ask, fleet_host, settled, transaction
from support import GENTLY, Host, eventually, finish, no_survivors, sleepers, stubborn_tree

RACERS = int(os.environ.get("GUARDRUN_TEST_RACERS", "30"))
"""how many are started at once"""


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[FleetHost]:
    """One host of a fleet."""
    host = fleet_host(tmp_path / "one", database_url)
    yield host
    host.close()


def test_a_run_is_recorded(fleet: FleetHost) -> None:
    """A run without a key leaves one row with its outcome and its attempt."""
    result = fleet.run("--", "sh", "-c", "exit 3")
    assert result.code == 3
    (row,) = fleet.rows()
    assert (row["result"], row["exit_code"], row["attempts"]) == ("failed", 3, 1)
    assert str(row["job_id"]) == result.finished["job_id"]
    (attempt,) = fleet.rows("SELECT * FROM guardrun.attempts")
    assert (attempt["number"], attempt["exit_code"]) == (1, 3)


def test_a_key_runs_to_success_once(fleet: FleetHost) -> None:
    """The second run of a key is skipped, and both are rows."""
    assert fleet.run("--key", "k", "--", fleet.job).code == 0
    again = fleet.run("--key", "k", "--", fleet.job)
    assert again.code == 0
    assert again.finished["result"] == "skipped_duplicate"
    assert len(fleet.executions()) == 1
    assert [row["result"] for row in fleet.rows()] == ["success", "skipped_duplicate"]
    assert fleet.key("k")["state"] == "succeeded"


def test_output_that_finds_no_room_does_not_cost_the_outcome(fleet: FleetHost) -> None:
    """A small ulimit -f: what was captured may be lost, that the key has succeeded is not."""
    words = ("--key", "k", "--capture", "1M", "--output", "discard")
    result = fleet.run(*words, "--", "head", "-c", "200000", "/dev/zero", preexec_fn=small_files)
    assert (result.code, result.finished["result"]) == (0, "success")
    assert fleet.key("k")["state"] == "succeeded"
    assert [row["result"] for row in fleet.rows()] == ["success"]


def small_files() -> None:
    """Let this process, and what it starts, write files of 64 KiB at most."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))


def test_the_claim_is_committed_before_command_starts(fleet: FleetHost) -> None:
    """While COMMAND runs everybody can see who has the key, and its token is COMMAND's own."""
    token = fleet.root / "token"
    process = fleet.hold(
        "--key", "k", env={"ACT": f'echo $GUARDRUN_CLAIM_TOKEN >"{token}"; exec cat'}
    )
    eventually(lambda: token.exists() and token.read_text())
    key = fleet.key("k")
    assert key["state"] == "running"
    assert str(key["job_id"]) == fleet.executions()[0]
    assert key["token"] == token.read_text().strip()
    busy = fleet.run("--key", "k", "--", fleet.job)
    assert busy.code == 75
    assert busy.event("lock_busy")["held_by"]["job_id"] == fleet.executions()[0]
    assert finish(process).code == 0


def test_another_host_waits_for_a_key(tmp_path: Path, fleet: FleetHost) -> None:
    """--wait waits for a key that a run of another host holds, and then skips its duplicate."""
    other = fleet_host(tmp_path / "two", fleet.url)
    process = fleet.hold("--key", "k")
    waiting = other.start("--key", "k", "-w", "30", "--", fleet.job)
    assert waiting.stdout is not None
    assert b"run_started" in waiting.stdout.readline()
    assert b"lock_busy" in waiting.stdout.readline()
    finish(process)
    result = finish(waiting)
    assert (result.code, result.finished["result"]) == (0, "skipped_duplicate")
    assert "lock_busy" not in result.events, "one wait is told once"


def test_needs_budget_and_replay(fleet: FleetHost) -> None:
    """--needs, --retry-budget and --on-duplicate replay work as with the embedded ledger."""
    assert fleet.run("--needs", "first", "--", "true").code == 76
    ran = fleet.run("--key", "first", "--capture", "1K", "--log-to", "none", "--", "echo", "hello")
    assert ran.stdout == b"hello\n"
    assert fleet.run("--needs", "first", "--", "true").code == 0
    again = ("--key", "first", "--on-duplicate", "replay", "--log-to", "none")
    assert fleet.run(*again, "--", "echo", "hello").stdout == b"hello\n"
    retry = ("--retries", "5", "--backoff", "10ms..20ms", "--retry-budget", "2/1h")
    result = fleet.run(*retry, "--", "sh", "-c", "exit 1")
    assert result.code == 1
    assert result.events.count("attempt_started") == 3
    assert "budget_exhausted" in result.events


def test_of_many_at_once_one_executes(fleet: FleetHost) -> None:
    """Of runs with one key that start together one executes; all others are told why not."""
    started = [
        fleet.start(
            *("--key", "k", "--store-wait", "60", "--", fleet.job),
            env={"ACT": "sleep 0.2"},
            program=GENTLY,
        )
        for _ in range(RACERS)
    ]
    results = [finish(process, 180) for process in started]
    assert len(fleet.executions()) == 1
    assert {result.code for result in results} <= {0, 75}
    outcomes = [result.finished["result"] for result in results]
    assert outcomes.count("success") == 1
    assert set(outcomes) <= {"success", "skipped_duplicate", "lock_busy"}
    assert len(fleet.rows()) == RACERS


def test_a_killed_run_frees_its_key_at_once(tmp_path: Path, fleet: FleetHost, mark: str) -> None:
    """kill -9 of guardrun: nothing of COMMAND is left, and the key is interrupted, not held."""
    command = str(stubborn_tree(tmp_path / "tree", mark))
    process = fleet.start("--key", "k", "--claim-ttl", "1h", "--", command)
    sleepers(mark, 4)
    key = fleet.key("k")
    assert key["state"] == "running"
    process.kill()
    no_survivors(mark)
    row = settled(fleet, str(key["job_id"]))
    assert (row["result"], row["finished_at"]) == ("interrupted", None)
    assert fleet.key("k")["state"] == "interrupted"
    again = fleet.start("--key", "k", "--", command)
    sleepers(mark, 4)
    again.terminate()
    assert finish(again).code == -signal.SIGTERM


def test_a_run_without_a_key_does_not_wait_for_the_ledger(tmp_path: Path) -> None:
    """COMMAND starts at once though the server hangs; its outcome arrives when it is back."""
    with servers.Postgres.start() as server:
        host = fleet_host(tmp_path / "one", server.url)
        server.pause()
        begun = time.monotonic()
        process = host.start("--record-wait", "1s", "--", host.job)
        eventually(host.executions, 5)
        assert time.monotonic() - begun < 5
        result = finish(process)
        server.resume()
        assert result.code == 0
        assert "outcome_spooled" in result.events
        assert len(host.spooled()) == 1
        flushed = host.run("flush")
        assert flushed.code == 0, flushed
        (row,) = host.rows()
        assert (row["result"], str(row["job_id"])) == ("success", result.finished["job_id"])
        assert host.spooled() == []


def test_no_patience_at_all(fleet: FleetHost) -> None:
    """With --store-wait 0 the ledger is asked once, and has the time that an answer takes."""
    result = fleet.run("--key", "k", "--store-wait", "0", "--", "true")
    assert (result.code, fleet.key("k")["state"]) == (0, "succeeded"), result


def test_a_ledger_that_is_down_stops_a_run_with_a_key(host: Host) -> None:
    """Exit 69 when --store-wait is over, one line that says what to do; without a key it runs."""
    url = f"postgresql://u@127.0.0.1:{servers.free_port()}/db"
    env = {"GUARDRUN_LEDGER_URL": url}
    begun = time.monotonic()
    result = host.run("--key", "k", "--store-wait", "1s", "--", host.job, env=env)
    assert 1 <= time.monotonic() - begun < 15
    assert result.code == 69
    assert result.finished["result"] == "store_unavailable"
    assert len(result.stderr.splitlines()) == 1
    assert b"refused" in result.stderr
    assert host.executions() == []
    result = host.run("--record-wait", "0.2s", "--", host.job, env=env)
    assert (result.code, len(host.executions())) == (0, 1)
    assert "outcome_spooled" in result.events
    host.run("--key", "k", "--log-to", "none", "--", "true")  # with the embedded ledger
    waiting = list((host.state / "spool").glob("postgresql-*/*.json"))
    assert len(waiting) == 2, "an outcome of one ledger was recorded in another"


def test_a_signal_ends_a_run_whose_connect_hangs(host: Host) -> None:
    """SIGTERM while nobody answers ends guardrun by that signal, and does not wait for anybody.

    It takes a third of a second where nothing else runs; the connect would take five.
    """
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        nobody.listen()
        nobody.settimeout(30)
        url = f"postgresql://u@127.0.0.1:{nobody.getsockname()[1]}/db"
        process = host.start("--key", "k", "--", host.job, env={"GUARDRUN_LEDGER_URL": url})
        taken, _ = nobody.accept()  # from now on the driver waits for an answer
        begun = time.monotonic()
        process.terminate()
        process.wait(10)
        took = time.monotonic() - begun
        taken.close()
    assert process.returncode == -signal.SIGTERM
    assert took < 2
    assert host.executions() == []


def test_starts_that_find_no_connection_free_get_one_later(tmp_path: Path) -> None:
    """Many more starts at once than there are connections: all get through."""
    with servers.Postgres.start(max_connections=8) as server:
        host = fleet_host(tmp_path / "one", server.url)
        started = [
            host.start("--key", f"k{number}", "--", "true", program=GENTLY)
            for number in range(RACERS)
        ]
        results = [finish(process, 180) for process in started]
        assert [result.code for result in results if result.code] == []
        assert len(host.rows("SELECT * FROM guardrun.keys WHERE state = 'succeeded'")) == RACERS


def test_an_open_transaction_that_has_completed_the_key_is_not_disturbed(fleet: FleetHost) -> None:
    """COMMAND may sit in its transaction after complete() for longer than several renewals."""
    process = fleet.hold("--key", "k", "--claim-ttl", "10s")
    key = fleet.key("k")
    before = key["claim_until"]
    with transaction(fleet.url) as db:
        db.execute("SELECT guardrun.complete(%s, %s)", ("k", key["token"]))
        eventually(lambda: fleet.key("k")["claim_until"] > before, 15, "a renewal")
        again = fleet.key("k")["claim_until"]
        eventually(lambda: fleet.key("k")["claim_until"] > again, 15, "another renewal")
        assert process.poll() is None
        db.commit()
    assert fleet.key("k")["state"] == "succeeded"
    assert finish(process).code == 0


def test_a_run_that_lost_its_claim_is_stopped_at_once(fleet: FleetHost) -> None:
    """A claim that is another's by now: COMMAND is killed, exit 74, and the key is left alone."""
    process = fleet.hold("--key", "k", "--claim-ttl", "10s", "-k", "1h")
    ask(fleet.url, "UPDATE guardrun.keys SET token = repeat('0', 32)")
    process.wait(30)
    result = finish(process)
    assert result.code == 74, result
    assert result.event("lease_lost")["level"] == "error"
    assert result.finished["result"] == "lease_lost"
    assert fleet.key("k")["state"] == "running"


def test_command_is_dead_before_its_claim_can_be_taken(tmp_path: Path, mark: str) -> None:
    """The server stopped for good: all of COMMAND is dead before its claim lapses there."""
    with servers.Postgres.start() as server:
        host = fleet_host(tmp_path / "one", server.url)
        command = str(stubborn_tree(tmp_path / "tree", mark))
        process = host.start(
            "--key", "k", "--claim-ttl", "10s", "-k", "1h", "--record-wait", "1s", "--", command
        )
        sleepers(mark, 4)
        lapses = time.monotonic() + host.left("k")
        server.pause()
        no_survivors(mark, 15)
        assert time.monotonic() < lapses
        result = finish(process)
        server.resume()
        assert result.code == 74
        assert result.finished["lease_lost"] is True
        assert host.run("flush").code == 0
        assert [row["result"] for row in host.rows()] == ["lease_lost"]
        assert host.key("k")["state"] == "interrupted"


def test_a_pooler_in_transaction_mode_will_do(tmp_path: Path, database_url: str) -> None:
    """Through PgBouncer: claims, duplicates, a renewal, a kill."""
    url = servers.pgbouncer_url(database_url)
    host = fleet_host(tmp_path / "one", url)
    process = host.hold("--key", "k", "--claim-ttl", "10s")
    until = host.key("k")["claim_until"]
    eventually(lambda: host.key("k")["claim_until"] > until, 15, "a renewal")
    assert finish(process).code == 0
    assert host.run("--key", "k", "--", host.job).finished["result"] == "skipped_duplicate"
    killed = host.hold("--key", "other", "--claim-ttl", "1h")
    killed.kill()
    killed.communicate()
    assert settled(host, host.executions()[-1])["result"] == "interrupted"
    host.close()


def test_of_several_hosts_the_first_that_answers_is_used(tmp_path: Path, database_url: str) -> None:
    """A URL may name several servers, as libpq has it: one that is down is passed over."""
    parts = urlsplit(database_url)
    login, _, live = parts.netloc.rpartition("@")
    dead = f"127.0.0.1:{servers.free_port()}"
    url = parts._replace(netloc=f"{login}@{dead},{live}").geturl()
    host = fleet_host(tmp_path / "one", url)
    assert host.run("--key", "k", "--", "true").code == 0
    assert host.key("k")["state"] == "succeeded"
