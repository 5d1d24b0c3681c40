"""What holds for every lease store (``ports.LeaseStore``), whatever server it is.

A lease is a place in a lock that the store takes back by itself after its ttl. Common rules, for
all stores:

- a *no* is a value; a store that cannot be reached is ``StoreUnavailable``, one line without any
  secret; a backend neither sleeps, retries, nor logs, and no call goes on after ``due``
  (CLOCK_BOOTTIME), also when the server is frozen;
- whatever a call that raised was doing may have happened: ``acquire``, ``renew``, ``release`` and
  ``leave`` may be repeated with the same token, and then change nothing more;
- time is the store's own; hosts need not agree about it;
- the fence of an acquisition is max(last + 1, the store's microseconds since 1970), also with
  several places, so that it grows even when the store has lost all it knew; in etcd and
  Consul, which lose nothing that a majority has not lost, it is the cluster's own revision or
  index.
"""

from __future__ import annotations

from guardrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.model import LeaseRequest

LONGEST_TTL = 86400.0
"""s"""
LONGEST_HOLD = 366 * 86400.0
"""s; ``--min-hold`` beyond that is cut off here"""


def check(wanted: LeaseRequest) -> None:
    """Refuse what no store can promise. Raises ``UsageError``."""
    if not 0 < wanted.ttl <= LONGEST_TTL:
        raise UsageError(f"--ttl {wanted.ttl:g}s: a lease lasts more than 0s and at most 24h")
    if wanted.slots < 1:
        raise UsageError(f"--slots {wanted.slots}: a lock has at least one place")
