"""Group commit for the embedded ledger: what comes together is one transaction, and one sync.

While one transaction is synced, other items end or begin, and make up the next. An item goes on
when what it wrote is committed, never before: so its COMMAND is not started before its claim is
durable, and it does not count before its success is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardrun.errors import GuardrunError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from guardrun.errors import StoreUnavailable
    from guardrun.ledger.sqlite_writer import Transactions, Value
    from guardrun.pool.hub import Hub


class _Entry:
    """What one item writes, and what came of it."""

    def __init__(self, synchronous: str, body: Callable[[sqlite3.Connection], object]) -> None:
        self.synchronous = synchronous
        self._body = body
        self.done = False
        self.value: object = None
        self.error: Exception | None = None

    def write(self, db: sqlite3.Connection) -> None:
        """Do it within the transaction that is open; what is wrong with it is no one else's."""
        db.execute("SAVEPOINT item")
        try:
            self.value = self._body(db)
        except (GuardrunError, ValueError, OverflowError) as error:
            self.error = error
            db.execute("ROLLBACK TO item")
        db.execute("RELEASE item")


class Commits:
    """The ``Writer`` of a pool's items."""

    def __init__(self, hub: Hub, writer: Transactions) -> None:
        self._hub = hub
        self._writer = writer
        self._queue: list[_Entry] = []
        hub.look_after(self)

    def write(self, synchronous: str, body: Callable[[sqlite3.Connection], Value]) -> Value:
        """As the port says; waits, as an item does, for the transaction it becomes part of."""
        entry = _Entry(synchronous, body)
        self._queue.append(entry)
        self._hub.park(lambda: entry.done)
        if entry.error is not None:
            raise entry.error
        return entry.value  # type: ignore[return-value]

    def waiting(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._queue)

    def commit(self) -> None:
        """Commit what has come together; each item finds out for itself what came of it."""
        entries, self._queue = self._queue, []

        def write(db: sqlite3.Connection) -> None:
            for entry in entries:
                entry.write(db)

        durable = any(entry.synchronous == "FULL" for entry in entries)
        try:
            self._writer.write("FULL" if durable else "NORMAL", write)
        except GuardrunError as error:
            for entry in entries:
                entry.error = error
        for entry in entries:
            entry.done = True

    def connection(self) -> sqlite3.Connection:
        """As the port says."""
        return self._writer.connection()

    def failed(self, error: sqlite3.Error) -> StoreUnavailable:
        """As the port says."""
        return self._writer.failed(error)

    def close(self) -> None:
        """One item is done; the others are not."""

    def end(self) -> None:
        """All are."""
        self._writer.close()
