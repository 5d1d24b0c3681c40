"""What a claim with its finish, and what people ask, cost in a ledger that has seen much."""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bench import fill, questions, subjects
from bench.fill import Filled
from bench.mark import Stuck
from bench.postgres import Server
from bench.scene import Scene
from bench.stats import Budget, Row, Section
from guardrun.ledger.aggregates import Window, per_job
from guardrun.ledger.records import Filter, RunRecord, dead_runs
from guardrun.model import Attempt, Claim, KeySpec, Outcome, Run
from guardrun.ports import Ledger

_WARM = 5
"""pairs that are not counted: they connect, and fill the caches"""
_SHOWN = 50
"""runs that ``history`` shows"""


class _Query(NamedTuple):
    """One question, and how many rows answered it."""

    name: str
    ask: Callable[[], int]
    budget: Budget | None = subjects.QUERY
    remark: str = ""
    finds: bool = True
    """whether something answers it"""


def measure(
    scene: Scene, server: Server | None, sizes: Sequence[int], pairs: int, rounds: int
) -> Iterator[Section]:
    """Claim and finish in ledgers of all sizes in turn, then ask each of those that hold runs."""
    stores = [[fill.sqlite(scene.directory("ledger"), size) for size in sizes]]
    if server is not None:
        urls = [server.ledger(scene, f"ledger_{size}") for size in sizes]
        stores.append([fill.postgres(*one) for one in zip(urls, sizes, strict=True)])
    for ledgers in stores:
        yield claims(ledgers, pairs)
        for ledger in ledgers:
            if ledger.runs:
                yield queries(ledger, rounds)
                yield questions.whole(scene, ledger, rounds)


# ---------------------------------------------------------------- claim + finish


def claims(filled: Sequence[Filled], pairs: int) -> Section:
    """Claim so many keys in each, in turn; the first ledger is what the ratios are over."""
    ledgers = [one.open() for one in filled]
    samples: list[list[float]] = [[] for _ in filled]
    for number in range(-_WARM, pairs):
        turn = list(zip(ledgers, samples, strict=True))
        # To and fro: what one leaves for the disk to do would always be in the way of the next.
        for ledger, found in turn if number % 2 else turn[::-1]:
            lasted = _pair(ledger, f"bench-{number}")
            if number >= 0:
                found.append(lasted)
    for ledger in ledgers:
        ledger.close()
    rows = [
        Row(f"with {one.runs:,} runs", tuple(found), subjects.GROWN if one.runs else None)
        for one, found in zip(filled, samples, strict=True)
    ]
    title = f"{filled[0].store} ledger with N runs: claim + finish"
    return Section(title, "ms", tuple(rows), rows[0].median, "empty")


def _pair(ledger: Ledger, key: str) -> float:
    """Claim a fresh key and finish its run: ms."""
    run = _run(key)
    attempt = Attempt(1, run.started_at, 1.0, "success", 0)
    begun = time.perf_counter()
    claim = ledger.begin(run, KeySpec(key))
    claimed = time.perf_counter()
    if not isinstance(claim, Claim):
        raise Stuck(f"a key that nobody has used is not free: {claim.reason}")
    outcome = Outcome(
        run, "success", 0, run.started_at + 1.0, 1.0, attempts=(attempt,), claim=claim, held=True
    )
    finishing = time.perf_counter()
    ours = ledger.finish(outcome)
    finished = time.perf_counter()
    if not ours:
        raise Stuck(f"the claim of {key} is lost")
    return (claimed - begun + finished - finishing) * 1000


def _run(key: str) -> Run:
    now = time.time()
    # A UUIDv7, whose order in time is what an index of them lives on: RFC 9562.
    job_id = str(uuid.UUID(int=round(now * 1000) << 80 | 0x7 << 76 | 0b10 << 62 | _random_bits()))
    return Run(
        job_id,
        "job-07",
        f"host-01:{os.getpid()}:{job_id}",
        "host-01",
        "backup",
        os.getpid(),
        ("/usr/local/bin/job-07", "--all", "--verbose"),
        "7" * 64,
        now,
        lock="job-07",
        key=key,
        token=os.urandom(16).hex(),
    )


def _random_bits() -> int:
    return int.from_bytes(os.urandom(7), "big")


# ---------------------------------------------------------------- queries


def queries(ledger: Filled, rounds: int) -> Section:
    """Ask every question once per round, in turn. Raises Stuck where the answer is wrong."""
    now = time.time()
    asked = _questions(ledger, _old_run(ledger, now - fill.SPAN / 2), now)
    samples: dict[str, list[float]] = {query.name: [] for query in asked}
    for _ in range(rounds):
        for query in asked:
            begun = time.perf_counter()
            rows = query.ask()
            samples[query.name].append((time.perf_counter() - begun) * 1000)
            if query.finds != bool(rows):
                raise Stuck(f"{ledger.store}, {query.name}: {rows} rows are found")
    return Section(
        f"queries of the {ledger.store} ledger with {ledger.runs:,} runs: connect, ask, close",
        "ms",
        tuple(
            Row(query.name, tuple(samples[query.name]), query.budget, query.remark)
            for query in asked
        ),
    )


def _old_run(ledger: Filled, before: float) -> RunRecord:
    """A run with a key that is as far down as runs are asked for."""
    records = ledger.records()
    try:
        return next(one for one in records.runs(Filter(until=before)) if one.key is not None)
    finally:
        records.close()


def _questions(ledger: Filled, old: RunRecord, now: float) -> list[_Query]:
    def history(wanted: Filter) -> Callable[[], int]:
        return lambda: _history(ledger, wanted)

    assert old.key is not None
    return [
        _Query(f"history, the newest {_SHOWN}", history(Filter())),
        _Query("history --job", history(Filter(job=old.job))),
        _Query("history --key", history(Filter(key=old.key))),
        _Query("history --result failed", history(Filter(result="failed"))),
        _Query("history --job --result failed", history(Filter(job=old.job, result="failed"))),
        _Query("show, by the beginning of the job_id", lambda: _show(ledger, old.job_id[:13])),
        _Query("show, by the end of the job_id", lambda: _show(ledger, old.job_id[-8:])),
        _Query("dead, the newest 50", lambda: _dead(ledger, None)),
        _Query("dead --job", lambda: _dead(ledger, old.job)),
        _Query("stats: of each job the newest 1,000", lambda: _numbers(ledger, Window())),
        _Query("stats --since 1d", lambda: _numbers(ledger, Window(now - fill.DAY))),
        _Query("keys, the newest 50", lambda: _keys(ledger, None)),
        _Query("keys --state succeeded", lambda: _keys(ledger, "succeeded")),
        _Query("keys --state failed", lambda: _keys(ledger, "failed")),
        _Query("keys --state interrupted", lambda: _keys(ledger, "interrupted")),
        _Query(
            "keys --state running",
            lambda: _keys(ledger, "running"),
            remark="there are none: reads every key",
            finds=False,
        ),
        # It grows with the window, as its help says.
        _Query(
            "stats --last 1000000",
            lambda: _numbers(ledger, Window(last=1_000_000)),
            None,
            "reads every run",
        ),
    ]


def _dead(ledger: Filled, job: str | None) -> int:
    records = ledger.records()
    try:
        return len(list(itertools.islice(dead_runs(records, job, None), _SHOWN)))
    finally:
        records.close()


def _numbers(ledger: Filled, window: Window) -> int:
    records = ledger.records()
    try:
        return len(per_job(records, window))
    finally:
        records.close()


def _keys(ledger: Filled, state: str | None) -> int:
    records = ledger.records()
    try:
        return len(list(records.keys(state, _SHOWN)))
    finally:
        records.close()


def _history(ledger: Filled, wanted: Filter) -> int:
    records = ledger.records()
    try:
        return len(list(itertools.islice(records.runs(wanted), _SHOWN)))
    finally:
        records.close()


def _show(ledger: Filled, part: str) -> int:
    records = ledger.records()
    try:
        (job_id,) = records.find(part)
        records.attempts(job_id)
        records.output(job_id)
        return 0 if records.run(job_id) is None else 1
    finally:
        records.close()
