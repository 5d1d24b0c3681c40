"""What a host lock does at moments that a real run meets by chance alone."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
from ledgers import make_run

from guardrun import kernel
from guardrun.locks import sidecar
from guardrun.locks.flock import HostLock
from guardrun.model import Busy, Grant, LockSpec, Run

_HOLD = 30.0
"""s"""


class _PausedError(Exception):
    """A waiter has begun to wait."""


class _Waiter:
    """Tells until when somebody would have waited, and does not."""

    due = 0.0

    def pause(self, fds: Sequence[int], due: float) -> Collection[int]:
        self.due = due
        raise _PausedError(fds)

    def check(self) -> None:
        pass


def _lock(directory: Path, waiter: _Waiter, hold: float = 0.0, *, shared: bool = False) -> HostLock:
    spec = LockSpec("nightly", None, str(directory), min_hold=hold, shared=shared)
    return HostLock(spec, "nightly", waiter, random.Random(1))


def test_a_place_that_is_let_go_between_two_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finds it taken, and then free but not before its time, waits for that and no longer."""
    tmp_path.chmod(0o700)
    waiter = _Waiter()
    first, second = _lock(tmp_path, waiter, _HOLD), _lock(tmp_path, waiter)
    assert isinstance(first.acquire(make_run(), 0.0), Grant)
    look = second._busy

    def busy(run: Run) -> Busy:
        first.release()
        return look(run)

    monkeypatch.setattr(second, "_busy", busy)
    with pytest.raises(_PausedError):
        second.acquire(make_run(), kernel.now() + 3600.0)
    second.release()
    assert waiter.due <= kernel.now() + _HOLD


def test_a_reader_does_not_shorten_another_ones_time(tmp_path: Path) -> None:
    """Of several readers' --min-hold the one that ends last keeps writers out."""
    tmp_path.chmod(0o700)
    for hold in (_HOLD, 1e-6):
        reader = _lock(tmp_path, _Waiter(), hold, shared=True)
        assert isinstance(reader.acquire(make_run(), 0.0), Grant)
        reader.release()
    writer = _lock(tmp_path, _Waiter())
    assert isinstance(writer.acquire(make_run(), 0.0), Busy)


def test_a_clock_that_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A not-before time ends its own length after the first look, not a year later."""
    tmp_path.chmod(0o700)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 365 * 86400)
    first = _lock(tmp_path, _Waiter(), _HOLD)
    assert isinstance(first.acquire(make_run(), 0.0), Grant)
    first.release()
    monkeypatch.setattr(time, "time", lambda: now)
    second = _lock(tmp_path, _Waiter())
    assert isinstance(second.acquire(make_run(), 0.0), Busy)
    assert second.hold(0) == sidecar.Hold("x", now + _HOLD, _HOLD)
    monkeypatch.setattr(time, "time", lambda: now + _HOLD)
    assert isinstance(second.acquire(make_run(), 0.0), Grant)
    second.release()
