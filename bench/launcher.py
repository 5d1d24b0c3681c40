"""Private servers that live as long as the benchmark, and are nobody's children in it.

As a program it starts one for the process with the pid that it is given, says where, and ends; the
server ends with that process.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_BENCH = Path(__file__).resolve().parent
_TESTS = _BENCH.parent / "tests"
BINARIES = "GUARDRUN_BENCH_BIN"
"""environment variable: a directory with programs that are not on PATH"""

_DURABLE: dict[str, object] = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # Who waits for a lock listens, on a connection of its own.
    "max_connections": 200,
    "listen_addresses": "127.0.0.1",
    "password_encryption": "scram-sha-256",
    # A killed server must leave nothing in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
}


class Missing(Exception):
    """There is no such server to measure with; the message says why."""


class Launched(NamedTuple):
    """A server that runs."""

    url: str
    """with a password, where it wants one"""
    version: str
    directory: Path


def which(program: str) -> str | None:
    """Where a program is: on PATH, or in the directory that is named for those which are not."""
    places = (os.environ.get(BINARIES, ""), os.environ.get("PATH", os.defpath))
    return shutil.which(program, path=os.pathsep.join(filter(None, places)))


def launch(kind: str, place: Path) -> Launched:
    """Start one, with its data in a directory of its own in ``place``. Raises Missing.

    To be called before orphans are adopted: nobody here waits for the server, or kills it.
    """
    # Servers put their data where temporary files go.
    env = os.environ | {"TMPDIR": str(place)}
    words = (sys.executable, __file__, kind, str(os.getpid()))
    # The server's own process inherits stderr, and would keep a pipe open.
    done = subprocess.run(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    said = json.loads(done.stdout)
    if "missing" in said:
        raise Missing(said["missing"])
    return Launched(said["url"], said["version"], Path(said["directory"]))


# ---------------------------------------------------------------- the program


def _main(kind: str, owner: int) -> dict[str, str]:
    """What the program says: of a server, or what is ``missing``."""
    try:
        launched = _KINDS[kind](owner)
    except Missing as missing:
        return {"missing": str(missing)}
    except ImportError as error:
        return {"missing": f"{error}: make install"}
    except (RuntimeError, AssertionError) as error:  # with what the server wrote
        return {"missing": " ".join(str(error).split())}
    return {**launched._asdict(), "directory": str(launched.directory)}


def _postgres(owner: int) -> Launched:
    import psycopg
    from servers import OWN, POSTGRES, Home, Postgres

    binaries = next((found for search in OWN if (found := search(POSTGRES))), None)
    if binaries is None:
        raise Missing(POSTGRES.remedy)
    home = Home.of(binaries.directory / POSTGRES.binary)
    directory = _directory(home.place, POSTGRES.name, owner)
    server = Postgres.launch(owner, binaries, home, directory, _DURABLE)
    with psycopg.connect(server.url) as connection:
        number = connection.info.server_version
    server.minded.let_go()
    return Launched(server.url, f"{number // 10000}.{number % 10000}", directory)


def _redis(owner: int) -> Launched:
    import redis
    from servers import OWN, REDIS, Home, Redis

    binaries = next((found for search in OWN if (found := search(REDIS))), None)
    if binaries is None:
        raise Missing(REDIS.remedy)
    home = Home.of(binaries.directory / REDIS.binary)
    directory = _directory(home.place, REDIS.name, owner)
    server = Redis.launch(owner, binaries, home, directory, {})
    with redis.Redis.from_url(server.url) as client:
        told: Any = client.info("server")
    server.minded.let_go()
    return Launched(server.url, str(told["redis_version"]), directory)


def _etcd(owner: int) -> Launched:
    from servers import free_port

    program = _program("etcd")
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    options = {
        "data-dir": "data",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
    }
    words = [program, *(f"--{name}={value}" for name, value in options.items())]
    directory = _mind("etcd", owner, words, lambda: b"true" in _fetch(f"{client}/health"))
    return Launched(client, _last_word(program, "--version"), directory)


def _consul(owner: int) -> Launched:
    from servers import free_port

    program = _program("consul")
    http, serf, rpc = (free_port() for _ in range(3))
    settings = {
        "server": True,
        "bootstrap_expect": 1,
        "node_name": "bench",
        "data_dir": "data",
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        "ports": {"http": http, "dns": -1, "serf_lan": serf, "serf_wan": -1, "server": rpc},
        # As its manual says for production.
        "performance": {"raft_multiplier": 1},
        # All clients are on this host, and each waiter has more than one connection.
        "limits": {"http_max_conns_per_client": 2000},
        "telemetry": {"prometheus_retention_time": "1h", "disable_hostname": True},
        "disable_update_check": True,
    }
    address = f"http://127.0.0.1:{http}"
    directory = _mind(
        "consul",
        owner,
        [program, "agent", "-config-file", "consul.json"],
        lambda: b":" in _fetch(f"{address}/v1/status/leader"),
        {"consul.json": json.dumps(settings)},
    )
    return Launched(address, _last_word(program, "version"), directory)


_KINDS: Mapping[str, Callable[[int], Launched]] = {
    "postgres": _postgres,
    "redis": _redis,
    "etcd": _etcd,
    "consul": _consul,
}


def _program(name: str) -> str:
    path = which(name)
    if path is None:
        raise Missing(f"put it on PATH, or its directory into ${BINARIES}")
    return path


def _directory(place: Path, name: str, owner: int) -> Path:
    return place / f"guardrun-bench-{name}-{owner}-{secrets.token_hex(4)}"


def _mind(
    name: str,
    owner: int,
    words: Sequence[str],
    answers: Callable[[], bool],
    files: Mapping[str, str] | None = None,
) -> Path:
    """Run a server that needs no user of its own, until it answers: its directory."""
    from minder import Order
    from servers import Minded
    from support import eventually

    directory = _directory(Path(os.environ["TMPDIR"]), name, owner)
    minder = subprocess.Popen(
        [sys.executable, str(_TESTS / "minder.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd="/",
    )
    minded = Minded(directory, 0, minder)
    try:
        order = Order(
            owner=owner,
            directory=str(directory),
            session="",
            user=None,
            group=None,
            files=dict(files or {}),
            prepare=[],
            run=list(words),
            last="SIGKILL",
        )
        minded.begin(order._asdict())
        minded.launch()
        eventually(lambda: minded.ended() or answers(), 30, f"{name} to answer")
        if minded.ended():
            raise RuntimeError(f"{name} did not start: {minded.log.strip().splitlines()[-1]}")
    except BaseException:
        minded.close()
        raise
    minded.let_go()
    return directory


def _fetch(url: str) -> bytes:
    """What is there; nothing while nobody answers."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bytes(answer.read())
    return b""


def _last_word(*words: str) -> str:
    """The version, in the first line of what a program says of itself."""
    said = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
    return said.splitlines()[0].split()[-1].removeprefix("v")


if __name__ == "__main__":
    # The packages of the repository and the helpers of its tests, and not the modules beside us.
    sys.path[:1] = [str(_BENCH.parent), str(_TESTS)]
    print(json.dumps(_main(sys.argv[1], int(sys.argv[2]))))
