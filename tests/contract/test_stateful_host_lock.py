"""Whatever happens to a host lock, in whatever order: flock(2) and sidecar do what the model does.

It is the model of leases, with a ttl that never ends: instead of lapsing, a holder dies. How many
histories are tried is said by GUARDRUN_TEST_ROUNDS.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from lease_stores import lock_name, request
from ledgers import make_run
from sim.lease_model import LeaseModel

from guardrun import kernel
from guardrun.errors import ConfigError
from guardrun.locks.flock import HostLock
from guardrun.model import Busy, Grant, LeaseRequest, LockSpec

ROUNDS = int(os.environ.get("GUARDRUN_TEST_ROUNDS", "12"))
_STEPS = 30
_USERS = 4
_EVER = 1e9
"""s"""

users = st.integers(0, _USERS - 1)


class Nobody:
    """A waiter for those who never wait."""

    def pause(self, fds: Sequence[int], due: float) -> Collection[int]:
        raise AssertionError((fds, due))

    def check(self) -> None:
        raise AssertionError


class HostLockMachine(RuleBasedStateMachine):
    """One lock in a directory of its own, its users, and the model."""

    directory: ClassVar[Path]

    @initialize(slots=st.integers(1, 3))
    def start(self, slots: int) -> None:
        self.name = lock_name()
        self.slots = slots
        self.model = LeaseModel()
        self.passed = 0.0
        self.fence = 0
        self.held: dict[int, tuple[HostLock, LeaseRequest, Grant]] = {}
        self.made: list[HostLock] = []

    def teardown(self) -> None:
        for lock, _, _ in self.held.values():
            lock.release()
        for lock in self.made:  # a run leaves it to its end
            if lock._directory >= 0:
                os.close(lock._directory)

    @property
    def now(self) -> float:
        """The model's time."""
        return kernel.now() + self.passed

    def lock(self, slots: int, hold: float = 0.0) -> HostLock:
        """The lock, as one run has it."""
        spec = LockSpec(self.name, None, str(self.directory), slots=slots, min_hold=hold)
        self.made.append(HostLock(spec, self.name, Nobody(), random.Random(1)))
        return self.made[-1]

    @rule(
        number=users,
        hold=st.sampled_from([0.0, 0.0, 172.5]),
        more=st.sampled_from([0, 0, 0, 0, 1]),
    )
    def acquire(self, number: int, hold: float, more: int) -> None:
        """Ask for a slot; another number of slots is refused while the lock is taken."""
        if number in self.held:
            return
        wanted = request(self.name, self.slots + (more if self.taken else 0), _EVER, hold)
        lock = self.lock(wanted.slots, hold)
        run = make_run()
        try:
            expected = self.model.acquire(wanted, False, self.now)
        except ConfigError:
            with pytest.raises(ConfigError):
                lock.acquire(run, 0.0)
            lock.release()
            return
        said = lock.acquire(run, 0.0)
        if isinstance(expected, Grant):
            assert isinstance(said, Grant), said
            assert said.fence is not None
            assert said.fence > self.fence
            self.fence = said.fence
            self.held[number] = (lock, wanted, said)
        else:
            assert isinstance(said, Busy), said

    @rule(number=users)
    def release(self, number: int) -> None:
        """End a run; its not-before time stays."""
        if number in self.held:
            lock, wanted, _ = self.held.pop(number)
            assert self.model.release(wanted, self.now)
            lock.release()
            lock.release()

    @rule(number=users)
    def die(self, number: int) -> None:
        """Be killed: the kernel closes the descriptors, and nobody says a word."""
        if number in self.held:
            _, wanted, grant = self.held.pop(number)
            assert self.model.renew(wanted._replace(ttl=0.0), self.now)
            for fd in grant.fds:
                os.close(fd)

    @rule(seconds=st.sampled_from([30.0, 75.0, 105.0, 180.0]))
    def pass_by(self, seconds: float) -> None:
        """Let time pass: not-before times end."""
        self.passed += seconds
        path = self.directory / f"{hashlib.sha256(self.name.encode()).hexdigest()}.info"
        lines = []
        for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
            word, *rest = line.split(" ")
            if word == "hold":
                rest[2] = str(float(rest[2]) - seconds)
            lines.append(" ".join([word, *rest]))
        if lines:
            path.write_text("".join(lines))

    @rule(slot=st.integers(0, 2))
    def end_hold(self, slot: int) -> None:
        """Take away by hand what only a not-before time keeps: the fence is raised."""
        if slot >= self.slots:
            return
        lock = self.lock(self.slots)
        seen = lock.hold(slot)
        if seen is None or not lock.end_hold(slot, seen):
            return
        left = seen.remaining(time.time())
        places = self.model.holders(self.name, self.now)
        kept = [place for place in places if place.released and abs(place.expires_in - left) < 1]
        assert self.model.take_away(self.name, kept[0].token, self.now)

    @property
    def taken(self) -> bool:
        """Whether anything of the lock is, by the model."""
        return bool(self.model.holders(self.name, self.now))

    @invariant()
    def never_too_many(self) -> None:
        """Who holds a slot here holds it in the model, and there are never more than slots."""
        if hasattr(self, "model"):
            places = self.model.holders(self.name, self.now)
            alive = {place.token for place in places if not place.released}
            assert alive == {wanted.token for _, wanted, _ in self.held.values()}
            assert len(alive) <= self.slots


def test_a_host_lock_does_what_its_model_does(tmp_path: Path) -> None:
    """Acquire, release, die, wait for a not-before time: all as in the model."""
    tmp_path.chmod(0o700)
    run_state_machine_as_test(
        type("Machine", (HostLockMachine,), {"directory": tmp_path}),
        settings=settings(
            max_examples=2 * ROUNDS,
            stateful_step_count=_STEPS,
            suppress_health_check=list(HealthCheck),
        ),
    )
