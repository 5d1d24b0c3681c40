"""Whether a user of this host can have a state directory: without one guardrun does not run."""

from __future__ import annotations

import os
import pwd


def unusable(user: str | None) -> str | None:
    """Why the user's state directory could not be made, as a clause; ``None``: our own user."""
    try:
        entry = pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user)
    except KeyError:
        return f"the user {user or os.geteuid()} is not known here"
    if entry.pw_uid == 0:
        return None
    place = f"{entry.pw_dir.rstrip('/')}/.local/state/guardrun"
    while not os.path.isdir(place) and place not in ("/", ""):
        place = os.path.dirname(place)
    status = os.stat(place or "/")
    if status.st_uid == entry.pw_uid and status.st_mode & 0o300 == 0o300:
        return None
    return f"{entry.pw_name} cannot make the state directory in {place or '/'}"
