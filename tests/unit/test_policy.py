"""How attempts are judged, what is worth a retry, and how long the waits are."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrun.core.policy import Verdict, backoff_delay, judge, splay_delay, worth_retrying
from guardrun.model import Codes, Ended, ExecSpec, RetrySpec

# A shared machine can make any one example slow.
unhurried = settings(deadline=None)

ARGV = ("true",)
JITTERS = ("full", "equal", "decorrelated")
SUCCESS = Ended(0, None, None)


def exited(code: int) -> Ended:
    return Ended(code, None, None)


def killed(signum: int) -> Ended:
    return Ended(None, signum, None)


def spec(retries: int = 3, retry_on: Codes | None = None) -> ExecSpec:
    return ExecSpec(ARGV, retry=RetrySpec(retries=retries, retry_on=retry_on))


# ---------------------------------------------------------------- judge


@pytest.mark.parametrize(
    ("ended", "verdict"),
    [
        (SUCCESS, Verdict("success")),
        (exited(3), Verdict("failed", "exit code 3")),
        (killed(9), Verdict("failed", "ended by SIGKILL")),
        (
            Ended(126, None, "not_started", why="Permission denied"),
            Verdict("failed", "COMMAND cannot be executed: Permission denied"),
        ),
        (Ended(127, None, "not_started"), Verdict("failed", "COMMAND is not found")),
        (Ended(None, 15, "timeout"), Verdict("timeout", "timeout of 5m")),
        (Ended(0, None, "timeout"), Verdict("timeout", "timeout of 5m")),
        (Ended(None, 9, "deadline"), Verdict("timeout", "deadline of 1h")),
        (Ended(0, None, "told_to_stop"), Verdict("interrupted", "told to stop")),
    ],
)
def test_verdicts(ended: Ended, verdict: Verdict) -> None:
    """A cause of ours outranks COMMAND's exit code, 0 included."""
    assert judge(ended, ExecSpec(ARGV, timeout=300.0, deadline=3600.0)) == verdict


@pytest.mark.parametrize(
    ("cause", "result"), [("lease_lost", "lease_lost"), ("warden_lost", "interrupted")]
)
def test_what_was_cut_off_is_no_success(cause: str, result: str) -> None:
    """A COMMAND that was cut off is never a success, whatever it said at the end."""
    verdict = judge(Ended(0, None, cause), ExecSpec(ARGV))
    assert verdict.result == result
    assert verdict.reason


def test_success_codes_replace_zero() -> None:
    """With other success codes, 0 is a failure like any other."""
    other = ExecSpec(ARGV, success_codes=frozenset({3, 137}))
    assert judge(exited(3), other).result == "success"
    assert judge(exited(0), other) == Verdict("failed", "exit code 0")


def test_a_death_by_signal_is_no_exit_code() -> None:
    """A death by SIGKILL fails even where the exit code 137 counts as success."""
    assert judge(killed(9), ExecSpec(ARGV, success_codes=frozenset({137}))).result == "failed"


# ---------------------------------------------------------------- worth_retrying


@pytest.mark.parametrize(
    ("ended", "worth"),
    [
        (SUCCESS, False),
        (exited(1), True),
        (exited(75), True),
        (exited(126), False),
        (exited(127), False),
        (Ended(127, None, "not_started"), False),
        (killed(11), True),
        (Ended(None, 15, "timeout"), True),
        (Ended(126, None, "deadline"), False),
        (Ended(1, None, "told_to_stop"), False),
        (Ended(None, 9, "lease_lost"), False),
        (Ended(None, 9, "warden_lost"), False),
    ],
)
def test_what_is_worth_a_retry_by_default(ended: Ended, worth: bool) -> None:
    """Every failure is worth a retry but 126 and 127, and whatever ends the run itself."""
    assert worth_retrying(ended, 1, spec()) is worth


@pytest.mark.parametrize(
    ("ended", "worth"),
    [
        (exited(75), True),
        (exited(127), True),
        (Ended(127, None, "not_started"), True),
        (exited(1), False),
        (exited(9), False),
        (killed(9), False),
        (Ended(75, None, "timeout"), False),
        (Ended(None, 9, "timeout"), False),
    ],
)
def test_retry_on_codes(ended: Ended, worth: bool) -> None:
    """With codes alone, only COMMAND's own exit with one of them is worth a retry."""
    assert worth_retrying(ended, 1, spec(retry_on=Codes(frozenset({75, 127})))) is worth


def test_retry_on_signal() -> None:
    """``signal`` is a death of COMMAND by itself, not the kill after a timeout."""
    only_signal = spec(retry_on=Codes(frozenset(), signal=True))
    assert worth_retrying(killed(9), 1, only_signal)
    assert not worth_retrying(Ended(None, 9, "timeout"), 1, only_signal)
    assert not worth_retrying(exited(1), 1, only_signal)


def test_retry_on_timeout() -> None:
    """``timeout`` is ``--timeout`` however COMMAND then ended, and never ``--deadline``."""
    only_timeout = spec(retry_on=Codes(frozenset(), timeout=True))
    assert worth_retrying(Ended(None, 9, "timeout"), 1, only_timeout)
    assert worth_retrying(Ended(0, None, "timeout"), 1, only_timeout)
    assert not worth_retrying(Ended(None, 9, "deadline"), 1, only_timeout)
    assert not worth_retrying(killed(9), 1, only_timeout)


def test_a_success_is_never_retried() -> None:
    """A code that is both a success and on the list is a success."""
    both = ExecSpec(
        ARGV,
        retry=RetrySpec(retries=3, retry_on=Codes(frozenset({0, 5}))),
        success_codes=frozenset({5}),
    )
    assert not worth_retrying(exited(5), 1, both)
    assert worth_retrying(exited(0), 1, both)


@unhurried
@given(retries=st.integers(0, 50), attempts=st.integers(1, 100))
def test_retries_are_counted(retries: int, attempts: int) -> None:
    """N retries are N + 1 attempts at most."""
    assert worth_retrying(exited(1), attempts, spec(retries)) is (attempts <= retries)


endings = st.builds(
    Ended,
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    cause=st.sampled_from(["deadline", "told_to_stop", "lease_lost", "warden_lost"]),
)
all_codes = Codes(frozenset(range(256)), timeout=True, signal=True)


@unhurried
@given(ended=endings, retry_on=st.sampled_from([None, all_codes]))
def test_what_ends_the_run_is_final(ended: Ended, retry_on: Codes | None) -> None:
    """No list of codes makes guardrun go on after it was told to stop or lost its lease."""
    assert not worth_retrying(ended, 1, spec(1000, retry_on))


# ---------------------------------------------------------------- backoff_delay


@unhurried
@given(
    jitter=st.sampled_from(JITTERS),
    base=st.floats(0, 1e9),
    more=st.floats(0, 1e9),
    retry=st.integers(1, 10**12),
    previous=st.none() | st.floats(0, 2e9),
    seed=st.integers(0, 2**32),
)
def test_waits_are_bounded(
    jitter: str, base: float, more: float, retry: int, previous: float | None, seed: int
) -> None:
    """No wait is negative, above MAX, or a failure of arithmetic, however late the retry."""
    policy = RetrySpec(retries=retry, base=base, cap=base + more, jitter=jitter)
    delay = backoff_delay(policy, retry, previous, random.Random(seed))
    assert 0 <= delay <= policy.cap
    ceiling = base * 2.0 ** min(retry - 1, 1000)
    if jitter == "full":
        assert delay <= ceiling
    elif jitter == "equal":
        assert min(policy.cap, ceiling) / 2 <= delay <= ceiling
    else:
        assert base <= delay <= max(base, previous or base) * 3 * (1 + 1e-15)


@pytest.mark.parametrize("jitter", JITTERS)
def test_waits_differ(jitter: str) -> None:
    """There is no fixed delay: many runs that fail together do not come back together."""
    rng = random.Random(1)
    policy = RetrySpec(retries=9, base=1.0, cap=60.0, jitter=jitter)
    delays = [backoff_delay(policy, 4, 4.0, rng) for _ in range(500)]
    assert len(set(delays)) > 490
    assert max(delays) - min(delays) > 0.9 * (4.0 if jitter == "equal" else 8.0)


@pytest.mark.parametrize(("jitter", "mean"), [("full", 0.5), ("equal", 0.75)])
@pytest.mark.parametrize(("retry", "ceiling"), [(1, 1.0), (2, 2.0), (5, 16.0), (7, 60.0)])
def test_waits_grow(jitter: str, mean: float, retry: int, ceiling: float) -> None:
    """The expected wait doubles with every retry until MAX is reached."""
    rng = random.Random(2)
    policy = RetrySpec(retries=9, base=1.0, cap=60.0, jitter=jitter)
    delays = [backoff_delay(policy, retry, None, rng) for _ in range(4000)]
    assert statistics.fmean(delays) == pytest.approx(mean * ceiling, rel=0.05)


def test_decorrelated_waits_grow_from_the_last() -> None:
    """A decorrelated wait lies between BASE and three times the wait before it."""
    rng = random.Random(3)
    policy = RetrySpec(retries=9, base=1.0, cap=60.0, jitter="decorrelated")
    first = [backoff_delay(policy, 1, None, rng) for _ in range(4000)]
    later = [backoff_delay(policy, 2, 10.0, rng) for _ in range(4000)]
    assert statistics.fmean(first) == pytest.approx(2.0, rel=0.05)
    assert statistics.fmean(later) == pytest.approx(15.5, rel=0.05)
    assert max(backoff_delay(policy, 9, 1e6, rng) for _ in range(100)) == 60.0


# ---------------------------------------------------------------- splay_delay


@unhurried
@given(job=st.text(), host=st.text(), splay=st.floats(0, 1e9, allow_subnormal=False))
def test_splay_is_constant_and_in_range(job: str, host: str, splay: float) -> None:
    """One job on one host always waits the same time, less than what was allowed."""
    delay = splay_delay(job, host, splay)
    assert delay == splay_delay(job, host, splay)
    assert 0 <= delay < splay or delay == splay == 0


def test_splay_spreads_a_fleet() -> None:
    """A fleet's waits are spread evenly over the splay."""
    fleet = [splay_delay("backup", f"web{number}.example", 600.0) for number in range(2000)]
    tenths = [math.floor(delay / 60) for delay in fleet]
    assert {tenths.count(tenth) // 100 for tenth in range(10)} <= {1, 2}


def test_splay_tells_names_apart() -> None:
    """Host and job do not run into each other."""
    assert splay_delay("b", "hosta", 1.0) != splay_delay("ab", "host", 1.0)
    assert splay_delay("a", "host", 1.0) != splay_delay("b", "host", 1.0)


def test_splay_takes_any_bytes() -> None:
    """A job whose name is not UTF-8 has a splay too."""
    assert 0 <= splay_delay("caf\udce9", "host", 1.0) < 1
