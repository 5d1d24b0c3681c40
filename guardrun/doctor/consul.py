"""Consul: whether its servers have a leader, and how many of them may be lost."""

from __future__ import annotations

from typing import Any

from guardrun.doctor import quorum
from guardrun.doctor.finding import NOTE, Finding
from guardrun.errors import StoreUnavailable
from guardrun.locks.consul_connection import Http
from guardrun.locks.gateway import Refused
from guardrun.locks.stores import address

_OLDEST = (1, 8)
"""what is tested"""


def look(subject: str, url: str, due: float) -> tuple[str, dict[str, object], list[Finding]]:
    """What the cluster is, and what is wrong with it. Raises ``StoreUnavailable``."""
    http = Http(url)
    try:
        if not _ask(http, "status/leader", due):
            raise http.unavailable("No cluster leader")
        servers = len(_ask(http, "status/peers", due) or ())
        version = _version(http, due)
    finally:
        http.close()
    facts: dict[str, object] = {"version": version, "servers": servers}
    where = address(url)
    found = [
        Finding(subject, level, f"{where}: {says}", remedy, facts)
        for level, says, remedy in wrong(servers, version)
    ]
    number = f"{servers} servers" if servers != 1 else "1 server"
    return f"Consul {version or 'of unknown version'}, {number}", facts, found


def _ask(http: Http, path: str, due: float) -> Any:
    try:
        return http.ask(due, "GET", path).body
    except Refused as refused:
        raise http.unavailable(str(refused)) from None


def _version(http: Http, due: float) -> str | None:
    """That of the agent that answers; ``None`` where our token may not ask."""
    try:
        said = _ask(http, "agent/self", due)
    except StoreUnavailable:
        return None
    return str(said["Config"]["Version"])


def wrong(servers: int, version: str | None) -> list[tuple[str, str, str]]:
    """(level, what, remedy) of everything that is."""
    found = quorum.wrong(servers, "servers")
    numbers = [int(part) if part.isdigit() else 0 for part in (version or "").split(".")]
    if version is not None and tuple(numbers[:2]) < _OLDEST:
        says = f"guardrun is not tested with Consul {version}"
        found.append((NOTE, says, "take 1.8 or later"))
    return found
