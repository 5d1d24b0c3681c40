"""What can go wrong, and the exit code of each: a class attribute, looked up in one place.

The message is one line: what, why, what to do. ``cli`` prints it after ``guardrun: ``.
"""

from __future__ import annotations


class GuardrunError(Exception):
    """A fault in guardrun itself."""

    exit_code = 70


class UsageError(GuardrunError):
    """An option is wrong."""

    exit_code = 64


class ConfigError(GuardrunError):
    """A configuration file or a template is wrong, or users of one lock disagree about it."""

    exit_code = 78


class UnsafePath(GuardrunError):
    """A lock file, the lock directory or the state directory cannot be made or is not safe."""

    exit_code = 73


class StoreUnavailable(GuardrunError):
    """A store cannot be reached now; trying again later may help."""

    exit_code = 69


class StoreOutdated(StoreUnavailable):
    """A store's schema is missing, too old, or newer than this version; trying again won't help."""


class ToldToStop(GuardrunError):
    """A signal told guardrun to stop while no COMMAND was running."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"told to stop by signal {signum}")
        self.signum = signum


class DeadlineReached(GuardrunError):
    """``--deadline`` passed while no COMMAND was running."""

    exit_code = 124
