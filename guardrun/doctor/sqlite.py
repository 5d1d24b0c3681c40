"""The embedded ledger: whether it can be read, and what it is."""

from __future__ import annotations

import os
import sqlite3

from guardrun import kernel
from guardrun.doctor.finding import BROKEN, OK, Finding, told
from guardrun.errors import GuardrunError
from guardrun.ledger import sqlite_file

_PATIENCE = 5.0
"""s that SQLite waits for whoever is writing"""


def examine(path: str) -> list[Finding]:
    """Look at the file, and change nothing."""
    if not os.path.lexists(path):
        return [Finding("ledger", OK, f"{path}: will be made by the first run")]
    begun = kernel.now()
    db: sqlite3.Connection | None = None
    try:
        db = sqlite_file.connect(path, "ro", _PATIENCE)
        schema = sqlite_file.version(db, path)
        (mode,) = db.execute("PRAGMA journal_mode").fetchone()
        latency = kernel.now() - begun
    except sqlite3.Error as error:
        return [told("ledger", sqlite_file.unavailable(path, error))]
    except GuardrunError as error:
        return [told("ledger", error)]
    finally:
        if db is not None:
            db.close()
    size = os.stat(path).st_size
    facts = {
        "path": path,
        "version": sqlite3.sqlite_version,
        "schema": schema,
        "latency_ms": round(latency * 1000, 3),
        "bytes": size,
        "journal_mode": mode,
    }
    says = f"{path}: SQLite {sqlite3.sqlite_version}, schema {schema}, {size >> 20} MiB, {mode}"
    found = [Finding("ledger", OK, says, facts=facts)]
    if schema and mode != "wal":
        says = f"{path}: it has no write-ahead log, but {mode}: somebody has changed that"
        mend = f"sqlite3 {path} 'PRAGMA journal_mode = WAL'"
        found.append(Finding("ledger", BROKEN, says, mend, facts))
    if not os.access(path, os.W_OK):
        says = f"{path}: we may not write to it"
        found.append(Finding("ledger", BROKEN, says, "its owner must be the jobs' user", facts))
    return found
