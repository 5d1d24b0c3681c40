"""The test servers: found in one order, shared by all workers, gone when the session is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import servers
from servers import POSTGRES, Binaries, PgBouncer, Postgres, Url
from support import eventually, kill

TESTS = Path(servers.__file__).parent


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A private Postgres for the tests of this file."""
    with Postgres.start() as started:
        yield started


def ask(url: str, query: str, **options: str | int) -> object:
    """The one value that a query returns."""
    with psycopg.connect(url, **options) as connection:  # type: ignore[arg-type]
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def put_binary(directory: Path) -> Path:
    """Pretend that a Postgres is installed there."""
    directory.mkdir(parents=True)
    (directory / "postgres").touch(0o755)
    return directory


def segments_of(pid: int) -> list[str]:
    """The System V shared memory that a process has made."""
    listed = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return [line for line in listed if int(line.split()[4]) == pid]


class TestSearch:
    def test_url_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that the environment names is used, whatever else there is."""
        monkeypatch.setenv("GUARDRUN_TEST_POSTGRES_URL", "postgresql://elsewhere/x")
        assert servers.find(POSTGRES) == Url("postgresql://elsewhere/x")
        assert servers.postgres_url() == "postgresql://elsewhere/x"

    def test_own_server_is_never_theirs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that a test stops or kills is not the one that the environment names."""
        monkeypatch.setenv("GUARDRUN_TEST_POSTGRES_URL", "postgresql://elsewhere/x")
        assert isinstance(servers.find_binaries(POSTGRES), Binaries)

    def test_path_before_places(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server on PATH, or what a link there leads to, goes before the distribution's."""
        real = put_binary(tmp_path / "real")
        (tmp_path / "links").mkdir()
        (tmp_path / "links" / "postgres").symlink_to(real / "postgres")
        monkeypatch.setenv("PATH", str(tmp_path / "links"))
        assert servers.find_binaries(POSTGRES) == Binaries(real)

    def test_newest_version(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of several versions that are installed the newest is used."""
        monkeypatch.setenv("PATH", str(tmp_path))
        for version in ("9.6", "17", "15"):
            put_binary(tmp_path / version / "bin")
        program = POSTGRES._replace(places=(f"{tmp_path}/*/bin",))
        assert servers.find_binaries(program) == Binaries(tmp_path / "17" / "bin")

    def test_missing_is_skipped_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where there is none, the test is skipped with one line: what is missing, what to do."""
        monkeypatch.delenv("CI", raising=False)
        nowhere = POSTGRES._replace(variable="X_URL", binary="nowhere", image="", wheel=("", ""))
        with pytest.raises(pytest.skip.Exception, match="no postgres found: set X_URL, or apt"):
            servers.find(nowhere)

    def test_missing_is_fatal_in_ci(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same fails in CI."""
        monkeypatch.setenv("CI", "true")
        nowhere = POSTGRES._replace(variable="X_URL", binary="nowhere", image="", wheel=("", ""))
        with pytest.raises(pytest.fail.Exception, match="no postgres found: set X_URL, or apt"):
            servers.find(nowhere)


SHARERS = """
import os, time
from pathlib import Path
import pytest
import servers

@pytest.mark.parametrize("number", range(4))
def test_share(number, database_url):
    said = Path(os.environ["SAID"])
    with (said / "urls").open("a") as urls:
        print(servers.postgres_url(), file=urls)
    (said / f"process-{os.getpid()}").touch()
    (said / "owner").write_text(os.environ["GUARDRUN_TEST_OWNER"])
    while os.environ.get("WAIT"):
        time.sleep(0.1)
    while len(list(said.glob("process-*"))) < int(os.environ["WORKERS"]):
        time.sleep(0.01)
"""


class TestSession:
    @pytest.fixture
    def local(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither the environment's server nor Docker's: those are not ours to end."""
        monkeypatch.delenv("GUARDRUN_TEST_POSTGRES_URL", raising=False)
        monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
        monkeypatch.setenv("TMPDIR", "/tmp")

    def begin(self, place: Path, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a pytest of its own with a few tests that share a server."""
        shutil.copy(TESTS / "conftest.py", place)
        (place / "test_sharers.py").write_text(SHARERS)
        (place / "pytest.ini").write_text("[pytest]\n")
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(TESTS), "SAID": str(place), **environment},
            stdout=subprocess.DEVNULL,
        )

    def directory(self, place: Path) -> Path:
        """Where the servers of that pytest live."""
        owner = eventually(
            lambda: (place / "owner").exists() and (place / "owner").read_text(), within=60
        )
        (found,) = Path("/tmp").glob(f"guardrun-session-{owner}-*")
        return found

    def postmaster(self, directory: Path) -> int:
        """The pid of the Postgres that lives there."""
        return int((directory / "postgres" / "data" / "postmaster.pid").read_text().split()[0])

    def gone(self, directory: Path, postmaster: int) -> None:
        """Wait until neither is there."""
        eventually(
            lambda: not directory.exists() and not Path(f"/proc/{postmaster}").exists(),
            within=20,
            what="no server and no directory",
        )

    @pytest.mark.usefixtures("local")
    def test_workers_share_one(self, tmp_path: Path) -> None:
        """All workers of a session get the same server."""
        process = self.begin(tmp_path, "-n", "2", WORKERS="2")
        assert process.wait() == 0
        assert len(set((tmp_path / "urls").read_text().split())) == 1

    @pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
    @pytest.mark.usefixtures("local")
    def test_gone_with_the_session(self, tmp_path: Path, signum: signal.Signals) -> None:
        """However the session ends, neither server nor directory is left."""
        process = self.begin(tmp_path, WORKERS="1", WAIT="1")
        try:
            directory = self.directory(tmp_path)
            postmaster = self.postmaster(directory)
            process.send_signal(signum)
            process.wait()
            self.gone(directory, postmaster)
        finally:
            process.kill()
            process.wait()

    def test_database_is_fresh(self, database_url: str) -> None:
        """A database is empty, and nobody else's."""
        other = servers.database(servers.postgres_url())
        try:
            with psycopg.connect(database_url) as connection:
                connection.execute("CREATE TABLE here (x int)")
            assert ask(other, "SELECT to_regclass('here') IS NULL")
        finally:
            servers.drop_database(other)


class TestPrivate:
    def test_password(self, server: Postgres) -> None:
        """TCP takes the right password only."""
        assert ask(server.url, "SELECT 1") == 1
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.url.replace(server.password, "wrong"))

    def test_socket(self, server: Postgres) -> None:
        """The socket needs no password."""
        assert ask(server.socket_url, "SELECT inet_server_addr() IS NULL")

    def test_settings(self) -> None:
        """A test's own settings hold."""
        with Postgres.start(max_connections=7, statement_timeout="3s") as own:
            assert ask(own.url, "SHOW max_connections") == "7"
            assert ask(own.url, "SHOW statement_timeout") == "3s"

    @pytest.mark.parametrize("way", ["stop", "crash", "kill"])
    def test_start_again(self, server: Postgres, way: str) -> None:
        """After a stop, a crash or a SIGKILL it comes back on the same port with its data."""
        url = server.database()
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept (x int)")
        before = server.pid
        {"stop": server.stop, "crash": lambda: server.stop(crash=True), "kill": server.kill}[way]()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
        server.start_again()
        assert server.pid != before
        assert ask(url, "SELECT to_regclass('kept') IS NOT NULL")

    def test_pause(self, server: Postgres) -> None:
        """A frozen server keeps its connections and answers nothing until it is let go on."""
        with psycopg.connect(server.url) as connection:
            server.pause()
            with pytest.raises(psycopg.errors.ConnectionTimeout):
                psycopg.connect(server.url, connect_timeout=2)
            server.resume()
            assert connection.execute("SELECT 1").fetchone() == (1,)

    @pytest.mark.parametrize("state", ["running", "paused", "stopped", "killed"])
    def test_nothing_is_left(self, state: str) -> None:
        """At the end of its block neither its processes nor its directory are there."""
        with Postgres.start() as own:
            pids = own.minded.processes()
            {
                "running": lambda: None,
                "paused": own.pause,
                "stopped": own.stop,
                "killed": own.kill,
            }[state]()
        assert not own.minded.directory.exists()
        assert not segments_of(pids[0])
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    def test_minder_killed(self) -> None:
        """Even without its minder a server doesn't outlive the test."""
        with Postgres.start() as own:
            kill(own.minded.minder.pid)
            eventually(own.minded.ended, what="no postmaster")
            eventually(lambda: _removed(own.minded.directory), what="a directory without users")


def _removed(directory: Path) -> bool:
    shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()


class TestPgBouncer:
    def test_transactions_share_a_session(self, database_url: str) -> None:
        """In transaction mode two clients get one server connection, one after the other."""
        with PgBouncer.start(servers.postgres_url(), default_pool_size=1) as bouncer:
            url = bouncer.url_for(database_url)
            with psycopg.connect(url) as one, psycopg.connect(url) as two:
                pids = set()
                for client in (one, two, one):
                    pids.add(client.execute("SELECT pg_backend_pid()").fetchone())
                    client.rollback()
        assert len(pids) == 1

    def test_every_role_logs_in(self, server: Postgres) -> None:
        """A role that PgBouncer was not told of logs in with its own password, and no other."""
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE ROLE runner LOGIN PASSWORD 'hunter2'")
        with PgBouncer.start(server.url) as bouncer:
            url = bouncer.url_for(f"postgresql://runner:hunter2@localhost:{server.port}/postgres")
            assert ask(url, "SELECT current_user") == "runner"
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(url.replace("hunter2", "wrong"))

    def test_shared(self, database_url: str) -> None:
        """The session's PgBouncer reaches every database of the session's Postgres."""
        url = servers.pgbouncer_url(database_url)
        assert ask(url, "SELECT current_database()") == database_url.rpartition("/")[2]
        assert servers.pgbouncer_url(database_url) == url


@pytest.mark.parametrize(
    ("given", "through"),
    [
        ("postgresql://u:p@db:1/x", "postgresql://u:p@127.0.0.1:9/x"),
        ("postgresql://u@/x?host=%2Frun&port=1&sslmode=disable",
         "postgresql://u@127.0.0.1:9/x?sslmode=disable"),
        ("postgresql:///x", "postgresql://127.0.0.1:9/x"),
    ],
)  # fmt: skip
def test_at_port(given: str, through: str) -> None:
    """A URL keeps all but its host and port."""
    assert servers.at_port(given, 9) == through
