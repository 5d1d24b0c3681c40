"""Ledger and locks, for subcommands that look after them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from guardrun import config, kernel, safety
from guardrun.errors import UsageError
from guardrun.ledger.records import keeps_nothing
from guardrun.ledger.sqlite import SqliteLedger
from guardrun.ledger.sqlite_file import path_of
from guardrun.model import LedgerSpec
from guardrun.supervisor.retry import insist

if TYPE_CHECKING:
    from guardrun.ledger.postgres import PostgresLedger

Answer = TypeVar("Answer")

_CAP = 1.0
"""s; the longest that asking once more is put off"""


class LockStores(NamedTuple):
    """Where the locks are that a subcommand is about."""

    directory: str | None
    """of host locks; ``None``: they are not asked for"""
    lease_url: str | None
    """``None``: no lease store is configured, or leases are not asked for"""
    by_default: bool
    """no option names a lease store, and it is the ledger's Postgres"""
    ledger: LedgerSpec
    store_wait: float


def lock_stores(
    lease_url: str | None, ledger_url: str | None, file: str | None, environ: Mapping[str, str]
) -> LockStores:
    """Find the locks of both scopes; the first three are a subcommand's own options."""
    places = config.lock_places(lease_url, ledger_url, file, environ)
    ledger = config.ledger_spec(ledger_url, file, environ)
    by_default = lease_url is None and places.lease_url == ledger.url
    return LockStores(places.directory, places.lease_url, by_default, ledger, places.store_wait)


def within(stores: LockStores, scope: str | None) -> LockStores:
    """The locks of one scope; ``None``: of both.

    Raises ``UsageError`` where leases are asked for and there is no store of them.
    """
    if scope == "host":
        return stores._replace(lease_url=None)
    url = stores.lease_url
    if scope is None:
        return stores
    if url is None:
        raise UsageError("--scope distributed needs a lease store: give --lease-url")
    return stores._replace(directory=None, by_default=False)


def scheme(spec: LedgerSpec) -> str:
    """The kind of ledger; raises ``ConfigError`` for one that keeps nothing."""
    found = spec.url.partition(":")[0]
    if found == "none":
        raise keeps_nothing(found)
    return found


def open_ledger(spec: LedgerSpec) -> SqliteLedger | PostgresLedger:
    """The ledger, to write to; an SQLite file is made when it is first used.

    Raises ``UnsafePath`` where a run would, and ``ConfigError`` for a ledger that keeps nothing.
    """
    if scheme(spec) == "postgresql":
        from guardrun.ledger.postgres import PostgresLedger

        return PostgresLedger(spec.url, time.time)
    path = path_of(spec.url)
    os.close(safety.private_directory(os.path.dirname(path), "ledger directory"))
    return SqliteLedger(path, time.time, spec.keep)


def patiently(store: LedgerSpec | LockStores, ask: Callable[[float], Answer]) -> Answer:
    """Ask until a store answers, as long as a run would at its start; jittered.

    ``ask`` is told until when. Raises the store's last ``StoreUnavailable``.
    """
    due = kernel.now() + store.store_wait
    return insist(Patience(), random.Random(), due, _CAP, ask)


class Patience:
    """Waits with nothing else to watch: a signal ends the process."""

    def pause(self, _fds: Sequence[int], due: float) -> Collection[int]:
        time.sleep(max(due - kernel.now(), 0.0))
        return ()

    def check(self) -> None: ...
