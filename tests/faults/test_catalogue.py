"""The catalogue of faults is whole, and every test that it names exists."""

from __future__ import annotations

import pytest
from catalogue import CATALOGUE, WITH_ITS_STORE, Fault
from named import exists

from guardrun.config import LEASES_OF_LATER


def test_there_are_twenty_five() -> None:
    """They are numbered from 1 to 25, in order, and each has tests as soon as it has its store."""
    assert [fault.number for fault in CATALOGUE] == list(range(1, 26))
    without = {fault.number for fault in CATALOGUE if not fault.shown_by}
    assert without == {n for n, scheme in WITH_ITS_STORE.items() if scheme in LEASES_OF_LATER}


@pytest.mark.parametrize("fault", CATALOGUE, ids=lambda fault: str(fault.number))
def test_its_tests_exist(fault: Fault) -> None:
    """A test that is renamed or removed leaves no fault without proof unnoticed."""
    missing = [name for name in fault.shown_by if not exists(name)]
    assert not missing
    assert len(set(fault.shown_by)) == len(fault.shown_by)
