"""The embedded ledger's one connection for writing, and its transactions."""

from __future__ import annotations

from guardrun.ledger.sqlite_file import (
    close_for_writing,
    driver,
    is_transient,
    open_for_writing,
    unavailable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    from guardrun.errors import StoreUnavailable

    Value = TypeVar("Value")

    class Writer(Protocol):
        """Who commits what a ledger writes."""

        def write(self, synchronous: str, body: Callable[[sqlite3.Connection], Value]) -> Value:
            """Do ``body`` in a transaction; returns what it returned once that is committed.

            ``synchronous`` is SQLite's: with ``FULL`` it has survived a power cut by then. Raises
            StoreUnavailable, and what ``body`` raises; either way nothing of it was written.
            """

        def connection(self) -> sqlite3.Connection:
            """The connection, for reading; opened where it is not. Raises StoreUnavailable."""

        def failed(self, error: sqlite3.Error) -> StoreUnavailable:
            """What an error of that connection means, which is given up where it is broken."""

        def close(self) -> None:
            """Nobody writes any more."""


class Transactions:
    """The ``Writer`` of one run: every call a transaction of its own."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._synchronous = ""

    def write(self, synchronous: str, body: Callable[[sqlite3.Connection], Value]) -> Value:
        """As the port says."""
        try:
            db = self._begin(synchronous)
            try:
                value = body(db)
                db.execute("COMMIT")
            except BaseException:
                self._roll_back(db)
                raise
        except driver.Error as error:
            raise self.failed(error) from error
        return value

    def connection(self) -> sqlite3.Connection:
        """As the port says."""
        if self._db is None:
            self._db = open_for_writing(self._path)
            self._synchronous = ""
        return self._db

    def failed(self, error: sqlite3.Error) -> StoreUnavailable:
        """As the port says."""
        if not is_transient(error):
            self.close()
        return unavailable(self._path, error)

    def close(self) -> None:
        """Let go of the connection; the next call opens another."""
        db, self._db = self._db, None
        if db is not None:
            close_for_writing(db, self._path)

    def _begin(self, synchronous: str) -> sqlite3.Connection:
        db = self.connection()
        if synchronous != self._synchronous:
            db.execute(f"PRAGMA synchronous = {synchronous}")
            self._synchronous = synchronous
        # Never a deferred transaction: one that reads first and writes later fails at once with
        # SQLITE_BUSY_SNAPSHOT when another process has written in between.
        db.execute("BEGIN IMMEDIATE")
        return db

    def _roll_back(self, db: sqlite3.Connection) -> None:
        try:
            if db.in_transaction:  # some errors have rolled back already
                db.execute("ROLLBACK")
        except driver.Error:
            self.close()  # which rolls back
