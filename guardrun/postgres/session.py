"""One connection to Postgres: transactions in one round trip, and being woken.

The connection that waits to be told of a free place is the one that asks for it, so a waiter costs
the server one session; and where leases and ledger are one database it is the ledger's, too. Behind
a pooler a session is not ours: libpq was told of another process
than the one that answers. Then nothing but a transaction can be relied on, and nobody wakes us.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, Any

from guardrun import kernel, sql
from guardrun.errors import StoreUnavailable
from guardrun.postgres import schema
from guardrun.postgres.connection import connect, unavailable
from guardrun.postgres.lean_psycopg import errors
from guardrun.postgres.wire import answers

if TYPE_CHECKING:
    from guardrun.postgres.wire import Connection, Values

    Rows = list[tuple[Any, ...]]

_SQL = sql.statements("postgres", "session")

_PATIENCE = 30.0
"""s for a call that is due later than that"""
STATEMENT = 5.0
"""s that one statement may take at most, unless it is known to take longer"""
_TRUSTED = 1.0
"""s after its last answer that a connection is taken for a good one"""
_SILENT = 1.0
"""s to find out whether it still is"""
_IDLE_IN_TRANSACTION = 10.0
"""s until the server ends a transaction that a frozen client left open"""


class Unstorable(StoreUnavailable):
    """A value that the database has no room for."""


class Session:
    """What a store has open, at most one connection; made when it is needed.

    ``store`` is what the server is to us, for messages. ``pooled``: it was found out that sessions
    are not ours. ``lost`` counts the connections that have ended, whoever ended them.
    """

    def __init__(self, url: str, store: str) -> None:
        self._url = url
        self._store = store
        self._open: Connection | None = None
        self._failed: Connection | None = None
        """one that does not answer, and is not closed yet"""
        self._pid = 0
        self._used_at = 0.0
        """when it was last heard from (CLOCK_BOOTTIME)"""
        self._checked = False
        """the schema was the one that this version knows"""
        self._bell = -1
        self._poll: select.epoll | None = None
        self.channel = f"guardrun_{os.urandom(8).hex()}"
        self.fsync: bool | None = None
        self.listens = False
        self.pooled = False
        self.lost = 0

    @property
    def pid(self) -> int:
        """The server's process that is ours alone; 0 where there is none, or none of our own."""
        ours = self._open is not None and self._pid == self._open.pgconn.backend_pid
        return self._pid if ours else 0

    @property
    def is_open(self) -> bool:
        return self._open is not None

    def connect(self, due: float) -> None:
        """Be connected; one that has been silent for a while is asked first.

        Raises ``StoreUnavailable``.
        """
        if self._open is not None and kernel.now() > self._used_at + _TRUSTED:
            if answers(self._open, min(due, kernel.now() + _SILENT)):
                self._used_at = kernel.now()
                self._hear(self._open)
            else:
                self.close_connection()
        self._connection(min(due, kernel.now() + _PATIENCE))

    def transact(
        self, due: float, *statements: tuple[str, Values], longest: float = STATEMENT
    ) -> list[Rows]:
        """One transaction, in one round trip: the rows of each statement.

        ``longest``: seconds that one of them may take. When this raises ``StoreUnavailable``, it
        may have been committed all the same, and the connection is gone.
        """
        due = min(due, kernel.now() + _PATIENCE + longest - STATEMENT)
        connection = self._connection(due)
        connection.due = due
        limit = max(min(longest, due - kernel.now()), 0.1)
        limits = {
            "lock_ms": _ms(min(limit, STATEMENT) * 0.8),
            "statement_ms": _ms(limit),
            "idle_ms": _ms(_IDLE_IN_TRANSACTION),
        }
        try:
            _, ((self._pid, self.fsync, *_),), *found, _ = connection.batch(
                (_SQL["begin"], {}), (_SQL["limits"], limits), *statements, (_SQL["commit"], {})
            )
            self._used_at = kernel.now()
            self._hear(connection)
        except errors.Error as error:
            # In whatever state it is: after an error nobody relies on it.
            self.close_connection()
            said = unavailable(self._url, error, self._store)
            raise Unstorable(str(said)) if isinstance(error, errors.DataError) else said from None
        return found

    def is_alive(self, due: float) -> bool:
        """Whether the session answers by ``due``; if not, it is lost, and ended when we close.

        The server frees what a session holds when we end it: time to do without that first.
        """
        if self._open is None:
            return False
        if answers(self._open, min(due, kernel.now() + _PATIENCE)):
            self._hear(self._open)
            return True
        with contextlib.suppress(errors.Error):  # libpq has closed what is broken
            self._watch().unregister(self._open.pgconn.socket)
        self._failed, self._open, self._pid, self.listens = self._open, None, 0, False
        self.lost += 1
        return False

    def settle(self, due: float) -> bool:
        """Make the session one that may be relied on; False when it is not ours."""
        if not self.pid:
            self.transact(due)
        self.pooled = not self.pid
        if not self.pooled:
            self._say(due, _SQL["settle"])
            self._connection(due).prepares = True
        return not self.pooled

    def listen(self, due: float) -> bool:
        """Be woken from now on, until the connection ends; False where that is not possible."""
        if self.pooled or not self.settle(due):
            return False
        self._say(due, _SQL["listen"].format(channel=self.channel))
        self.listens = True
        return True

    def fileno(self) -> int:
        """Readable when somebody wakes us, or the connection has ended."""
        return self._watch().fileno()

    def drain(self) -> None:
        """Read what made it readable; never blocks."""
        if self._poll is not None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)
        if self._open is not None:
            poll = select.poll()
            poll.register(self._open.pgconn.socket, select.POLLIN)
            try:
                # Until nothing is left: what a server says at the end comes before the end itself.
                while poll.poll(0):
                    self._take(self._open)
            except errors.Error:
                self.close_connection()

    def close_connection(self) -> None:
        """Let go of the connection until it is needed again."""
        held, self._open, self._pid, self.listens = self._open, None, 0, False
        self._end_failed()
        if held is not None:
            self.lost += 1
            held.close()

    def _end_failed(self) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            failed.close()

    def close(self) -> None:
        """Let go of everything until it is needed again."""
        self.close_connection()
        if self._poll is not None:
            self._poll.close()
            os.close(self._bell)
            self._poll = None

    def _connection(self, due: float) -> Connection:
        if self._open is None:
            self._end_failed()
            fresh = connect(self._url, due, self._store)
            try:
                # Once: a run that lives through a migration goes on renewing what it holds.
                if not self._checked:
                    schema.check(fresh, self._url, self._store)
            except BaseException as error:
                fresh.close()
                if isinstance(error, errors.Error):
                    raise unavailable(self._url, error, self._store) from None
                raise
            self._checked = True
            self._watch().register(fresh.pgconn.socket, select.EPOLLIN)
            self._open = fresh
            self._used_at = kernel.now()
        return self._open

    def _watch(self) -> select.epoll:
        """What is readable when our bell is rung, or the connection has something to say."""
        if self._poll is None:
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._poll = select.epoll()
            self._poll.register(self._bell, select.EPOLLIN)
        return self._poll

    def _say(self, due: float, statement: str) -> None:
        connection = self._connection(due)
        connection.due = min(due, kernel.now() + _PATIENCE)
        try:
            connection.execute(statement)
            self._hear(connection)
        except errors.Error as error:
            self.close_connection()
            raise unavailable(self._url, error, self._store) from None

    def _hear(self, connection: Connection) -> None:
        """A word that came together with an answer makes no socket readable any more: ring."""
        if self._take(connection):
            self._ring()

    def _take(self, connection: Connection) -> bool:
        connection.pgconn.consume_input()
        found = False
        while connection.pgconn.notifies() is not None:
            found = True
        return found

    def _ring(self) -> None:
        os.eventfd_write(self._bell, 1)


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))
