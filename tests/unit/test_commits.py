"""Group commit: what items write together is one transaction, and each hears of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from guardrun.errors import ConfigError, StoreUnavailable
from guardrun.ledger.sqlite_writer import Transactions
from guardrun.pool.commits import Commits
from guardrun.pool.hub import Hub


class Counted(Transactions):
    """Transactions of a ledger, counted; ``fails`` has the next one fail at its end."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.count = 0
        self.synchronous = ""
        self.fails = False

    def write(self, synchronous: str, body: Callable[[sqlite3.Connection], None]) -> None:  # type: ignore[override]
        """Count it, do it, and fail where that is wanted."""
        self.count += 1
        self.synchronous = synchronous

        def doomed(db: sqlite3.Connection) -> None:
            body(db)
            if self.fails:
                raise StoreUnavailable("the disk is full")

        super().write(synchronous, doomed)


@pytest.fixture
def writer(tmp_path: Path) -> Counted:
    """A ledger with a table to write to."""
    own = Counted(str(tmp_path / "ledger.sqlite3"))
    own.connection().execute("CREATE TABLE written (number INTEGER)")
    return own


def insert(number: int, error: Exception | None = None) -> Callable[[sqlite3.Connection], int]:
    """Something to write, which may find out then that it cannot be."""

    def body(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO written VALUES (?)", (number,))
        if error is not None:
            raise error
        return number

    return body


def played(
    writer: Counted, asked: list[tuple[str, Callable[[sqlite3.Connection], int]]]
) -> list[object]:
    """What became of what so many items wrote at once."""
    hub = Hub(frozenset())
    commits = Commits(hub, writer)
    said: dict[int, object] = {}

    def item(at: int, synchronous: str, body: Callable[[sqlite3.Connection], int]) -> None:
        try:
            said[at] = commits.write(synchronous, body)
        except (StoreUnavailable, ConfigError, ValueError) as error:
            said[at] = error
        assert not commits.waiting()

    for at, (synchronous, body) in enumerate(asked):
        hub.start(lambda at=at, synchronous=synchronous, body=body: item(at, synchronous, body))  # type: ignore[misc]
    assert said == {}, "nobody goes on before the commit"
    while len(said) < len(asked):
        hub.wait((), 0.0)
    return [said[at] for at in range(len(asked))]


def written(writer: Counted) -> list[int]:
    """What is in the table."""
    return [row[0] for row in writer.connection().execute("SELECT number FROM written")]


def test_what_comes_together_is_one_transaction(writer: Counted) -> None:
    """Of any number of items, with the sync that the most careful of them asks for."""
    said = played(writer, [("NORMAL", insert(1)), ("FULL", insert(2)), ("NORMAL", insert(3))])
    assert said == [1, 2, 3]
    assert (writer.count, writer.synchronous) == (1, "FULL")
    assert written(writer) == [1, 2, 3]


def test_what_is_wrong_with_one_is_no_one_elses(writer: Counted) -> None:
    """What an item's own data break is undone, and the others are committed."""
    wrong = ConfigError("it has no name")
    said = played(writer, [("FULL", insert(1)), ("FULL", insert(2, wrong)), ("FULL", insert(3))])
    assert said == [1, wrong, 3]
    assert written(writer) == [1, 3]


def test_a_commit_that_fails_fails_all(writer: Counted) -> None:
    """Nobody takes for durable what the disk did not take."""
    writer.fails = True
    said = played(writer, [("FULL", insert(1)), ("FULL", insert(2))])
    assert [type(one) for one in said] == [StoreUnavailable] * 2
    assert written(writer) == []
