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
from guardrun.warden import tree

from . import descriptors, report, syscalls
from .install import REPLACED, installed
from .schedule import Played, play

ROOT = Path(__file__).parents[2]


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


def test_the_real_world_comes_back() -> None:
    """Nothing of the simulator stays in the modules that it was put into."""
    before = {name: vars(sys.modules[f"guardrun.{name}"]).copy() for name in REPLACED}
    with installed():
        assert sys.modules["guardrun.kernel"].os is not os
    assert before == {name: vars(sys.modules[f"guardrun.{name}"]) for name in REPLACED}
