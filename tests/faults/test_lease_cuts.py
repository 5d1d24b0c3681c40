"""Whole runs whose connection to the lease store breaks when they get the lock, or give it back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from fleet import ask
from lease_fleet import SHORT, LeaseFleet, keeper, let_go
from lease_stores import await_grant, due, lock_name, request
from proxy import Proxy
from support import eventually, finish, status

TTL = 10.0
"""s, of ``SHORT``"""
ACQUISITION = r"insert into guardrun\.lease_holders.*commit"


@pytest.mark.parametrize("when", ["before", "after"])
def test_cut_at_the_acquisition(tmp_path: Path, when: Literal["before", "after"]) -> None:
    """It is asked for again: one place, and the fence has grown by one step, not by two."""
    fleet, lock = LeaseFleet.shared("postgres", tmp_path), lock_name()
    try:
        with Proxy.before(fleet.url) as proxy:
            host = fleet.host(GUARDRUN_LEASE_URL=proxy.url_for(fleet.url))
            proxy.cut_at(ACQUISITION, when)
            process = host.hold(*SHORT, "--lock", lock)
            assert proxy.stats().fired == 1
            place = fleet.place(lock)
            assert place.fence == pytest.approx(place.since * 1e6, abs=2), "it was drawn twice"
            (row,) = ask(fleet.direct, "SELECT fence FROM guardrun.leases WHERE name = %s", lock)
            result = finish(process)
        assert result.code == 0, result
        assert result.event("lock_acquired")["fencing_token"] == place.fence == row["fence"]
        assert fleet.places(lock) == ()
    finally:
        fleet.close()


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_reset_at_the_release(kind: str, tmp_path: Path) -> None:
    """The lock is another's within a ttl, and what the old run says of it later changes nothing."""
    fleet, lock = LeaseFleet.shared(kind, tmp_path), lock_name()
    try:
        with Proxy.before(fleet.url) as proxy:
            host = fleet.host(GUARDRUN_LEASE_URL=proxy.url_for(fleet.url))
            process = host.hold(*SHORT, "--lock", lock)
            last = keeper(process)
            fence = fleet.place(lock).fence
            proxy.refuse()
            proxy.cut()
            let_go(process)
            store, successor = fleet.open(), request(lock)
            assert (await_grant(store, successor, TTL + 5).fence or 0) > fence
            proxy.accept()
            result = finish(process)
            eventually(lambda: not status(last), 30, "the end of the last word")
        assert (result.code, result.finished["result"]) == (0, "success"), result
        assert store.renew(successor, due()), "the old run's end touched another's lease"
    finally:
        fleet.close()
