"""Whether guardrun would run for a user of this host: its program is in reach, and so is its state.

Both say why not, as a clause; ``None``, for a user, is our own.
"""

from __future__ import annotations

import os
import pwd

_ROOT = 0


def unreachable(program: str, user: str | None) -> str | None:
    """Why a user could not execute ``program``; one that is not there is another matter."""
    entry = _entry(user)
    if entry is None or entry.pw_uid == _ROOT:
        return None
    steps = [program, os.path.realpath(program)]
    for end in tuple(steps):
        while (end := os.path.dirname(end)) not in ("/", ""):
            steps.append(end)
    for step in steps:
        try:
            status = os.stat(step)
        except FileNotFoundError:
            continue
        if not status.st_mode & _execute_bit(status, entry):
            return f"{entry.pw_name} cannot get at {program}, because of {step}"
    return None


def stateless(user: str | None) -> str | None:
    """Why a user's state directory could not be made."""
    entry = _entry(user)
    if entry is None:
        return f"the user {user or os.geteuid()} is not known here"
    if entry.pw_uid == _ROOT:
        return None
    place = f"{entry.pw_dir.rstrip('/')}/.local/state/guardrun"
    while not os.path.isdir(place) and place not in ("/", ""):
        place = os.path.dirname(place)
    status = os.stat(place or "/")
    if status.st_uid == entry.pw_uid and status.st_mode & 0o300 == 0o300:
        return None
    return f"{entry.pw_name} cannot make the state directory in {place or '/'}"


def _entry(user: str | None) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user)
    except KeyError:
        return None


def _execute_bit(status: os.stat_result, entry: pwd.struct_passwd) -> int:
    """The bit that counts for a user, whose further groups are not looked at."""
    if status.st_uid == entry.pw_uid:
        return 0o100
    return 0o010 if status.st_gid == entry.pw_gid else 0o001
