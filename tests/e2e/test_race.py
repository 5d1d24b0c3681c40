"""Many processes at once: the promises about locks, slots and keys hold under contention.

How many is said by ``GUARDRUN_TEST_RACERS``; the number that suits a quick run is the default.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

import pytest
from support import Host, write_script

RACERS = int(os.environ.get("GUARDRUN_TEST_RACERS", "60"))
LIMIT = 30.0 + RACERS
"""s; all racers together"""


def racer(host: Host, *words: str, act: str = "") -> subprocess.Popen[bytes]:
    """Start one run, without a log, and with nothing to be read from it."""
    nothing = subprocess.DEVNULL
    return host.start("--log-to", "none", *words, env={"ACT": act}, stdout=nothing, stderr=nothing)


def race(host: Host, number: int, *words: str) -> list[int]:
    """Start so many runs at once, and return their exit codes."""
    return codes([racer(host, *words) for _ in range(number)])


def codes(racers: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for all of them, and return their exit codes."""
    deadline = time.monotonic() + LIMIT
    try:
        return [racer.wait(max(0.1, deadline - time.monotonic())) for racer in racers]
    finally:
        for racer in racers:
            if racer.poll() is None:
                racer.kill()
                racer.wait()


def results(host: Host) -> Counter[str]:
    """How often each result is in the ledger."""
    return Counter(str(row["result"]) for row in host.rows())


def test_an_unprotected_counter_is_protected(host: Host) -> None:
    """Many runs, one lock, a counter that is read and written without care: none is lost."""
    (host.root / "counter").write_text("0\n")
    count = write_script(
        host.root / "count",
        "#!/bin/sh\n"
        "read before <counter\n"
        "after=$(expr $before + 1)\n"  # a fork: long enough for another one to come between
        "echo $after >counter\n"
        "echo $GUARDRUN_FENCING_TOKEN >>tokens\n",
    )
    assert race(host, RACERS, "--lock", "a", "-w", "forever", "--", str(count)) == [0] * RACERS
    assert int((host.root / "counter").read_text()) == RACERS
    tokens = [int(token) for token in (host.root / "tokens").read_text().split()]
    assert tokens == sorted(set(tokens)), "fencing tokens in the order of the acquisitions"
    assert results(host) == {"success": RACERS}


def test_never_more_than_the_slots_and_all_of_them(host: Host) -> None:
    """`-j 4`: four COMMANDs are alive at once, and at no moment a fifth."""
    work = write_script(
        host.root / "work",
        "#!/bin/sh\n"
        "echo + >>edges\n"
        # The first ones go on only when there are four of them.
        "tries=0\n"
        "while [ $(grep -c + edges) -lt 4 ]; do\n"
        "  tries=$((tries + 1)); [ $tries -lt 3000 ] || exit 1\n"
        "  sleep 0.01\n"
        "done\n"
        "echo - >>edges\n",
    )
    words = ("--lock", "a", "-j", "4", "-w", "forever", "--", str(work))
    assert race(host, RACERS, *words) == [0] * RACERS
    edges = (host.root / "edges").read_text().split()
    alive = list(accumulate(1 if edge == "+" else -1 for edge in edges))
    assert max(alive) == 4
    assert edges.count("+") == edges.count("-") == RACERS


def test_readers_and_writers(host: Host) -> None:
    """Shared and exclusive runs in a race: a writer is always alone."""
    script = "#!/bin/sh\necho $1+ >>edges\nexpr 1 + 1 >/dev/null\necho $1- >>edges\n"
    work = str(write_script(host.root / "work", script))
    racers = [
        racer(host, "--lock", "a", "-w", "forever", flag, "--", work, kind)
        for _ in range(RACERS // 3)
        for flag, kind in (("-s", "r"), ("-s", "r"), ("-x", "w"))
    ]
    assert set(codes(racers)) == {0}
    readers = writers = 0
    for edge in (host.root / "edges").read_text().split():
        change = 1 if edge[1] == "+" else -1
        readers += change if edge[0] == "r" else 0
        writers += change if edge[0] == "w" else 0
        assert (writers, readers) == (1, 0) or writers == 0


@pytest.mark.parametrize("lock", [[], ["--lock", "a", "-w", "0"]])
def test_one_key_one_execution(host: Host, lock: list[str]) -> None:
    """Many runs with one key at once: one executes, the others skip or are refused, all on record.

    With a lock and without: the key does not rely on it.
    """
    counted = Counter(race(host, RACERS, *lock, "--key", "k", "--", host.job))
    assert len(host.executions()) == 1
    assert set(counted) <= {0, 75}, counted
    found = results(host)
    assert found["success"] == 1
    assert found["success"] + found["skipped_duplicate"] == counted[0]
    assert found["lock_busy"] == counted[75]
    assert found.total() == RACERS


def test_one_key_and_patience(host: Host) -> None:
    """Many runs with one key that wait for it: one executes, all the others find it done."""
    assert race(host, RACERS, "-w", "forever", "--key", "k", "--", host.job) == [0] * RACERS
    assert len(host.executions()) == 1
    assert results(host) == {"success": 1, "skipped_duplicate": RACERS - 1}


def test_many_keys_at_once(host: Host) -> None:
    """Runs with keys of their own, all starting at once on a ledger that is not there yet."""
    racers = [racer(host, "--key", f"k{number}", "--", host.job) for number in range(RACERS)]
    assert codes(racers) == [0] * RACERS
    assert len(set(host.executions())) == RACERS
    assert results(host) == {"success": RACERS}


def test_a_budget_is_shared_by_all(host: Host) -> None:
    """`--retry-budget` over many failing runs at once: not one retry more than it allows."""
    words = ("--retries", "2", "--backoff", "1ms", "--retry-budget", "5/1h", "--", host.job)
    racers = [racer(host, *words, act="exit 1") for _ in range(RACERS // 2)]
    assert codes(racers) == [1] * (RACERS // 2)
    assert len(host.executions()) == RACERS // 2 + 5
