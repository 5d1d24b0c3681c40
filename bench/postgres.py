"""A private Postgres that keeps what it says, as a server in use does: fsync and its defaults.

As a program it starts one for the process with the pid that it is given, says where, and ends; the
server ends with that process.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import proc
from bench.scene import IN_MEMORY, Scene, Unusable

_TESTS = Path(__file__).resolve().parent.parent / "tests"
_REMEDY = "apt install postgresql, or make servers"

_DURABLE: dict[str, object] = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": 20,
    "listen_addresses": "127.0.0.1",
    "password_encryption": "scram-sha-256",
    # A killed server must leave nothing in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
}


class Missing(Exception):
    """There is no Postgres to measure with; the message says why."""


@dataclass(frozen=True)
class Server:
    """A Postgres that lives as long as the benchmark."""

    url: str
    """the superuser's, with a password"""
    version: str
    directory: Path

    def fact(self) -> str:
        """What it is, and what its data is on."""
        kind = proc.filesystem(self.directory)
        memory = " (in memory: syncs cost nothing)" if kind in IN_MEMORY else ""
        return f"Postgres {self.version} on this machine, fsync on, data on {kind}{memory}"

    def ledger(self, scene: Scene, name: str) -> str:
        """A new database with guardrun's schema in it: its URL."""
        import psycopg  # not installed with the benchmark: whoever has no Postgres needs none

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0'.encode())
        url = self.url.rpartition("/")[0] + "/" + name
        migrated = subprocess.run(
            (scene.guardrun, "migrate"),
            env=scene.env | {"GUARDRUN_LEDGER_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
        if migrated.returncode:
            raise Unusable(f"guardrun migrate: {migrated.stderr.strip()}")
        return url


def start(place: Path) -> Server:
    """Start one, with its data in a directory of its own in ``place``. Raises Missing.

    To be called before orphans are adopted: nobody here waits for the server, or kills it.
    """
    # Servers put their data where temporary files go.
    env = os.environ | {"TMPDIR": str(place)}
    words = (sys.executable, __file__, str(os.getpid()))
    # The server's own process inherits stderr, and would keep a pipe open.
    done = subprocess.run(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    said = json.loads(done.stdout)
    if "missing" in said:
        raise Missing(said["missing"])
    return Server(said["url"], said["version"], Path(said["directory"]))


def _launch(owner: int) -> dict[str, str]:
    """What the program says: of a server, or what is ``missing``."""
    sys.path.append(str(_TESTS))
    try:
        import psycopg
        from servers import OWN, POSTGRES, Home, Postgres
    except ImportError as error:
        return {"missing": f"{error}: make install"}
    binaries = next((found for search in OWN if (found := search(POSTGRES))), None)
    if binaries is None:
        return {"missing": _REMEDY}
    home = Home.of(binaries.directory / POSTGRES.binary)
    directory = home.place / f"guardrun-bench-postgres-{owner}-{secrets.token_hex(4)}"
    try:
        server = Postgres.launch(owner, binaries, home, directory, _DURABLE)
    except RuntimeError as error:  # with what the server wrote
        return {"missing": " ".join(str(error).split())}
    with psycopg.connect(server.url) as connection:
        number = connection.info.server_version
    version = f"{number // 10000}.{number % 10000}"
    server.minded.let_go()
    return {"url": server.url, "version": version, "directory": str(directory)}


if __name__ == "__main__":
    print(json.dumps(_launch(int(sys.argv[1]))))
