"""What a keeper holds: how long a grant or a renewal allows COMMAND to run."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from guardrun import kernel
from guardrun.core.lease import Lease
from guardrun.errors import StoreUnavailable
from guardrun.keeper.holding import Holding
from guardrun.term import Row, Term

TTL, GRACE = 60.0, 10.0
SLOW = 0.05
"""s that the store takes to answer"""
NEVER = float("inf")


def holding(ask: Callable[[float], bool]) -> tuple[Holding, Row]:
    """Something held, renewed by ``ask``, and the row that says what that allows."""
    row = Term().lock
    return Holding(ask, row, TTL, GRACE, random.Random(1)), row


def slowly(answer: bool) -> bool:
    """An answer that takes its time, all of it after the store has decided."""
    due = kernel.now() + SLOW
    while kernel.now() < due:
        pass
    return answer


def test_a_renewal_counts_from_before_it_was_asked_for() -> None:
    """The store may have granted it at once, so what the answer took is not COMMAND's to use."""
    held, row = holding(lambda _: slowly(True))
    held.renew(NEVER)
    latest = Lease(TTL, kernel.now() - SLOW, GRACE)
    assert row.kill_at <= latest.kill_at
    assert row.term_at <= latest.term_at
    assert held.renew_at <= latest.sent_at + TTL / 4


def test_a_second_try_counts_from_when_it_was_sent() -> None:
    """A first request that failed allows nothing, and takes nothing away."""
    asked: list[float] = []

    def ask(_: float) -> bool:
        asked.append(kernel.now())
        if len(asked) == 1:
            raise StoreUnavailable("not now")
        return True

    held, row = holding(ask)
    assert held.renew(NEVER) is True
    first, second = asked
    assert Lease(TTL, first, GRACE).kill_at <= row.kill_at <= Lease(TTL, second, GRACE).kill_at


def test_an_unanswered_renewal_allows_nothing() -> None:
    """Two requests that fail leave the term as it was, and it is tried again before that."""

    def silent(_: float) -> bool:
        raise StoreUnavailable("nobody answers")

    held, row = holding(silent)
    held.take(kernel.now())
    before = (row.term_at, row.kill_at)
    assert held.renew(NEVER) is None
    assert (row.term_at, row.kill_at) == before
    assert held.renew_at < row.term_at


def test_a_grant_that_is_heard_of_too_late_is_none() -> None:
    """Who was stopped between asking and hearing asks again, instead of losing what it got."""
    held, row = holding(lambda _: True)
    with pytest.raises(StoreUnavailable, match="too late"):
        held.take(kernel.now() - TTL)
    assert row.term_at == NEVER
    held.take(kernel.now())
    assert row.term_at > kernel.now()


def test_a_grant_begins_a_term_of_its_own() -> None:
    """What an earlier keeper wrote down, and never told of, takes nothing from a new grant."""
    held, row = holding(lambda _: True)
    long_ago = kernel.now() - 2 * TTL
    row.extend(Lease(TTL, long_ago, GRACE), long_ago, long_ago)
    held.take(kernel.now())
    assert row.term_at > kernel.now()


def test_a_no_ends_the_renewing() -> None:
    """What is another's is not asked for again."""
    held, _ = holding(lambda _: False)
    assert held.renew(NEVER) is False
    assert held.renew_at == NEVER
