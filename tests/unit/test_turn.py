"""When a waiter's keeper has the ledger ready for the claim that follows the lock."""

from __future__ import annotations

import pytest

from guardrun import kernel
from guardrun.keeper.turn import Turn
from guardrun.model import Grant, Waiting

HEAD = Waiting((), 3.0, ahead=0)


class Ledger:
    """Counts how often it was prepared."""

    def __init__(self) -> None:
        self.prepared = 0

    def prepare(self, due: float) -> None:
        assert due > kernel.now()
        self.prepared += 1


def prepared(*told: Grant | Waiting) -> int:
    """How often the ledger was made ready by who is told that."""
    ledger = Ledger()
    turn = Turn(ledger)  # type: ignore[arg-type]
    for said in told:
        turn.look(said)
        turn.get_ready()
    return ledger.prepared


@pytest.mark.parametrize(("ahead", "times"), [(0, 1), (1, 1), (2, 0), (99, 0), (None, 0)])
def test_the_first_two_are_near(ahead: int | None, times: int) -> None:
    """Who has more before it, or does not know, is not."""
    assert prepared(Waiting((), 3.0, ahead=ahead)) == times


def test_it_is_looked_at_again_with_every_question() -> None:
    """From then on, also by the grant itself: the connection may have ended meanwhile."""
    far = Waiting((), 3.0, ahead=7)
    assert prepared(far, far, HEAD, HEAD, Grant("l", 1, 0.0)) == 3
    assert prepared(Grant("l", 1, 0.0)) == 0


def test_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is not kept for hours, nor does asking once more begin that while anew."""
    ledger = Ledger()
    turn = Turn(ledger)  # type: ignore[arg-type]
    begun = kernel.now()
    turn.look(HEAD)
    for seconds, near in [(1, True), (59, True), (61, False)]:
        monkeypatch.setattr(kernel, "now", lambda seconds=seconds: begun + seconds)
        turn.look(HEAD)
        assert turn.is_near() is near


def test_a_turn_that_has_ended_is_not_near() -> None:
    """A run that has claimed, or stopped waiting, keeps nothing; one that waits anew may."""
    turn = Turn(Ledger())  # type: ignore[arg-type]
    turn.look(HEAD)
    turn.end()
    assert not turn.is_near()
    turn.look(HEAD)
    assert turn.is_near()


def test_nothing_to_prepare() -> None:
    """Without a ledger of its own there is nothing to get ready."""
    turn = Turn(None)
    turn.look(HEAD)
    turn.get_ready()
    assert not turn.is_near()
