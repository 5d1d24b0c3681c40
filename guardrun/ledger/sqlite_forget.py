"""Letting a key of the embedded ledger block no longer."""

from __future__ import annotations

import os
import time

from guardrun import sql
from guardrun.ledger.live import LiveFile
from guardrun.ledger.sqlite_file import (
    close_for_writing,
    driver,
    open_for_writing,
    path_of,
    unavailable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

    from guardrun.ledger.records import KeyRecord

_SQL = sql.statements("sqlite", "forget")


def forget(url: str, seen: KeyRecord) -> bool:
    """As ``records.forget_key``; does not wait for a process that writes."""
    path = path_of(url)
    live = LiveFile(os.path.join(os.path.dirname(path), "runs.live"))
    db = open_for_writing(path)
    try:
        return _forget(db, live, seen)
    except driver.Error as error:
        raise unavailable(path, error) from error
    finally:
        close_for_writing(db, path)  # which rolls back what is not committed
        live.close()


def _forget(db: sqlite3.Connection, live: LiveFile, seen: KeyRecord) -> bool:
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN IMMEDIATE")
    # Nobody commits an end now, and a run does so before it stops being alive: so a key that is
    # running in this snapshot while its run is not alive was cut off.
    if seen.state == "interrupted" and live.is_alive(seen.job_id):
        return False
    values = {"key": seen.key, "job_id": seen.job_id, "now": round(time.time() * 1e6)}
    done = db.execute(_SQL["give_up" if seen.state == "interrupted" else "expire"], values)
    db.execute("COMMIT")
    return done.rowcount == 1
