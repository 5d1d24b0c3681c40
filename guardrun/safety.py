"""Directories and files that guardrun trusts: its own, nobody else's, on a local filesystem.

Refusals are ``UnsafePath`` (exit 73). Files are opened relative to a directory that was
checked, without following links, so nothing can be exchanged between check and use.
"""

from __future__ import annotations

import errno
import os
import stat

from guardrun.errors import UnsafePath

_NETWORK = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "gpfs", "afs", "ncpfs"),
    *("ocfs2", "gfs2", "beegfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs"),
    *("fuse.rclone", "fuse.davfs"),
)


def private_directory(path: str, what: str) -> int:
    """Open the directory ``path``, making it and its parents (0700) where they are missing.

    Raises UnsafePath when it is someone else's, others can write to it, or it is remote.
    """
    try:
        fd = _open_directory(path)
    except FileNotFoundError:
        _make(path, what)
        fd = _open_directory(path)
    except OSError as error:
        raise UnsafePath(f"{what} {path}: {error.strerror}; name another one") from None
    status = os.fstat(fd)
    problem = None
    if status.st_uid != os.geteuid():
        problem = f"belongs to uid {status.st_uid}, not to you"
    elif status.st_mode & 0o022:
        problem = f"others can write to it (mode {status.st_mode & 0o7777:04o}); chmod go-w it"
    else:
        remote = network_filesystem(status)
        if remote:
            problem = f"is on a network filesystem ({remote}), where locks can be lost unseen"
    if problem:
        os.close(fd)
        raise UnsafePath(f"{what} {path}: {problem}")
    return fd


def _open_directory(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _make(path: str, what: str) -> None:
    # os.makedirs gives its mode to the last component only; the ones above are ours as well.
    missing = [path]
    while not os.path.exists(os.path.dirname(missing[-1]) or "/"):
        missing.append(os.path.dirname(missing[-1]))
    for directory in reversed(missing):
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass  # another run was first
        except OSError as error:
            raise UnsafePath(f"{what} {path} cannot be made: {error.strerror}") from None


def private_file(directory: int, name: str, path: str) -> int:
    """Open (0600, made where missing) the file ``name`` in a directory that was checked.

    ``path`` is for the message. Raises UnsafePath for anything but a regular file of our own
    with one name.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(name, flags, 0o600, dir_fd=directory)
    except OSError as error:
        why = "is a symbolic link" if error.errno == errno.ELOOP else os.strerror(error.errno or 0)
        raise UnsafePath(f"{path}: {why}; remove it or name another directory") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        problem = "is not a regular file"
    elif status.st_uid != os.geteuid():
        problem = f"belongs to uid {status.st_uid}, not to you"
    elif status.st_nlink > 1:
        problem = "has a second name (hard link)"
    else:
        return fd
    os.close(fd)
    raise UnsafePath(f"{path}: {problem}; remove it or name another directory")


def network_filesystem(status: os.stat_result) -> str | None:
    """Name the network filesystem that a file is on; ``None`` when it is local."""
    device = status.st_dev
    if os.major(device) != 0:  # a real block device
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.split()
                if fields[2] == wanted:
                    kind = fields[fields.index("-") + 1]
                    return kind if kind in _NETWORK else None
    except (OSError, ValueError, IndexError):
        return None
    return None
