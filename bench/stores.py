"""The private servers that locks of several hosts are kept in, and which are missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench import launcher, postgres
from bench.launcher import Launched, Missing
from bench.postgres import Server

T = TypeVar("T")


@dataclass(frozen=True)
class Stores:
    """What has been started; each lives as long as the benchmark."""

    postgres: Server | None
    redis: Launched | None
    etcd: Launched | None
    consul: Launched | None
    missing: tuple[str, ...]
    """what is not there, and what to do about it"""

    def facts(self) -> list[str]:
        """One line for each that was started."""
        others = {
            "Redis {}, its defaults: nothing is kept": self.redis,
            "etcd {}, its defaults: fsync on": self.etcd,
            "Consul {}, one server, its defaults: fsync on": self.consul,
        }
        facts = [text.format(found.version) for text, found in others.items() if found]
        return [*([self.postgres.fact()] if self.postgres else []), *facts]


def start(place: Path) -> Stores:
    """Start all there are, with their data in ``place``; before orphans are adopted."""
    missing: list[str] = []

    def started(name: str, start_one: Callable[[], T]) -> T | None:
        try:
            return start_one()
        except Missing as error:
            missing.append(f"{name} ({error})")
            return None

    return Stores(
        started("Postgres", lambda: postgres.start(place)),
        started("Redis", lambda: launcher.launch("redis", place)),
        started("etcd", lambda: launcher.launch("etcd", place)),
        started("Consul", lambda: launcher.launch("consul", place)),
        tuple(missing),
    )
