"""Puts an adopted file in the place of the old one: with a backup, whole or not at all."""

from __future__ import annotations

import os
import stat
import time
from typing import NamedTuple

from guardrun.errors import GuardrunError, UsageError

_SPOOL = "/var/spool/cron"


class Original(NamedTuple):
    """A file as it was read."""

    path: str
    """without symbolic links"""
    data: bytes
    status: os.stat_result


class Changed(Exception):
    """Somebody else wrote the file meanwhile."""


def read(path: str) -> Original:
    """Read a regular file. Raises UsageError."""
    path = os.path.realpath(path)
    try:
        with open(path, "rb", opener=_not_blocking) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path} is not a regular file; '-' reads stdin")
            return Original(path, file.read(), status)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _not_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def replace(original: Original, data: bytes) -> str:
    """Put ``data`` in the file's place, with its mode and owner; the path of the backup.

    Raises ``Changed`` and ``OSError``, and has then changed nothing but that a backup may be there.
    """
    if original.path.startswith(f"{_SPOOL}/"):
        raise UsageError(
            "cron owns this file: crontab -l >FILE, then adopt --write FILE, then crontab FILE"
        )
    if original.status.st_nlink > 1:
        raise UsageError(f"{original.path} has a second name (hard link), which would not change")
    backup = _write_backup(original)
    directory, name = os.path.split(original.path)
    # A leading dot: neither cron nor systemd takes half a file for one of theirs.
    draft = os.path.join(directory, f".{name}.{os.getpid()}")
    _write(draft, data, original)
    try:
        _refuse_changed(original)
        os.rename(draft, original.path)
    except BaseException:
        os.unlink(draft)
        raise
    _sync_directory(directory)
    return backup


def _write_backup(original: Original) -> str:
    """A copy beside the file, under a name that was free."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    for more in ("", *(f"-{number}" for number in range(2, 100))):
        # Fedora's cron executes what is in /etc/cron.d, dots or not, unless it ends in a tilde.
        backup = f"{original.path}.bak-{stamp}{more}~"
        try:
            _write(backup, original.data, original)
        except FileExistsError:
            continue
        _sync_directory(os.path.dirname(backup))
        return backup
    raise GuardrunError(f"there are a hundred backups of {original.path} of this second")


def _write(path: str, data: bytes, original: Original) -> None:
    """Make a new file as durable as its data, with the original's mode, owner and attributes."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        status = os.fstat(fd)
        if (status.st_uid, status.st_gid) != (original.status.st_uid, original.status.st_gid):
            os.fchown(fd, original.status.st_uid, original.status.st_gid)
        os.fchmod(fd, stat.S_IMODE(original.status.st_mode))  # after the owner, which clears bits
        for name in os.listxattr(original.path):
            os.setxattr(fd, name, os.getxattr(original.path, name))
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(fd)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def _refuse_changed(original: Original) -> None:
    now = read(original.path)
    before, after = original.status, now.status
    facts = ("st_ino", "st_mtime_ns", "st_mode", "st_uid", "st_gid", "st_nlink")
    differs = any(getattr(before, fact) != getattr(after, fact) for fact in facts)
    if differs or now.data != original.data:
        raise Changed(f"{original.path} was changed meanwhile: nothing is written")


def _sync_directory(path: str) -> None:
    fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
