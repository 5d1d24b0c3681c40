"""Hostile surroundings: COMMANDs and systems that take away what guardrun stands on."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from support import GUARDRUN, Host, finish

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(
    not ROOT or shutil.which("unshare") is None, reason="only root can make a mount namespace"
)


def test_a_warden_that_command_has_stopped_is_continued(host: Host) -> None:
    """A COMMAND that stops its parent keeps neither its exit code nor the lock from anybody."""
    result = host.run("--lock", "l", "--", "sh", "-c", "kill -STOP $PPID; exit 3", timeout=30)
    assert result.code == 3
    assert result.finished["result"] == "failed"


@needs_root
def test_without_proc_it_says_so(host: Host) -> None:
    """Where COMMAND's processes could not be ended, nothing is started: exit 70, one line."""
    script = 'mount --make-rprivate /; mount -t tmpfs t /proc; exec "$@"'
    result = finish(
        host.start(
            *("--log-to", "none", "--", "touch", "ran"),
            program=("unshare", "-m", "--pid", "--fork", "sh", "-c", script, "sh", *GUARDRUN),
        ),
        20,
    )
    assert result.code == 70, result
    assert b"/proc is not there" in result.stderr or b"system refused" in result.stderr
    assert not (host.root / "ran").exists()


@pytest.mark.parametrize("limit", [*range(5, 20), 24, 32])
def test_few_descriptors(host: Host, limit: int) -> None:
    """With hardly any descriptors a run works or says that it can't; it neither hangs nor lies."""
    result = finish(
        host.start(
            *("--log-to", "stderr", "--lock", "l", "--key", "k", "--store-wait", "0"),
            *("--record-wait", "0"),
            *("--output", "json", "--", "sh", "-c", "exit 3"),
            program=("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *GUARDRUN),
        ),
        20,
    )
    assert result.code in (3, 69, 70, 73, 1, 127), result
    assert b"Traceback" not in result.stderr or result.code == 1, result
    if result.code == 3:
        assert [row["result"] for row in host.rows()] == ["failed"]


def test_a_reader_around_us_is_no_reason_to_wait(host: Host) -> None:
    """Who reads under a lock can't wait to write under it, whoever else has read since."""
    inner = [*GUARDRUN, "--log-to", "stderr", "--lock", "l", "--wait", "forever", "--", "true"]
    other = [*GUARDRUN, "--log-to", "none", "-s", "--lock", "l", "--", "true"]
    code = (
        "import sys; from subprocess import run; words = sys.argv[1:]; at = words.index('then');"
        "run(words[:at], check=True); sys.exit(run(words[at + 1:]).returncode)"
    )
    words = [sys.executable, "-c", code, *other, "then", *inner]
    result = host.run("-s", "--lock", "l", "--", *words, timeout=30)
    assert result.code == 75, result
    assert b"around this one" in result.stderr


def test_a_lock_file_around_us_is_no_reason_to_wait(host: Host) -> None:
    """Nor where a process in between has closed the descriptor that holds the lock."""
    inner = [*GUARDRUN, "--log-to", "stderr", "--lock-file", "f", "-w", "forever", "--", "true"]
    code = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    words = [sys.executable, "-c", code, *inner]
    result = host.run("--lock-file", "f", "--", *words, timeout=30)
    assert result.code == 75, result
    assert b"around this one" in result.stderr


@pytest.mark.parametrize("option", ["--lock", "--key", "--needs", "--job"])
def test_a_name_with_a_password_is_refused(host: Host, option: str) -> None:
    """Names are stored and logged: one with a URL's password in it is refused, and not shown."""
    result = host.run(option, "postgres://u:S3CRET@h/db", "--", "true")
    assert result.code in (64, 78)
    assert b"S3CRET" not in result.stdout + result.stderr
    stored = [path for path in host.root.rglob("*") if path.is_file()]
    assert not [path for path in stored if b"S3CRET" in path.read_bytes()]


def test_an_error_does_not_show_a_password(host: Host) -> None:
    """What is wrong with a value is said without the password in it."""
    result = host.run("--config", "https://u:S3CRET@h", "--", "true")
    assert result.code == 78
    assert b"S3CRET" not in result.stderr


@needs_root
@pytest.mark.parametrize(("options", "code"), [((), 0), (("--min-hold", "1s"), 73)])
def test_a_full_lock_directory(host: Host, options: tuple[str, ...], code: int) -> None:
    """The lock holds without its sidecar; a not-before time that can't be kept is exit 73."""
    full = host.root / "full"
    full.mkdir()
    script = (
        'mount --make-rprivate /; mount -t tmpfs -o size=64k t "$0"; mkdir -m 700 "$0/l";'
        'dd if=/dev/zero of="$0/fill" bs=1k 2>/dev/null; exec env GUARDRUN_LOCK_DIR="$0/l" "$@"'
    )
    result = finish(
        host.start(
            *("--log-to", "none", "--lock", "l", *options, "--", "true"),
            program=("unshare", "-m", "sh", "-c", script, str(full), *GUARDRUN),
        ),
        20,
    )
    assert result.code == code, result


def test_a_directory_as_stdin_to_replay(host: Host) -> None:
    """A stdin that can't be read is one line, not a fault."""
    write_only = os.open(host.root / "wo", os.O_WRONLY | os.O_CREAT)
    try:
        result = host.run("--stdin", "replay", "--", "cat", stdin=write_only)
    finally:
        os.close(write_only)
    assert result.code == 64
    assert result.stderr.startswith(b"guardrun: stdin cannot be read")


@pytest.mark.parametrize("name", ["link", "open"])
def test_a_spool_that_is_not_ours_alone(host: Host, name: str) -> None:
    """A spool that others can write to, or a link to elsewhere that is so, is refused: 73."""
    host.state.mkdir(mode=0o700)
    target = host.root / "elsewhere" if name == "link" else host.state / "spool"
    target.mkdir()
    target.chmod(0o777)
    if name == "link":
        Path(host.state / "spool").symlink_to(target)
    assert host.run("--key", "k", "--", "true").code == 73
