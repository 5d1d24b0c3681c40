"""Connecting to Postgres, waiting for it no longer than told, and what its errors mean."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from guardrun import kernel
from guardrun.address import address
from guardrun.errors import ConfigError, StoreOutdated, StoreUnavailable
from guardrun.postgres.lean_psycopg import conninfo, errors, pq
from guardrun.postgres.wire import READ, WRITE, Connection, poll

if TYPE_CHECKING:
    from collections.abc import Mapping

LEDGER, LEASES, BOTH = "ledger", "lease store", "ledger and lease store"
"""what a server may be to us"""

_CONNECT_WAIT = 5.0
"""s for one address of one host, where neither the URL nor PGCONNECT_TIMEOUT says otherwise"""
_LONGEST_MESSAGE = 400

_ALIVE = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


def connect(url: str, due: float, store: str = LEDGER) -> Connection:
    """Connect by ``due`` (CLOCK_BOOTTIME), to the first host that takes us.

    ``store`` is what the server is to us, for messages.

    Raises ``StoreUnavailable``, and ``ConfigError`` for a URL that cannot be read.
    """
    given = _parameters(url, store)
    wait = _connect_wait(given, store)
    failures: list[str] = []
    try:
        for attempt in conninfo.conninfo_attempts(given):
            try:
                words = conninfo.make_conninfo("", **attempt)
                return _connected(words, min(due, kernel.now() + wait), due)
            except errors.OperationalError as error:
                if str(error) not in failures:
                    failures.append(str(error))
                if kernel.now() >= due:
                    break
    except errors.Error as error:  # a name that is unknown, a file that is not there
        raise unavailable(url, error, store) from None
    raise unavailable(url, errors.OperationalError("; ".join(failures)), store)


def unavailable(url: str, error: errors.Error, store: str = LEDGER) -> StoreUnavailable:
    """What an error means for people: what, why, what to do; without any password."""
    where = address(url, os.environ)
    code = error.sqlstate or _code(str(error))
    if code in _NO_SCHEMA:
        return StoreOutdated(
            f"the {store} {where} has no schema of guardrun, or an older one: run guardrun migrate"
        )
    said = _one_line(error.diag.message_primary or str(error))
    for secret in _secrets(url):
        said = said.replace(secret, "***")
    remedy = _REMEDIES.get(code or "") or _REMEDIES.get((code or "")[:2]) or _TRY_AGAIN
    return StoreUnavailable(f"the {store} {where}: {said}; {remedy}")


# ---------------------------------------------------------------- connecting


def _parameters(url: str, store: str) -> dict[str, Any]:
    """The URL's parameters, and ours where neither URL, environment nor service file has any."""
    base, _, query = url.partition("://")[2].partition("?")
    authority, _, path = base.partition("/")
    try:
        given = dict(conninfo.conninfo_to_dict(url))
    except errors.Error:
        raise _unreadable(store) from None
    # A password with an unescaped @, / or ? would be taken for something else, and shown.
    split = authority.count("@") > 1 or "@" in path or ("@" not in authority and "@" in query)
    ports = str(given.get("port", "")).split(",")
    if split or not all(port.isdigit() or not port for port in ports):
        raise _unreadable(store)
    given.setdefault("fallback_application_name", "guardrun")
    given["client_encoding"] = "UTF8"
    if "service" in given or "PGSERVICE" in os.environ:
        return given  # what the file says is for libpq to find
    for name, value in _ALIVE.items():
        given.setdefault(name, value)
    hosts = str(given.get("host", os.environ.get("PGHOST", "")))
    if "," in hosts and "PGTARGETSESSIONATTRS" not in os.environ:
        given.setdefault("target_session_attrs", "read-write")
    return given


def _unreadable(store: str) -> ConfigError:
    return ConfigError(
        f"the {store}'s URL cannot be read: write postgresql://USER@HOST:PORT/DATABASE, "
        "and %40 for @, %3A for :, %2F for /, %3F for ? in names and passwords"
    )


def _connect_wait(given: Mapping[str, Any], store: str) -> float:
    text = str(given.get("connect_timeout", os.environ.get("PGCONNECT_TIMEOUT", "")))
    try:
        seconds = float(text or 0)
    except ValueError:
        raise _unreadable(store) from None
    return max(seconds, 2.0) if seconds > 0 else _CONNECT_WAIT  # as libpq reads it


def _connected(words: str, until: float, due: float) -> Connection:
    pgconn = pq.PGconn.connect_start(words.encode())
    try:
        if pgconn.status != pq.ConnStatus.BAD:
            while (status := pgconn.connect_poll()) != pq.PollingStatus.OK:
                if status == pq.PollingStatus.FAILED:
                    break
                reading = status == pq.PollingStatus.READING
                poll(pgconn.socket, READ if reading else WRITE, until)
        if pgconn.status != pq.ConnStatus.OK:
            raise errors.OperationalError(pgconn.error_message.decode("utf-8", "replace"))
    except BaseException:
        pgconn.finish()
        raise
    return Connection(pgconn, due)


# ---------------------------------------------------------------- errors

_NO_SCHEMA = ("42P01", "3F000", "42703", "42883", "42P10")
_TRY_AGAIN = "check the server and the way to it, then try again"
_REMEDIES = {
    "overdue": "check that the server is not stopped or overloaded, and the way to it",
    "refused": "check that the server runs there, and its port",
    "name": "check the host's name and the resolver",
    "tls": "check sslmode, and the certificates it asks for",
    "25006": "name the primary, or all hosts of the cluster (or set "
    "default_transaction_read_only = off for the role)",
    "28": "check the user, the password (PGPASSFILE, a credential) and the server's pg_hba.conf",
    "3D000": "create the database, then run guardrun migrate",
    "40": "try again",
    "42501": "grant what docs/postgres.md lists for the run role",
    "53300": "raise max_connections, or put PgBouncer between; then try again",
    "53": "make room on the server",
    "55P03": "another transaction holds the lock; try again",
    "57014": "check for long transactions and load on the server; then try again",
    "57P": "it is going down or coming up; try again",
}
"""By SQLSTATE, its class, or a word for what has none."""

_SIGNS = (
    ("no answer in time", "overdue"),
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("pg_hba.conf", "28000"),
    ("no such user", "28000"),
    ("role ", "28000"),
    ("no such database", "3D000"),
    ("database ", "3D000"),
    ("too many c", "53300"),
    ("remaining connection slots", "53300"),
    ("no more connections allowed", "53300"),
    ("read-only", "25006"),
    ("starting up", "57P03"),
    ("shutting down", "57P03"),
    ("recovery", "57P03"),
    ("refused", "refused"),
    ("No such file", "refused"),
    ("host name", "name"),
    ("resolve", "name"),
    ("SSL", "tls"),
    ("certificate", "tls"),
)
"""A refused connection comes without SQLSTATE: what the messages of libpq and PgBouncer say."""


def _code(message: str) -> str | None:
    return next((code for sign, code in _SIGNS if sign in message), None)


def _one_line(message: str) -> str:
    words = " ".join(message.split()).removeprefix("FATAL: ")
    shown = "".join(letter if letter.isprintable() else "?" for letter in words)
    return shown if len(shown) <= _LONGEST_MESSAGE else shown[:_LONGEST_MESSAGE] + "…"


def _secrets(url: str) -> list[str]:
    """What must not be shown, as it was written and as it is meant; the longest first."""
    found = {os.environ.get("PGPASSWORD", "")}
    base, _, query = url.partition("://")[2].partition("?")
    found.add(base.rpartition("@")[0].partition(":")[2])
    for word in query.split("&"):
        name, _, value = word.partition("=")
        if unquote(name).endswith(("password", "secret")):
            found.add(value)
    found |= {unquote(secret) for secret in found}
    return sorted(found - {""}, key=len, reverse=True)
