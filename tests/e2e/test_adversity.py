"""Hostile surroundings: COMMANDs and systems that take away what guardrun stands on."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from support import GUARDRUN, Host, finish, write_script

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


_HEIR = """\
import os, signal, sys, time
spared, mark = int(sys.argv[1]), sys.argv[2]
open("go", "w").close()
while os.path.exists(f"/proc/{spared}"):
    time.sleep(0.01)
heir = 0
while heir != spared:  # until nobody was faster
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(spared - 1))
    heir = os.fork()
    if heir == 0 and os.getpid() == spared:
        os.execvp("sleep", ["sleep", mark])
    elif heir == 0:
        os._exit(0)
    elif heir != spared:
        os.waitpid(heir, 0)
warden = os.getppid()
with open(f"/proc/{warden}/stat") as stat:
    backstop = int(stat.read().rpartition(")")[2].split()[1])
for guard in backstop, warden:
    os.kill(guard, signal.SIGKILL)
signal.pause()
"""
"""A process of COMMAND's has the number of a child that guardrun was started with."""
_BORN_WITH = 'while ! test -e go; do sleep 0.01; done & exec "$@" $!'
_AFTER = """\
test -e /proc/sys/kernel/ns_last_pid || exit 99
sh -c "$BORN_WITH" sh "$@"
echo $?
for pid in /proc/[0-9]*; do tr '\\0' ' ' < "$pid/cmdline"; echo; done 2> /dev/null
"""


@needs_root
def test_a_number_is_spared_only_as_long_as_it_is_a_child(host: Host, mark: str) -> None:
    """What guardrun was started with outlives COMMAND; who has its number after it does not."""
    script = write_script(host.root / "heir", f"#!{sys.executable} -IS\n{_HEIR}")
    command = ("--log-to", "none", "--", "sh", "-c", 'exec "$0" "$2" "$1"', str(script), mark)
    alone = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    result = finish(
        host.start(
            *command,
            program=(*alone, "sh", "-c", _AFTER, "sh", *GUARDRUN),
            env={"BORN_WITH": _BORN_WITH},
        ),
        20,
    )
    if result.code == 99:
        pytest.skip("this kernel lets nobody choose the number of a process")
    code, *left = result.stdout.decode().split("\n")
    assert code == "70", result
    assert not [words for words in left if words.split() == ["sleep", mark]], result
