"""What `locks` makes of what a lease store tells."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from support import eventually

from guardrun import kernel
from guardrun.commands import holdings
from guardrun.commands.stores import LockStores
from guardrun.model import LedgerSpec, Place


def test_a_slow_look_makes_no_lease_younger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease's age counts from when the store's clock was read, however long the rest takes."""
    asked_at: list[float] = []

    def clock(_due: float) -> float:
        asked_at.append(kernel.now())
        return 1000.0

    def locks(_due: float) -> Any:
        eventually(lambda: kernel.now() > asked_at[0] + 0.3, what="a slow answer")
        yield Place("a", "h:1:j", "j", "t", 1, 990.0, 5.0, 1)

    leases = SimpleNamespace(locks=locks, close=lambda: None)
    signs = SimpleNamespace(clock=clock, close=lambda: None)
    monkeypatch.setattr(holdings, "open_leases", lambda _: leases)
    monkeypatch.setattr(holdings, "open_signs", lambda _: signs)
    where = LockStores(None, "redis://h", False, LedgerSpec("none:", "/"), 1.0)
    (found,) = holdings.read_leases(where)
    assert found.begun == pytest.approx(asked_at[0] - 10, abs=0.1)
