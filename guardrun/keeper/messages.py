"""What supervisor and keeper say to each other; one question at a time, and its answer."""

from __future__ import annotations

from guardrun.lean import NamedTuple
from guardrun.model import (
    Attempt,
    Budget,
    Captured,
    Claim,
    Grant,
    Holder,
    KeySpec,
    LeaseRequest,
    Outcome,
    Recorded,
    Refusal,
    Run,
    Waiting,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.channel import Kinds


class Working(NamedTuple):
    """Keeper → supervisor: the drivers are loaded."""


class Question(NamedTuple):
    """Supervisor → keeper: do this, and answer; after ``due`` nobody listens any more."""

    serial: int
    asked: Acquire | Give | Begin | SpendRetry | Finish | StoredOutput | Renew
    due: float
    """CLOCK_BOOTTIME"""


class Acquire(NamedTuple):
    """Take a place of the lock; answered by a Grant or a Waiting."""

    wanted: LeaseRequest
    wait: bool
    """a no means to be in the queue"""
    claims: bool
    """COMMAND will wait for the ledger's word as well"""


class Give(NamedTuple):
    """Give the lock back, or stop waiting for it; answered by whether that was done."""


class Begin(NamedTuple):
    """Record what waits in the spool, then claim the key; answered by a Claim or a Refusal."""

    run: Run
    key: KeySpec


class SpendRetry(NamedTuple):
    """Take one retry out of the job's budget; answered by whether there was one."""

    run: Run
    budget: Budget


class Finish(NamedTuple):
    """Store the outcome; answered by a Recorded."""

    outcome: Outcome


class StoredOutput(NamedTuple):
    """Fetch what the run that succeeded wrote; answered by two streams, or ``None``."""

    key: str


class Renew(NamedTuple):
    """Renew all that is held now; answered by whether that worked."""


class Note(NamedTuple):
    """Supervisor → keeper: store the run as running, if you can; nobody waits for it."""

    run: Run
    key: KeySpec


class Release(NamedTuple):
    """Supervisor → keeper: the run is over; end."""


class Answer(NamedTuple):
    """Keeper → supervisor: the answer to the question of that number."""

    serial: int
    value: Grant | Waiting | Claim | Refusal | Recorded | bool | tuple[bytes, bytes] | None


class Failed(NamedTuple):
    """Keeper → supervisor: the question has no answer; ``kind`` is a class of ``errors``."""

    serial: int
    kind: str
    message: str


class Wake(NamedTuple):
    """Keeper → supervisor: it is worth asking for the lock again."""


class Look(NamedTuple):
    """Keeper → supervisor: what the term says of the lock has changed."""


class Broken(NamedTuple):
    """Keeper → supervisor: a fault in guardrun ends me."""

    message: str


KINDS: Kinds = (
    Working,
    Question,
    Acquire,
    Give,
    Begin,
    SpendRetry,
    Finish,
    StoredOutput,
    Renew,
    Note,
    Release,
    Answer,
    Failed,
    Wake,
    Look,
    Broken,
    Run,
    KeySpec,
    LeaseRequest,
    Budget,
    Outcome,
    Attempt,
    Grant,
    Waiting,
    Claim,
    Refusal,
    Recorded,
    Holder,
    Captured,
)
