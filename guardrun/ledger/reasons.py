"""Why a key says no: the same words from every ledger."""

from __future__ import annotations

from guardrun.lean import NamedTuple
from guardrun.model import Holder, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.model import KeySpec, Run


class Found(NamedTuple):
    """A key as it was found; ``since`` in seconds since 1970."""

    state: str
    """``running``, ``succeeded``, ``failed`` or ``interrupted``"""
    job_id: str
    owner: str
    fingerprint: str
    since: float
    """when the run ended, or claimed the key if it has not"""
    expired: bool
    """its success does not block any more"""

    @property
    def holder(self) -> Holder:
        """The run that it was found with."""
        return Holder(self.owner, self.job_id, self.since)


def unmet(key: str, found: Found | None) -> Refusal | None:
    """Why the needed ``key`` stands in the way; ``None`` when it has succeeded."""
    if found is None:
        return Refusal("needs", f"the needed key {key!r} has not succeeded: it never ran")
    if found.state != "succeeded":
        return Refusal("needs", f"the needed key {key!r} {_WHAT[found.state]}", found.holder)
    if found.expired:
        return Refusal("needs", f"the success of the needed key {key!r} has expired", found.holder)
    return None


_WHAT = {
    "running": "is running",
    "failed": "has failed",
    "interrupted": "has been interrupted",
}


def refused(found: Found, run: Run, key: KeySpec) -> Refusal:
    """Why a key that is not free says no to this run."""
    if key.on_mismatch == "fail" and found.fingerprint != run.fingerprint:
        what = {"succeeded": "succeeded with", "running": "is running with"}.get(
            found.state, "was interrupted with"
        )
        return Refusal("mismatch", f"the key {what} a different command line", found.holder)
    if found.state == "succeeded":
        return Refusal("duplicate", "the key has already succeeded", found.holder)
    if found.state == "running":
        return Refusal("held", "another run holds the key", found.holder)
    return Refusal(
        "interrupted",
        "the key's last run was interrupted, and whether to run again is for a person to decide",
        found.holder,
    )
