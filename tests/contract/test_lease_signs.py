"""What every lease store tells of its holders beside its port: signs of life, and its clock."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import servers
from lease_stores import STORES, Leases, due, granted, lock_name, request, url_of
from support import eventually

from guardrun.errors import StoreUnavailable
from guardrun.locks.signs import Signs, open_signs


@pytest.fixture(params=STORES)
def leases(request: pytest.FixtureRequest) -> Iterator[Leases]:
    """Each store."""
    made: Leases = STORES[request.param].shared()
    yield made
    made.close()


@pytest.fixture
def signs(leases: Leases) -> Iterator[Signs]:
    """What it tells."""
    made = open_signs(url_of(leases))
    yield made
    made.close()


def test_the_clock(leases: Leases, signs: Signs) -> None:
    """It is the one that `since` is read from."""
    before = signs.clock(due())
    since = granted(leases.open().acquire(request(lock_name()), False, due())).since
    assert before <= since <= signs.clock(due())
    assert abs(time.time() - since) < 60


def test_a_renewal_is_a_sign_of_life(leases: Leases, signs: Signs) -> None:
    """It changes with every renewal, and not by being looked at; also where the place would stay
    taken without any renewal."""
    store = leases.open()
    wanted = request(lock_name(), min_hold=3600 if leases.lapses else 0)
    granted(store.acquire(wanted, False, due()))
    seen = [signs.of(wanted.lock, {wanted.token}, due()) for _ in range(3)]
    assert seen[0].keys() == {wanted.token}
    assert seen == [seen[0]] * 3
    assert store.renew(wanted, due())
    assert signs.of(wanted.lock, {wanted.token}, due()) != seen[0]


def test_who_holds_nothing_gives_none(leases: Leases, signs: Signs) -> None:
    """There is none of a run that has ended, also where its place is kept, nor of anybody who was
    not asked about."""
    store = leases.open()
    wanted = request(lock_name(), min_hold=3600 if leases.lapses else 0)
    granted(store.acquire(wanted, False, due()))
    assert signs.of(wanted.lock, {"0" * 32}, due()) == {}
    assert signs.of(wanted.lock, set(), due()) == {}
    assert signs.of(lock_name(), {wanted.token}, due()) == {}
    assert store.release(wanted, due())
    assert signs.of(wanted.lock, {wanted.token}, due()) == {}


def test_a_lease_that_has_lapsed_gives_none(leases: Leases, signs: Signs) -> None:
    """What keeps the place then is its not-before time alone."""
    if not leases.lapses:
        pytest.skip("it has no ttl")
    wanted = request(lock_name(), ttl=0.5, min_hold=3600)
    granted(leases.open().acquire(wanted, False, due()))
    eventually(lambda: not signs.of(wanted.lock, {wanted.token}, due()), what="a lapse")
    assert leases.open().holders(wanted.lock, due()) != ()


def test_a_store_that_cannot_be_reached(leases: Leases) -> None:
    """It is one line without the password, as from the store itself."""
    url = STORES[leases.kind].nowhere.format(port=servers.free_port())
    scheme = url_of(leases).partition("://")[0]
    nowhere = open_signs(f"{scheme}://{url.partition('://')[2]}")
    with pytest.raises(StoreUnavailable) as caught:
        nowhere.clock(due(2))
    assert "hunter2" not in str(caught.value)
    nowhere.close()
