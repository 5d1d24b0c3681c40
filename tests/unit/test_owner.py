"""Which owner's process is alive here: what counts as proof, and what does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import job_id
from support import eventually, status

from guardrun.locks.owner import living

HERE = os.uname().nodename
FIXED = "019ac3f2-8c00-7000-8000-000000000000"


@pytest.fixture
def guardrun() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has guardrun in its command line, and does nothing."""
    words = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)", "guardrun"]
    with subprocess.Popen(words) as process:
        line = Path(f"/proc/{process.pid}/cmdline")
        eventually(lambda: b"guardrun" in line.read_bytes(), what="an exec that is complete")
        yield process
        process.kill()


def owner(pid: object, begun: float = 0.0, host: str = HERE) -> str:
    """An owner whose run began so many seconds from now."""
    return f"{host}:{pid}:{job_id(time.time() + begun)}"


def test_a_guardrun_that_was_there_when_the_run_began(guardrun: subprocess.Popen[bytes]) -> None:
    """It is the run's own, for as long as it lives; a zombie does not."""
    run = owner(guardrun.pid)
    assert living(run) == guardrun.pid
    guardrun.kill()
    eventually(lambda: status(guardrun.pid)["State"].startswith("Z"))
    assert living(run) is None
    guardrun.wait()
    assert living(run) is None


def test_a_guardrun_that_came_later(guardrun: subprocess.Popen[bytes]) -> None:
    """A pid that was used again is another run's, but for clocks that were set by a little."""
    assert living(owner(guardrun.pid, begun=-3600)) is None
    assert living(owner(guardrun.pid, begun=-2)) == guardrun.pid


def test_a_process_that_is_none(guardrun: subprocess.Popen[bytes]) -> None:
    """Other programs with the same pid, such as that of a container's guardrun, prove nothing."""
    assert living(owner(1)) is None
    assert living(owner(guardrun.pid, host="elsewhere")) is None


@pytest.mark.parametrize(
    "text", ["", "h", f"{HERE}:1", f"{HERE}::x", f"{HERE}:x:y", f"{HERE}:²:{FIXED}", "a:b:c:d"]
)
def test_what_is_no_owner(text: str) -> None:
    """What somebody wrote by hand proves nothing, and hurts nobody."""
    assert living(text) is None


@pytest.mark.parametrize("job", ["", "nightly", "0" * 31, "z" * 32])
def test_what_is_no_job_id(guardrun: subprocess.Popen[bytes], job: str) -> None:
    """Without the moment at which the run began there is no proof."""
    assert living(f"{HERE}:{guardrun.pid}:{job}") is None
