"""A Redis or Valkey: what it is, and when it forgets."""

from __future__ import annotations

from typing import Any

from guardrun.doctor.finding import BROKEN, NOTE, Finding
from guardrun.locks.redis import connection_to
from guardrun.locks.stores import address

_SETTINGS = ("append*", "maxmemory*", "min-replicas-to-write")


def look(subject: str, url: str, due: float) -> tuple[str, dict[str, object], list[Finding]]:
    """What the server is, and what is wrong with it. Raises ``StoreUnavailable``."""
    server = connection_to(url)
    try:
        answers = server.ask(due, ("INFO",), *(("CONFIG", "GET", one) for one in _SETTINGS))
    finally:
        server.close()
    info = _info(answers[0])
    given = {name: value for answer in answers[1:] for name, value in _pairs(answer)}
    facts: dict[str, object] = {
        "version": info.get("valkey_version") or info.get("redis_version"),
        "appendonly": given.get("appendonly"),
        "appendfsync": given.get("appendfsync"),
        "maxmemory": given.get("maxmemory", info.get("maxmemory")),
        "maxmemory_policy": given.get("maxmemory-policy", info.get("maxmemory_policy")),
        "role": info.get("role"),
        "replicas": int(info["connected_slaves"]) if "connected_slaves" in info else None,
        "min_replicas_to_write": given.get("min-replicas-to-write"),
    }
    kind = "Valkey" if "valkey_version" in info else "Redis"
    where = address(url)
    found = [
        Finding(subject, level, f"{where}: {says}", remedy, facts)
        for level, says, remedy in wrong(facts, info)
    ]
    return f"{kind} {facts['version'] or 'of a version it may not tell'}", facts, found


def wrong(facts: dict[str, object], info: dict[str, str]) -> list[tuple[str, str, str]]:
    """(level, what, remedy) of everything that is; ``info`` are the fields of INFO."""
    found = []
    policy = str(facts["maxmemory_policy"] or "noeviction")
    if info.get("redis_mode") == "cluster":
        found.append((BROKEN, "it is a Redis Cluster", "name one server, or a Sentinel's service"))
    if info.get("role") == "slave":
        found.append((BROKEN, "it is a replica, which takes no writes", "name the primary"))
    if facts["maxmemory"] not in (None, "0") and policy.startswith("allkeys"):
        says = f"maxmemory-policy is {policy}: a lock that is held may be evicted"
        found.append((BROKEN, says, "CONFIG SET maxmemory-policy noeviction"))
    elif policy != "noeviction":
        says = f"maxmemory-policy is {policy}, under which a full server drops what others keep"
        found.append((NOTE, says, "CONFIG SET maxmemory-policy noeviction"))
    if facts["appendonly"] is None:
        says = "whether a crash forgets leases is not for us to know"
        found.append((NOTE, says, "allow +config|get and +info (docs/redis.md)"))
    elif (facts["appendonly"], facts["appendfsync"]) != ("yes", "always"):
        says = (
            f"appendonly is {facts['appendonly']}, appendfsync {facts['appendfsync']}: after a "
            "crash it may grant a lock twice"
        )
        mend = "set appendonly yes and appendfsync always, or let COMMAND check the fence"
        found.append((NOTE, says, mend))
    if facts["replicas"] and facts["min_replicas_to_write"] == "0":
        says = "min-replicas-to-write is 0: a primary that is cut off from its replicas goes on"
        found.append((NOTE, says, "CONFIG SET min-replicas-to-write 1"))
    return found


def _info(answer: Any) -> dict[str, str]:
    """The fields of INFO; none where we may not ask."""
    if not isinstance(answer, bytes):
        return {}
    lines = answer.decode("utf-8", "replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _pairs(answer: Any) -> list[tuple[str, str]]:
    if not isinstance(answer, list):  # an error: we may not ask
        return []
    words = [word.decode("utf-8", "replace") for word in answer]
    return list(zip(words[::2], words[1::2], strict=False))
