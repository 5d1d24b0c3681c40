"""The instants of a lease: COMMAND is dead before the store can grant again."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from guardrun.core import lease

TTLS = st.floats(10, 86400)
GRACES = st.floats(0, 1e6)
SENT = st.floats(0, 1e9)


@given(TTLS, SENT, GRACES)
def test_the_kill_leaves_room_for_clocks_that_drift(ttl: float, sent: float, grace: float) -> None:
    """From the kill to the end of the ttl: a hundredth of it for drift, and time to die."""
    granted = lease.Lease(ttl, sent, grace)
    left = sent + ttl - granted.kill_at
    assert left >= max(0.2, ttl / 100) + min(1.0, ttl / 20) - 1e-6 * (1 + sent)
    assert granted.kill_at > sent + ttl * 0.9 - 1


@given(TTLS, SENT, GRACES)
def test_the_grace_is_bounded_by_the_ttl(ttl: float, sent: float, grace: float) -> None:
    """A lease that runs out grants COMMAND --kill-after, but at most an eighth of the ttl."""
    granted = lease.Lease(ttl, sent, grace)
    slack = 1e-6 * (1 + sent)
    assert granted.kill_at - granted.term_at <= min(grace, ttl / 8) + slack
    assert sent < granted.half_at < granted.term_at <= granted.kill_at


@given(TTLS, SENT, GRACES, st.randoms(use_true_random=False))
def test_three_renewals_can_fail_before_command_is_told_to_stop(
    ttl: float, sent: float, grace: float, rng: random.Random
) -> None:
    """Renewals are due after a quarter of the ttl at most; jitter only makes them earlier."""
    granted = lease.Lease(ttl, sent, grace)
    first = lease.next_renewal(granted, rng)
    slack = 1e-6 * (1 + sent)
    assert ttl / 5 - slack <= first - sent <= ttl / 4 + slack
    spent, tries = first, 0
    while spent + 2 * lease.patience(ttl) <= granted.term_at:
        tries += 1
        spent = lease.next_try(granted, spent + 2 * lease.patience(ttl), rng)
    assert tries >= 2
    assert sent + 3 * ttl / 4 + lease.patience(ttl) <= granted.term_at + slack or ttl < 16


def test_jitter_only_makes_a_renewal_earlier() -> None:
    """The latest that can be drawn is a quarter of the ttl."""

    class Latest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return max(a, b)

    assert lease.next_renewal(lease.Lease(60.0, 1000.0, 10.0), Latest()) == 1015.0


@given(TTLS, st.integers(0, 1000))
def test_a_request_takes_one_to_three_seconds_at_most(ttl: float, unanswered: int) -> None:
    """A renewal waits a twentieth of the ttl, longer for a slow store, within bounds."""
    assert 1 <= lease.patience(ttl) <= lease.patience(ttl, unanswered) <= 3
    assert lease.patience(ttl, 2) == min(3.0, 4 * lease.patience(ttl))


@given(TTLS, SENT, GRACES, st.randoms(use_true_random=False))
def test_a_stopped_keeper_is_replaced_in_time_to_renew(
    ttl: float, sent: float, grace: float, rng: random.Random
) -> None:
    """Who does not wake up to renew is found out sooner than who hangs, with time for two more."""
    granted = lease.Lease(ttl, sent, grace)
    renew_at = lease.next_renewal(granted, rng)
    late_at = lease.late_at(ttl, renew_at)
    assert renew_at + 1 <= late_at < lease.overdue_at(granted, renew_at)
    spent = late_at + 2 * lease.patience(ttl)
    assert lease.next_try(granted, spent, rng) < granted.term_at


def test_the_figures_of_a_minute() -> None:
    """For a ttl of 60 s: told to stop after 50.9 s, dead after 58.4 s."""
    granted = lease.Lease(60.0, 1000.0, 10.0)
    assert round(granted.kill_at - 1000, 3) == 58.4
    assert round(granted.term_at - 1000, 3) == 50.9
