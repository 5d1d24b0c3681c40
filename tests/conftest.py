"""Fixtures for every tier."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import servers
from support import Host, alive, compile_library, kill, marker

# How long something takes on a busy machine says nothing about the code.
hypothesis.settings.register_profile(
    "guardrun", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("guardrun")


def pytest_configure(config: pytest.Config) -> None:
    """Shared servers live as long as this process: with xdist the controller, not a worker."""
    if not hasattr(config, "workerinput"):
        servers.own_session()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what waits for a ttl to pass: a worker is given the first tests in one piece.

    At the end they would be left for one worker after the others have done; and no two of them,
    which are the most sensitive to load, run at the same time.
    """
    faults = Path(__file__).parent / "faults"
    items.sort(key=lambda item: faults not in item.path.parents)


@pytest.fixture
def database_url() -> Iterator[str]:
    """A fresh database on the session's Postgres."""
    url = servers.database(servers.postgres_url())
    yield url
    servers.drop_database(url)


@pytest.fixture
def library(tmp_path: Path) -> Callable[[str, str], Path]:
    """Makes a library for LD_PRELOAD, of this name, from C source."""
    if shutil.which("cc") is None:
        text = "no cc found: apt install gcc"
        if os.environ.get("CI"):
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    return lambda name, source: compile_library(tmp_path, name, source)


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


@pytest.fixture
def certified() -> Iterator[Path]:
    """A certificate for localhost and its key, where a server that is not root can read them.

    And one of nobody's, which a client may have.
    """
    if shutil.which("openssl") is None:
        assert not os.environ.get("CI"), "openssl is not installed"
        pytest.skip("openssl is not installed")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        for name, whose in (("", "/CN=localhost"), ("nameless-", "/O=guardrun")):
            make = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
            make += ["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", whose]
            make += ["-keyout", f"{name}key", "-out", f"{name}cert"]
            make += ["-addext", "subjectAltName=DNS:localhost"]
            subprocess.run(make, cwd=place, check=True, capture_output=True)
            (place / f"{name}key").chmod(0o644)
        yield place
