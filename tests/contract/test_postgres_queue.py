"""The queue for a lease in Postgres, when it is long."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest
from fleet import ask
from lease_stores import STORES, Leases, busy, due, granted, lock_name, request


@pytest.fixture
def leases() -> Iterator[Leases]:
    """The lease table, in the session's server."""
    store: Leases = STORES["postgres"].shared()
    yield store
    store.close()


def test_far_behind(leases: Leases) -> None:
    """Nobody sleeps for long because many were before it: it may be the first when that lapses."""
    holder, *stores = [leases.open() for _ in range(13)]
    first, *waiting = [request(lock) for lock in [lock_name()] * 13]
    granted(holder.acquire(first, False, due()))
    told = [
        busy(store.acquire(wanted, True, due())).ask_again
        for store, wanted in zip(stores, waiting, strict=True)
    ]
    assert told == sorted(told)
    assert max(told) <= 15


def test_a_late_question_wakes_the_first(leases: Leases) -> None:
    """Whoever asks after a lapse tells the first in the queue, which did not know of it."""
    holder, head, last = (leases.open() for _ in range(3))
    lapsing, first, second = (request(lock) for lock in [lock_name()] * 3)
    granted(holder.acquire(lapsing, False, due()))
    busy(head.acquire(first, True, due()))
    busy(last.acquire(second, True, due()))
    # As if its time had run out just now; to wait for that would be a race with the last to come.
    ask(
        leases.url,
        "UPDATE guardrun.lease_holders SET expires_at = now() WHERE token = %s",
        lapsing.token,
    )
    assert not holder.holders(lapsing.lock, due())
    woken = head.wake_fd() or -1
    assert not select.select([woken], [], [], 0)[0]
    busy(last.acquire(second, True, due()))
    assert select.select([woken], [], [], 10)[0]
    granted(head.acquire(first, True, due()))
