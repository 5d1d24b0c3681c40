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
    where = address(place, os.environ)
    facts: dict[str, object] = {
        "version": version.split()[0],
        "pooled": pooled,
        "fsync": fsync,
        "full_page_writes": whole_pages,
        "synchronous_commit": commit,
        "synchronous_standby_names": named,
        "standbys": standbys,
    }
    found = []

    def say(level: str, says: str, remedy: str) -> None:
        found.append(Finding(subject, level, f"{where}: {says}", remedy, facts))

    if standby:
        say(BROKEN, "it is a standby, which takes no writes", "name the primary")
    for name, is_on in (("fsync", fsync), ("full_page_writes", whole_pages)):
        if not is_on:
            say(BROKEN, f"{name} is off: power loss forgets what it confirmed", f"set {name} = on")
    if standbys and not named:
        says = f"its {standbys} standbys are asynchronous: a failover may forget claims and leases"
        say(NOTE, says, "name them in synchronous_standby_names, or let COMMAND check the fence")
    if commit not in _MEANT:
        says = f"synchronous_commit is {commit} by default; guardrun's own commits say on"
        say(NOTE, says, "nothing for guardrun; set it to on where COMMAND writes here as well")
    if pooled and is_session_bound(url):
        say(BROKEN, "a pooler stands before it: advisory locks need sessions", "go there directly")
    elif pooled:
        says = "a pooler stands before it: who waits for a lock asks twice a second"
        say(NOTE, says, "nothing in transaction mode; for quick handoffs go there directly")
    if lacking:
        says = f"our role may not: {', '.join(right for (right,) in lacking)}"
        say(BROKEN, says, "grant what docs/postgres.md lists for the run role")
    return f"Postgres {facts['version']}", facts, found
