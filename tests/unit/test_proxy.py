"""The fault proxy: what it passes, what it cuts, and that it cuts where it says."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
import servers
from proxy import Proxy
from proxy_process import Conversation, Trap
from psycopg import Connection
from support import eventually, kill


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    """A proxy in front of a database with an empty table ``t``."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (x int)")
    with Proxy.before(database_url) as started:
        yield started


@pytest.fixture
def url(proxy: Proxy, database_url: str) -> str:
    """That database through the proxy."""
    return proxy.url_for(database_url)


def rows(database_url: str) -> list[int]:
    """What is in ``t``, past the proxy."""
    with psycopg.connect(database_url) as connection:
        return [x for (x,) in connection.execute("SELECT x FROM t ORDER BY x")]


class TestPassing:
    def test_everything_passes(self, url: str) -> None:
        """Without a fault it is as if it were not there, also for what fits no buffer."""
        big = "x" * 5_000_000
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT %s", (big,)).fetchone() == (big,)

    def test_end_passes(self, url: str, proxy: Proxy) -> None:
        """A connection that the client closes is closed."""
        psycopg.connect(url).close()
        eventually(lambda: not proxy.stats().open, what="no open connection")
        assert proxy.stats().opened == 1

    def test_end_of_the_server_passes(self, url: str, database_url: str) -> None:
        """A connection that the server ends is ended, and the client reads why."""
        with psycopg.connect(url) as connection:
            pid = connection.info.backend_pid
            with psycopg.connect(database_url) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (pid,))
            with pytest.raises(psycopg.errors.AdminShutdown):
                connection.execute("SELECT 1")

    def test_no_server(self) -> None:
        """Where the server refuses, so does the proxy's connection end."""
        with Proxy.start("127.0.0.1", servers.free_port()) as proxy:
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(f"postgresql://x@127.0.0.1:{proxy.port}/x")
            assert not proxy.stats().open

    def test_gone_with_the_test(self) -> None:
        """A proxy does not outlive the process that started it, whatever ends that."""
        script = (
            "from proxy import Proxy\n"
            "with Proxy.start('127.0.0.1', 1) as proxy:\n"
            "    print(proxy.process.pid, flush=True)\n"
            "    input()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(servers.__file__).parent)},
        ) as process:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            kill(process.pid)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), what="no proxy")


class TestFaults:
    def test_cut(self, url: str, proxy: Proxy) -> None:
        """A cut resets what is open; the next connection is taken."""
        with psycopg.connect(url) as connection:
            proxy.cut()
            assert not proxy.stats().open
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        psycopg.connect(url).close()

    def test_refuse(self, url: str, proxy: Proxy) -> None:
        """New connections are refused, those that are open go on, until it accepts again."""
        with psycopg.connect(url) as connection:
            proxy.refuse()
            with pytest.raises(psycopg.OperationalError, match="refused"):
                psycopg.connect(url)
            assert connection.execute("SELECT 1").fetchone() == (1,)
        proxy.accept()
        psycopg.connect(url).close()

    def test_blackhole_takes_connections(self, url: str, proxy: Proxy) -> None:
        """In a black hole a connection is made, and nothing is ever answered."""
        proxy.blackhole()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(url, connect_timeout=2)
        proxy.resume()
        psycopg.connect(url).close()

    def test_cut_in_a_blackhole(self, url: str, proxy: Proxy) -> None:
        """A cut ends connections in a black hole too, and it stays one."""
        with psycopg.connect(url) as connection:
            proxy.blackhole()
            proxy.cut()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
            with pytest.raises(psycopg.errors.ConnectionTimeout):
                psycopg.connect(url, connect_timeout=2)

    @pytest.mark.parametrize("direction", ["to_client", "to_server"])
    def test_blackhole_one_way(
        self, url: str, database_url: str, proxy: Proxy, direction: str
    ) -> None:
        """A statement gets through where only the answer is lost, and not the other way round."""
        with psycopg.connect(url, autocommit=True) as connection:
            proxy.blackhole(direction)  # type: ignore[arg-type]
            connection.pgconn.send_query(b"INSERT INTO t VALUES (1)")
            connection.pgconn.flush()
            if direction == "to_client":
                eventually(lambda: rows(database_url) == [1], what="the row")
            else:
                assert rows(database_url) == []
            proxy.resume()
            result = connection.pgconn.get_result()
            assert result is not None
            assert result.command_status == b"INSERT 0 1"
            assert connection.pgconn.get_result() is None
        assert rows(database_url) == [1]

    def test_delay(self, url: str, proxy: Proxy) -> None:
        """A delay is there in each direction, and gone when it is taken back."""
        with psycopg.connect(url) as connection:
            proxy.delay(0.2)
            before = time.monotonic()
            connection.execute("SELECT 1")
            assert time.monotonic() - before >= 0.4
            proxy.delay(0)
            assert connection.execute("SELECT 2").fetchone() == (2,)

    def test_delay_one_way(self, url: str, database_url: str, proxy: Proxy) -> None:
        """A statement is executed at once where only its answer is late."""
        with psycopg.connect(url, autocommit=True) as connection:
            proxy.delay(2, "to_client")
            begun = time.monotonic()
            connection.pgconn.send_query(b"INSERT INTO t VALUES (1)")
            connection.pgconn.flush()
            eventually(lambda: rows(database_url) == [1], what="the row")
            executed = time.monotonic()
            result = connection.pgconn.get_result()
            assert result is not None
            assert result.command_status == b"INSERT 0 1"
            assert executed < time.monotonic() - 0.1
            assert time.monotonic() - begun >= 2
            assert connection.pgconn.get_result() is None

    def test_another_protocol(self) -> None:
        """Whatever is said to another server passes, and can be cut off."""
        url = servers.redis_url()
        with Proxy.before(url) as proxy, redis.Redis.from_url(proxy.url_for(url)) as client:
            big = b"x" * 1_000_000
            assert client.echo(big) == big
            proxy.blackhole()
            client.connection_pool.connection_kwargs["socket_timeout"] = 0.5
            client.connection_pool.disconnect()
            with pytest.raises(redis.TimeoutError):
                client.ping()
            proxy.resume()
            assert client.ping()

    def test_many_at_once(self, url: str, proxy: Proxy) -> None:
        """It carries as many connections as a test opens."""
        opened = [psycopg.connect(url) for _ in range(40)]
        assert proxy.stats().open == 40
        for connection in opened:
            connection.close()


def by_simple_query(connection: Connection, *statements: str) -> None:
    """One batch for each statement, by the simple protocol."""
    for statement in statements:
        connection.pgconn.exec_(statement.encode())


def by_one_query(connection: Connection, *statements: str) -> None:
    """One batch for all, by the simple protocol."""
    connection.pgconn.exec_(";".join(statements).encode())


def by_extended_query(connection: Connection, *statements: str) -> None:
    """One batch for each statement, by the extended protocol."""
    for statement in statements:
        connection.pgconn.exec_params(statement.encode(), [])


def by_pipeline(connection: Connection, *statements: str) -> None:
    """One batch for all, by the extended protocol."""
    with connection.pipeline():
        for statement in statements:
            connection.execute(statement.encode())


def by_flush(connection: Connection, *statements: str) -> None:
    """No batch ends: the client asks for answers by Flush, and sends no Sync."""
    pgconn = connection.pgconn
    pgconn.enter_pipeline_mode()
    for statement in statements:
        pgconn.send_query_params(statement.encode(), [])
        pgconn.send_flush_request()
        pgconn.flush()
        pgconn.get_result()
        pgconn.get_result()


def by_name(connection: Connection, *statements: str) -> None:
    """Prepared first: what is executed later has no SQL in it."""
    for number, statement in enumerate(statements):
        connection.pgconn.prepare(str(number).encode(), statement.encode())
    for number in range(len(statements)):
        connection.pgconn.exec_prepared(str(number).encode(), [])


WAYS = [by_simple_query, by_one_query, by_extended_query, by_pipeline, by_flush, by_name]
Way = Callable[..., None]


def assert_lost(connection: Connection) -> None:
    """Fail unless the client notices soon that its connection is gone."""

    def gone() -> bool:
        try:
            connection.pgconn.consume_input()
        except psycopg.OperationalError:
            return True
        return connection.pgconn.status != psycopg.pq.ConnStatus.OK

    eventually(gone, what="a lost connection")


def is_alive(connection: Connection) -> bool:
    """Whether it still answers."""
    return connection.execute("SELECT 1").fetchone() == (1,)


@pytest.fixture
def client(url: str) -> Iterator[Connection]:
    """A client behind the proxy that leaves transactions to the test."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


class TestCutAt:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_commit(
        self, client: Connection, database_url: str, proxy: Proxy, way: Way, when: str
    ) -> None:
        """Cut before COMMIT nothing is there, cut after it everything, however it was sent."""
        proxy.cut_at("commit", when)  # type: ignore[arg-type]
        try:
            way(client, "BEGIN", "INSERT INTO t VALUES (1)", "COMMIT")
        except psycopg.OperationalError:
            pass
        assert_lost(client)
        assert proxy.stats().fired == 1
        assert rows(database_url) == ([] if when == "before" else [1])

    @pytest.mark.parametrize("way", [by_simple_query, by_extended_query, by_pipeline, by_name])
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_statement_that_commits_itself(
        self, client: Connection, database_url: str, proxy: Proxy, way: Way, when: str
    ) -> None:
        """The same for one statement without a transaction block: it commits as its batch ends."""
        proxy.cut_at("insert into t", when)  # type: ignore[arg-type]
        try:
            way(client, "INSERT INTO t VALUES (1)")
        except psycopg.OperationalError:
            pass
        assert_lost(client)
        assert rows(database_url) == ([] if when == "before" else [1])

    def test_psycopg_transaction(self, url: str, database_url: str, proxy: Proxy) -> None:
        """The COMMIT that psycopg sends at the end of a transaction is one."""
        proxy.cut_at("commit", "after")
        with (
            pytest.raises(psycopg.OperationalError),
            psycopg.connect(url) as connection,
            connection.transaction(),
        ):
            connection.execute("INSERT INTO t VALUES (%s)", (1,))
        assert rows(database_url) == [1]

    @pytest.mark.parametrize("way", WAYS)
    def test_commit_of_a_statement(
        self, client: Connection, database_url: str, proxy: Proxy, way: Way
    ) -> None:
        """A pattern over several statements means the COMMIT of that transaction alone."""
        if way is by_name:
            client.execute("CREATE TABLE other (x int)")
        else:
            way(client, "BEGIN", "CREATE TABLE other (x int)", "COMMIT")
        if way is by_flush:
            client.pgconn.pipeline_sync()
            while client.pgconn.get_result() is not None:
                pass
            client.pgconn.get_result()
            client.pgconn.exit_pipeline_mode()
        proxy.cut_at("insert into t.*commit", "before")
        with psycopg.connect(proxy.url_for(database_url), autocommit=True) as second:
            by_simple_query(second, "INSERT INTO t VALUES (1)", "BEGIN", "COMMIT")
            by_extended_query(second, "BEGIN", "INSERT INTO t VALUES (2)", "ROLLBACK")
            by_pipeline(second, "BEGIN", "INSERT INTO other VALUES (3)", "COMMIT")
            assert is_alive(second)
        assert proxy.stats().fired == 0
        try:
            way(client, "BEGIN", "INSERT INTO t VALUES (4)", "COMMIT")
        except psycopg.OperationalError:
            pass
        assert_lost(client)
        assert rows(database_url) == [1]

    def test_count(self, url: str, database_url: str, proxy: Proxy) -> None:
        """The n-th time counts, over all connections, and only once."""
        proxy.cut_at("commit", "after", count=3)
        for number in range(5):
            with psycopg.connect(url, autocommit=True) as connection:
                try:
                    by_pipeline(connection, "BEGIN", f"INSERT INTO t VALUES ({number})", "COMMIT")
                except psycopg.OperationalError:
                    assert number == 2
        assert proxy.stats().fired == 1
        assert proxy.stats().commits == 5
        assert rows(database_url) == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("way", WAYS)
    def test_only_the_newest_statement(self, client: Connection, proxy: Proxy, way: Way) -> None:
        """What was in the transaction before does not match again with every later statement."""
        proxy.cut_at("insert into t", "before", count=2)
        way(client, "BEGIN", "INSERT INTO t VALUES (1)", "SELECT 2", "COMMIT")
        assert proxy.stats() == (1, 1, 0 if way is by_one_query else 1, 0)

    def test_two_transactions_in_one_batch(self, client: Connection, proxy: Proxy) -> None:
        """A transaction's text begins anew after its COMMIT, whoever was not answered yet."""
        proxy.cut_at("insert into t.*commit", "before", count=2)
        by_pipeline(client, "BEGIN", "INSERT INTO t VALUES (1)", "COMMIT", "BEGIN", "COMMIT")
        assert is_alive(client)
        assert proxy.stats().fired == 0

    def test_what_was_before_is_answered(self, client: Connection, proxy: Proxy) -> None:
        """Answers to earlier batches still reach the client."""
        proxy.cut_at("select 2", "after")
        with pytest.raises(psycopg.OperationalError), client.pipeline() as pipeline:
            first = client.execute("SELECT 1")
            pipeline.sync()
            client.execute("SELECT 2")
        assert first.fetchone() == (1,)

    def test_failed_statement(self, client: Connection, database_url: str, proxy: Proxy) -> None:
        """An error is an answer too."""
        proxy.cut_at("insert into t", "after")
        with pytest.raises(psycopg.OperationalError):
            client.execute("INSERT INTO t VALUES ('no number')")
        assert_lost(client)
        assert rows(database_url) == []

    def test_then_refuse(self, client: Connection, url: str, proxy: Proxy) -> None:
        """A client that lost its COMMIT's answer cannot come back to ask, until it may."""
        proxy.cut_at("commit", "after", then="refuse")
        by_simple_query(client, "BEGIN", "COMMIT")
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(url)
        proxy.accept()
        psycopg.connect(url).close()

    def test_then_blackhole(self, client: Connection, database_url: str, proxy: Proxy) -> None:
        """Nothing is heard of the COMMIT, nor of anything else; later the connection is lost."""
        proxy.cut_at("commit", "after", then="blackhole")
        by_simple_query(client, "BEGIN", "INSERT INTO t VALUES (1)")
        client.pgconn.send_query(b"COMMIT")
        client.pgconn.flush()
        eventually(lambda: proxy.stats().fired, what="the trap to spring")
        assert rows(database_url) == [1]
        client.pgconn.consume_input()
        assert client.pgconn.is_busy()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(proxy.url_for(database_url), connect_timeout=2)
        proxy.resume()
        assert_lost(client)


def message(kind: bytes, body: bytes = b"") -> bytes:
    """A message of the protocol: its kind, its length, its body."""
    return kind + struct.pack("!I", len(body) + 4) + body


STARTUP = struct.pack("!II", 8, 196608)
PARSE = message(b"P", b"\0INSERT\0\0\0")
BIND = message(b"B", b"\0\0" + bytes(6))
EXECUTE = message(b"E", b"\0" + bytes(4))
SYNC = message(b"S")
FLUSH = message(b"H")
COMPLETE = message(b"C", b"INSERT 0 1\0")
READY = message(b"Z", b"I")


class TestConversation:
    @pytest.fixture
    def talk(self) -> Conversation:
        """A conversation that is to end after an INSERT."""
        started = Conversation(Trap(re.compile("INSERT"), "after", 1, "cut"))
        assert started.from_client(STARTUP) == STARTUP
        assert started.from_server(READY) == READY
        return started

    def test_waits_for_the_end_of_the_batch(self, talk: Conversation) -> None:
        """A statement that its batch's end commits is executed when that end is answered."""
        batch = PARSE + BIND + EXECUTE + SYNC
        assert talk.from_client(batch) == batch
        assert talk.from_server(message(b"1") + COMPLETE) == message(b"1")
        assert not talk.sprung
        assert talk.from_server(READY) == b""
        assert talk.sprung

    def test_batch_without_end(self, talk: Conversation) -> None:
        """Where the client asks by Flush, the statement's own answer is all there is."""
        batch = PARSE + BIND + EXECUTE + FLUSH
        assert talk.from_client(batch) == batch
        assert talk.from_server(COMPLETE) == b""
        assert talk.sprung

    def test_in_pieces(self, talk: Conversation) -> None:
        """Messages are recognised wherever the stream is cut into pieces."""
        batch = PARSE + BIND + EXECUTE + SYNC
        assert b"".join(talk.from_client(bytes([byte])) for byte in batch) == batch
        assert b"".join(talk.from_server(bytes([byte])) for byte in COMPLETE + READY) == b""
        assert talk.sprung

    def test_encryption_is_asked_for(self) -> None:
        """The one byte that answers a request of encryption is not taken for a message."""
        talk = Conversation()
        for code in (80877104, 80877103):
            asked = struct.pack("!II", 8, code)
            assert talk.from_client(asked) == asked
            assert talk.from_server(b"N") == b"N"
        assert talk.from_client(STARTUP) == STARTUP
        assert talk.from_server(READY) == READY

    def test_encrypted(self) -> None:
        """What is encrypted passes as it is."""
        talk = Conversation()
        talk.from_client(struct.pack("!II", 8, 80877103))
        assert talk.from_server(b"S") == b"S"
        assert talk.from_client(b"\x16\x03") == b"\x16\x03"
        assert talk.from_server(b"\x16\x03\x01") == b"\x16\x03\x01"
