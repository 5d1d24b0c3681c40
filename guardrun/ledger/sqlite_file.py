"""Opening, making and upgrading the embedded ledger's file, and what its errors mean."""

from __future__ import annotations

import os
import stat

from guardrun.errors import ConfigError, StoreOutdated, StoreUnavailable, UnsafePath
from guardrun.sql import migrations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    import sqlite3 as driver
else:
    try:
        import _sqlite3 as driver  # ``sqlite3`` itself also loads datetime: 2 ms of every run
    except ImportError:
        import sqlite3 as driver

__all__ = [
    "SCHEMA",
    "close_for_writing",
    "connect",
    "driver",
    "is_transient",
    "open_for_writing",
    "path_of",
    "unavailable",
    "version",
]

SCHEMA = 1
"""The highest number among the files ``sql/sqlite/NNNN_….sql``."""

# The next run reads the log once more, so it is kept short.
_LOG_PAGES = 200
_LOG_BYTES = 1 << 20

_BUSY, _LOCKED = 5, 6
_MEANING = {
    3: "access is denied; check the owner and mode of the file and its directory",
    _BUSY: "another process is writing to it; try again",
    _LOCKED: "another process is writing to it; try again",
    8: "it cannot be written; check its owner and mode, and that its filesystem is not read-only",
    10: "reading or writing failed; check the disk and the kernel log",
    11: "the file is damaged; restore it from a backup, or move it away and start afresh",
    13: "the disk is full; make room",
    14: "it cannot be opened; check that its directory exists and is writable",
    26: "it is not an SQLite database; move it away, or name another file",
}


def path_of(url: str) -> str:
    """The file of ``sqlite:///PATH``; ``ConfigError`` for any other URL."""
    scheme, _, path = url.partition("://")
    if scheme != "sqlite" or not path.startswith("/"):
        raise ConfigError(f"the ledger {scheme}: is not a file: sqlite:///PATH is")
    return path


def connect(path: str, mode: str, patience: float) -> sqlite3.Connection:
    """Open the file as it is, in autocommit mode; it is never made here.

    ``mode`` is ``rw`` or ``ro``; ``patience``: seconds that SQLite itself waits for a lock.
    """
    name = os.path.abspath(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return driver.connect(
        f"file://{name}?mode={mode}", timeout=patience, isolation_level=None, uri=True
    )


def open_for_writing(path: str) -> sqlite3.Connection:
    """Open the ledger; make it, or bring its schema up to date, where that is needed.

    Raises ``StoreUnavailable``, ``StoreOutdated`` for a schema newer than this version, and
    ``UnsafePath`` for a symbolic link. Does not wait for other processes.
    """
    _make(path)
    db: sqlite3.Connection | None = None
    try:
        db = connect(path, "rw", 0)
        db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        if version(db, path) < SCHEMA:
            upgrade(db, path)
    except BaseException as error:
        if db is not None:
            db.close()
        if isinstance(error, driver.Error):
            raise unavailable(path, error) from error
        raise
    return db


def close_for_writing(db: sqlite3.Connection, path: str) -> None:
    """Close, and leave the write-ahead log to the next run.

    SQLite has the last one to close copy the log back and remove it: for a lone run that is four
    syncs (log and database now, new log and directory next time) beside the two that matter. A
    reader that closes last cannot, and so the log stays. (Python 3.12 has a setting for this.)
    """
    reader: sqlite3.Connection | None = None
    try:
        reader = connect(path, "ro", 0)
        reader.execute("PRAGMA user_version").fetchone()
    except driver.Error:
        pass  # then the log is copied back
    db.close()
    if reader is not None:
        reader.close()


def version(db: sqlite3.Connection, path: str) -> int:
    """The file's schema, 0 when it is empty; ``StoreOutdated`` when it is newer than ours."""
    number: int = db.execute("PRAGMA user_version").fetchone()[0]
    if number > SCHEMA:
        raise StoreOutdated(
            f"the ledger {path} has schema {number}, this guardrun knows {SCHEMA}: "
            "upgrade guardrun, or name another ledger"
        )
    return number


def upgrade(db: sqlite3.Connection, path: str) -> None:
    """Apply the migrations that are missing, all in one transaction; safe under concurrency."""
    if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise StoreUnavailable(
            f"the ledger {path} cannot have a write-ahead log here: "
            "put it on a local filesystem, not a network one"
        )
    db.execute("BEGIN IMMEDIATE")
    try:
        # Read again: another process may have done it all since.
        found = version(db, path)
        if found == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StoreUnavailable(
                f"{path} is the database of another program: name another file as ledger"
            )
        for number, script in migrations("sqlite"):
            if number > found:
                for statement in _split(script):
                    db.execute(statement)
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def unavailable(path: str, error: Exception) -> StoreUnavailable:
    """What a driver's error means for people."""
    code = getattr(error, "sqlite_errorcode", None)
    name = getattr(error, "sqlite_errorname", None)
    # The low byte is the error, the rest says where it came up (SQLITE_IOERR_FSYNC).
    meaning = str(error) if code is None else _MEANING.get(code & 0xFF, str(error))
    return StoreUnavailable(f"the ledger {path}: {meaning}" + (f" ({name})" if name else ""))


def is_transient(error: Exception) -> bool:
    """Whether the connection is still good: somebody else just had the lock."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (_BUSY, _LOCKED)


def _make(path: str) -> None:
    """Make the empty file, 0600 whatever the umask; SQLite gives its -wal and -shm the same."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unmakable(path, error) from error
    else:
        if stat.S_ISLNK(found.st_mode):
            raise UnsafePath(f"the ledger {path} is a symbolic link: name the file itself")
        if not stat.S_ISREG(found.st_mode):
            raise UnsafePath(f"the ledger {path} is not a regular file: remove it, or name another")
        if found.st_uid != os.geteuid():
            raise UnsafePath(f"the ledger {path} belongs to user {found.st_uid}: run as that user")
        return
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise _unmakable(path, error) from error
    try:
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)


def _unmakable(path: str, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"cannot make the ledger {path}: {error.strerror}; check the state directory"
    )


def _split(script: str) -> list[str]:
    """The statements of a script; comments and strings may hold semicolons."""
    found, pending = [], ""
    for line in script.splitlines(keepends=True):
        pending += line
        if driver.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found
