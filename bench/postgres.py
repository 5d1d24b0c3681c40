"""A private Postgres that keeps what it says, as a server in use does: fsync and its defaults."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench import launcher, proc
from bench.scene import IN_MEMORY, Scene, Unusable


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
    """Start one, with its data in a directory of its own in ``place``. Raises Missing."""
    return Server(*launcher.launch("postgres", place))
