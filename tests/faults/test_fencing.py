"""Where no client can promise that two never overlap, the fencing token tells old from new."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import register
from lease_fleet import SHORT, LeaseFleet, Written
from lease_stores import await_grant, due, lock_name, opener, request
from sentinel import Watched, client
from support import Host, alive, eventually, family, no_survivors

from guardrun.errors import StoreUnavailable
from guardrun.model import Grant

if TYPE_CHECKING:
    from guardrun.ports import LeaseStore

TTL = 10.0
"""s, of ``SHORT``"""
PROMPT = 2.0
"""s that something takes which is done at once, on a busy machine"""
RENEWAL = TTL / 4
"""s from one renewal to the next, at the most"""


@dataclass
class Zombie:
    """A run whose COMMAND writes to a register all the time, and will have lost its lease."""

    host: Host
    lock: str
    mark: str

    def __post_init__(self) -> None:
        self.place = str(self.host.root / "register")
        self.log = Written(self.host.root / "log")
        self.process: subprocess.Popen[bytes] = self.host.start(
            *(*SHORT, *self.log.words, "--lock", self.lock, "--kill-after", "1h"),
            *("--", sys.executable, "-ISu", register.__file__, self.place, self.mark),
        )
        eventually(lambda: "A" in self.answers, 20, "a COMMAND that writes")

    @property
    def answers(self) -> str:
        """What the register has said so far: A accepted, R refused."""
        path = Path(f"{self.place}.answers")
        return path.read_text() if path.exists() else ""

    @property
    def fence(self) -> int:
        """Its token."""
        return int(self.log.await_line("lock_acquired")["fencing_token"])

    def is_fenced_off(self, successor: Grant) -> None:
        """Have the successor write once, and see every later write of this one refused."""
        assert successor.fence is not None
        assert successor.fence > self.fence
        assert register.write(self.place, successor.fence)
        # One of its writes may have been accepted just before.
        before = len(self.answers) + 1
        eventually(lambda: len(self.answers) > before + 1 or not alive(self.mark), 20)
        assert "A" not in self.answers[before:], self.answers

    def is_lost(self) -> None:
        """Check that it ends as lost, says so once, and that nothing of it is left."""
        assert self.process.wait(20) == 74
        no_survivors(self.mark)
        assert len(self.log.lines("lease_lost")) == 1
        (row,) = self.host.rows()
        assert (row["result"], row["fencing_token"]) == ("lease_lost", self.fence)


@pytest.fixture
def lock() -> str:
    """A lock that nobody else has."""
    return lock_name()


@contextlib.contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """These processes stopped, and then continued, in their order."""
    held = [os.pidfd_open(pid) for pid in pids]
    try:
        for pidfd in held:
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        yield
    finally:
        for pidfd in held:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            os.close(pidfd)


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_everything_is_frozen_beyond_the_ttl(
    kind: str, tmp_path: Path, lock: str, mark: str
) -> None:
    """COMMAND and all of guardrun stopped: the lock is another's, and what wakes up is fenced off.

    As with a virtual machine that was paused. COMMAND wakes up first, so it writes before anybody
    can kill it; it is killed as soon as anybody else does.
    """
    fleet = LeaseFleet.shared(kind, tmp_path)
    try:
        zombie = Zombie(fleet.host(), lock, mark)
        pids = family(zombie.process.pid)
        guardians = [pids[name] for name in ("keeper", "warden", "backstop", "supervisor")]
        store, successor = fleet.open(), request(lock)
        with frozen(guardians):
            with frozen([pid for pid in alive(mark) if pid not in guardians]):
                grant = await_grant(store, successor, TTL + 10)
                assert register.write(zombie.place, int(grant.fence or 0))
                seen = len(zombie.answers) + 1
            eventually(lambda: "R" in zombie.answers, 20, "a COMMAND that writes again")
            zombie.is_fenced_off(grant)
        no_survivors(mark, PROMPT)
        assert "A" not in zombie.answers[seen:], zombie.answers
        zombie.is_lost()
        assert store.renew(successor, due()), "the old run's end touched another's lease"
    finally:
        fleet.close()


def test_a_failover_before_replication(tmp_path: Path, lock: str, mark: str) -> None:
    """The replica that takes over has never heard of the lease: two overlap, and one is fenced off.

    It is said beforehand that the token is not durable. The new one is larger all the same, by the
    server's clock; the old run finds out with its next renewal.
    """
    with Watched.start() as watched:
        primary = watched.primary()
        (replica,) = (server for server in watched.servers if server is not primary)
        with client(replica.url) as direct:
            direct.config_set("masterauth", "wrong")
        with client(primary.url) as direct:
            direct.execute_command("CLIENT", "KILL", "TYPE", "replica")
        host = Host(tmp_path, {"GUARDRUN_LEASE_URL": watched.url()})
        zombie = Zombie(host, lock, mark)
        assert zombie.log.await_line("lock_acquired")["fence_durable"] is False
        primary.kill()
        watched.await_failover(primary)
        store = opener("redis", watched.url())
        try:
            grant = taken_over(store, lock)
            zombie.is_fenced_off(grant)
            no_survivors(mark, RENEWAL + PROMPT)
            zombie.is_lost()
        finally:
            store.close()
            host.close()


def taken_over(store: LeaseStore, lock: str) -> Grant:
    """The lock, from a store that does not know of its holder, as soon as that answers."""
    successor = request(lock)

    def granted() -> Grant | None:
        with contextlib.suppress(StoreUnavailable):
            said = store.acquire(successor, False, due(1))
            assert isinstance(said, Grant), "it has heard of the lease"
            return said
        return None

    return eventually(granted, 20, "a store that answers")
