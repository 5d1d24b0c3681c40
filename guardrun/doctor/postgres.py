"""A Postgres: what it is, what it forgets after a crash, and who stands before it."""

from __future__ import annotations

import os

from guardrun import sql
from guardrun.address import address
from guardrun.doctor.finding import BROKEN, NOTE, Finding
from guardrun.locks.stores import database_url, is_session_bound
from guardrun.postgres.connection import LEASES, LEDGER, connect
from guardrun.postgres.lean_psycopg import errors
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
        # Pooled: the process that answers is not the one libpq was told of.
        pool_mode = None if session.pid else _pool_mode(session, place, store, due)
    finally:
        session.close()
    version, standby, fsync, whole_pages, commit, named, standbys = row
    facts: dict[str, object] = {
        "version": version.split()[0],
        "pool_mode": pool_mode,
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


def _pool_mode(ours: Session, place: str, store: str, due: float) -> str:
    """How a pooler shares its connections: for a statement, a transaction, or a session.

    PgBouncer gives the next client the server's process that was used last, unless that is still
    another client's own.
    """
    fresh = connect(place, due, store)
    try:
        fresh.execute("BEGIN")
        fresh.execute("ROLLBACK")
    except errors.Error:
        return "statement"
    finally:
        fresh.close()
    other = Session(place, store)
    asked: tuple[str, dict[str, str]] = (_SQL["process"], {})
    try:
        return (
            "transaction" if ours.transact(due, asked) == other.transact(due, asked) else "session"
        )
    finally:
        other.close()


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
    mode = facts["pool_mode"]
    if mode == "statement":
        says = "a pooler in statement mode stands before it: there are no transactions"
        found.append((BROKEN, says, "set pool_mode = transaction"))
    elif mode and session_bound:
        says = f"a pooler stands before it ({mode} mode): advisory locks need sessions of their own"
        found.append((BROKEN, says, "name the server itself"))
    elif mode:
        says = f"a pooler stands before it ({mode} mode): who waits for a lock asks twice a second"
        mend = "nothing for the ledger; for quick handoffs of leases name the server itself"
        found.append((NOTE, says, mend))
    if lacking:
        mend = "grant what docs/postgres.md lists for the run role"
        found.append((BROKEN, f"our role may not: {', '.join(lacking)}", mend))
    return found
