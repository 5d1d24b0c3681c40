"""The schema ``guardrun`` in Postgres: which version is there, and bringing it up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from guardrun import kernel, sql
from guardrun.address import address
from guardrun.errors import StoreOutdated, StoreUnavailable
from guardrun.postgres.connection import LEDGER, connect, unavailable
from guardrun.postgres.lean_psycopg import errors

if TYPE_CHECKING:
    from guardrun.postgres.wire import Connection

SCHEMA = 2
"""The highest number among the files ``sql/postgres/NNNN_….sql``."""

_SQL = sql.statements("postgres", "schema")
_OLDEST = 120000
"""Postgres 12; older ones get no fixes any more"""


class Migration(NamedTuple):
    """What a migration does, or did."""

    before: int
    """the schema's version; 0 where there is none"""
    after: int
    names: tuple[str, ...]
    """of the migrations in between, in their order; empty where nothing is to do"""


def check(connection: Connection, url: str, store: str = LEDGER) -> None:
    """Raise ``StoreOutdated`` unless the schema is the one this version knows."""
    _compare(url, _version(connection), store)


def pending(url: str, due: float, store: str = LEDGER) -> Migration:
    """What ``migrate`` would do now; changes nothing.

    Raises as ``migrate``.
    """
    connection = connect(url, due, store)
    try:
        return _plan(connection, url, store)
    except errors.Error as error:
        raise unavailable(url, error, store) from error
    finally:
        connection.close()


def migrate(url: str, due: float, store: str = LEDGER) -> Migration:
    """Create the schema, or bring it up to date: all in one transaction; safe under concurrency.

    ``due`` (CLOCK_BOOTTIME) is when to give up. Raises ``StoreUnavailable``, ``StoreOutdated`` for
    a schema newer than this version, and ``ConfigError`` for a URL that cannot be read.
    """
    connection = connect(url, due, store)
    try:
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        # Given up by the server as well, and before we do: who waits for a table blocks all others.
        wait = str(max(int((due - kernel.now()) * 800), 1))
        connection.execute(_SQL["limits"], {"lock_ms": wait})
        connection.execute(_SQL["lock"])
        plan = _plan(connection, url, store)
        if plan.before == 0 and not _found(connection)[0]:
            connection.execute(_SQL["create"])
        scripts = dict(sql.migrations("postgres"))
        for name in plan.names:
            version = int(name[:4])
            connection.execute(scripts[version])
            connection.execute(_SQL["record"], {"version": version, "name": name})
        connection.execute("COMMIT")
    except errors.DuplicateObject as error:
        raise _foreign(url, store) from error
    except errors.DuplicateTable as error:
        raise _foreign(url, store) from error
    except errors.InsufficientPrivilege as error:
        raise StoreUnavailable(
            f"the {store} {address(url, {})}: {error.diag.message_primary}; "
            "migrate as the role that owns the schema guardrun, or may create it in this database"
        ) from error
    except errors.Error as error:
        raise unavailable(url, error, store) from error
    finally:
        connection.close()  # which rolls back what is not committed
    return plan


def _plan(connection: Connection, url: str, store: str) -> Migration:
    _, versioned, server, encoding = _found(connection)
    where = address(url, {})
    if server < _OLDEST:
        raise StoreUnavailable(
            f"the {store} {where} is in Postgres {server // 10000}: "
            f"upgrade it to {_OLDEST // 10000} or later"
        )
    if encoding != "UTF8":
        raise StoreUnavailable(
            f"the {store} {where} is in a database with encoding {encoding}: "
            "name one that was created with ENCODING 'UTF8'"
        )
    before = _version(connection) if versioned else 0
    if before > SCHEMA:
        _compare(url, before, store)
    names = tuple(name for name in sql.migration_names("postgres") if int(name[:4]) > before)
    return Migration(before, SCHEMA, names)


def _found(connection: Connection) -> tuple[bool, bool, int, str]:
    ((schema, versioned, server, encoding),) = connection.execute(_SQL["found"])
    return schema, versioned, server, encoding


def _version(connection: Connection) -> int:
    ((version,),) = connection.execute(_SQL["version"])
    return version or 0


def _compare(url: str, version: int, store: str) -> None:
    where = address(url, {})
    if version > SCHEMA:
        raise StoreOutdated(
            f"the {store} {where} has schema {version}, this guardrun knows {SCHEMA}: "
            f"upgrade guardrun, or name another {store}"
        )
    if version < SCHEMA:
        raise StoreOutdated(
            f"the {store} {where} has schema {version}, this guardrun needs {SCHEMA}: "
            "run guardrun migrate"
        )


def _foreign(url: str, store: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"the {store} {address(url, {})}: its schema guardrun holds something else; "
        "move that away, or name another database"
    )
