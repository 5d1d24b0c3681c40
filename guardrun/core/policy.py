"""How an attempt is judged, whether another is worth it, and how long to wait before it.

Pure: random numbers come in as an argument.
"""

from __future__ import annotations

from guardrun.digest import sha256
from guardrun.lean import NamedTuple
from guardrun.units import format_duration, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guardrun.model import Ended, ExecSpec, RetrySpec
    from guardrun.ports import Rng

_FINAL = frozenset({"deadline", "told_to_stop", "lease_lost", "warden_lost"})
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127
_MAX_DOUBLINGS = 1000  # 2.0 ** 1024 is an OverflowError; every cap is reached long before

LEASE_LOST = "the lease, or the key's claim, can no longer be proved to be held"
NOT_EXECUTED = ("COMMAND is not found", "COMMAND cannot be executed")


LOCK_LOST = (
    "the lock's lease can no longer be proved to be held; COMMAND runs on (--on-lease-loss warn)"
)


class Verdict(NamedTuple):
    """An attempt's result before a retry is considered, and the reason where it is no success."""

    result: str
    """``success``, ``failed``, ``timeout``, ``interrupted`` or ``lease_lost``"""
    reason: str | None = None


def judge(ended: Ended, spec: ExecSpec) -> Verdict:
    """Say what the end of one execution of COMMAND amounts to.

    A cause of ours outranks the exit code: a COMMAND that ends with 0 because it was told to
    stop has not done its work.
    """
    match ended.cause:
        case "timeout":
            return Verdict("timeout", f"timeout of {format_duration(spec.timeout)}")
        case "deadline":
            return Verdict("timeout", f"deadline of {format_duration(spec.deadline)}")
        case "told_to_stop":
            return Verdict("interrupted", "told to stop")
        case "lease_lost":
            return Verdict("lease_lost", LEASE_LOST)
        case "warden_lost":
            return Verdict("interrupted", "the process that watches COMMAND was killed")
        case "not_started":
            said = NOT_EXECUTED[ended.exit_code != _NOT_FOUND]
            return Verdict("failed", said if ended.why is None else f"{said}: {ended.why}")
    if ended.signal is not None:
        return Verdict("failed", f"ended by {signal_name(ended.signal)}")
    if ended.exit_code in spec.success_codes:
        return Verdict("success")
    return Verdict("failed", f"exit code {ended.exit_code}")


def worth_retrying(ended: Ended, attempts_done: int, spec: ExecSpec) -> bool:
    """Say whether another attempt may follow; ``attempts_done`` includes the one that ended.

    By default every failure is worth it, timeouts and deaths by signal too, but not 126 and 127:
    a COMMAND that cannot be executed will not be a moment later. The retry budget is asked
    elsewhere: it takes a ledger.
    """
    retry = spec.retry
    if ended.cause in _FINAL or attempts_done > retry.retries:
        return False
    if judge(ended, spec).result == "success":
        return False
    if retry.retry_on is None:
        return ended.exit_code not in (_CANNOT_EXECUTE, _NOT_FOUND)
    if ended.cause == "timeout":
        return retry.retry_on.timeout
    if ended.signal is not None:
        return retry.retry_on.signal
    return ended.exit_code in retry.retry_on.codes


def backoff_delay(spec: RetrySpec, retry: int, previous: float | None, rng: Rng) -> float:
    """Draw the wait before the ``retry``-th retry (from 1), in seconds, never above ``spec.cap``.

    ``previous`` is the wait before the retry before it. Source: Marc Brooker, "Exponential
    Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    if spec.jitter == "decorrelated":
        before = spec.base if previous is None else max(previous, spec.base)
        return min(spec.cap, rng.uniform(spec.base, before * 3))
    ceiling = min(spec.cap, spec.base * 2.0 ** min(retry - 1, _MAX_DOUBLINGS))
    if spec.jitter == "equal":
        return ceiling / 2 + rng.uniform(0, ceiling / 2)
    return rng.uniform(0, ceiling)


def splay_delay(job: str, host: str, splay: float) -> float:
    """Choose the wait before a run, in seconds, at least 0 and below ``splay`` (0 for 0).

    Always the same for one job on one host, evenly spread over hosts and jobs: SHA-256 of both.
    """
    name = f"{host}\0{job}".encode("utf-8", "surrogatepass")
    drawn = int.from_bytes(sha256(name).digest()[:8], "big")
    # 53 bits, a float's own: 64 could round up to exactly 1
    return splay * ((drawn >> 11) / (1 << 53))
