"""What keeper, supervisor and warden share: how long COMMAND may run."""

from __future__ import annotations

import os

import pytest

from guardrun.core.lease import Lease
from guardrun.term import Term

NEVER = float("inf")


def granted(sent_at: float) -> Lease:
    """A lease of a minute: told to stop after 50.9 s, killed after 58.4 s."""
    return Lease(60.0, sent_at, 10.0)


def test_a_term_is_shared_with_forks() -> None:
    """What one process writes down, those forked before can read."""
    term = Term()
    assert term.term_at == term.kill_at == term.half_at == term.overdue_at == NEVER
    assert not term.executed
    pid = os.fork()
    if pid == 0:
        term.claim.extend(granted(1000.0), 1020.0, 1000.1)
        term.execute()
        os._exit(0)
    os.waitpid(pid, 0)
    assert (term.kill_at, term.half_at, term.overdue_at) == (1058.4, 1030.0, 1020.0)
    assert term.executed


def test_what_ends_first_counts() -> None:
    """Of a claim and a lease, the one that ends sooner stops COMMAND."""
    term = Term()
    term.claim.extend(granted(1000.0), 1020.0, 1000.1)
    term.lock.extend(granted(990.0), 1010.0, 1000.1)
    assert (term.kill_at, term.half_at, term.overdue_at) == (1048.4, 1020.0, 1010.0)
    term.lock.clear()
    assert (term.kill_at, term.half_at, term.overdue_at) == (1058.4, 1030.0, 1020.0)


def test_a_renewal_after_the_term_changes_nothing() -> None:
    """From term_at on COMMAND is being stopped, and no success takes that back."""
    term = Term()
    term.lock.extend(granted(1000.0), 1020.0, 1000.1)
    before = (term.term_at, term.kill_at, term.half_at)
    term.lock.extend(granted(1050.0), 1070.0, before[0])
    assert (term.term_at, term.kill_at, term.half_at) == before
    assert term.overdue_at == 1070.0


def test_a_loss_is_at_once() -> None:
    """What is lost for certain has no grace, and nobody is waited for."""
    term = Term()
    term.lock.extend(granted(1000.0), 1020.0, 1000.1)
    term.lock.lose(1010.0)
    assert (term.term_at, term.kill_at, term.overdue_at) == (1010.0, 1010.0, NEVER)


def test_a_loss_moves_nothing_on() -> None:
    """A keeper that finds out after a suspend does not make it look as if it had renewed."""
    term = Term()
    term.lock.extend(granted(1000.0), 1020.0, 1000.1)
    before = (term.term_at, term.half_at)
    term.lock.lose(1055.0)
    assert (term.term_at, term.half_at, term.kill_at) == (*before, 1055.0)


def test_with_warn_a_lost_lock_stops_nothing() -> None:
    """With --on-lease-loss warn the lock's lease has a term to warn at; the claim's still stops."""
    term = Term("warn")
    term.lock.extend(granted(1000.0), 1020.0, 1000.1)
    assert term.term_at == term.kill_at == NEVER
    assert term.warn_at == pytest.approx(1050.9)
    assert term.half_at == 1030.0
    term.claim.extend(granted(1000.0), 1020.0, 1000.1)
    assert term.kill_at == 1058.4
    assert Term("stop").warn_at == NEVER


def test_only_who_holds_something_can_be_overdue() -> None:
    """A sign of life is written down where there is something to lose."""
    term = Term()
    term.claim.show_life(1000.0)
    term.begin_anew(1000.0, 12.0)
    assert term.overdue_at == NEVER
    term.claim.extend(granted(1000.0), 1020.0, 1000.1)
    term.claim.show_life(1033.0)
    assert term.overdue_at == 1033.0


@pytest.mark.parametrize(
    ("ttl", "age", "grace"),
    [(60.0, 20.0, 12.0), (10.0, 1.0, 3.525), (10.0, 2.5, 3.0), (10.0, 9.0, 12.0)],
)
def test_a_new_keeper_leaves_time_for_another(ttl: float, age: float, grace: float) -> None:
    """Half of what is left of the term, where that is short; once it is over there is no hurry."""
    term = Term()
    term.lock.extend(Lease(ttl, 1000.0, 10.0), 1000.0 + ttl, 1000.1)
    term.begin_anew(1000.0 + age, 12.0)
    assert term.overdue_at == pytest.approx(1000.0 + age + grace)


def test_nothing_starts_under_what_is_lost() -> None:
    """A lock whose loss would not stop COMMAND (``warn``) keeps it from being started."""
    term = Term("warn")
    term.lock.extend(granted(1000.0), 1020.0, 1000.1)
    term.lock.lose(1010.0)
    assert (term.term_at, term.start_by) == (NEVER, 1010.0)
