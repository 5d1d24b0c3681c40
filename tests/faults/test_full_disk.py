"""Many runs at once on a disk without room for all of them.

GUARDRUN_TEST_RACERS is how many.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Host, finish

RACERS = int(os.environ.get("GUARDRUN_TEST_RACERS", "12"))
_KEYS = 4
_ROOM = 96 * 1024
"""bytes that are left: enough for some claims and not for all"""
_DOWN = 69
"""as an exit code"""


@pytest.fixture
def small(host: Host) -> Iterator[Path]:
    """The host's state directory, on a small disk of its own."""
    host.state.mkdir(mode=0o700)
    options = "size=1m,mode=0700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "guardrun-test", str(host.state)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a full disk needs the right to mount a tmpfs")
    yield host.state
    host.close()
    subprocess.run(["umount", host.state], check=True)


def fill(path: Path) -> None:
    """Write a file that leaves hardly any room."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC
        file.truncate(file.tell() - _ROOM)


def test_racers_on_a_full_disk(host: Host, small: Path) -> None:
    """What could not be claimed is not executed; and with room again every key succeeds once.

    An outcome for which there was no room is in nobody's way: its key counts as interrupted.
    """
    words = ("--store-wait", "500ms", "--record-wait", "200ms", "--wait", "2s", "--log-to", "none")
    keys = [f"k{number % _KEYS}" for number in range(RACERS)]
    assert host.run(*words, "--", host.job).code == 0  # makes the ledger
    fill(small / "filler")
    racers = [host.start(*words, "--key", key, "--", host.job) for key in keys]
    codes = Counter(finish(racer).code for racer in racers)
    assert codes[_DOWN] > 0, f"there was room for all of them: {codes}"
    assert codes.keys() <= {0, 75, _DOWN}, codes
    (small / "filler").unlink()
    for key in keys[:_KEYS]:
        assert host.run(*words, "--key", key, "--", host.job).code == 0
    rows = {row["job_id"]: row for row in host.rows()}
    executed = host.executions()
    assert set(executed) <= rows.keys(), "it was executed before it was claimed"
    assert len(set(executed)) == len(executed)
    for key in keys[:_KEYS]:
        results = Counter(row["result"] for row in rows.values() if row["key"] == key)
        assert results["success"] == 1, results
        assert results["running"] == 0, results
