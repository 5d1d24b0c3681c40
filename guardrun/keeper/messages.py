"""What supervisor and keeper say to each other; one question at a time, and its answer."""

from __future__ import annotations

from guardrun.lean import NamedTuple
from guardrun.model import (
    Attempt,
    Budget,
    Captured,
    Claim,
    Holder,
    KeySpec,
    Outcome,
    Refusal,
    Run,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.channel import Kinds


class Working(NamedTuple):
    """Keeper → supervisor: the drivers are loaded."""


class Question(NamedTuple):
    """Supervisor → keeper: do this, and answer; after ``due`` nobody listens any more."""

    serial: int
    asked: Begin | SpendRetry | Finish | StoredOutput | Renew
    due: float
    """CLOCK_BOOTTIME"""


class Begin(NamedTuple):
    """Record what waits in the spool, then claim the key; answered by a Claim or a Refusal."""

    run: Run
    key: KeySpec


class SpendRetry(NamedTuple):
    """Take one retry out of the job's budget; answered by whether there was one."""

    run: Run
    budget: Budget


class Finish(NamedTuple):
    """Store the outcome; answered by whether the claim was still ours."""

    outcome: Outcome


class StoredOutput(NamedTuple):
    """Fetch what the run that succeeded wrote; answered by two streams, or ``None``."""

    key: str


class Renew(NamedTuple):
    """Renew the claim now; answered by whether that worked."""


class Note(NamedTuple):
    """Supervisor → keeper: store the run as running, if you can; nobody waits for it."""

    run: Run
    key: KeySpec


class Release(NamedTuple):
    """Supervisor → keeper: the run is over, end; give back a claim that has executed nothing."""

    executed: bool


class Answer(NamedTuple):
    """Keeper → supervisor: the answer to the question of that number."""

    serial: int
    value: Claim | Refusal | bool | tuple[bytes, bytes] | None


class Failed(NamedTuple):
    """Keeper → supervisor: the question has no answer; ``kind`` is a class of ``errors``."""

    serial: int
    kind: str
    message: str


class Broken(NamedTuple):
    """Keeper → supervisor: a fault in guardrun ends me."""

    message: str


KINDS: Kinds = (
    Working,
    Question,
    Begin,
    SpendRetry,
    Finish,
    StoredOutput,
    Renew,
    Note,
    Release,
    Answer,
    Failed,
    Broken,
    Run,
    KeySpec,
    Budget,
    Outcome,
    Attempt,
    Claim,
    Refusal,
    Holder,
    Captured,
)
