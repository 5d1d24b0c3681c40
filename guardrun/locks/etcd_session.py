"""What a lease store asks of an etcd cluster: transactions, etcd's own leases, its clock."""

from __future__ import annotations

import time
from math import ceil
from typing import TYPE_CHECKING

from guardrun.errors import StoreUnavailable
from guardrun.locks.etcd_connection import Gateway, Refused
from guardrun.locks.etcd_keys import ALIVE, PREFIX, coded, key, prefix
from guardrun.locks.etcd_words import all_of, records

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from guardrun.locks.etcd_words import Word
    from guardrun.locks.json_http import Wire


class Session:
    """A cluster as one store uses it. Every method raises ``StoreUnavailable``."""

    def __init__(self, url: str) -> None:
        self._gateway = Gateway(url)

    @property
    def where(self) -> int:
        """Which member answers; another one after each failure."""
        return self._gateway.where

    def transact(
        self,
        due: float,
        lock: str,
        only_if: list[Word],
        then: list[Word],
        otherwise: Sequence[Word] = (),
    ) -> Word:
        """One transaction about a lock's keys; ``succeeded`` is in the answer, or is not there."""
        body = {"compare": only_if, "success": then, "failure": otherwise}
        return self.ask(due, "kv/txn", body, prefix(lock).decode())

    def ask(self, due: float, path: str, body: Word, keys: str = "") -> Word:
        """One request; ``keys`` is what those begin with that it is about."""
        try:
            return self._gateway.ask(due, path, body)
        except Refused as refused:
            raise self._gateway.refusal(refused, keys) from None

    def listen(self, due: float, lock: str, body: Word) -> Wire:
        """A watch of a lock's keys."""
        try:
            return self._gateway.listen(due, body)
        except Refused as refused:
            raise self._gateway.refusal(refused, prefix(lock).decode()) from None

    # ------------------------------------------------------------ etcd's leases

    def new_lease(self, seconds: float, due: float) -> int:
        """A lease that lasts that long, or a bit longer: whole seconds, and never very few."""
        return int(self.ask(due, "lease/grant", {"TTL": ceil(seconds)})["ID"])

    def extend(self, lease: int, due: float) -> int:
        """Have a lease begin anew; how long it lasts then, in s. 0: there is none any more."""
        return int(self.ask(due, "lease/keepalive", {"ID": lease}).get("TTL", 0))

    def end(self, leases: Iterable[int], due: float) -> None:
        """End leases that nothing is attached to any more; else they would lapse by themselves."""
        for lease in leases:
            try:
                self._gateway.ask(due, "lease/revoke", {"ID": lease})
            except Refused:  # it has lapsed
                pass
            except StoreUnavailable:
                return

    def left(self, lease: int, due: float) -> float:
        """How long a lease has left, in s: whole ones, rounded down. Infinite without one."""
        if lease == 0:
            return float("inf")
        return float(self.ask(due, "lease/timetolive", {"ID": lease}).get("TTL", 0))

    # ------------------------------------------------------------ signs of life

    @property
    def now(self) -> float:
        """Seconds since 1970 by the member that answered last, when it did."""
        clock = self._gateway.clock
        return time.time() if clock is None else clock

    def clock(self, due: float) -> float:
        """The same, just now."""
        self.ask(due, "kv/range", {"key": coded(PREFIX)})
        return self.now

    def signs(self, lock: str, due: float) -> dict[str, str]:
        """By token of a holder: a text that changes with every renewal."""
        told = records(self.transact(due, lock, [], [all_of(key(lock, ALIVE))]))
        return {one.token: str(one.modified) for one in told}

    def close(self) -> None:
        """Let go of the connection."""
        self._gateway.close()
