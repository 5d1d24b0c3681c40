"""Where things are: by the user alone, so that cron, a login shell and a unit meet in one place.

Hence the home of the password database, never ``$HOME``. Nothing is made or opened here.
"""

from __future__ import annotations

import os

from guardrun.errors import UnsafePath, UsageError
from guardrun.units import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_ROOT = 0


def home() -> str | None:
    """The user's home in the password database; ``None`` for a user who is not in it."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return None


def config_file(environ: Mapping[str, str]) -> str | None:
    """The first configuration file there is, where none was named; ``None`` without any."""
    own = environ.get("XDG_CONFIG_HOME", "")
    if not own.startswith("/"):  # a relative one is to be ignored: XDG Base Directory 0.8
        place = home()
        own = f"{place}/.config" if place else ""
    for directory in (own, "/etc"):
        path = f"{directory}/guardrun/config.toml"
        if directory and _may_exist(path):
            return path
    return None


def _may_exist(path: str) -> bool:
    """Tell whether opening ``path`` finds something, be it an error: that one is to be shown."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def state_dir(environ: Mapping[str, str]) -> str:
    """Where the embedded ledger and the spool are."""
    chosen = _chosen(environ, "GUARDRUN_STATE_DIR")
    if chosen:
        return chosen
    if os.geteuid() == _ROOT:
        return "/var/lib/guardrun"
    place = home()
    if not place:
        raise UnsafePath(
            f"user {os.geteuid()} has no home in the password database: set GUARDRUN_STATE_DIR"
        )
    return f"{place.rstrip('/')}/.local/state/guardrun"


def lock_dir(environ: Mapping[str, str], state: str) -> str:
    """Where the host locks are; ``state`` is the state directory."""
    chosen = _chosen(environ, "GUARDRUN_LOCK_DIR")
    if chosen:
        return chosen
    return "/run/lock/guardrun" if os.geteuid() == _ROOT else f"{state}/locks"


def _chosen(environ: Mapping[str, str], name: str) -> str:
    path = environ.get(name, "")
    if path and not path.startswith("/"):
        raise UsageError(f"${name}: {shown(path)} is not an absolute path")
    return path.rstrip("/") or path
