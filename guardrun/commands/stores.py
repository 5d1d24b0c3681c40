"""The ledger, for subcommands that write to it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, TypeVar

from guardrun import kernel, safety
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


def patiently(spec: LedgerSpec, ask: Callable[[float], Answer]) -> Answer:
    """Ask until the ledger answers, as long as a run would at its start; jittered.

    ``ask`` is told until when. Raises the ledger's last ``StoreUnavailable``.
    """
    due = kernel.now() + spec.store_wait
    return insist(_Patience(), random.Random(), due, _CAP, ask)


class _Patience:
    """Waits with nothing else to watch: a signal ends the process."""

    def pause(self, _fds: Sequence[int], due: float) -> Collection[int]:
        time.sleep(max(due - kernel.now(), 0.0))
        return ()

    def check(self) -> None: ...
