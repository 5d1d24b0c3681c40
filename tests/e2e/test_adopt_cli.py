"""``guardrun adopt``: the old line and the new one do the same, and files are changed with care."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from crond import crond, installed
from machine import Machine
from support import Host, Result, write_script

WHEN = "*/5 * * * * "

_JOB = """#!/bin/sh
# Notes its words and its stdin, writes to both streams, and does what $ACT says.
echo "$# $*" >>"$LOG"
cat >>"$LOG"
echo out; echo err >&2
eval "$ACT"
"""


class Old:
    """A host whose crontab has lines without guardrun."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.machine = Machine(host)
        self.program = f"{self.machine.bin}/guardrun"
        self.log = self.machine.log
        write_script(host.root / "job", _JOB)

    def adopt(self, text: str, *words: str) -> str:
        """The text as it comes out of a pipe to guardrun adopt."""
        result = self.host.run(
            "adopt", f"--program={self.program}", *words, "-", data=text.encode()
        )
        assert result.code == 0, result
        return result.stdout.decode()

    def run(self, command: str, act: str = ":") -> tuple[Result, str]:
        """How a command ends, as crond executes it, and what the job noted."""
        self.log.unlink(missing_ok=True)
        result = self.machine.cron(f"{WHEN}{command}", ACT=act)
        return result, self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def old(host: Host) -> Old:
    """A host whose crontab has lines without guardrun."""
    return Old(host)


@pytest.fixture
def held(host: Host) -> Iterator[None]:
    """The lock file is locked by somebody who has never heard of guardrun."""
    holder = subprocess.Popen(
        ["flock", "lock", "sh", "-c", "echo held; exec cat"],
        cwd=host.root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    host.started.append(holder)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    yield
    holder.communicate(timeout=60)


def need(command: str) -> None:
    """Skip where a program of the old line is not installed, but not in CI."""
    for program in {"flock", "timeout", "chronic", "setlock"} & set(re.findall(r"\w+", command)):
        if shutil.which(program) is None:
            assert not os.environ.get("CI"), f"{program} is not installed"
            pytest.skip(f"{program} is not installed")


def both(old: Old, command: str, act: str = ":") -> tuple[Result, str]:
    """Run the old line and the new one; fail unless they do the same. What they do."""
    need(command)
    new = old.adopt(f"{WHEN}{command}").removeprefix(WHEN)
    assert f"{old.program} --log-to none" in new
    before, after = old.run(command, act), old.run(new, act)
    assert after == before, new
    return before


LINES = [
    "flock -n lock ./job a 'b  c'",
    "flock -n lock ./job %first%sec \\%d",
    'flock -w 0 -E 9 "$PWD/lock" ./job "$(date +\\%Y)"',
    "flock -n lock -c './job a | cat; exit 4'",
    "flock -n lock ./job 2>&1 | sed s/o/0/",
    "flock -n lock ./job >/dev/null 2>&1 || true",
    "flock -n lock ./job && echo yes || echo no",
    "nice -n 3 flock -xn lock env A=1 nice ./job",
    "flock -n lock timeout 30 ./job",
    "timeout 30 flock -w 0.2 lock ./job",
    "flock -n lock chronic ./job",
    "chronic flock -n lock ./job",
    "flock -n lock timeout 30 chronic ./job",
    "setlock -nx lock ./job",
    "flock -n lock timeout --preserve-status 30 ./job",
    "true; flock -n lock ./job; echo then $?",
]


@pytest.mark.parametrize("line", LINES)
def test_free(old: Old, line: str) -> None:
    """With nothing in the way both lines do the same: code, output, words and stdin."""
    assert both(old, line)[1]


@pytest.mark.parametrize("line", LINES)
def test_failing(old: Old, line: str) -> None:
    """When the job fails both lines say the same, in their code and output."""
    assert both(old, line, "exit 3")[1]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.usefixtures("held")
def test_busy(old: Old, line: str) -> None:
    """When flock itself holds the lock both lines give up the same way, and run nothing."""
    assert both(old, line)[1] == ""


@pytest.mark.usefixtures("held")
def test_busy_for_setlock(old: Old) -> None:
    """Without -x setlock says something about it; that is the one difference, and it is said."""
    need("setlock")
    new = old.adopt(f"{WHEN}setlock -n lock ./job").removeprefix(WHEN)
    (before, _), (after, ran) = old.run("setlock -n lock ./job"), old.run(new)
    assert (after.code, ran, after.stdout, after.stderr) == (before.code, "", b"", b"")
    assert b"unable to lock" in before.stderr


@pytest.mark.parametrize(
    "line",
    [
        "timeout 0.3 ./job",
        "flock -n lock timeout 0.3 ./job",
        "timeout -s INT .3 flock -n lock ./job",
        "chronic timeout 0.3s ./job",
        "timeout 0.3 ./job || echo gone",
    ],
)
def test_timed_out(old: Old, line: str) -> None:
    """When the time is up the job is stopped, by the same signal, with the same code and output."""
    result, _ = both(old, line, "trap 'echo told; exit 5' INT TERM; while :; do sleep 0.1; done")
    assert b"told" in result.stdout


def test_a_job_that_takes_its_time_to_stop(old: Old) -> None:
    """Without -k timeout waits for a job that ignores the signal, and so does guardrun."""
    result, _ = both(old, "timeout 0.2 ./job", "trap '' TERM; sleep 1; echo all the same")
    assert (result.code, b"all the same" in result.stdout) == (124, True)


def test_a_command_that_is_not_there(old: Old) -> None:
    """Both lines fail and say why, so that cron has something to mail."""
    line = "flock -n lock ./missing"
    new = old.adopt(f"{WHEN}{line}").removeprefix(WHEN)
    for one in (line, new):
        result, _ = old.run(one)
        assert result.code in (69, 126, 127)
        assert b"./missing" in result.stderr


@pytest.mark.usefixtures("held")
def test_a_wait_that_is_timed_out(old: Old) -> None:
    """A limit in front of flock is for the wait as well."""
    result, ran = both(old, "timeout 0.3 flock lock ./job")
    assert (result.code, ran) == (124, "")


def test_both_exclude_each_other(old: Old) -> None:
    """A line that is adopted and one that is not do not run at the same time, either way round."""
    line = "flock -n lock ./job"
    new = old.adopt(f"{WHEN}{line}").removeprefix(WHEN)
    for outside, inside in ((line, new), (new, line)):
        write_script(old.host.root / "inner", f"#!/bin/sh\n{inside}\necho inner $?\n")
        result, _ = old.run(outside, "ACT= exec ./inner")
        assert result.stdout.endswith(b"inner 1\n"), result


def test_a_whole_crontab_under_cron(old: Old) -> None:
    """Debian's cron does with the adopted crontab what it did with the old one, mail included."""
    need("flock chronic timeout")
    job = f"{old.host.root}/job"
    tab = f"""\
# Lines as they come: flock -n {old.host.root}/l {job}
MAILTO = "root"
*/5 * * * * cd {old.host.root} && flock -n l1 {job} one "$(date +\\%Y)" >/dev/null 2>&1
@daily flock -n {old.host.root}/l2 chronic {job} two
0 4 * * 1 timeout 30 flock {old.host.root}/l3 -c '{job} three; false' %first%second \\% third
"""
    adopted = old.adopt(tab)
    assert adopted.count("guardrun --log-to none") == 3
    assert old.adopt(adopted) == adopted

    def happens(name: str, text: str) -> tuple[list[str], list[str]]:
        old.log.unlink(missing_ok=True)

        def begun() -> bool:
            return old.log.exists() and len(re.findall(r"^\d ", old.log.read_text(), re.M)) == 3

        with crond(old.host.root / name, text, old.machine.environment({})) as cron:
            cron.done(begun)
            return sorted(old.log.read_text().splitlines()), [
                mail.partition("\n\n")[2] for mail in cron.mails()
            ]

    before = happens("before", tab)
    assert {"first", "second % third"} < set(before[0])
    assert before[1] == ["out\nerr\n"]
    assert happens("after", adopted) == before


def test_crontab_takes_what_is_printed(old: Old) -> None:
    """crontab(1) takes an adopted crontab as it is, byte for byte."""
    lines = "".join(f"{WHEN}{line}\n" for line in LINES)
    text = old.adopt(f"# mine\nMAILTO=root\n\n@daily true\n{lines}").encode()
    assert installed(old.host.root, text).endswith(text)


# ---------------------------------------------------------------- files


def tab(host: Host) -> Path:
    """A crontab that has something to adopt."""
    path = host.root / "tab"
    path.write_bytes(b"# \xff\n*/5 * * * * flock -n /l job\n")
    path.chmod(0o640)
    return path


def backups(path: Path) -> list[Path]:
    """The backups beside a file."""
    return sorted(path.parent.glob(f"{path.name}.bak-*"))


def test_without_write_nothing_is_written(host: Host) -> None:
    """The file is printed as it would be; the explanation goes to stderr, with line numbers."""
    path = tab(host)
    before = path.read_bytes()
    result = host.run("adopt", "--program", "/bin/sh", str(path))
    assert result.code == 0
    assert result.stdout == before.replace(
        b"flock -n /l", b"/bin/sh --log-to none --lock-file /l -E 1 --"
    )
    assert result.stderr.startswith(f"{path}:2: flock -n /l".encode())
    elsewhere = host.run("adopt", "--program", "/missing", str(path))
    assert (elsewhere.code, b"/missing --log-to none" in elsewhere.stdout) == (0, True)
    assert elsewhere.stderr.startswith(b"guardrun: there is no /missing here")
    assert (path.read_bytes(), backups(path)) == (before, [])
    assert not host.state.exists()


def test_the_program_is_found_from_anywhere(host: Host) -> None:
    """Neither cron nor systemd starts where adopt was called: a relative path becomes whole."""
    tab(host)
    (host.root / "own").symlink_to("/bin/sh")
    result = host.run("adopt", "--program", "./own", "tab")
    assert f"* {host.root}/own --log-to none".encode() in result.stdout


def test_a_drop_in_does_not_say_all(host: Host) -> None:
    """What the unit itself says of its type and users stands in another file."""
    for name, is_said in (("override.conf", True), ("shop.service", False)):
        (host.root / name).write_text(
            "[Service]\nExecStart=\nExecStart=/usr/bin/flock /l /bin/job\n"
        )
        result = host.run("adopt", "--program", "/bin/sh", name)
        assert b"--lock-file /l" in result.stdout
        assert (b"only this drop-in" in result.stderr) is is_said


def test_write_keeps_a_backup(host: Host) -> None:
    """--write changes the file as it is printed, keeps its mode, and the old one beside it."""
    path = tab(host)
    before, printed = path.read_bytes(), host.run("adopt", "tab").stdout
    result = host.run("adopt", "--write", "tab")
    assert (result.code, result.stdout) == (0, b"")
    assert path.read_bytes() == printed
    (backup,) = backups(path)
    assert backup.read_bytes() == before
    assert {file.stat().st_mode & 0o777 for file in (path, backup)} == {0o640}
    assert str(backup).encode() in result.stderr
    assert sorted(file.name for file in host.root.iterdir()) == ["tab", backup.name]


def test_a_second_write_changes_nothing(host: Host) -> None:
    """What is adopted already gets neither a new file nor a backup."""
    path = tab(host)
    assert host.run("adopt", "--write", "tab").code == 0
    inode, kept = path.stat().st_ino, backups(path)
    result = host.run("adopt", "--write", "tab")
    assert (result.code, b"nothing to change" in result.stderr) == (0, True)
    assert (path.stat().st_ino, backups(path)) == (inode, kept)


def test_no_backup_is_overwritten(host: Host) -> None:
    """Two backups of one second are two files."""
    path = tab(host)
    before = path.read_bytes()
    for _ in range(3):
        path.write_bytes(before)
        assert host.run("adopt", "--write", "tab").code == 0
    assert [backup.read_bytes() for backup in backups(path)] == [before] * 3


def test_owner_and_link_are_kept(host: Host) -> None:
    """A link stays one, and the file that it leads to stays its owner's."""
    path = tab(host)
    if os.geteuid() == 0:
        os.chown(path, 12345, 54321)
    owner = (path.stat().st_uid, path.stat().st_gid)
    (host.root / "link").symlink_to("tab")
    assert host.run("adopt", "--write", "link").code == 0
    assert (host.root / "link").is_symlink()
    assert b"--lock-file" in path.read_bytes()
    for file in (path, *backups(path)):
        assert (file.stat().st_uid, file.stat().st_gid) == owner


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("nothing",), 64, "cannot read"),
        ((".",), 64, "directory"),
        (("--write", "-"), 64, "needs a file"),
        (("--write", "second"), 64, "hard link"),
        (("--write", "--program", "/missing", "tab"), 64, "there is no /missing"),
        (("--program", "/opt/of mine/guardrun", "tab"), 64, "has characters"),
        (("--program", "/opt/100%/guardrun", "tab"), 64, "has characters"),
        (("--format", "ini", "tab"), 64, "not one of"),
        ((), 64, "missing argument"),
    ],
)
def test_refused(host: Host, words: tuple[str, ...], code: int, why: str) -> None:
    """Wrong input is one line, and nothing is written."""
    before = tab(host).read_bytes()
    if "second" in words:
        os.link(host.root / "tab", host.root / "second")
    result = host.run("adopt", *words)
    assert (result.code, result.stdout) == (code, b"")
    assert why in result.stderr.decode().lower()
    assert (host.root / "tab").read_bytes() == before
    assert backups(host.root / "tab") == []


def test_formats_by_name(host: Host) -> None:
    """A unit file is known by its name, and one of the system's crontabs can be named."""
    unit = host.root / "x.service"
    unit.write_text("[Service]\nExecStart=/usr/bin/flock -n /l /bin/job\n")
    assert b"-k 36500d -- /bin/job" in host.run("adopt", "x.service").stdout
    line = b"* * * * * root flock -n /l job\n"
    assert host.run("adopt", "-", data=line).stdout == line
    system = host.run("adopt", "--format", "system", "-", data=line).stdout
    assert system.startswith(b"* * * * * root /")


def test_a_closed_stdout_is_no_success(host: Host) -> None:
    """Where the output cannot be written the exit code says so: a pipe to crontab must not win."""
    tab(host)
    with open("/dev/full", "wb") as full:
        assert host.run("adopt", "tab", stdout=full).code == 70
