"""Whatever happens to a lock, in whatever order: every lease store does what the model of one does.

The model is the one that the simulator runs on: what it shows is shown for these stores. How many
histories are tried is said by GUARDRUN_TEST_ROUNDS.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import servers
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from lease_clock import LeaseClock, lease_clock
from lease_stores import STORES, Leases, due, lock_name, request
from sim.lease_model import LeaseModel
from support import eventually

from guardrun import kernel
from guardrun.config import HELD_BY_LEASES
from guardrun.errors import ConfigError
from guardrun.model import Grant, LeaseRequest, Place, Waiting

if TYPE_CHECKING:
    from guardrun.ports import LeaseStore

ROUNDS = int(os.environ.get("GUARDRUN_TEST_ROUNDS", "12"))
_STEPS = 30
ACTORS = 4
_EVER = 1e9
"""s; the ttl of a lease that only ends with its session"""
_SILENT = 2.0
"""s of real time after which a waiter's place in the queue is not counted on"""
_NEAR = 0.2
"""s from the end of a lease in which server and model may differ about it"""

actors = st.integers(0, ACTORS - 1)
ttls = st.sampled_from([102.5, 252.5])
holds = st.sampled_from([0.0, 0.0, 172.5])

SHARES = {
    "redis": 3,
    "postgres": 1,
    "postgres-pgbouncer": 0.25,
    "advisory": 1,
    "etcd": 0.5,
    "consul": 0.5,
}
"""Histories of a short run, as a multiple of GUARDRUN_TEST_ROUNDS: one of Redis is cheap."""


class Actor:
    """One process: its own view of the store, and what it has asked for."""

    def __init__(self, leases: Leases) -> None:
        self.leases = leases
        self.store: LeaseStore = leases.open()
        self.wanted: LeaseRequest | None = None
        self.waits = False
        self.asked_at = 0.0
        self.told = False
        """it was woken, and has not asked since"""

    def forget(self) -> None:
        """Want nothing any more."""
        self.wanted, self.waits, self.told = None, False, False

    def reconnect(self) -> None:
        """Go on over another connection."""
        self.store.close()
        self.store = self.leases.open()


class LeaseMachine(RuleBasedStateMachine):
    """One lock, its users, and the model."""

    leases: ClassVar[Leases]
    clock: ClassVar[LeaseClock]
    users: ClassVar[list[Actor]]
    view: ClassVar[LeaseStore]

    @initialize(slots=st.integers(1, 3))
    def start(self, slots: int) -> None:
        self.lock = lock_name()
        self.slots = slots
        self.model = LeaseModel(alive=_EVER)
        self.passed = 0.0
        self.fences: dict[int, tuple[int, float]] = {}
        """the model's, and what is really so: fence and moment"""
        self.late: set[str] = set()
        """tokens of those whom the model has told of a free place, and the store is to tell yet"""

    def teardown(self) -> None:
        for actor in self.users:
            if actor.wanted is not None:
                actor.store.release(actor.wanted, due())
                actor.store.leave(actor.wanted, due())
            actor.forget()

    # ------------------------------------------------------------ what happens

    @property
    def holding(self) -> list[Actor]:
        """Those that have, or had, a place."""
        return [actor for actor in self.users if actor.wanted is not None and not actor.waits]

    @property
    def waiting(self) -> list[Actor]:
        """Those in the queue."""
        return [actor for actor in self.users if actor.waits]

    @rule(number=actors, ttl=ttls, hold=holds, more=st.sampled_from([0, 0, 0, 0, 1]))
    def try_for_it(self, number: int, ttl: float, hold: float, more: int) -> None:
        """Ask for a place, and do not wait for one; or once more where it is held."""
        self.acquire(self.users[number], False, ttl, hold, more)

    @rule(number=actors, ttl=ttls)
    def wait_for_it(self, number: int, ttl: float) -> None:
        """Ask for a place, and be in the queue where there is none."""
        self.acquire(self.users[number], True, ttl, 0.0)

    @precondition(lambda self: self.waiting)
    @rule(number=actors)
    def ask_again(self, number: int) -> None:
        """Ask as one who waits does, woken or not."""
        self.acquire(self.waiting[number % len(self.waiting)], True)

    def acquire(
        self, actor: Actor, wait: bool, ttl: float = 102.5, hold: float = 0.0, more: int = 0
    ) -> None:
        """Ask for a place; a request that is there already is asked for again."""
        if actor.wanted is None:
            # What another number of slots means where nobody has the lock, but somebody waits for
            # it, is not promised.
            slots = self.slots + (more if self.places() else 0)
            hold = hold if self.leases.lapses else 0.0
            if self.leases.kind in HELD_BY_LEASES and hold > ttl:
                hold = 0.0
            actor.wanted = request(self.lock, slots, ttl if self.leases.lapses else 1.0, hold)
        wait = wait or actor.waits
        actor.told = False
        self.late.discard(actor.wanted.token)
        with self.happens(actor):
            try:
                expected = self.model.acquire(self.modelled(actor.wanted), wait, self.now)
            except ConfigError:
                with pytest.raises(ConfigError):
                    actor.store.acquire(actor.wanted, wait, due())
                actor.forget()
                return
            said = actor.store.acquire(actor.wanted, wait, due())
        if isinstance(expected, Grant):
            assert isinstance(said, Grant), said
            self.same_grant(expected, said)
            actor.waits = False
        else:
            assert isinstance(said, Waiting), said
            assert {one.owner for one in said.holders} == {one.owner for one in expected.holders}
            assert said.ask_again >= 0
            actor.waits, actor.asked_at = wait, kernel.now()
            if not wait:
                actor.forget()

    @precondition(lambda self: self.holding)
    @rule(number=actors)
    def renew(self, number: int) -> None:
        """Renew, whoever has the place by now."""
        actor = self.holding[number % len(self.holding)]
        assert actor.wanted is not None
        with self.happens(actor):
            expected = self.model.renew(self.modelled(actor.wanted), self.now)
            assert actor.store.renew(actor.wanted, due()) == expected

    @precondition(lambda self: self.holding)
    @rule(number=actors, again=st.sampled_from([False, False, True]))
    def release(self, number: int, again: bool) -> None:
        """Give back what is held, or not any more; maybe twice."""
        actor = self.holding[number % len(self.holding)]
        assert actor.wanted is not None
        for _ in range(2 if again else 1):
            with self.happens(actor):
                expected = self.model.release(self.modelled(actor.wanted), self.now)
                assert actor.store.release(actor.wanted, due()) == expected
        actor.forget()

    @precondition(lambda self: self.waiting or self.holding)
    @rule(number=actors)
    def leave(self, number: int) -> None:
        """Stop waiting; for who holds the lock that means nothing."""
        found = [*self.waiting, *self.holding]
        actor = found[number % len(found)]
        assert actor.wanted is not None
        with self.happens(actor):
            self.model.leave(self.modelled(actor.wanted), self.now)
            actor.store.leave(actor.wanted, due())
        if actor.waits:
            actor.forget()

    @precondition(lambda self: self.waiting)
    @rule(number=actors)
    def fall_silent(self, number: int) -> None:
        """Be a waiter that does not ask any more."""
        self.silence(self.waiting[number % len(self.waiting)])

    def silence(self, actor: Actor) -> None:
        """Have its time in the queue be over."""
        assert actor.wanted is not None
        self.clock.silence(self.lock, actor.wanted.token)
        # Others are woken when somebody notices: a bit later than in the model.
        self.model.woken.clear()
        self.model.leave(self.modelled(actor.wanted), self.now)
        self.late.update(self.model.woken)
        self.model.woken.clear()
        actor.forget()

    @precondition(lambda self: self.leases.lapses and self.places())
    @rule(seconds=st.sampled_from([30.0, 75.0, 105.0, 180.0]))
    def pass_by(self, seconds: float) -> None:
        """Let time pass: what nobody has renewed lapses."""
        self.clock.pass_by(self.lock, seconds)
        self.passed += seconds

    @precondition(lambda self: self.leases.lapses and self.places())
    @rule(number=actors, which=st.integers(0, 2))
    def take_away(self, number: int, which: int) -> None:
        """End one holding, by hand."""
        found = self.users[number].store.holders(self.lock, due())
        if which < len(found):
            place = found[which]
            token = place.token.removeprefix("-")
            with self.happens(None):
                assert self.model.take_away(self.lock, token, self.now)
                assert self.users[number].store.take_away(self.lock, place.token, due())

    @precondition(lambda self: self.holding)
    @rule(number=actors)
    def reconnect(self, number: int) -> None:
        """Lose the connection: a lease does not care, a session's lock is gone with it.

        How soon a waiter's place in the queue goes with it differs.
        """
        actor = self.holding[number % len(self.holding)]
        assert actor.wanted is not None
        actor.reconnect()
        if not self.leases.lapses:
            owner = actor.wanted.owner
            self.model.renew(actor.wanted._replace(ttl=0.0), self.now)
            eventually(lambda: owner not in {place.owner for place in self.really()}, 20)
            actor.forget()

    # ------------------------------------------------------------ what must be so

    @invariant()
    def same_holders(self) -> None:
        """The places that are taken, whose they are, and until when."""
        if not hasattr(self, "model"):
            return
        expected = sorted(self.places(), key=lambda place: place.fence)
        said = sorted(self.really(), key=lambda place: place.fence)
        assert [self.told(place) for place in said] == [
            self.told(place)._replace(fence=self.fences[place.fence][0]) for place in expected
        ]
        assert len(said) <= max((place.slots for place in said), default=0)
        if self.leases.lapses:
            for real, modelled in zip(said, expected, strict=True):
                assert real.expires_in == pytest.approx(modelled.expires_in, abs=2.0)

    @staticmethod
    def told(place: Place) -> Place:
        """What is the same in the store and in the model."""
        return place._replace(token="", since=0.0, expires_in=0.0)

    def same_grant(self, expected: Grant, said: Grant) -> None:
        """A grant that is repeated is the same; a new one has a larger fence than all before."""
        assert expected.fence is not None
        assert said.fence is not None
        known = self.fences.get(expected.fence)
        if known is None:
            assert said.fence > max((fence for fence, _ in self.fences.values()), default=0)
            self.fences[expected.fence] = (said.fence, said.since)
        else:
            assert (said.fence, said.since) == known

    @contextlib.contextmanager
    def happens(self, who: Actor | None) -> Iterator[None]:
        """One call; whoever the model would tell of it, the store tells."""
        self.keep_up()
        waiting = self.waiting
        for actor in waiting:
            assert actor.wanted is not None
            fd = actor.store.wake_fd()
            unasked = self.leases.lapse_wakes or actor.wanted.token in self.late
            if unasked and fd is not None and select.select([fd], [], [], 0)[0]:
                actor.told = True  # of a lapse, or that it is next; who asks is told anew
            actor.store.drain()
        self.model.woken.clear()
        yield
        for actor in waiting:
            assert actor.wanted is not None
            woken = actor.wanted.token in self.model.woken and not actor.told
            fd = actor.store.wake_fd()
            if woken and actor is not who and fd is not None:
                assert select.select([fd], [], [], 10)[0], "nobody told the one who is next"
                actor.told = True

    def keep_up(self) -> None:
        """Do without what the pace of this machine would decide."""
        for actor in self.waiting:
            if kernel.now() - actor.asked_at > _SILENT:
                self.silence(actor)
        if any(abs(end - self.now) < _NEAR for end in self.ends()):
            self.pass_by(1.0)

    def ends(self) -> Iterator[float]:
        """When leases and not-before times end, by the model."""
        for place in self.places():
            yield self.now + place.expires_in
            yield self.model.lapses(self.lock, place.token, self.now) or 0.0

    @property
    def now(self) -> float:
        """The model's time: the real one, and what was made to pass by."""
        return kernel.now() + self.passed

    def modelled(self, wanted: LeaseRequest) -> LeaseRequest:
        """What the model is asked: sessions have no ttl."""
        return wanted if self.leases.lapses else wanted._replace(ttl=_EVER)

    def places(self) -> tuple[Place, ...]:
        """Who holds the lock, by the model."""
        return self.model.holders(self.lock, self.now)

    def really(self) -> tuple[Place, ...]:
        """Who holds the lock."""
        return self.view.holders(self.lock, due())


@pytest.mark.parametrize("kind", STORES)
def test_a_lease_store_does_what_its_model_does(kind: str) -> None:
    """Acquire, wait, renew, release, leave, lapse, take away, reconnect: all as in the model."""
    leases: Leases = STORES[kind].shared()
    direct = leases.url
    if kind.endswith("pgbouncer"):
        direct = servers.in_database(servers.postgres_url(), leases.url.rpartition("/")[2])
    with contextlib.closing(leases), lease_clock(leases, direct) as clock:
        shared: dict[str, Any] = {
            "leases": leases,
            "clock": clock,
            "users": [Actor(leases) for _ in range(ACTORS)],
            "view": leases.open(),
        }
        run_state_machine_as_test(
            type("Machine", (LeaseMachine,), shared),
            settings=settings(
                max_examples=int(SHARES[kind] * ROUNDS) or 1,
                stateful_step_count=_STEPS,
                suppress_health_check=list(HealthCheck),
            ),
        )
