"""The supervisor's hold on its keeper: what is asked of it before COMMAND is started."""

from __future__ import annotations

import os
import random
import select
from collections.abc import Collection, Iterator, Sequence

import pytest

from guardrun import channel, kernel
from guardrun.core.lease import Lease
from guardrun.errors import StoreUnavailable
from guardrun.keeper import messages
from guardrun.keeper.link import Link
from guardrun.keeper.stores import Stores, Terms
from guardrun.model import Run
from guardrun.term import Term

TTL = 60.0


class Idle:
    """Nothing to wait for."""

    def pause(self, fds: Sequence[int], due: float) -> Collection[int]:  # noqa: ARG002
        """At once."""
        return ()

    def check(self) -> None:
        """Go on."""


class Patient(Idle):
    """Waits, for what it is told to alone."""

    def pause(self, fds: Sequence[int], due: float) -> Collection[int]:
        """Until one of them is readable, or ``due``."""
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        return [fd for fd, _ in poll.poll(max(due - kernel.now(), 0.0) * 1000)]


@pytest.fixture
def tether() -> Iterator[channel.Channel]:
    """The keeper's end of its tie to the warden."""
    ends = channel.pair()
    yield ends[0]
    for end in ends:
        end.close()


def link(term: Term, tether: channel.Channel) -> Link:
    """A link without a keeper."""
    nothing = Stores(None, None, None, together=False)
    terms = Terms(TTL, 10.0, "stop")
    return Link(tether, term, lambda: nothing, terms, False, random.Random(1), set())


def held_since(ago: float) -> Term:
    """The term of a lease that was granted so many seconds ago."""
    term = Term()
    now = kernel.now()
    term.lock.extend(Lease(TTL, now - ago, 10.0), now + TTL, now)
    return term


@pytest.mark.parametrize("renewed", [True, False])
def test_a_lease_that_is_half_gone_is_renewed_before_command(
    monkeypatch: pytest.MonkeyPatch, tether: channel.Channel, renewed: bool
) -> None:
    """COMMAND starts under it only when the store has said yes once more."""
    term = held_since(0.6 * TTL)
    asked = []

    def ask(self: Link, waiter: Idle, store: str, what: object, due: float) -> bool:  # noqa: ARG001
        asked.append(what)
        if not renewed:
            raise StoreUnavailable("nobody answers")
        term.lock.extend(Lease(TTL, kernel.now(), 10.0), kernel.now() + TTL, kernel.now())
        return True

    monkeypatch.setattr(Link, "ask", ask)
    assert link(term, tether).assure(Idle()) is renewed
    assert asked == [messages.Renew()]


def test_a_fresh_lease_is_not_renewed_first(
    monkeypatch: pytest.MonkeyPatch, tether: channel.Channel
) -> None:
    """With more than half of it left nobody is asked, and COMMAND does not wait."""
    monkeypatch.setattr(Link, "ask", None)
    assert link(held_since(0.4 * TTL), tether).assure(Idle())


def test_keepers_that_die_young_get_a_rest_and_not_the_end(
    monkeypatch: pytest.MonkeyPatch, tether: channel.Channel
) -> None:
    """After five in a row there is none for ten seconds; what killed them may be over by then."""

    def broken() -> Stores:
        raise RuntimeError("unexpected words")

    spare: set[int] = set()
    terms = Terms(TTL, 10.0, "stop")
    ours = Link(tether, Term(), broken, terms, False, random.Random(1), spare)

    def ask() -> str:
        with pytest.raises(StoreUnavailable) as told:
            ours.ask(Patient(), "store", messages.Renew(), kernel.now() + TTL)
        return str(told.value)

    assert [ask() for _ in range(5)] == ["the keeper is gone: RuntimeError: unexpected words"] * 5
    assert ask() == "the keeper ended 5 times: RuntimeError: unexpected words"
    assert len(spare) == 5
    now = kernel.now
    monkeypatch.setattr(kernel, "now", lambda: now() + 10.0)
    assert ask() == "the keeper is gone: RuntimeError: unexpected words"
    assert ask() == "the keeper ended 6 times: RuntimeError: unexpected words"
    assert len(spare) == 6
    for pid in spare:
        os.waitpid(pid, 0)


def test_a_keeper_that_was_refused_is_looked_after(
    monkeypatch: pytest.MonkeyPatch, tether: channel.Channel
) -> None:
    """One that could not be started is tried again for what is held, until the run is over."""
    ours = link(held_since(0.0), tether)
    ours.held = Run("run", "job", "me", "here", "me", 1, ("true",), "f", 0.0)
    now = kernel.now()
    monkeypatch.setattr(kernel, "now", lambda: now)

    def full(_body: object) -> int:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(kernel, "fork", full)
    ours.check()
    assert ours.overdue_at() == now + 1.0
    with pytest.raises(StoreUnavailable, match="cannot be started: Resource temporarily"):
        ours.start()
    ours.release()
    assert ours.overdue_at() == float("inf")
