"""Directories of ours: whose they are, where they lie, and what waits in the spool."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from typing import NamedTuple

from guardrun import safety
from guardrun.commands.flush import elsewhere
from guardrun.doctor.finding import BROKEN, NOTE, OK, Finding, told
from guardrun.errors import GuardrunError, UnsafePath
from guardrun.ledger.spool import LIMIT, open_spool
from guardrun.model import LedgerSpec

_IN_MEMORY = ("tmpfs", "ramfs")
_PRIVATE = "/systemd-private-"
"""what systemd calls the directory that a unit with PrivateTmp= has for its /tmp"""
_SHARED = ("/tmp", "/var/tmp")


class Mount(NamedTuple):
    """The filesystem that a path is on."""

    point: str
    kind: str
    root: str
    """the directory of it that is mounted there"""


def mount_of(path: str, mountinfo: Iterable[str]) -> Mount:
    """Find the mount that ``path`` is on in the lines of /proc/PID/mountinfo (proc(5))."""
    found = Mount("/", "unknown", "/")
    for line in mountinfo:
        fields = line.split()
        point = fields[4].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found.point):
            found = Mount(point, fields[fields.index("-") + 1], fields[3])
    return found


def examine_directory(subject: str, what: str, path: str, *, durable: bool) -> list[Finding]:
    """Whether runs can use a directory, and find each other there; nothing is made.

    ``durable``: what is in it must be there after a reboot.
    """
    there = path
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    try:
        if there == path:
            os.close(safety.private_directory(path, what))
    except UnsafePath as error:
        return [told(subject, error)]
    if there != path and not os.access(there, os.W_OK | os.X_OK):
        says = f"the {what} {path} is not there, and {there} is not ours to make it in"
        return [Finding(subject, BROKEN, says, f"make it: install -d -m 0700 -o USER {path}")]
    status = os.stat(there)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mount = mount_of(os.path.realpath(there), file)
    facts = {
        "path": path,
        "owner": status.st_uid,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}" if there == path else None,
        "filesystem": mount.kind,
    }
    state = f"mode {facts['mode']}" if there == path else "will be made by the first run"
    found = [Finding(subject, OK, f"{what} {path}: {state}, on {mount.kind}", facts=facts)]
    return found + _where(subject, f"the {what} {path}", mount, path, durable, facts)


def _where(
    subject: str, what: str, mount: Mount, path: str, durable: bool, facts: dict[str, object]
) -> list[Finding]:
    """What is wrong with where it lies."""
    found = []
    if durable and mount.kind in _IN_MEMORY:
        says = f"{what} is in memory ({mount.kind}): a reboot forgets every key and outcome"
        mend = "set GUARDRUN_STATE_DIR to a directory on a disk"
        found.append(Finding(subject, BROKEN, says, mend, facts))
    place = next((one for one in _SHARED if path.startswith(one + "/")), None)
    if place and _PRIVATE in mount.root:
        says = f"{what} is in a {place} that only this unit sees (PrivateTmp=)"
        mend = "set GUARDRUN_STATE_DIR and GUARDRUN_LOCK_DIR to directories outside of it"
        found.append(Finding(subject, BROKEN, says, mend, facts))
    elif place:
        says = f"{what} is below {place}: a unit with PrivateTmp= has another one"
        mend = "set GUARDRUN_STATE_DIR and GUARDRUN_LOCK_DIR to directories outside of it"
        found.append(Finding(subject, NOTE, says, mend, facts))
    return found


def examine_spool(spec: LedgerSpec) -> list[Finding]:
    """What waits to be recorded."""
    try:
        spool = open_spool(spec, os.environ)
        waiting, damaged = spool.entries(), spool.damaged()
    except (GuardrunError, OSError) as error:
        return [told("spool", error)]
    found = []
    age = max((time.time() - os.stat(path).st_mtime for path in waiting[:1]), default=0.0)
    facts = {"waiting": len(waiting), "damaged": len(damaged), "oldest_s": round(age)}
    if waiting:
        says = f"{_waits(len(waiting))} to be recorded, the oldest for {round(age)} s"
        found.append(Finding("spool", NOTE, says, "guardrun flush", facts))
    if damaged:
        says = f"what cannot be read: {', '.join(damaged[:3])}"
        found.append(Finding("spool", NOTE, says, "look at them, then remove them", facts))
    for other in elsewhere(spec):
        says = f"{_waits(other.waiting)} for another ledger: {other.ledger}"
        mend = "name that ledger in GUARDRUN_LEDGER_URL, and call guardrun flush"
        found.append(Finding("spool", NOTE, says, mend))
    return found + _room(spec) or [Finding("spool", OK, "empty", facts=facts)]


def _waits(number: int) -> str:
    return "1 outcome waits" if number == 1 else f"{number} outcomes wait"


def _room(spec: LedgerSpec) -> list[Finding]:
    """Whether the spool could take what it may have to."""
    there = spec.state_dir
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    status = os.statvfs(there)
    left = status.f_bavail * status.f_frsize
    if left >= LIMIT:
        return []
    says = f"{left >> 20} MiB are left for it on the disk of {there}, which may need {LIMIT >> 20}"
    return [Finding("spool", NOTE, says, "make room", {"free_bytes": left})]
