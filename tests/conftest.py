"""Fixtures for every tier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Host, alive, kill, marker


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host of its own for this test."""
    own = Host(tmp_path)
    yield own
    own.close()


@pytest.fixture
def mark() -> Iterator[str]:
    """A word that finds this test's processes again; what is left of them is killed at its end."""
    word = marker()
    yield word
    for pid in alive(word):
        kill(pid)
