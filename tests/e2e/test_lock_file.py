"""`--lock-file`: one lock with flock(1) on the same path, in both directions, without a trace."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import GUARDRUN, Host, alive, eventually, finish, kill, queued


@pytest.fixture(params=["file", "directory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What is locked: flock(1) takes files and directories."""
    path = tmp_path / "target"
    if request.param == "directory":
        path.mkdir()
    else:
        path.write_text("not to be touched")
    return path


@contextmanager
def flock(path: Path, *options: str) -> Iterator[int]:
    """Hold the lock with flock(1) while this lasts; the pid of flock."""
    process = subprocess.Popen(
        ["flock", *options, path, "sh", "-c", "echo held; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process.pid
    process.communicate(timeout=10)


def flock_gets(path: Path, *options: str) -> bool:
    """Whether flock(1) gets the lock right now."""
    command = ["flock", "-n", *options, str(path), "true"]
    return subprocess.run(command, check=False, timeout=10).returncode == 0


# ---------------------------------------------------------------- one lock with flock(1)


def test_flock_keeps_guardrun_out(host: Host, target: Path) -> None:
    """What flock(1) holds is busy: exit 75, COMMAND not executed, and the holder's pid is told."""
    with flock(target) as pid:
        result = host.run("--lock-file", str(target), "--", host.job)
    assert result.code == 75, result
    held_by = result.event("lock_busy")["held_by"]
    assert str(pid) in held_by["owner"].split(":")
    assert result.finished["result"] == "lock_busy"
    assert host.executions() == []


def test_guardrun_keeps_flock_out(host: Host, target: Path) -> None:
    """While guardrun holds the lock flock(1) does not get it, and afterwards at once it does."""
    holder = host.hold("--lock-file", str(target))
    assert not flock_gets(target)
    assert not flock_gets(target, "-s")
    assert finish(holder).code == 0
    assert flock_gets(target)


def test_guardrun_keeps_guardrun_out(host: Host, target: Path) -> None:
    """Two runs with one `--lock-file` exclude each other, as two with one lock do."""
    holder = host.hold("--lock-file", str(target))
    refused = host.run("--lock-file", str(target), "-E", "3", "--", host.job)
    assert refused.code == 3, refused
    assert str(holder.pid) in refused.event("lock_busy")["held_by"]["owner"].split(":")
    assert finish(holder).code == 0
    assert host.run("--lock-file", str(target), "--", host.job).code == 0


def test_guardrun_waits_for_flock(host: Host, target: Path) -> None:
    """`-w` waits for a lock that flock(1) holds, in the same queue of the kernel."""
    with flock(target):
        waiter = host.start("--lock-file", str(target), "-w", "60s", "--", host.job)
        eventually(lambda: queued(target), what="guardrun in the kernel's queue")
        assert host.executions() == []
    result = finish(waiter)
    assert result.code == 0, result
    assert result.event("lock_acquired")["lock_wait_ms"] > 0
    assert len(host.executions()) == 1


def test_flock_waits_for_guardrun(host: Host, target: Path) -> None:
    """A flock(1) that waits gets the lock when the run has ended."""
    holder = host.hold("--lock-file", str(target))
    waiter = subprocess.Popen(["flock", target, "true"])
    eventually(lambda: queued(target), what="flock in the kernel's queue")
    assert finish(holder).code == 0
    assert waiter.wait(timeout=10) == 0


def test_a_wait_for_flock_that_times_out(host: Host, target: Path) -> None:
    """When `--wait` is over, the run is refused and out of the queue."""
    with flock(target):
        result = host.run("--lock-file", str(target), "-w", "300ms", "--", host.job)
        assert queued(target) == 0
    assert result.code == 75, result
    assert result.finished["lock_wait_ms"] >= 300
    assert flock_gets(target)


def test_readers_of_both_kinds_share(host: Host, target: Path) -> None:
    """`-s` and `flock -s` hold the lock together, and each keeps the other's writers out."""
    with flock(target, "-s"):
        assert host.run("--lock-file", str(target), "-s", "--", host.job).code == 0
        assert host.run("--lock-file", str(target), "--", host.job).code == 75
    reader = host.hold("--lock-file", str(target), "-s")
    assert flock_gets(target, "-s")
    assert not flock_gets(target)
    assert finish(reader).code == 0


def test_a_symbolic_link_names_the_same_lock(host: Host, target: Path) -> None:
    """A link is followed, as flock(1) follows it: the lock is the file's, not the name's."""
    link = host.root / "link"
    link.symlink_to(target)
    with flock(target):
        assert host.run("--lock-file", str(link), "--", host.job).code == 75
    holder = host.hold("--lock-file", str(link))
    assert not flock_gets(target)
    finish(holder)


def test_a_relative_path_is_relative_to_where_we_are(host: Host, target: Path) -> None:
    """The path is taken as flock(1) takes it, from the working directory."""
    with flock(target):
        assert host.run("--lock-file", "target", "--", host.job).code == 75
    assert host.run("--lock-file", "./target", "--", host.job).code == 0


# ---------------------------------------------------------------- without a trace


def test_what_is_locked_is_not_written(host: Host) -> None:
    """Content, mode and times of the lock file are after a run what they were before."""
    path = host.root / "precious"
    path.write_text("precious")
    path.chmod(0o640)
    os.utime(path, ns=(10**18, 10**18))
    before = path.stat()
    assert host.run("--lock-file", str(path), "--key", "k", "--", "true").code == 0
    after = path.stat()
    assert path.read_text() == "precious"
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    assert (before.st_mode, before.st_ino) == (after.st_mode, after.st_ino)


@pytest.mark.parametrize("mask", [0, 0o022, 0o027, 0o077])
def test_a_missing_file_is_made_as_flock_makes_it(host: Host, mask: int) -> None:
    """A lock file that is not there is made, empty, with the mode that flock(1) gives it."""
    ours, theirs = host.root / "ours", host.root / "theirs"
    assert host.run("--lock-file", str(ours), "--", "true", umask=mask).code == 0
    subprocess.run(["flock", theirs, "true"], check=True, umask=mask)
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(theirs.stat().st_mode)
    assert ours.stat().st_size == 0
    assert host.run("--lock-file", str(ours), "--", "true").code == 0


def test_a_file_that_may_only_be_read_can_be_locked(host: Host) -> None:
    """To lock a file it is enough to be allowed to read it."""
    path = host.root / "readonly"
    path.write_text("")
    path.chmod(0o444)
    holder = host.hold("--lock-file", str(path))
    assert not flock_gets(path)
    finish(holder)


def test_no_lock_directory_is_needed(host: Host, target: Path) -> None:
    """A lock file needs nothing in the lock directory, and leaves nothing there."""
    assert host.run("--lock-file", str(target), "--", "true").code == 0
    assert not host.locks.exists()


def test_a_lock_file_has_no_fencing_token(host: Host, target: Path) -> None:
    """There is no place to keep a token in a file that is never written: none is handed out."""
    result = host.run("--lock-file", str(target), "--log-to", "stderr", "--", "env")
    variables = dict(line.split(b"=", 1) for line in result.stdout.splitlines() if b"=" in line)
    assert b"GUARDRUN_FENCING_TOKEN" not in variables
    assert variables[b"GUARDRUN_LOCK"] == bytes(target)
    assert b"fencing_token" not in result.stderr
    assert b'"lock_acquired"' in result.stderr


# ---------------------------------------------------------------- the end of a run


def test_a_daemon_does_not_keep_the_lock_file(host: Host, target: Path, mark: str) -> None:
    """After a normal end flock(1) gets the lock although COMMAND left a daemon behind."""
    daemon = f"setsid sleep {mark} </dev/null >/dev/null 2>&1 &"
    result = host.run("--lock-file", str(target), "--", "sh", "-c", daemon)
    assert result.code == 0, result
    assert alive(mark)
    assert flock_gets(target)


def test_kill_9_frees_the_lock_file(host: Host, target: Path, mark: str) -> None:
    """After `kill -9` of guardrun a waiting flock(1) gets the lock, when COMMAND is dead."""
    tree = f"trap '' TERM; setsid sleep {mark} & sleep {mark}"
    holder = host.start("--lock-file", str(target), "--", "sh", "-c", tree)
    eventually(lambda: len(alive(mark)) == 2, what="COMMAND's tree")
    look = "; ".join(f"grep -h State: /proc/{pid}/status 2>/dev/null" for pid in alive(mark))
    waiter = subprocess.Popen(
        ["flock", target, "sh", "-c", f"{look}; true"], stdout=subprocess.PIPE
    )
    eventually(lambda: queued(target), what="flock in the kernel's queue")
    kill(holder.pid)
    finish(holder)
    states = waiter.communicate(timeout=10)[0].split()[1::3]
    assert set(states) <= {b"Z"}, states


def test_told_to_stop_while_waiting_for_a_lock_file(host: Host, target: Path) -> None:
    """TERM ends the wait at once, and the queue has nobody in it afterwards."""
    with flock(target):
        waiter = host.start("--lock-file", str(target), "-w", "forever", "--", host.job)
        eventually(lambda: queued(target), what="guardrun in the kernel's queue")
        waiter.send_signal(signal.SIGTERM)
        result = finish(waiter, timeout=10)
        assert queued(target) == 0
    assert result.code == -signal.SIGTERM, result
    assert host.executions() == []


def test_a_lock_file_that_was_replaced_does_not_make_two_holders(host: Host) -> None:
    """Who got the lock of a file that is not in its place any more, queues at the new one."""
    path = host.root / "replaced"
    edges = 'echo "+" >>edges; echo "-" >>edges'
    holder = host.hold("--lock-file", str(path))
    waiter = host.start("--lock-file", str(path), "-w", "60s", "--", host.job, env={"ACT": edges})
    eventually(lambda: queued(path), what="a waiter in the kernel's queue")
    path.unlink()
    second = host.hold("--lock-file", str(path))
    assert finish(holder).code == 0
    eventually(lambda: queued(path), what="the waiter in the queue of the new file")
    assert len(host.executions()) == 2
    assert finish(second).code == 0
    assert finish(waiter).code == 0
    assert (host.root / "edges").read_text().split() == ["+", "-"]


def test_a_run_does_not_wait_for_the_lock_file_of_a_run_around_it(host: Host, target: Path) -> None:
    """A guardrun that would wait for the lock file of the one that executes it exits 75."""
    inner = [*GUARDRUN, "--lock-file", str(target), "-w", "forever", "--", host.job]
    result = host.run("--lock-file", str(target), "--log-to", "none", "--", *inner)
    assert result.code == 75, result
    assert "around" in result.finished["reason"]
    assert host.executions() == []


# ---------------------------------------------------------------- what cannot be locked


def refused(host: Host, path: Path) -> None:
    """Check that this lock file is refused with 73 and one line, nothing executed."""
    result = host.run("--lock-file", str(path), "--", host.job)
    assert result.code == 73, result
    said = result.stderr.decode().splitlines() or [str(result.finished["reason"])]
    assert len(said) == 1
    assert path.name in said[0]
    assert host.executions() == []


def test_a_file_that_cannot_be_made_is_refused(host: Host) -> None:
    """A lock file whose directory is not there, or is a file, is exit 73."""
    refused(host, host.root / "missing" / "path")
    (host.root / "plain").write_text("")
    refused(host, host.root / "plain" / "path")


def test_a_fifo_is_refused(host: Host) -> None:
    """A FIFO, at which flock(1) would hang until somebody writes, is exit 73."""
    path = host.root / "fifo"
    os.mkfifo(path)
    refused(host, path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_refused(host: Host) -> None:
    """A lock file that we may not open is exit 73."""
    path = host.root / "secret"
    path.write_text("")
    path.chmod(0)
    refused(host, path)
