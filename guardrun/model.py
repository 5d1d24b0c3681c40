"""The values that travel through a run: argv → Plan → run → Outcome → exit code.

All are frozen. Times are seconds: ``…_at`` since 1970 (wall clock, for people and the ledger);
durations have no suffix; deadlines inside a run are CLOCK_BOOTTIME readings named ``…_due``.
"""

from __future__ import annotations

from guardrun.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FOREVER = float("inf")


# ---------------------------------------------------------------- what was asked for: the Plan


class LockSpec(NamedTuple):
    """The lock to hold while COMMAND runs; exactly one of ``name`` (a template) and ``file``."""

    name: str | None
    file: str | None
    directory: str
    scope: str = "host"
    slots: int = 1
    shared: bool = False
    min_hold: float = 0.0
    lease_url: str | None = None
    """where the lease is kept; ``None`` in host scope"""
    ttl: float = 60.0
    """s that a lease is good for after its last renewal"""
    on_lease_loss: str = "stop"


class KeySpec(NamedTuple):
    """The idempotency key, and what to do when it says no; ``key`` and ``needs`` are templates."""

    key: str | None
    needs: tuple[str, ...] = ()
    ttl: float = FOREVER
    on_duplicate: str = "skip"
    on_interrupted: str = "rerun"
    on_mismatch: str = "fail"
    claim_ttl: float = 900.0
    """s that a claim in Postgres is good for after its last renewal"""


class Codes(NamedTuple):
    """A set of exit codes, and whether it holds timeouts and deaths by signal."""

    codes: frozenset[int]
    timeout: bool = False
    signal: bool = False


class Budget(NamedTuple):
    """At most ``retries`` retries of a job within ``window`` seconds."""

    retries: int
    window: float


class RetrySpec(NamedTuple):
    """What is worth another attempt, how often, and how long to wait before it."""

    retries: int = 0
    base: float = 1.0
    cap: float = 60.0
    jitter: str = "full"
    retry_on: Codes | None = None
    """``None``: every failure but 126 and 127."""
    budget: Budget | None = None


class ExecSpec(NamedTuple):
    """COMMAND and the rules it runs under."""

    argv: tuple[str, ...]
    retry: RetrySpec = RetrySpec()
    success_codes: frozenset[int] = frozenset({0})
    timeout: float = FOREVER
    deadline: float = FOREVER
    stop_signal: int = 15
    kill_after: float = 10.0
    splay: float = 0.0
    stdin: str = "inherit"
    stdin_max: int = 64 << 20
    output: str = "inherit"
    capture: int = 0


class LedgerSpec(NamedTuple):
    """Where outcomes are kept, and how hard to try."""

    url: str
    state_dir: str
    store_wait: float = 15.0
    record_wait: float = 30.0
    on_down: str = "run"
    keep: float = 90 * 86400.0


class ReportSpec(NamedTuple):
    """Where the log lines go, and what they look like."""

    to: str = "stdout"
    format: str = "auto"
    level: str = "info"
    quiet: bool = False
    redact: tuple[str, ...] = ()
    metrics_textfile: str | None = None
    """directory of the job's metrics file"""
    ping_url: str | None = None
    """a monitor that is told of start and end"""


class Plan(NamedTuple):
    """Everything one run was asked to do, after flags, environment and files were merged."""

    job: str
    exec: ExecSpec
    lock: LockSpec | None
    key: KeySpec
    ledger: LedgerSpec
    report: ReportSpec
    wait: float = 0.0
    """for a busy lock, and what is left of it for a key that another run holds"""
    conflict_code: int = 75
    """exit code when they stay busy"""
    enqueued_at: float | None = None


class EachSpec(NamedTuple):
    """How a pool works off its items."""

    parallel: int = 1
    items: str = "lines"
    """``lines``, ``null`` or ``jsonl``"""
    halt_after: float = FOREVER
    """failures, then no new items are taken"""
    keep_order: bool = False
    tag: bool = False
    lock_by_item: bool = False
    """every running item takes the lock, or a slot of it; else it is taken once, for the pool"""


# ---------------------------------------------------------------- who we are


class Run(NamedTuple):
    """One run's identity: constant from its first line to its last."""

    job_id: str
    job: str
    owner: str
    """``host:pid:job_id``"""
    host: str
    user: str
    pid: int
    argv: tuple[str, ...]
    """redacted, for the ledger"""
    fingerprint: str
    """SHA-256 of COMMAND's own words, before redaction"""
    started_at: float
    path: tuple[str, ...] = ()
    """job_ids of the guardruns around this one, outermost first"""
    lock: str | None = None
    key: str | None = None
    needs: tuple[str, ...] = ()
    enqueued_at: float | None = None
    token: str | None = None
    """128 random bits that make a claim of ``key`` this run's own; ``None`` without a key.

    Drawn once, so that a claim which is asked for again, because its answer was lost, is the same.
    """


class Holder(NamedTuple):
    """Who holds a lock or a key, as far as it is known."""

    owner: str
    job_id: str | None = None
    since: float | None = None


# ---------------------------------------------------------------- what a lock says


class Grant(NamedTuple):
    """The lock is ours."""

    lock: str
    fence: int | None
    """``None`` for shared locks and ``--lock-file``"""
    since: float
    fds: tuple[int, ...] = ()
    """the descriptors that hold it; COMMAND inherits them"""
    fence_durable: bool | None = None
    """whether the store's counter survives a crash of its server; ``None``: it was not asked"""
    owner: str | None = None
    """who holds it, where that is not the run itself but the pool that it is part of"""


AROUND_US = "it is held by a run around this one: waiting for it would never end"


class Busy(NamedTuple):
    """The lock is somebody else's; a value, not an error."""

    holders: tuple[Holder, ...] = ()
    reason: str | None = None
    """why it is busy, where that is more than its holder; after ``AROUND_US`` nobody waits"""


# ---------------------------------------------------------------- what a lease store says


class LeaseRequest(NamedTuple):
    """What a run asks a store for."""

    lock: str
    """the lock's name, any text of up to 1024 characters"""
    owner: str
    """``host:pid:job_id``, for people"""
    job_id: str
    token: str
    """32 hex digits, drawn once per run: who has it may renew and release"""
    slots: int
    """places; as long as one of them is taken, another number is ``ConfigError``"""
    ttl: float
    """s"""
    min_hold: float = 0.0
    """s that the place stays taken from its acquisition on, even after its release"""


class Waiting(NamedTuple):
    """The lock is busy; with ``wait``, we are in its queue."""

    holders: tuple[Holder, ...]
    """some of them, where there are many; empty when the place is kept for others in the queue"""
    ask_again: float
    """s after which to ask again at the latest, even if nothing wakes us; the caller jitters it.

    Who does not ask for several times that long loses its place in the queue.
    """
    reason: str | None = None
    """what keeps the lock taken, where that is no run"""
    ahead: int | None = None
    """how many wait before us, where that is known; 2 stands for more as well"""


class Place(NamedTuple):
    """One place that is taken, for ``locks`` and ``unlock``."""

    lock: str
    owner: str
    job_id: str
    token: str
    """what ``take_away`` wants"""
    fence: int
    since: float
    """s since 1970, by the store's clock"""
    expires_in: float
    """s until the place is free unless it is renewed"""
    slots: int
    released: bool = False
    """the lease has ended; the place stays taken for ``min_hold`` alone, or ``delayed``"""
    delayed: bool = False
    """for a while the store gives nobody a place that was lost (Consul's lock-delay)"""


# ---------------------------------------------------------------- what the ledger says


class Claim(NamedTuple):
    """The key (or, without a key, just the run's row) is ours; committed."""

    token: str | None
    """this claim of the key alone; ``None`` without a key"""
    fds: tuple[int, ...] = ()
    """the descriptors that show that the run is alive; COMMAND inherits them"""
    interrupted: str | None = None
    """job_id of the key's last run, when that was cut off"""


class Refusal(NamedTuple):
    """The key, or a key that is needed, says no."""

    kind: str
    """``duplicate``, ``held``, ``mismatch``, ``interrupted`` or ``needs``"""
    reason: str
    """one clause for people"""
    holder: Holder | None = None
    """of the run that succeeded, runs, or was interrupted"""


class Captured(NamedTuple):
    """The last bytes of COMMAND's two streams."""

    stdout: bytes = b""
    stderr: bytes = b""


class Recorded(NamedTuple):
    """An outcome is stored; what of it turned out not to have been ours any more."""

    claim: bool = True
    """False: the key was taken over, and was left alone"""
    lease: bool = True
    """False: the lock's lease was lost; known only where it is kept beside the ledger"""


# ---------------------------------------------------------------- how it ended


class Ended(NamedTuple):
    """How one execution of COMMAND ended, as its parent saw it."""

    exit_code: int | None
    signal: int | None
    cause: str | None
    """``None``: by itself; else ``timeout``, ``deadline``, ``lease_lost``, ``told_to_stop``,
    ``warden_lost``; ``not_started`` when exec failed (then ``exit_code`` is 126 or 127)"""
    orphans: int = 0
    """processes that COMMAND left running at a normal end"""
    why: str | None = None
    """what the kernel said when exec failed, beyond that there is no such file"""


class Attempt(NamedTuple):
    """One execution of COMMAND, judged."""

    number: int
    started_at: float
    duration: float
    result: str
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None


class Outcome(NamedTuple):
    """The whole of a run: what is recorded, logged, and turned into an exit code."""

    run: Run
    result: str
    exit_code: int
    """what guardrun exits with; ignored when ``die_by`` is set"""
    finished_at: float
    duration: float
    die_by: int | None = None
    """the signal guardrun ends itself by"""
    signal: int | None = None
    command_code: int | None = None
    """COMMAND's own exit code, of its last attempt"""
    reason: str | None = None
    attempts: tuple[Attempt, ...] = ()
    claim: Claim | None = None
    held: bool = False
    """the lock was ours"""
    fence: int | None = None
    held_by: Holder | None = None
    """who had the lock or the key instead"""
    lock_wait: float | None = None
    key_ttl: float = FOREVER
    lease_lost: bool = False
    captured: Captured | None = None
    """``None``: nothing was captured"""


class Counts(NamedTuple):
    """What became of a pool's items."""

    total: int = 0
    """that were taken"""
    succeeded: int = 0
    failed: int = 0
    skipped_duplicate: int = 0
    lock_busy: int = 0
    interrupted: int = 0

    def plus(self, result: str) -> Counts:
        """One more, that ended with ``result``."""
        field = {
            "success": "succeeded",
            "skipped_duplicate": "skipped_duplicate",
            "lock_busy": "lock_busy",
            "interrupted": "interrupted",
        }.get(result, "failed")
        return self._replace(**{field: getattr(self, field) + 1})


class Event(NamedTuple):
    """One log line to be; ``fields`` as in contract section 5."""

    at: float
    level: str
    name: str
    fields: Mapping[str, object]
