"""One connection to Postgres over libpq, that waits for it no longer than told.

libpq waits for nothing by itself here, and every wait of ours ends at ``Connection.due``, without
signals or threads, also when the server is frozen: then the connection is closed, and what it was
doing may or may not have happened. It is always in autocommit mode: a transaction is what a
statement says.
"""

from __future__ import annotations

import select
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from guardrun import kernel
from guardrun.postgres.lean_psycopg import errors, pq
from guardrun.postgres.values import numbered, read, written

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from psycopg.pq.abc import PGconn, PGresult

    Values = Mapping[str, Any]
    Row = tuple[Any, ...]

READ, WRITE = 1, 2
_EVENTS = ((READ, select.POLLIN), (WRITE, select.POLLOUT))
_LONGEST_POLL = 1.0
"""s; poll's own clock stands still during suspend"""
_DONE = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)

_numbered = lru_cache(numbered)


class _Ready(NamedTuple):
    """A statement as libpq takes it."""

    text: bytes
    data: list[bytes | None]
    types: tuple[int, ...]
    formats: list[int]


class Overdue(errors.OperationalError):
    """The answer did not come in time."""


class Connection:
    """What has been connected. Whatever goes wrong is an ``errors.Error``; then it is useless."""

    def __init__(self, pgconn: PGconn, due: float) -> None:
        self.pgconn = pgconn
        self.due = due
        self.prepares = False
        """statements are kept on the server: only where the next one meets the same session"""
        self._prepared: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        pgconn.nonblocking = 1

    def execute(self, statement: str, values: Values | None = None) -> list[Row]:
        """The rows of one statement; without ``values`` it may be several, of which the last's."""
        if values is not None:
            return self.batch((statement, values))[0]
        self.pgconn.send_query(statement.encode())
        results = [result for result in self._results() if result is not None]
        for result in results:
            _check(result)
        return _rows(results[-1]) if results else []

    def batch(self, *statements: tuple[str, Values]) -> list[list[Row]]:
        """The rows of each of these statements, in one round trip.

        The server skips those after one that failed, and this raises what was wrong with that.
        """
        ready = [_ready(*statement) for statement in statements]
        self.pgconn.enter_pipeline_mode()
        told = [answers for one in ready for answers in self._send(one)]
        self.pgconn.pipeline_sync()
        found: list[list[Row]] = []
        each = iter(told)
        for result in self._results():
            if result is None or result.status == pq.ExecStatus.PIPELINE_SYNC:
                continue
            _check(result)
            if next(each):
                found.append(_rows(result))
        self.pgconn.exit_pipeline_mode()
        return found

    def close(self) -> None:
        """End it; the server undoes what was not committed."""
        self.pgconn.finish()

    def _send(self, ready: _Ready) -> Iterator[bool]:
        """Send a statement; for each answer that there will be, whether it is the rows."""
        text, data, types, formats = ready
        if not self.prepares:
            self.pgconn.send_query_params(text, data, types, formats)
        else:
            name_of, wanted = self._prepared, (text, types)
            if wanted not in name_of:
                name_of[wanted] = b"guardrun_%d" % len(name_of)
                self.pgconn.send_prepare(name_of[wanted], text, types)
                yield False
            self.pgconn.send_query_prepared(name_of[wanted], data, formats)
        yield True

    def _results(self) -> Iterator[PGresult | None]:
        """All that is answered, as it comes; ``None`` after what belongs to one statement."""
        pgconn = self.pgconn
        piped = pgconn.pipeline_status != pq.PipelineStatus.OFF
        while True:
            unsent = pgconn.flush()
            while not pgconn.is_busy():
                result = pgconn.get_result()
                yield result
                if result is None and not piped:
                    return
                if result is not None and result.status == pq.ExecStatus.PIPELINE_SYNC:
                    return
            if poll(pgconn.socket, READ | WRITE if unsent else READ, self.due) & READ:
                pgconn.consume_input()


def answers(connection: Connection, due: float) -> bool:
    """Whether the server answers by ``due``; if not, the session is left as it is, and is useless.

    Closing it would end what the session holds.
    """
    connection.due = due
    try:
        connection.execute("SELECT")
    except errors.Error:
        return False
    return True


def poll(fd: int, wanted: int, due: float) -> int:
    """Wait until a socket is readable, writable, or what of it is ``wanted``; say which."""
    polled = select.poll()
    polled.register(fd, sum(event for ready, event in _EVENTS if wanted & ready))
    while (left := due - kernel.now()) > 0:
        for _, events in polled.poll(min(left, _LONGEST_POLL) * 1000):
            # An error is for libpq to find out, whatever it wanted to do.
            return sum(ready for ready, event in _EVENTS if events & event) or wanted
    raise Overdue("no answer in time")


def _ready(statement: str, values: Values) -> _Ready:
    text, names = _numbered(statement)
    told = [written(values[name]) for name in names]
    types = tuple(kind for _, kind, _ in told)
    return _Ready(text, [data for data, _, _ in told], types, [form for _, _, form in told])


def _check(result: PGresult) -> None:
    if result.status not in _DONE:
        raise errors.error_from_result(result)


def _rows(result: PGresult) -> list[Row]:
    kinds: Sequence[int] = [result.ftype(column) for column in range(result.nfields)]
    return [
        tuple(read(result.get_value(row, column), kind) for column, kind in enumerate(kinds))
        for row in range(result.ntuples)
    ]
