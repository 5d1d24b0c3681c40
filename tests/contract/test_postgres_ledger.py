"""What only the ledger in Postgres promises: its clock, transactions, roles, and failures."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import servers
from ledgers import answers, claimed, ended, make_run, refusal, refused, release, run_key, workers
from postgres_stores import PostgresStore, due
from support import eventually

from guardrun import kernel, sql
from guardrun.errors import ConfigError, StoreOutdated, StoreUnavailable
from guardrun.ledger.postgres import PostgresLedger
from guardrun.ledger.records import dead_runs, open_records
from guardrun.ledger.rows import CUT_OFF
from guardrun.model import FOREVER, Attempt, Budget, Captured, KeySpec, LedgerSpec, Run
from guardrun.postgres import session
from guardrun.postgres.schema import SCHEMA, Migration, migrate, pending

DAY = 86400.0
K = KeySpec("k")
STOP = KeySpec("k", on_interrupted="stop")
DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "postgres.md"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PostgresStore]:
    """An empty ledger."""
    made = PostgresStore(tmp_path)
    yield made
    made.close()


@contextlib.contextmanager
def completing(store: PostgresStore, run: Run) -> Iterator[psycopg.Connection[Any]]:
    """COMMAND's own transaction, open, after it has called guardrun.complete."""
    with psycopg.connect(store.url) as connection:
        complete(connection, run)
        yield connection


def complete(connection: psycopg.Connection[Any], run: Run, token: str | None = None) -> None:
    """What COMMAND says in its own transaction."""
    connection.execute("SELECT guardrun.complete(%s, %s)", (run.key, token or run.token))


def waiting(store: PostgresStore) -> int:
    """How many connections wait for another one's lock."""
    found = store.sql(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock'"
    )
    return len(found)


class Proxy:
    """A way to the server that can lose what is said at a COMMIT.

    ``cut``: at the next one, lose it ``before`` the server hears it, or lose the answer ``after``.
    """

    def __init__(self, url: str) -> None:
        self._target = servers.endpoint(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = servers.at_port(url, self._listener.getsockname()[1])
        self.cut: str | None = None
        self.turns = 0
        """how often the client has spoken after it had listened"""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server:
            swallow = heard = False
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data or (ready is server and swallow):
                        return
                    if ready is client:
                        self.turns += heard
                        if b"COMMIT" in data and self.cut is not None:
                            how, self.cut = self.cut, None
                            if how == "before":
                                return
                            swallow = True
                    heard = ready is server
                    (client if ready is server else server).sendall(data)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


@pytest.fixture
def proxy(store: PostgresStore) -> Iterator[Proxy]:
    """A way to the store that can be cut."""
    made = Proxy(store.url)
    yield made
    made.close()


@pytest.fixture
def through(store: PostgresStore, proxy: Proxy) -> Iterator[PostgresLedger]:
    """A ledger behind that proxy."""
    ledger = PostgresLedger(proxy.url, store.clock)
    yield ledger
    ledger.close()


# ---------------------------------------------------------------- the schema


def test_migrate_says_what_it_will_do_and_did(database_url: str) -> None:
    """Before, while and after: from nothing to the current version, then nothing more."""
    whole = Migration(0, SCHEMA, tuple(sql.migration_names("postgres")))
    assert pending(database_url, due()) == whole
    assert pending(database_url, due()) == whole
    assert migrate(database_url, due()) == whole
    nothing = Migration(SCHEMA, SCHEMA, ())
    assert pending(database_url, due()) == nothing
    assert migrate(database_url, due()) == nothing


def test_the_highest_migration_is_the_schema() -> None:
    """The number in the code is that of the last file, and none is missing."""
    numbers = [number for number, _ in sql.migrations("postgres")]
    assert numbers == list(range(1, SCHEMA + 1))


def test_concurrent_migrations_are_one(database_url: str) -> None:
    """Of six at once one does it all, and the others find it done."""
    script = """
import sys
from guardrun import kernel
from guardrun.postgres.schema import migrate
sys.stdin.readline()
print(len(migrate(sys.argv[1], kernel.now() + 60).names))
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    release(started)
    said = sorted(process.communicate(timeout=60)[0].strip() for process in started)
    assert said == ["0"] * 5 + [str(SCHEMA)]


def test_a_migration_gives_up_in_time(database_url: str) -> None:
    """It waits for another one until ``due``, and leaves nothing waiting on the server."""
    lock = sql.statements("postgres", "schema")["lock"]
    with psycopg.connect(database_url) as connection:
        connection.execute(lock)
        with pytest.raises(StoreUnavailable, match="another transaction holds the lock"):
            migrate(database_url, due(1))
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
        assert found == (0,)
    assert migrate(database_url, due()).before == 0


def test_a_migration_that_fails_changes_nothing(database_url: str) -> None:
    """Where something else is in the way, the schema stays as it was."""
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE SCHEMA guardrun")
        connection.execute("CREATE TABLE guardrun.keys (mine text)")
    with pytest.raises(StoreUnavailable, match="holds something else"):
        migrate(database_url, due())
    assert pending(database_url, due()).before == 0
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT to_regclass('guardrun.runs')").fetchone() == (None,)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ("DROP SCHEMA guardrun CASCADE", "run guardrun migrate"),
        ("DROP TABLE guardrun.schema_version", "run guardrun migrate"),
        (f"DELETE FROM guardrun.schema_version WHERE version = {SCHEMA}", "run guardrun migrate"),
        (f"INSERT INTO guardrun.schema_version VALUES ({SCHEMA + 1}, 'x')", "upgrade guardrun"),
    ],
)
def test_another_schema_is_refused(store: PostgresStore, change: str, remedy: str) -> None:
    """Missing and older schemas need a migration, newer ones a newer guardrun; no retry helps."""
    store.sql(change)
    with pytest.raises(StoreOutdated, match=remedy):
        store.open().begin(make_run("k"), K)


def test_a_run_lives_through_a_migration(store: PostgresStore) -> None:
    """What it holds is renewed, and its outcome is recorded, on a connection made after that."""
    ledger, run = store.open(), make_run("k")
    claim = claimed(ledger.begin(run, K))
    ledger.idle()
    store.sql(f"INSERT INTO guardrun.schema_version VALUES ({SCHEMA + 1}, 'later')")
    assert ledger.renew(run, due())
    ledger.idle()
    assert ledger.finish(ended(run, claim))
    assert store.row(run).result == "success"


def test_a_newer_schema_is_not_migrated(store: PostgresStore) -> None:
    """Nor is it said that it could be."""
    store.sql(f"INSERT INTO guardrun.schema_version VALUES ({SCHEMA + 1}, 'later')")
    for ask in (pending, migrate):
        with pytest.raises(StoreOutdated, match="upgrade guardrun"):
            ask(store.url, due())


def test_a_database_of_another_encoding_is_refused(store: PostgresStore) -> None:
    """Keys may hold every character there is."""
    name = f"t{secrets.token_hex(8)}"
    store.sql(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    url = servers.in_database(store.url, name)
    try:
        with pytest.raises(StoreUnavailable, match="ENCODING 'UTF8'"):
            migrate(url, due())
    finally:
        servers.drop_database(url)


# ---------------------------------------------------------------- claims and time


def test_a_renewal_extends_the_claim(store: PostgresStore) -> None:
    """After it, claim and row are good for the whole time again."""
    ledger = store.open(claim_ttl=100.0)
    run = make_run("k")
    claimed(ledger.begin(run, K))
    store.vanish(ledger, run)
    assert store.row(run).result == "interrupted"
    assert ledger.renew(run, due())
    assert store.row(run).result == "running"
    ((left,),) = store.sql(
        "SELECT extract(epoch FROM claim_until - clock_timestamp())::float8 FROM guardrun.keys"
    )
    assert 80 < left <= 100
    assert refusal(store.open().begin(make_run("k"), K)).kind == "held"


def test_a_renewal_tells_the_loss(store: PostgresStore) -> None:
    """When another run has the key, or it was taken from us, there is nothing to renew."""
    ledger = store.open()
    run = make_run("k")
    claimed(ledger.begin(run, K))
    other = store.vanish(ledger, run)
    second = make_run("k")
    claimed(other.begin(second, K))
    assert not ledger.renew(run, due())
    assert other.renew(second, due())
    other.interrupt(second, due())
    assert not other.renew(second, due())


def test_a_run_without_a_key_is_renewed(store: PostgresStore) -> None:
    """Its row says that it runs, as long as it is renewed."""
    ledger = store.open()
    run = make_run()
    claimed(ledger.begin(run, KeySpec(None)))
    store.vanish(ledger, run)
    assert store.row(run).result == "interrupted"
    assert ledger.renew(run, due())
    assert store.row(run).result == "running"
    assert not ledger.renew(make_run(), due())


def test_interrupt_frees_the_key_at_once(store: PostgresStore) -> None:
    """Who knows that COMMAND is dead says so, and nobody waits for the claim to lapse."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    ledger.interrupt(run, due())
    ledger.interrupt(run, due())
    row = store.row(run)
    assert (row.result, row.finished_at) == ("interrupted", None)
    assert row.reason
    assert refusal(ledger.begin(make_run("k"), STOP)).kind == "interrupted"
    assert ledger.finish(ended(run, claim))  # the truth was on its way
    assert refusal(ledger.begin(make_run("k"), K)).kind == "duplicate"


def test_a_claim_can_be_given_back(store: PostgresStore) -> None:
    """The key is free, as if it had never been claimed, and the run's outcome is no stale one."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    ledger.give_back(run, due())
    assert ledger.finish(ended(run, claim, "store_unavailable", attempts=()))
    assert claimed(ledger.begin(make_run("k"), STOP)).interrupted is None


@pytest.mark.parametrize("key", ["k", None])
def test_a_run_that_gives_its_claim_back_does_not_seem_to_run(
    store: PostgresStore, key: str | None
) -> None:
    """Of a run that was killed before it had executed anything nobody may tell more than that."""
    ledger = store.open()
    run = make_run(key)
    claim = claimed(ledger.begin(run, KeySpec(key)))
    ledger.give_back(run, due())
    row = store.row(run)
    assert (row.result, row.reason, row.finished_at) == ("interrupted", CUT_OFF, None)
    outcome = ended(run, claim, "store_unavailable", attempts=())
    assert ledger.finish(outcome)
    ledger.give_back(run, due())
    assert store.row(run).result == "store_unavailable"


def test_what_is_anothers_is_neither_interrupted_nor_given_back(store: PostgresStore) -> None:
    """Only the holder's own token moves a key on."""
    ledger = store.open()
    run = make_run("k")
    claimed(ledger.begin(run, K))
    late = make_run("k")
    ledger.interrupt(late, due())
    ledger.give_back(late, due())
    assert refusal(ledger.begin(make_run("k"), K)).kind == "held"


def test_a_takeover_after_a_lock_wait_gets_the_full_time(store: PostgresStore) -> None:
    """However long the row was locked: the claim is good from the moment it was got."""
    run_key(store.open(), "k", "failed")
    script = """
from guardrun.ledger.postgres import PostgresLedger
ledger = PostgresLedger(sys.argv[2], Clock(), 10.0)
assert isinstance(insist(lambda: ledger.begin(make_run("k"), KeySpec("k"))), Claim)
"""
    with workers(store, 1, script) as started, psycopg.connect(store.url) as holder:
        holder.execute("SELECT FROM guardrun.keys FOR UPDATE")
        release(started)
        eventually(lambda: waiting(store), what="the claim waits for the lock")
        locked_at = time.monotonic()
        eventually(lambda: time.monotonic() > locked_at + 1.5)
        holder.rollback()
        assert started[0].wait(30) == 0
    ((granted,),) = store.sql(
        "SELECT extract(epoch FROM claim_until - claimed_at)::float8 FROM guardrun.keys"
    )
    assert granted == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize("off", [-3600.0, 3600.0])
def test_host_clocks_may_be_wrong(store: PostgresStore, off: float) -> None:
    """An hour off, a success lasts as long as it should, by the server's clock."""
    ledger = PostgresLedger(store.url, lambda: time.time() + off)
    now = time.time() + off
    run = make_run("k", started_at=now - 5)
    claim = claimed(ledger.begin(run, K))
    assert ledger.finish(ended(run, claim, finished_at=now, key_ttl=600.0))
    ledger.close()
    assert remaining(store) == pytest.approx(600, abs=20)


@pytest.mark.parametrize("ttl", [DAY, 3 * DAY])
def test_an_outcome_from_the_spool_expires_as_if_it_had_come_at_once(
    store: PostgresStore, ttl: float
) -> None:
    """Recorded two days late, a success has two days less to last."""
    ledger = PostgresLedger(store.url, time.time)
    run = make_run("k", started_at=time.time() - 2 * DAY - 5)
    claim = claimed(ledger.begin(run, K))
    assert ledger.finish(ended(run, claim, finished_at=time.time() - 2 * DAY, key_ttl=ttl))
    assert remaining(store) == pytest.approx(ttl - 2 * DAY, abs=20)
    said = ledger.begin(make_run("k"), K)
    ledger.close()
    assert (claimed(said) if ttl == DAY else refusal(said)) == said


def remaining(store: PostgresStore) -> float:
    """Seconds until the store's only key expires."""
    ((left,),) = store.sql(
        "SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM guardrun.keys"
    )
    return float(left)


def test_no_legal_name_is_too_long(store: PostgresStore) -> None:
    """Keys, jobs and lock names that no index entry could hold are stored, found and told apart."""
    ledger = store.open()
    long = os.urandom(4096).hex()
    run = make_run(long, job=long, lock=long, needs=())
    assert ledger.finish(ended(run, claimed(ledger.begin(run, KeySpec(long))), reason=long))
    assert refusal(ledger.begin(make_run(long), KeySpec(long))).kind == "duplicate"
    claimed(ledger.begin(make_run(long + "x"), KeySpec(long + "x")))
    bare = make_run(job=long)
    claimed(ledger.begin(bare, KeySpec(None)))
    assert ledger.spend_retry(bare, Budget(1, 60.0))
    assert not ledger.spend_retry(bare, Budget(1, 60.0))
    assert ledger.spend_retry(make_run(job=long + "x"), Budget(1, 60.0))


def test_nul_is_written_out(store: PostgresStore) -> None:
    """Text in Postgres cannot hold it; a job's message may."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    assert ledger.finish(ended(run, claim, "failed", reason="a\0b"))
    assert store.row(run).reason == "a\\x00b"


@pytest.mark.parametrize(
    "wrong", [{"exit_code": 2**40}, {"finished_at": 1e30}, {"duration": float("nan")}]
)
def test_numbers_that_no_run_can_have(store: PostgresStore, wrong: dict[str, Any]) -> None:
    """A damaged file of the spool is told from a store that is down."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    with pytest.raises((ValueError, OverflowError)):
        ledger.finish(ended(run, claim, **wrong))
    assert ledger.finish(ended(run, claim))


def test_watching_means_asking_again(store: PostgresStore) -> None:
    """What watch returns is readable after a while, whatever has become of the key."""
    child = store.open().watch(make_run("k").job_id)
    assert not select.select([child.fileno()], [], [], 0)[0]
    assert select.select([child.fileno()], [], [], 10)[0]
    child.cancel()


def test_a_budget_is_spent_by_one_at_a_time(store: PostgresStore) -> None:
    """Of two runs that both came before either had committed, the second sees what the first spent.

    A trigger makes the first one slow, until both of them are waiting for something.
    """
    gate, budget = 4711, Budget(1, 60.0)
    store.sql(
        "CREATE FUNCTION pass_the_gate() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_advisory_xact_lock_shared({gate}); RETURN NEW; END $$"
    )
    store.sql(
        "CREATE TRIGGER gate AFTER INSERT ON guardrun.budgets"
        " FOR EACH ROW EXECUTE FUNCTION pass_the_gate()"
    )
    ledgers = [store.open() for _ in range(2)]
    for ledger in ledgers:
        ledger.prepare(due())
    with (
        ThreadPoolExecutor(len(ledgers)) as pool,
        psycopg.connect(store.url, autocommit=True) as keeper_of_the_gate,
    ):
        keeper_of_the_gate.execute("SELECT pg_advisory_lock(%s)", (gate,))
        asked = [pool.submit(ledger.spend_retry, make_run(), budget, due()) for ledger in ledgers]
        eventually(lambda: waiting(store) == len(ledgers), what="both wait")
        keeper_of_the_gate.execute("SELECT pg_advisory_unlock(%s)", (gate,))
        assert sorted(one.result() for one in asked) == [False, True]


# ---------------------------------------------------------------- guardrun.complete


def test_a_completed_key_has_succeeded(store: PostgresStore) -> None:
    """Once COMMAND's transaction is committed, whatever happens to guardrun."""
    ledger = store.open()
    run = make_run("k")
    claimed(ledger.begin(run, K))
    with completing(store, run) as connection:
        assert refusal(ledger.begin(make_run("k"), K)).kind == "held"
        connection.commit()
    other = store.vanish(ledger, run)
    said = refusal(other.begin(make_run("k"), K))
    assert (said.kind, said.holder and said.holder.job_id) == ("duplicate", run.job_id)
    claimed(other.begin(make_run("n", needs=("k",)), KeySpec("n")))


@pytest.mark.parametrize("result", ["success", "failed", "timeout", "interrupted"])
def test_what_was_completed_is_not_undone(store: PostgresStore, result: str) -> None:
    """COMMAND's exit code comes after its commit: the row tells of it, the key does not."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    with completing(store, run):
        pass
    assert ledger.finish(ended(run, claim, result, captured=Captured(b"out", b"")))
    assert store.row(run).result == result
    assert refusal(ledger.begin(make_run("k"), K)).kind == "duplicate"
    assert ledger.stored_output("k") == (b"out", b"")


@pytest.mark.parametrize("end", ["finish", "interrupt", "vanish"])
def test_a_commit_may_come_after_guardruns_word(store: PostgresStore, end: str) -> None:
    """COMMAND was killed while its COMMIT was under way: what the server commits counts."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    with completing(store, run):
        if end == "finish":
            assert ledger.finish(ended(run, claim, "timeout"), due(5))
        elif end == "interrupt":
            ledger.interrupt(run, due(5))
        else:
            ledger = store.vanish(ledger, run)
    assert refusal(ledger.begin(make_run("k"), K)).kind == "duplicate"
    if end != "finish":
        assert ledger.finish(ended(run, claim, "interrupted"))
    assert refusal(ledger.begin(make_run("k"), STOP)).kind == "duplicate"


def test_a_completion_lasts_as_long_as_the_claim_said(store: PostgresStore) -> None:
    """Also when guardrun never came to record it, a success blocks for its time to live."""
    ledger = store.open()
    run = make_run("k")
    claimed(ledger.begin(run, K._replace(ttl=3600.0)))
    with completing(store, run):
        pass
    ledger = store.vanish(ledger, run)
    store.clock.pass_by(3600 - store.tick)
    assert refusal(ledger.begin(make_run("k"), K)).kind == "duplicate"
    store.clock.pass_by(store.tick)
    assert refusal(ledger.begin(make_run("n", needs=("k",)), KeySpec("n"))).kind == "needs"
    assert claimed(ledger.begin(make_run("k"), STOP)).interrupted is None


@pytest.mark.parametrize("end", ["failed", None])
def test_a_run_whose_key_was_completed_is_not_dead(store: PostgresStore, end: str | None) -> None:
    """However it ended: nothing is left to be done, and another run would be a duplicate."""
    ledger = store.open()
    run, other = make_run("k"), make_run("x")
    claim, _ = claimed(ledger.begin(run, K)), claimed(ledger.begin(other, KeySpec("x")))
    with completing(store, run):
        pass
    if end is None:
        store.vanish(ledger, run)
    else:
        assert ledger.finish(ended(run, claim, end))
    assert store.open().finish(ended(other, None, "failed"))
    records = open_records(LedgerSpec(store.url, str(store.directory)))
    assert records is not None
    assert [found.job_id for found in dead_runs(records, None, None)] == [other.job_id]
    records.close()


def test_a_success_without_a_claim_comes_after_a_completion_that_has_expired(
    store: PostgresStore,
) -> None:
    """Only then: what COMMAND completed is a success as any other."""
    ledger = store.open()
    run = make_run("k")
    claimed(ledger.begin(run, K._replace(ttl=60.0)))
    with completing(store, run):
        pass
    ledger = store.vanish(ledger, run)
    for passes, whose in ((10, run), (100, None)):
        store.clock.pass_by(passes)
        later = make_run("k", started_at=store.clock())
        assert ledger.finish(ended(later, None, finished_at=store.clock()))
        said = refusal(ledger.begin(make_run("k"), K))
        owner = said.holder and said.holder.job_id
        assert (said.kind, owner) == ("duplicate", (whose or later).job_id)


def test_a_zombie_cannot_complete(store: PostgresStore) -> None:
    """Whose claim was taken over cannot commit, and the new holder is not disturbed."""
    ledger = store.open()
    zombie, second = make_run("k"), make_run("k")
    claimed(ledger.begin(zombie, K))
    other = store.vanish(ledger, zombie)
    assert claimed(other.begin(second, K)).interrupted == zombie.job_id
    with psycopg.connect(store.url) as connection:
        with pytest.raises(psycopg.Error, match="not held") as raised:
            complete(connection, zombie)
        assert raised.value.sqlstate == "RG001"
        connection.rollback()
        complete(connection, second)


@pytest.mark.parametrize("token", ["", "0" * 32])
@pytest.mark.parametrize("before", ["never", "running", "success"])
def test_a_wrong_token_completes_nothing(store: PostgresStore, before: str, token: str) -> None:
    """Nor does one of a key that nobody holds."""
    ledger = store.open()
    run = make_run("k")
    if before == "running":
        claimed(ledger.begin(run, K))
    elif before == "success":
        assert ledger.finish(ended(run, claimed(ledger.begin(run, K))))
    with psycopg.connect(store.url) as connection:
        for wrong in (token, run.token if before == "success" else token):
            with pytest.raises(psycopg.Error, match="not held") as raised:
                complete(connection, run, wrong or "x")
            assert raised.value.sqlstate == "RG001"
            connection.rollback()
        with pytest.raises(psycopg.Error, match="not held"):
            connection.execute("SELECT guardrun.complete('k', NULL)")


def test_one_claim_completes_once(store: PostgresStore) -> None:
    """A second call raises: the effect is there already."""
    ledger = store.open()
    run = make_run("k")
    claimed(ledger.begin(run, K))
    with completing(store, run) as connection:
        connection.commit()
        with pytest.raises(psycopg.Error, match="completed before") as raised:
            complete(connection, run)
        assert raised.value.sqlstate == "RG002"


def test_a_completion_that_is_rolled_back_is_none(store: PostgresStore) -> None:
    """Effect and completion come together or not at all."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    with completing(store, run) as connection:
        connection.rollback()
    assert ledger.finish(ended(run, claim, "failed"))
    claimed(ledger.begin(make_run("k"), STOP))


def test_a_renewal_passes_an_open_completion(store: PostgresStore) -> None:
    """COMMAND may sit in its transaction for as long as it likes, and is not killed for it."""
    ledger = store.open()
    run = make_run("k")
    claimed(ledger.begin(run, K))
    with completing(store, run) as connection:
        for _ in range(3):
            assert ledger.renew(run, due(2))
        connection.commit()


def test_a_completion_passes_an_open_renewal(store: PostgresStore) -> None:
    """Nor does COMMAND wait for guardrun."""
    run = make_run("k")
    claimed(store.open().begin(run, K))
    with psycopg.connect(store.url) as renewing, psycopg.connect(store.url) as connection:
        renewing.execute("UPDATE guardrun.keys SET claim_until = clock_timestamp()")
        connection.execute("SET lock_timeout = '1s'")
        complete(connection, run)


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("before", ["vanish", "timeout", "failed"])
def test_a_takeover_waits_for_an_open_completion(
    store: PostgresStore, before: str, end: str
) -> None:
    """Who takes a key over learns how the last holder's transaction ended, and goes by that."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    script = """
said = insist(lambda: ledger.begin(make_run("k"), KeySpec("k")))
print("claim" if isinstance(said, Claim) else said.kind)
"""
    with workers(store, 1, script) as started, completing(store, run) as connection:
        if before == "vanish":
            store.vanish(ledger, run)
        else:
            assert ledger.finish(ended(run, claim, before), due(5))
        release(started)
        eventually(lambda: waiting(store), what="the takeover waits")
        getattr(connection, end)()
        assert answers_of(started) == ["duplicate" if end == "commit" else "claim"]


def answers_of(started: list[subprocess.Popen[str]]) -> list[str]:
    """What each says that was let go before."""
    found = [process.communicate(timeout=60)[0].strip() for process in started]
    assert all(process.returncode == 0 for process in started)
    return found


def test_a_success_without_a_claim_does_not_wait_for_an_open_completion(
    store: PostgresStore,
) -> None:
    """It yields to who holds the key: in the spool it would keep its host from every other key."""
    ledger, holder = store.open(), make_run("k")
    claim = claimed(ledger.begin(holder, K))
    with completing(store, holder):
        assert store.open().finish(ended(make_run("k"), None), due(2.0))
    assert ledger.finish(ended(holder, claim))
    said = refusal(ledger.begin(make_run("k"), K))
    assert (said.kind, said.holder and said.holder.job_id) == ("duplicate", holder.job_id)


def test_a_takeover_gives_up_in_time(store: PostgresStore) -> None:
    """A transaction that never ends is waited for until ``due`` at most, and said to be why."""
    ledger = store.open()
    run = make_run("k")
    claimed(ledger.begin(run, K))
    with completing(store, run):
        other = store.vanish(ledger, run)
        before = time.monotonic()
        with pytest.raises(StoreUnavailable, match="another transaction holds the lock"):
            other.begin(make_run("k"), K, due(1))
        assert time.monotonic() - before < 2


@pytest.mark.parametrize("level", ["REPEATABLE_READ", "SERIALIZABLE"])
def test_a_command_may_have_a_snapshot(store: PostgresStore, level: str) -> None:
    """Renewals after it do no harm; a takeover after it is noticed all the same."""
    ledger = store.open()
    first, second = make_run("k"), make_run("k")
    claimed(ledger.begin(first, K))
    with psycopg.connect(store.url) as connection:
        connection.isolation_level = psycopg.IsolationLevel[level]
        connection.execute("SELECT count(*) FROM pg_class")
        other = store.vanish(ledger, first)
        claimed(other.begin(second, K))
        with pytest.raises(psycopg.Error, match=r"not held|could not serialize"):
            complete(connection, first)
        connection.rollback()
        connection.execute("SELECT count(*) FROM pg_class")
        assert other.renew(second, due())
        complete(connection, second)
        assert other.renew(second, due())
        connection.commit()
    assert refusal(other.begin(make_run("k"), K)).kind == "duplicate"


@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_documented_examples(store: PostgresStore, language: str) -> None:
    """What docs/postgres.md shows does its effect and completes the key; for a zombie neither."""
    (example,) = (
        text
        for text in re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
        if "guardrun.complete" in text
    )
    program = ["/bin/sh", "-c"] if language == "sh" else [sys.executable, "-c"]
    store.sql("CREATE TABLE invoices (month text)")
    ledger = store.open()
    run = make_run("k")
    claimed(ledger.begin(run, K))

    def command(token: str | None) -> int:
        given = {
            "APP_DATABASE_URL": store.url,
            "GUARDRUN_IDEMPOTENCY_KEY": "k",
            "GUARDRUN_CLAIM_TOKEN": str(token),
        }
        return subprocess.run(
            [*program, example], env=os.environ | given, capture_output=True, check=False
        ).returncode

    assert command("0" * 32) != 0
    assert store.sql("SELECT count(*) FROM invoices") == [(0,)]
    assert command(run.token) == 0
    assert store.sql("SELECT count(*) FROM invoices") == [(1,)]
    assert refusal(ledger.begin(make_run("k"), K)).kind == "duplicate"


# ---------------------------------------------------------------- roles


@pytest.fixture
def roles(database_url: str) -> Iterator[dict[str, str]]:
    """The roles of docs/postgres.md, made by its own words: their URLs by their last word."""
    suffix, password = secrets.token_hex(6), secrets.token_hex(16)
    blocks = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    first, second = (
        re.sub(r"\bguardrun_(\w+)", rf"guardrun_\1_{suffix}", block) for block in blocks[:2]
    )
    names = sorted(set(re.findall(rf"guardrun_\w+_{suffix}", first + second)))

    def url(name: str) -> str:
        parts = urlsplit(database_url)
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"guardrun_{name}_{suffix}:{password}@{host}").geturl()

    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(first)
        connection.execute(f"ALTER ROLE guardrun_owner_{suffix} PASSWORD '{password}'")
        migrate(url("owner"), due())
        connection.execute(second)
        for name in names:
            connection.execute(f"ALTER ROLE {name} LOGIN PASSWORD '{password}'")
    yield {name: url(name) for name in ("owner", "run", "prune", "read", "complete")}
    with psycopg.connect(database_url, autocommit=True) as connection:
        for name in names:
            connection.execute(f"DROP OWNED BY {name} CASCADE")
        for name in names:
            connection.execute(f"DROP ROLE {name}")


def test_the_documented_roles_suffice(roles: dict[str, str]) -> None:
    """Everything a run does works for the run role; prune and complete for theirs."""
    ledger = PostgresLedger(roles["run"], time.time)
    run = make_run("k", started_at=time.time())
    claim = claimed(ledger.begin(run, K))
    assert ledger.renew(run, due())
    assert refusal(ledger.begin(make_run("k"), K)).kind == "held"
    assert ledger.spend_retry(run, Budget(1, 60.0))
    assert not ledger.spend_retry(run, Budget(1, 60.0))
    with psycopg.connect(roles["complete"]) as connection:
        complete(connection, run)
    assert ledger.finish(ended(run, claim, captured=Captured(b"1", b"2")))
    assert ledger.finish(ended(run, claim))
    assert ledger.stored_output("k") == (b"1", b"2")
    assert refusal(ledger.begin(make_run("k"), K)).kind == "duplicate"
    for _ in range(2):
        again = make_run("i", needs=("k",))
        claimed(ledger.begin(again, KeySpec("i")))
        ledger.interrupt(again, due())
    back = make_run("b")
    claimed(ledger.begin(back, KeySpec("b")))
    ledger.give_back(back, due())
    assert ledger.finish(ended(make_run("u"), None))
    assert ledger.finish(ended(make_run("b"), None))
    bare = make_run()
    assert ledger.finish(ended(bare, claimed(ledger.begin(bare, KeySpec(None)))))
    with pytest.raises(StoreUnavailable, match="permission denied"):
        ledger.prune(0, 0, 10)
    ledger.close()
    pruner = PostgresLedger(roles["prune"], time.time)
    while pruner.prune(0, 0, 3):
        pass
    pruner.close()
    with psycopg.connect(roles["read"]) as connection:
        for table in (
            "runs",
            "attempts",
            "outputs",
            "keys",
            "completions",
            "key_states",
            "leases_taken",
        ):
            connection.execute(f"SELECT * FROM guardrun.{table}")


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("run", "DELETE FROM guardrun.budgets"),
        ("run", "DELETE FROM guardrun.keys"),
        ("run", "DELETE FROM guardrun.leases"),
        ("run", "DELETE FROM guardrun.lease_holders"),
        ("run", "DELETE FROM guardrun.lease_waiters"),
        ("read", "UPDATE guardrun.leases SET fence = 0"),
        ("read", "SELECT * FROM guardrun.lease_waiters"),
        ("complete", "SELECT * FROM guardrun.leases_taken"),
        ("run", "TRUNCATE guardrun.runs"),
        ("run", "DROP TABLE guardrun.outputs"),
        ("run", "CREATE TABLE guardrun.more (x int)"),
        ("run", "ALTER TABLE guardrun.keys ADD x int"),
        ("run", "INSERT INTO guardrun.completions VALUES ('t', '', gen_random_uuid(), now())"),
        ("run", "SELECT guardrun.complete('k', 't')"),
        ("run", "UPDATE guardrun.schema_version SET version = 0"),
        ("prune", "DROP TABLE guardrun.outputs"),
        ("read", "UPDATE guardrun.keys SET state = 'failed'"),
        ("read", "DELETE FROM guardrun.runs"),
        ("complete", "SELECT * FROM guardrun.keys"),
        ("complete", "SELECT guardrun.completed_at('t')"),
        ("complete", "INSERT INTO guardrun.completions VALUES ('t', '', gen_random_uuid(), now())"),
    ],
)
def test_the_documented_roles_can_do_no_more(
    roles: dict[str, str], role: str, statement: str
) -> None:
    """Least privilege: what a role does not need, it cannot do."""
    with (
        psycopg.connect(roles[role]) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


def test_nothing_is_public(roles: dict[str, str]) -> None:
    """A role that was granted nothing is told what to grant, and sees nothing."""
    with psycopg.connect(roles["owner"]) as connection:
        granted = connection.execute(
            "SELECT relname FROM pg_class"
            " WHERE relnamespace = 'guardrun'::regnamespace AND relacl::text ~ '[{,]='"
            " UNION SELECT proname FROM pg_proc"
            " WHERE pronamespace = 'guardrun'::regnamespace"
            "   AND (proacl IS NULL OR proacl::text ~ '[{,]=')"
        ).fetchall()
        assert granted == []
        connection.execute(
            f"REVOKE USAGE ON SCHEMA guardrun FROM {urlsplit(roles['run']).username}"
        )
    ledger = PostgresLedger(roles["run"], time.time)
    with pytest.raises(StoreUnavailable, match=r"permission denied.*docs/postgres\.md"):
        ledger.begin(make_run("k"), K)


def test_a_migration_needs_the_owner(roles: dict[str, str]) -> None:
    """Another role is told so, and nothing is changed."""
    with psycopg.connect(roles["owner"]) as connection:
        connection.execute("DROP SCHEMA guardrun CASCADE")
    with pytest.raises(StoreUnavailable, match="migrate as the role that owns"):
        migrate(roles["run"], due())


# ---------------------------------------------------------------- answers that get lost


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize("before", ["nothing", "cut off"])
def test_a_claim_whose_answer_was_lost(
    store: PostgresStore, proxy: Proxy, through: PostgresLedger, cut: str, before: str
) -> None:
    """Whether or not it was committed: asked again it is ours, once, and tells the same story."""
    first = make_run("k")
    if before == "cut off":
        ledger = store.open()
        claimed(ledger.begin(first, K))
        store.vanish(ledger, first)
    run = make_run("k")
    through.prepare(due())
    proxy.cut = cut
    with pytest.raises(StoreUnavailable):
        through.begin(run, K)
    ((held,),) = store.sql("SELECT count(*) FROM guardrun.keys WHERE token = %s", run.token)
    assert held == (cut == "after")
    claim = claimed(through.begin(run, K))
    assert claim.token == run.token
    assert claim.interrupted == (first.job_id if before == "cut off" else None)
    assert refusal(store.open().begin(make_run("k"), K)).kind == "held"
    assert through.finish(ended(run, claim))
    assert store.row(run).result == "success"


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_finish_whose_answer_was_lost(
    store: PostgresStore, proxy: Proxy, through: PostgresLedger, cut: str
) -> None:
    """Said again it changes nothing, and gets the same answer."""
    run = make_run("k")
    outcome = ended(run, claimed(through.begin(run, K)), captured=Captured(b"1", b""))
    proxy.cut = cut
    with pytest.raises(StoreUnavailable):
        through.finish(outcome)
    recorded = store.row(run).result
    assert recorded == ("success" if cut == "after" else "running")
    assert through.finish(outcome)
    assert (store.row(run).result, store.attempts(run)) == ("success", 1)
    assert refusal(through.begin(make_run("k"), K)).kind == "duplicate"


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_stale_finish_whose_answer_was_lost(
    store: PostgresStore, proxy: Proxy, through: PostgresLedger, cut: str
) -> None:
    """Stale stays stale, however often it is said."""
    run = make_run("k")
    outcome = ended(run, claimed(through.begin(run, K)))
    other = store.vanish(through, run)
    claimed(other.begin(make_run("k"), K))
    through.prepare(due())
    proxy.cut = cut
    with pytest.raises(StoreUnavailable):
        through.finish(outcome)
    assert not through.finish(outcome)
    assert store.row(run).stale


def test_a_claim_that_was_never_heard_of_is_freed_by_the_outcome(
    store: PostgresStore, proxy: Proxy, through: PostgresLedger
) -> None:
    """The run gave up, but its claim had been committed: its outcome, without a claim, frees it."""
    run = make_run("k")
    through.prepare(due())
    proxy.cut = "after"
    with pytest.raises(StoreUnavailable):
        through.begin(run, K)
    assert refusal(store.open().begin(make_run("k"), K)).kind == "held"
    assert through.finish(refused(run, "store_unavailable"))
    claimed(store.open().begin(make_run("k"), STOP))


def test_one_round_trip_each(store: PostgresStore, proxy: Proxy, through: PostgresLedger) -> None:
    """Claiming, renewing and recording speak to the server once each, COMMIT included."""
    run = make_run("k")
    through.prepare(due())
    proxy.turns = 0
    claim = claimed(through.begin(run, K))
    assert proxy.turns == 1
    assert through.renew(run, due())
    assert proxy.turns == 2
    assert through.finish(ended(run, claim, captured=Captured(b"x" * 100_000, b"")))
    assert proxy.turns == 3
    assert store.row(run).result == "success"


def test_two_processes_record_one_outcome(store: PostgresStore) -> None:
    """One spool replayed twice at once: both hear that it is ours, and it is there once."""
    run = make_run("k")
    claim = claimed(store.open().begin(run, K))
    script = """
run = make_run("k", job_id=sys.argv[3])._replace(token=sys.argv[4])
print(insist(lambda: ledger.finish(ended(run, Claim(run.token)))))
"""
    assert claim.token is not None
    with workers(store, 6, script, run.job_id, claim.token) as started:
        with psycopg.connect(store.url) as holder:
            holder.execute("SELECT FROM guardrun.keys FOR UPDATE")
            release(started)
            eventually(lambda: waiting(store), what="they wait for one row")
        assert answers_of(started) == ["True"] * 6
    assert (store.row(run).result, store.attempts(run)) == ("success", 1)


# ---------------------------------------------------------------- servers that fail


def test_a_frozen_server_is_given_up_in_time() -> None:
    """SIGSTOP: with a connection and without one, every call ends when it is due."""
    with servers.Postgres.start() as server:
        url = server.database()
        migrate(url, due())
        ledger = PostgresLedger(url, time.time)
        run = make_run("k")
        claim = claimed(ledger.begin(run, K))
        server.pause()
        for call in (
            lambda until: ledger.renew(run, until),
            lambda until: ledger.begin(make_run("other"), KeySpec("other"), until),
            lambda until: ledger.finish(ended(run, claim), until),
            ledger.prepare,
        ):
            before = kernel.now()
            with contextlib.suppress(StoreUnavailable):
                call(due(0.5))
            assert 0.4 < kernel.now() - before < 1.5
        with pytest.raises(StoreUnavailable, match="no answer in time"):
            ledger.renew(run, due(0.3))
        server.resume()
        assert ledger.renew(run, due())
        assert ledger.finish(ended(run, claim))
        ledger.close()


def test_a_server_that_never_greets_is_given_up_in_time() -> None:
    """Something accepts the connection, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ledger = PostgresLedger(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/x", time.time)
        before = kernel.now()
        with pytest.raises(StoreUnavailable, match="no answer in time"):
            ledger.begin(make_run("k"), K, due(0.5))
        assert kernel.now() - before < 1.5


def test_the_next_host_is_asked(store: PostgresStore) -> None:
    """Of several hosts, those that are down or silent are passed over."""
    host, port = servers.endpoint(store.url)
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("", 0)) as closed:
        gone = closed.getsockname()[1]
        closed.close()
        user = urlsplit(store.url).netloc.rpartition("@")[0]
        ports = f"127.0.0.1:{gone},127.0.0.1:{silent.getsockname()[1]},{host}:{port}"
        url = f"postgresql://{user}@{ports}/{store.database}?connect_timeout=2"
        ledger = PostgresLedger(url, store.clock)
        claimed(ledger.begin(make_run("k"), K, due(20)))
        ledger.close()


def test_a_restarted_server_is_found_again() -> None:
    """The connection is gone: the call that notices says so, the next one connects."""
    with servers.Postgres.start() as server:
        url = server.database()
        migrate(url, due())
        ledger = PostgresLedger(url, time.time)
        run = make_run("k")
        claim = claimed(ledger.begin(run, K))
        server.stop(crash=True)
        with pytest.raises(StoreUnavailable):
            ledger.renew(run, due())
        with pytest.raises(StoreUnavailable, match="check that the server runs"):
            ledger.renew(run, due())
        server.start_again()
        assert ledger.renew(run, due())
        assert ledger.finish(ended(run, claim))
        ledger.close()


def test_a_terminated_connection_is_replaced(store: PostgresStore) -> None:
    """An administrator ended it: one call fails, and no state is lost."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    store.sql(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'guardrun' AND datname = current_database()"
    )
    with pytest.raises(StoreUnavailable):
        ledger.finish(ended(run, claim))
    assert ledger.finish(ended(run, claim))


def test_a_silent_connection_is_asked_before_it_is_relied_on(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was made while the run waited may have ended: getting ready finds out."""
    ledger = store.open()
    ledger.prepare(due())
    monkeypatch.setattr(session, "_TRUSTED", -1.0)
    ledger.prepare(due())
    store.sql(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'guardrun' AND datname = current_database()"
    )
    ledger.prepare(due())
    claimed(ledger.begin(make_run("k"), K))


def test_getting_ready_has_a_claim_planned_once_for_each_connection(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server process knows its way about before the claim comes; nothing is written."""
    said: list[str] = []
    transact = session.Session.transact

    def heard(self: session.Session, due: float, *statements: Any, **how: Any) -> Any:
        said.extend(text for text, _ in statements)
        return transact(self, due, *statements, **how)

    monkeypatch.setattr(session.Session, "transact", heard)
    ledger = store.open()
    for times in (1, 2):
        for _ in range(2):
            ledger.prepare(due())
        assert said == [f"EXPLAIN {sql.statements('postgres', 'run')['claim']}"] * times
        ledger.idle()
    assert store.sql("SELECT FROM guardrun.keys UNION ALL SELECT FROM guardrun.runs") == []
    claimed(ledger.begin(make_run("k"), K))


def test_no_connection_is_kept(store: PostgresStore) -> None:
    """After idle the server has one connection less, and the next call works all the same."""
    ledger = store.open()

    def connections() -> int:
        ((count,),) = store.sql(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'guardrun' AND datname = current_database()"
        )
        return int(count)

    run = make_run("k")
    claimed(ledger.begin(run, K))
    assert connections() == 1
    ledger.idle()
    eventually(lambda: connections() == 0, what="the connection is closed")
    assert ledger.renew(run, due())
    ledger.close()
    ledger.close()


def test_too_many_connections_is_for_now_only() -> None:
    """With no connection left a call fails as one that may be tried again, and says what to do."""
    with servers.Postgres.start(max_connections=5, superuser_reserved_connections=1) as server:
        url = server.database()
        migrate(url, due())
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE ROLE plain LOGIN PASSWORD 'secret'")
            connection.execute("GRANT ALL ON SCHEMA guardrun TO plain")
            connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA guardrun TO plain")
            connection.execute("GRANT ALL ON ALL FUNCTIONS IN SCHEMA guardrun TO plain")
        plain = url.replace(urlsplit(url).netloc.rpartition("@")[0], "plain:secret")
        with contextlib.ExitStack() as stack:
            with pytest.raises(psycopg.OperationalError):
                for _ in range(10):
                    stack.enter_context(psycopg.connect(plain))
            ledger = PostgresLedger(plain, time.time)
            with pytest.raises(StoreUnavailable, match="raise max_connections") as raised:
                ledger.begin(make_run("k"), K)
            assert not isinstance(raised.value, StoreOutdated)
        said = eventually(lambda: tried(ledger), what="a connection is free")
        claimed(said[0])
        ledger.close()


def tried(ledger: PostgresLedger) -> list[Any] | None:
    """What begin says, if it can."""
    try:
        return [ledger.begin(make_run("k"), K)]
    except StoreUnavailable:
        return None


def test_a_read_only_server_is_refused(store: PostgresStore) -> None:
    """What a standby says, and what to do about it."""
    store.sql(f"ALTER DATABASE {store.database} SET default_transaction_read_only = on")
    with pytest.raises(StoreUnavailable, match=r"read-only.*name the primary"):
        store.open().begin(make_run("k"), K)
    host, port = servers.endpoint(store.url)
    user = urlsplit(store.url).netloc.rpartition("@")[0]
    url = f"postgresql://{user}@{host}:{port},{host}:{port}/{store.database}"
    with pytest.raises(StoreUnavailable, match=r"read-only.*name the primary"):
        PostgresLedger(url, store.clock).begin(make_run("k"), K)


SECRET = "hunter2:@/%ü"
"""what every part of it would be taken for something else"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"password": SECRET}, r"password authentication failed.*PGPASSFILE"),
        ({"user": "nobody", "password": SECRET}, r"authentication failed.*check the user"),
        ({"database": "missing"}, r"does not exist.*create the database"),
        ({"port": 1, "password": SECRET}, r"refused.*check that the server runs"),
        ({"host": "no.such.host.invalid", "password": SECRET}, r"check the host's name"),
        ({"query": "sslmode=verify-full&sslrootcert=/nowhere"}, r"SSL.*check sslmode"),
        ({"query": f"password={quote(SECRET)}"}, r"password authentication failed"),
    ],
)
def test_errors_say_what_and_why_and_what_to_do(
    store: PostgresStore, change: dict[str, Any], said: str
) -> None:
    """In one line, and never with the password."""
    host, port = servers.endpoint(store.url)
    parts = urlsplit(store.url)
    user, password = change.get("user", parts.username), str(change.get("password", parts.password))
    url = (
        f"postgresql://{user}:{quote(password, safe='')}@{change.get('host', host)}:"
        f"{change.get('port', port)}/{change.get('database', store.database)}"
        f"?{change.get('query', '')}"
    )
    with pytest.raises(StoreUnavailable, match=said) as raised:
        PostgresLedger(url, time.time).begin(make_run("k"), K)
    message = str(raised.value)
    assert message.startswith("the ledger postgresql://")
    assert "\n" not in message
    for word in (password, quote(password, safe=""), "hunter2"):
        assert word not in message


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@x@h/db",
        "postgresql://u:hunter2/x@h/db",
        "postgresql://u:hunter2?x@h/db",
        "postgresql://u:hunter2%zz@h/db",
        "postgresql://u:hunter2@h:hunter2/db",
        "postgresql://u:hunter2@h/db?nonsense=hunter2",
        "postgresql://u:hunter2@[h/db",
        "postgresql://u:hunter2@h/db?connect_timeout=hunter2",
    ],
)
def test_a_malformed_url_is_a_configuration_error(url: str) -> None:
    """And says nothing of what is in it."""
    with pytest.raises(ConfigError, match="cannot be read: write") as raised:
        PostgresLedger(url, time.time).begin(make_run("k"), K)
    assert "hunter2" not in str(raised.value)


def test_what_libpq_knows_passes_through(
    store: PostgresStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Host, port, user, database, passwords and services may come from wherever libpq looks."""
    host, port = servers.endpoint(store.url)
    parts = urlsplit(store.url)
    passfile = tmp_path / "pass"
    passfile.write_text(f"*:*:*:*:{parts.password}\n")
    passfile.chmod(0o600)
    services = tmp_path / "services"
    services.write_text(
        f"[jobs]\nhost={host}\nport={port}\nuser={parts.username}\ndbname={store.database}\n"
        "application_name=mine\n"
    )
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    ledger = PostgresLedger("postgresql:///?service=jobs", store.clock)
    claimed(ledger.begin(make_run("k"), K))
    assert store.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mine'") == [
        (1,)
    ]
    ledger.close()
    for name, value in {
        "PGHOST": host,
        "PGPORT": str(port),
        "PGUSER": str(parts.username),
        "PGDATABASE": store.database,
    }.items():
        monkeypatch.setenv(name, value)
    ledger = PostgresLedger("postgresql://", store.clock)
    claimed(ledger.begin(make_run("other"), KeySpec("other")))
    ledger.close()


def test_nothing_outlives_a_transaction(store: PostgresStore) -> None:
    """Settings of ours are gone with it, so a pooler may give the connection to anybody."""
    ledger = store.open()
    claimed(ledger.begin(make_run("k"), K))
    connection = ledger._session._open
    assert connection is not None
    for name in (
        "lock_timeout",
        "statement_timeout",
        "idle_in_transaction_session_timeout",
        "synchronous_commit",
    ):
        (found,) = connection.execute(
            "SELECT setting = reset_val FROM pg_settings WHERE name = %(name)s", {"name": name}
        )
        assert found == (True,), name
    ((prepared,),) = connection.execute("SELECT count(*) FROM pg_prepared_statements")
    assert prepared == 0


def test_claims_are_durable_whatever_the_default(store: PostgresStore) -> None:
    """A database that is set to lose commits does not lose ours."""
    store.sql(f"ALTER DATABASE {store.database} SET synchronous_commit = off")
    store.sql(
        "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'it is %', current_setting('synchronous_commit'); END $$"
    )
    store.sql(
        "CREATE TRIGGER told BEFORE INSERT ON guardrun.keys FOR EACH ROW EXECUTE FUNCTION told()"
    )
    with pytest.raises(StoreUnavailable, match="it is on"):
        store.open().begin(make_run("k"), K)


def test_another_default_isolation_changes_nothing(store: PostgresStore) -> None:
    """Under a snapshot a claim would not see what it has waited for."""
    store.sql(f"ALTER DATABASE {store.database} SET default_transaction_isolation = 'serializable'")
    script = """
said = ledger.begin(make_run("k"), KeySpec("k"))
print("claim" if isinstance(said, Claim) else said.kind)
"""
    with workers(store, 10, script) as started:
        assert sorted(answers(started)) == ["claim"] + ["held"] * 9


# ---------------------------------------------------------------- upkeep


def test_pruning_forgets_what_is_old(store: PostgresStore) -> None:
    """Runs with attempts and output, expired keys and spent retries go; what blocks stays."""
    ledger = PostgresLedger(store.url, time.time)
    old, new = time.time() - 100 * DAY, time.time()
    for at, name in ((old, "old"), (new, "new")):
        run_key(ledger, f"{name} expired", started_at=at, key_ttl=DAY, captured=Captured(b"1", b""))
        run_key(ledger, f"{name} forever", started_at=at, key_ttl=FOREVER)
        assert ledger.finish(refused(make_run(started_at=at), "lock_busy"))
    assert ledger.finish(refused(make_run(started_at=new - 10 * DAY), "lock_busy"))
    running = make_run("running", started_at=old)
    claimed(ledger.begin(running, KeySpec("running")))
    dead = make_run("dead", started_at=old)
    claimed(ledger.begin(dead, KeySpec("dead")))
    store.vanish(store.open(), dead)
    assert ledger.spend_retry(running, Budget(1, 60.0))
    store.sql("UPDATE guardrun.budgets SET spent_at = spent_at - interval '100 days'")
    while gone := ledger.prune(90 * DAY, 7 * DAY, 2):
        assert gone <= 8
    ledger.close()
    assert sorted(str(record.key) for record in store.runs()) == [
        *("None", "new expired", "new forever", "running"),
    ]
    keys = [key for (key,) in store.sql("SELECT key FROM guardrun.keys ORDER BY key")]
    assert keys == ["dead", "new expired", "new forever", "old forever", "running"]
    assert store.sql("SELECT count(*) FROM guardrun.attempts") == [(2,)]
    assert store.sql("SELECT count(*) FROM guardrun.outputs") == [(1,)]
    assert store.sql("SELECT count(*) FROM guardrun.budgets") == [(0,)]


def test_pruning_leaves_what_command_completed(store: PostgresStore) -> None:
    """A key that blocks because of its completion alone keeps it, however old."""
    ledger = store.open()
    for key, result in (("recorded", "success"), ("failed", "failed"), ("lost", None)):
        run = make_run(key)
        claim = claimed(ledger.begin(run, KeySpec(key)))
        with completing(store, run):
            if result == "failed":  # and the commit comes after
                assert ledger.finish(ended(run, claim, result))
        if result == "success":
            assert ledger.finish(ended(run, claim, result))
        elif result is None:
            ledger = store.vanish(ledger, run)
    store.clock.pass_by(1000 * DAY)
    while ledger.prune(90 * DAY, 7 * DAY, 10):
        pass
    for key in ("recorded", "failed", "lost"):
        assert refusal(ledger.begin(make_run(key), KeySpec(key))).kind == "duplicate", key
    assert store.sql("SELECT count(*) FROM guardrun.completions") == [(2,)]


def test_pruning_waits_for_nobody(store: PostgresStore) -> None:
    """Rows that a run works on are left for the next time."""
    ledger = store.open()
    run_key(ledger, "k", "failed", started_at=store.clock() - 100 * DAY)
    store.clock.pass_by(100 * DAY)
    with psycopg.connect(store.url) as holder:
        holder.execute("SELECT FROM guardrun.keys FOR KEY SHARE")
        holder.execute("SELECT FROM guardrun.runs FOR UPDATE")
        assert ledger.prune(DAY, DAY, 10) == 0
    assert ledger.prune(DAY, DAY, 10) == 2


# ---------------------------------------------------------------- many rows


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresStore]:
    """A ledger with a hundred thousand runs and keys."""
    made = PostgresStore(tmp_path_factory.mktemp("full"))
    made.sql(
        """
INSERT INTO guardrun.keys (id, key, state, token, job_id, owner, fingerprint, claimed_at,
                           finished_at)
SELECT sha256(convert_to('key ' || n, 'UTF8')), 'key ' || n, 'succeeded', md5('t' || n),
       gen_random_uuid(), 'o', 'f', now(), now()
  FROM generate_series(1, 100000) AS n
"""
    )
    made.sql(
        """
INSERT INTO guardrun.runs (job_id, job, host, username, pid, owner, argv, fingerprint, key, key_id,
                           needs, path, token, started_at, finished_at, result)
SELECT job_id, 'job ' || row_number() OVER () % 100, 'h', 'u', 1, 'o', '[]', 'f', key, id, '[]',
       '[]', token, claimed_at, finished_at, 'success'
  FROM guardrun.keys
"""
    )
    made.sql(
        "INSERT INTO guardrun.completions SELECT token, id, job_id, claimed_at FROM guardrun.keys"
    )
    made.sql("VACUUM ANALYZE guardrun.runs, guardrun.keys, guardrun.completions")
    yield made
    made.close()


@pytest.mark.parametrize(
    "name",
    [
        *("claim", "begin_run", "keys", "renew", "interrupt", "give_back", "finish"),
        *("unclaimed_success", "as_recorded", "stored_output"),
    ],
)
def test_a_run_reads_by_index_alone(full: PostgresStore, name: str) -> None:
    """No statement of a run looks through a table, whatever has been recorded."""
    ledger = full.open()
    run = make_run("key 5", needs=("key 7", "key 8"))
    outcome = ended(run, None, attempts=(Attempt(1, run.started_at, 1.0, "success", 0),))
    values = {
        **ledger._begin_values(run, K),
        **ledger._finish_values(outcome),
        "ids": [b"1", b"2"],
    }
    with psycopg.connect(full.url) as connection:
        plan = connection.execute(
            "EXPLAIN " + sql.statements("postgres", "run")[name], values
        ).fetchall()
        connection.rollback()
    lines = [line for (line,) in plan]
    scans = [line for line in lines if "Seq Scan" in line or "runs_by_result" in line]
    assert not scans, "\n".join(lines)
    assert any("Index" in line or "Insert" in line for line in lines)
