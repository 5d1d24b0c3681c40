"""What is done beside a run, in a process of its own."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Collection, Sequence

import pytest

from guardrun import kernel
from guardrun.errand import Errand


class Waiter:
    """Waits as a loop does, with nothing else to do."""

    def pause(self, fds: Sequence[int], due: float) -> Collection[int]:
        """Which of them became readable by then."""
        return select.select(fds, (), (), max(due - kernel.now(), 0.0))[0]

    def check(self) -> None:
        """Nobody tells it to stop."""


def test_one_that_was_reaped_is_not_known_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """By then the number may be any process's: nothing is done by it, and the errand is over."""
    spare: set[int] = set()
    errand = Errand(lambda: None, 10.0, spare)
    (pid,) = spare
    os.waitpid(pid, 0)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal by number"))
    monkeypatch.setattr(os, "waitpid", lambda *_: pytest.fail("a wait by number"))
    assert errand.wait(Waiter()) is None
    assert not spare


def test_why_it_failed() -> None:
    """What it raises is the reason."""

    def task() -> None:
        raise ValueError("no such place")

    assert Errand(task, 10.0, set()).wait(Waiter()) == "no such place"


def test_one_that_takes_too_long_is_over() -> None:
    """Its time is over: it is dead, and nobody waits."""
    spare: set[int] = set()
    errand = Errand(signal.pause, 0.05, spare)
    (pid,) = spare
    assert errand.wait(Waiter()) == "it took too long"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
