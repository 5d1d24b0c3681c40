"""The simulator's fast slice, and that it does what a simulator must; the long form: make sim."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from guardrun.keeper.keeper import Keeper
from guardrun.keeper.lease_proxy import LeaseProxy
from guardrun.model import LeaseRequest, Outcome, Recorded, Run
from guardrun.warden import tree

from . import descriptors, report, syscalls
from .faults import Faults
from .install import REPLACED, installed
from .schedule import Played, play

ROOT = Path(__file__).parents[2]
_TERM_IS_OVER = 70.0
"""s; longer than every ttl that is drawn"""
_TOO_MANY = 5
"""keepers in a row that end by an error"""


def played(seeds: range) -> list[Played]:
    """Play these."""
    with installed():
        return [play(seed) for seed in seeds]


def test_no_schedule_breaks_a_rule() -> None:
    """Whatever fails, and whenever: M F O D T K R L S hold, and enough has happened to tell."""
    seeds = range(300)
    counts: Counter[str] = Counter()
    for one in played(seeds):
        assert one.violations == (), f"seed {one.seed}: python -m tests.sim --show {one.seed}"
        counts += one.counts
    assert report.missing(counts, len(seeds)) == []


@pytest.mark.parametrize("seed", [7, 20])
def test_a_seed_replays_exactly(seed: int) -> None:
    """The same seed has the same timeline, byte for byte, in processes that hash differently."""
    told = [
        subprocess.run(
            [sys.executable, "-m", "tests.sim", "--show", str(seed)],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": salt},
            capture_output=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    ]
    assert told[0] == told[1]
    assert told[0].count(b"\n") > 20


def test_looking_changes_nothing() -> None:
    """A schedule that is traced is the one that was not."""
    with installed():
        for seed in range(10):
            blind, seen = play(seed), play(seed, trace=True)
            assert blind._replace(timeline=()) == seen._replace(timeline=())
            assert seen.timeline


def test_a_keeper_that_does_not_wait_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is given back while COMMAND may be alive breaks R."""
    monkeypatch.setattr(Keeper, "_outlive", Keeper._tell_the_rest)
    assert any(one.violations[:1] and "R: " in one.violations[0] for one in played(range(40)))


def test_a_tree_that_is_left_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes COMMAND for dead without the kernel's word breaks R or K."""
    monkeypatch.setattr(tree, "kill_all", lambda _spare=frozenset(): None)
    assert any(one.violations for one in played(range(100)))


def test_killed_between_dismissal_and_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that is killed just before it gives the lock back leaves that to its keeper."""
    monkeypatch.setattr(
        LeaseProxy, "release", lambda _: syscalls.OS.kill(syscalls.OS.getpid(), signal.SIGKILL)
    )
    assert [one.violations for one in played(range(15)) if one.violations] == []


def test_killed_when_it_is_to_be_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warden that finds its supervisor dead, which it wanted to continue, does not fail."""
    stand_in = type(syscalls.SIGNAL)
    send = stand_in.pidfd_send_signal

    def late(self: Any, pidfd: int, signum: int) -> None:
        if descriptors.current().role == "warden" and signum == signal.SIGCONT:
            send(self, pidfd, signal.SIGKILL)
        send(self, pidfd, signum)

    monkeypatch.setattr(stand_in, "pidfd_send_signal", late)
    assert [one.violations for one in played(range(60)) if one.violations] == []


@pytest.mark.parametrize("left_alone", [None, "supervisor", "backstop", "keeper"])
def test_stopped_between_the_look_at_the_term_and_the_start(
    monkeypatch: pytest.MonkeyPatch, left_alone: str | None
) -> None:
    """Whoever else is killed: a warden that is continued after the term does not start COMMAND."""
    stand_in = type(syscalls.OS)
    spawn = stand_in.posix_spawnp

    def late(self: Any, *words: Any, **how: Any) -> int:
        warden = descriptors.current()
        if warden.run.me.job_id == "run1" and not warden.run.executions:
            for one in warden.run.programs:
                if one.role not in ("warden", left_alone):
                    one.signal(signal.SIGKILL)
            warden.signal(signal.SIGSTOP)
            warden.world.after(_TERM_IS_OVER, warden.signal, signal.SIGCONT)
        return int(spawn(self, *words, **how))

    monkeypatch.setattr(stand_in, "posix_spawnp", late)
    schedules = played(range(40))
    assert [one.violations for one in schedules if one.violations] == []
    killed = sum(
        one.counts["killed before it was too late to start"]
        for one in schedules
        if not any(what.startswith("fault: ") for what in one.counts)  # it may take the backstop
    )
    assert (killed > 0) == (left_alone != "backstop")  # which ends a stopped warden itself


def test_keepers_that_die_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What kills five of them over an outcome costs neither that nor the key, once it is over."""
    finish, deaths = Keeper._finish, Counter[object]()

    def dying(self: Keeper, outcome: Outcome, due: float) -> Recorded:
        run = descriptors.current().run
        deaths[run] += 1
        if deaths[run] <= _TOO_MANY:
            raise RuntimeError("unexpected words")
        return finish(self, outcome, due)

    monkeypatch.setattr(Keeper, "_finish", dying)
    monkeypatch.setattr(Faults, "_guarded", lambda *_: None)  # that is trouble enough
    monkeypatch.setattr(Faults, "lay_trap", lambda *_: None)
    assert [one.violations for one in played(range(40)) if one.violations] == []
    assert max(deaths.values()) > _TOO_MANY


def test_a_keeper_that_is_stopped_when_it_has_just_replaced_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is replaced itself while there is time to renew what the first one held."""
    serve, renew = Keeper.serve, Keeper._renew_place
    seen: set[tuple[object, str]] = set()

    def once(what: str, signum: int) -> None:
        program = descriptors.current()
        if (program.run, what) not in seen:
            seen.add((program.run, what))
            syscalls.OS.kill(program.pid, signum)

    def dying(self: Keeper) -> bool:
        renewed = renew(self)
        once("renews", signal.SIGKILL)
        return renewed

    def stopping(self: Keeper, run: Run | None, place: LeaseRequest | None) -> None:
        if place is not None:
            once("takes up", signal.SIGSTOP)
        serve(self, run, place)

    monkeypatch.setattr(Keeper, "_renew_place", dying)
    monkeypatch.setattr(Keeper, "serve", stopping)
    assert [one.violations for one in played(range(150)) if one.violations] == []


def test_what_a_keeper_has_only_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing held any more a row is not called interrupted while COMMAND may be alive."""
    outlive = Keeper._outlive

    def bereft(self: Keeper) -> None:
        # Lock and claim were lost, and COMMAND runs on (--on-lease-loss warn, no key); whether the
        # row was ever stored the keeper was not told.
        if self._run is not None and self._run.key is None:
            self._asked, self._run, self._claim = self._run, None, None
            self._wanted = self._place = None
        outlive(self)

    monkeypatch.setattr(Keeper, "_outlive", bereft)
    told = [rule for one in played(range(100)) for rule in one.violations]
    assert [rule for rule in told if rule.startswith("R: ")] == []


def test_the_real_world_comes_back() -> None:
    """Nothing of the simulator stays in the modules that it was put into."""
    before = {name: vars(sys.modules[f"guardrun.{name}"]).copy() for name in REPLACED}
    with installed():
        assert sys.modules["guardrun.kernel"].os is not os
    assert before == {name: vars(sys.modules[f"guardrun.{name}"]) for name in REPLACED}
