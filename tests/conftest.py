"""Fixtures for every tier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from support import Host, alive, kill, marker


def pytest_configure(config: pytest.Config) -> None:
    """Shared servers live as long as this process: with xdist the controller, not a worker."""
    if not hasattr(config, "workerinput"):
        servers.own_session()


@pytest.fixture
def database_url() -> Iterator[str]:
    """A fresh database on the session's Postgres."""
    url = servers.database(servers.postgres_url())
    yield url
    servers.drop_database(url)


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
