"""Debian's cron, privately: its own spool, its own mail, and everything is gone with it.

And what crond does with a line, for tests that need only that.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from support import eventually, write_script

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "HOME": "/nonexistent"}
"""what a line finds where its crontab sets nothing"""

_WHEN = re.compile(r"@\w+\s+|(\S+\s+){5}")
_PAM = "".join(f"{kind} required pam_permit.so\n" for kind in ("auth", "account", "session"))

# In namespaces of its own: the machine's crontabs, and its mail, are not ours to touch.
_INSIDE = """\
set -e
mount --make-rprivate /
mount -t tmpfs none /run
mount --bind spool /var/spool/cron/crontabs
mount --bind empty /etc/cron.d
mount --bind crontab /etc/crontab
mount --bind pam /etc/pam.d
mount --bind sbin /usr/sbin
exec "$@"
"""

_SENDMAIL = """#!/bin/sh
exec cat >"$(mktemp {mail}/XXXXXX)"
"""


def as_crond(command: str) -> tuple[list[str], bytes]:
    r"""The words that crond executes for a command, and its stdin (crontab(5)).

    ``\%`` is a %; the first other one ends the command, and those after it are ends of lines.
    """
    command, *data = re.split(r"(?<!\\)%", command)
    text = "".join(f"{line}\n" for line in data).replace("\\%", "%")
    return ["/bin/sh", "-c", command.replace("\\%", "%")], text.encode()


class Crond:
    """A cron that executes a crontab's lines once, at once."""

    def __init__(self, mail: Path, outside: int) -> None:
        self._mail = mail
        self._outside = outside

    def done(self, begun: Callable[[], object]) -> None:
        """Wait until the lines have begun, by the caller's word, and cron has seen them end."""
        eventually(begun, 30, "the lines are being executed")
        (cron,) = _children(self._outside)
        eventually(lambda: not _children(cron), 30, "cron has nothing to wait for")

    def mails(self) -> list[str]:
        """The mails that cron has sent, each with its head."""
        return [path.read_text() for path in self._mail.iterdir()]


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def crond(root: Path, crontab: str, variables: Mapping[str, str]) -> Iterator[Crond]:
    """Run a user's crontab, every line of it once, whenever it should run."""
    place = _place(root)
    lines = "".join(f"{name}={value}\n" for name, value in variables.items())
    lines += "".join(
        line
        if line.startswith("#") or re.match(r"\w+\s*=", line)
        else _WHEN.sub("@reboot ", line, count=1)
        for line in crontab.splitlines(keepends=True)
    )
    tab = place / "spool" / "root"
    tab.write_text(lines)
    tab.chmod(0o600)
    write_script(place / "sbin/sendmail", _SENDMAIL.format(mail=place / "mail"))
    cron = shutil.which("cron", path="/usr/sbin:/usr/bin")
    assert cron
    shutil.copy(cron, place / "sbin/cron")
    process = subprocess.Popen(
        [*_ALONE, "sh", "-c", _INSIDE, "sh", "cron", "-f"],
        cwd=place,
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield Crond(place / "mail", process.pid)
        assert process.poll() is None, "cron ended by itself"
    finally:
        process.kill()  # and with it the namespace's first process, and so all in it
        process.wait()


def installed(root: Path, crontab: bytes) -> bytes:
    """What ``crontab -l`` prints after ``crontab -`` has taken this; fail where it does not."""
    place = _place(root)
    said = subprocess.run(
        [*_ALONE, "sh", "-c", _INSIDE, "sh", "sh", "-c", "crontab - && crontab -l"],
        cwd=place,
        env=_ENVIRONMENT,
        input=crontab,
        capture_output=True,
        check=False,
    )
    assert said.returncode == 0, said
    return said.stdout


def _place(root: Path) -> Path:
    """Make what is mounted over the machine's own. Skip where that cannot be."""
    _need_cron()
    place = root / "crond"
    for name in ("spool", "empty", "pam", "sbin", "mail"):
        (place / name).mkdir(parents=True)
    (place / "crontab").touch()
    (place / "pam/cron").write_text(_PAM)
    return place


_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def _need_cron() -> None:
    """Skip where there is no cron, or none can run privately."""
    if shutil.which("cron", path="/usr/sbin:/usr/bin") is None:
        assert not os.environ.get("CI"), "cron is not installed"
        pytest.skip("cron is not installed")
    alone = subprocess.run([*_ALONE, "true"], capture_output=True, check=False)
    if os.geteuid() or alone.returncode:
        pytest.skip("namespaces of our own take root, and a kernel that lets it")
