"""What a keeper is given."""

from __future__ import annotations

from guardrun.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.ledger.spool import Spool
    from guardrun.ports import LeaseStore, RemoteLedger


class Stores(NamedTuple):
    """What a keeper works with; at least one of ledger and leases."""

    ledger: RemoteLedger | None
    spool: Spool | None
    leases: LeaseStore | None
    together: bool
    """leases and ledger are one database, and use one connection: outcome and release are one
    transaction"""


class Terms(NamedTuple):
    """How long what is held lasts."""

    claim_ttl: float
    """s"""
    grace: float
    """s that COMMAND has to tidy up when it is lost"""
    on_lease_loss: str
