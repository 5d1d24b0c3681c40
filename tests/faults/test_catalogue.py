"""The catalogue of faults is whole, and every test that it names exists."""

from __future__ import annotations

import pytest
from catalogue import CATALOGUE, Fault
from named import exists


def test_there_are_twenty_five() -> None:
    """They are numbered from 1 to 25, in order, and each has tests."""
    assert [fault.number for fault in CATALOGUE] == list(range(1, 26))
    assert all(fault.shown_by for fault in CATALOGUE)


@pytest.mark.parametrize("fault", CATALOGUE, ids=lambda fault: str(fault.number))
def test_its_tests_exist(fault: Fault) -> None:
    """A test that is renamed or removed leaves no fault without proof unnoticed."""
    missing = [name for name in fault.shown_by if not exists(name)]
    assert not missing
    assert len(set(fault.shown_by)) == len(fault.shown_by)
