"""A Postgres: what it is, what it forgets after a crash, and who stands before it."""

from __future__ import annotations

import os

from guardrun import sql
from guardrun.address import address
from guardrun.doctor.finding import BROKEN, NOTE, Finding
from guardrun.locks.stores import database_url, is_session_bound
from guardrun.postgres.connection import LEASES, LEDGER
from guardrun.postgres.session import Session

_SQL = sql.statements("postgres", "doctor")
_MEANT = ("on", "remote_apply")


def look(subject: str, url: str, due: float) -> tuple[str, dict[str, object], list[Finding]]:
    """What the server is, and what is wrong with it. Raises ``StoreUnavailable``."""
    place = database_url(url)
    store = LEDGER if subject == "ledger" else LEASES
    session = Session(place, store)
    try:
        (row,), lacking = session.transact(due, (_SQL["server"], {}), (_SQL["rights"], {}))
        pooled = not session.pid  # the process that answers is not the one libpq was told of
    finally:
        session.close()
    version, standby, fsync, whole_pages, commit, named, standbys = row
    facts: dict[str, object] = {
        "version": version.split()[0],
        "pooled": pooled,
        "standby": standby,
        "fsync": fsync,
        "full_page_writes": whole_pages,
        "synchronous_commit": commit,
        "synchronous_standby_names": named,
        "standbys": standbys,
    }
    rights = [right for (right,) in lacking]
    where = address(place, os.environ)
    found = [
        Finding(subject, level, f"{where}: {says}", remedy, facts)
        for level, says, remedy in wrong(facts, rights, is_session_bound(url))
    ]
    return f"Postgres {facts['version']}", facts, found


def wrong(
    facts: dict[str, object], lacking: list[str], session_bound: bool
) -> list[tuple[str, str, str]]:
    """(level, what, remedy) of everything that is; ``lacking`` are rights that our role has not."""
    found = []
    if facts["standby"]:
        found.append((BROKEN, "it is a standby, which takes no writes", "name the primary"))
    for name in ("fsync", "full_page_writes"):
        if not facts[name]:
            says = f"{name} is off: power loss forgets what it confirmed"
            found.append((BROKEN, says, f"set {name} = on"))
    if facts["standbys"] and not facts["synchronous_standby_names"]:
        says = "its standbys are asynchronous: a failover may forget claims and leases"
        mend = "name them in synchronous_standby_names, or let COMMAND check the fence"
        found.append((NOTE, says, mend))
    if facts["synchronous_commit"] not in _MEANT:
        says = f"synchronous_commit is {facts['synchronous_commit']}; guardrun's own commits say on"
        found.append((NOTE, says, "set it to on where COMMAND writes here as well"))
    if facts["pooled"] and session_bound:
        says = "a pooler stands before it: advisory locks need sessions"
        found.append((BROKEN, says, "name the server itself"))
    elif facts["pooled"]:
        says = "a pooler stands before it: who waits for a lock asks twice a second"
        mend = "nothing in transaction mode; for quick handoffs name the server itself"
        found.append((NOTE, says, mend))
    if lacking:
        mend = "grant what docs/postgres.md lists for the run role"
        found.append((BROKEN, f"our role may not: {', '.join(lacking)}", mend))
    return found
