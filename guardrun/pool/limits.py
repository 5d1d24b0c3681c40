"""Whether this process may have as many descriptors as a pool needs."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from guardrun.errors import UsageError

if TYPE_CHECKING:
    from guardrun.model import EachSpec, Plan

_OWN = 48
"""of the pool itself, and while one item is started"""
_PLACE = 10
"""of one running item: its guard, its pipes, its lock and key, where it waits"""
_KEEPER = 6
"""more, where it has one"""


def check(plan: Plan, spec: EachSpec) -> None:
    """See that there are enough. Raises UsageError.

    Before the first item: to run out of them in the middle would fail items, and whatever else
    opens a file then. The limit is not raised, because COMMAND would inherit that.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OWN + spec.parallel * (_PLACE + (_KEEPER if _has_keepers(plan, spec) else 0))
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        raise UsageError(
            f"--parallel: {spec.parallel} items at a time take {wanted} file descriptors, and the "
            f"limit is {allowed}: raise it (ulimit -n) or lower -P"
        )


def _has_keepers(plan: Plan, spec: EachSpec) -> bool:
    """Whether every place has a keeper: the ledger, or the lock of each item, is far away."""
    lease = spec.lock_by_item and plan.lock is not None and plan.lock.lease_url is not None
    return lease or not plan.ledger.url.startswith(("sqlite:", "none:"))
