"""Every store: whether it answers, how fast, what its clock says, and what it would forget."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import NamedTuple

from guardrun import kernel
from guardrun.commands.stores import Patience
from guardrun.doctor.asked import Stores
from guardrun.doctor.finding import NOTE, OK, Finding, told
from guardrun.errors import GuardrunError
from guardrun.ledger.sqlite_file import path_of
from guardrun.locks.signs import open_signs
from guardrun.locks.stores import CONSUL, ETCD, address
from guardrun.model import LedgerSpec
from guardrun.supervisor.retry import insist

_LONGEST = 5.0
"""s for one store, where --store-wait is longer"""
_CAP = 1.0
"""s; the longest that asking once more is put off"""
_APART = 1.0
"""s that a host's clock may differ from a store's before that is worth a word"""


class Answer(NamedTuple):
    """How a store answers."""

    latency: float
    """s for a question and its answer, over a connection that is there"""
    offset: float
    """s that the store's clock is ahead of ours"""


Look = Callable[[str, str, float], tuple[str, dict[str, object], list[Finding]]]
"""(subject, URL, due) → what the server is, the same for programs, and what is wrong with it"""


def examine(stores: Stores) -> list[Finding]:
    """Ask every ledger and every lease store."""
    due = min(stores.store_wait, _LONGEST)
    found: list[Finding] = []
    for ledger in stores.ledgers:
        found += _ledger(ledger, due)
    known = [ledger.url for ledger in stores.ledgers]
    for url in (one for one in stores.leases if one not in known):
        found += _remote("leases", url, due)
    return found


def _ledger(spec: LedgerSpec, patience: float) -> list[Finding]:
    scheme = spec.url.partition(":")[0]
    if scheme == "none":
        says = "none: keeps nothing: no keys, no history, no metrics"
        return [Finding("ledger", NOTE, says, "name a ledger where outcomes matter")]
    if scheme == "sqlite":
        from guardrun.doctor import sqlite

        return sqlite.examine(path_of(spec.url))
    return _remote("ledger", spec.url, patience)


def _remote(subject: str, url: str, patience: float) -> list[Finding]:
    """A store behind a network, of any kind."""
    look = _look(url)
    until = kernel.now() + patience
    try:
        # As a run does: a member that is lost, or an election, is over when one asks again.
        answer, (what, known, wrong) = insist(
            Patience(),
            random.Random(),
            until,
            _CAP,
            lambda due: (measure(url, due), look(subject, url, due)),
        )
    except GuardrunError as error:
        return [told(subject, error)]
    facts = {
        "url": address(url),
        "latency_ms": round(answer.latency * 1000, 3),
        "clock_offset_ms": round(answer.offset * 1000),
        **known,
    }
    quick = f"answers in {answer.latency * 1000:.1f} ms"
    says = f"{address(url)}: {what}, {quick}, its clock is {_clock(answer.offset)}"
    return [Finding(subject, OK, says, facts=facts), *apart(subject, url, answer), *wrong]


def measure(url: str, due: float) -> Answer:
    """Ask a store for its clock. Raises ``StoreUnavailable``."""
    signs = open_signs(url)
    try:
        signs.clock(due)
        sent, begun = time.time(), kernel.now()
        clock = signs.clock(due)
        latency = kernel.now() - begun
    finally:
        signs.close()
    return Answer(latency, clock - sent - latency / 2)


def apart(subject: str, url: str, answer: Answer) -> list[Finding]:
    """What is to be said about a store's clock that shows another time than ours."""
    if abs(answer.offset) <= _APART + answer.latency:
        return []
    says = f"{address(url)}: its clock is {_clock(answer.offset)} of this host's"
    mend = (
        "have both follow one time (chrony, NTP): {date} and {window} in keys are this host's, "
        "while ttl and expiry are the store's"
    )
    return [Finding(subject, NOTE, says, mend, {"clock_offset_ms": round(answer.offset * 1000)})]


def _clock(offset: float) -> str:
    size = abs(offset)
    shown = f"{size * 1000:.0f} ms" if size < 10 else f"{size:.0f} s"
    return f"{shown} {'ahead' if offset >= 0 else 'behind'}"


def _look(url: str) -> Look:
    """What looks at the kind of server that ``url`` names."""
    scheme = url.partition(":")[0]
    if scheme.startswith("postgresql"):
        from guardrun.doctor import postgres

        return postgres.look
    if scheme in ETCD:
        from guardrun.doctor import etcd

        return etcd.look
    if scheme in CONSUL:
        from guardrun.doctor import consul

        return consul.look
    from guardrun.doctor import redis

    return redis.look


def in_use(stores: Stores) -> dict[str, list[str]]:
    """Directories that runs use, by what is in them: of embedded ledgers, and of locks."""
    ledgers = [
        os.path.dirname(path_of(one.url)) for one in stores.ledgers if one.url.startswith("sqlite:")
    ]
    state = [one.state_dir for one in stores.ledgers if one.url != "none:"]
    return {"state": list(dict.fromkeys([*state, *ledgers])), "locks": [stores.locks]}
