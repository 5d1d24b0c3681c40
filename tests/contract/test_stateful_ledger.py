"""Whatever happens to keys and runs, in whatever order: every ledger does what its model does.

The model is the one that the simulator runs on: what it shows is shown for these stores. How many
histories are tried is said by GUARDRUN_TEST_ROUNDS.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from lease_stores import due, granted, lock_name, opener, request
from ledgers import Store, ended, make_run
from postgres_stores import PostgresStore
from sim.lease_model import LeaseModel
from sim.ledger_model import LedgerModel
from test_ledger import LOCAL, STORES

from guardrun.errors import StoreUnavailable
from guardrun.ledger.records import Filter
from guardrun.model import FOREVER, Budget, Claim, KeySpec, Outcome, Refusal, Run

if TYPE_CHECKING:
    from guardrun.ports import LeaseStore

ROUNDS = int(os.environ.get("GUARDRUN_TEST_ROUNDS", "12"))
_STEPS = 30
_LONG = 100.0
"""s; two moments so far apart are in the same order for the host and for a server"""
NEVER = "never"
"""a key that nobody runs"""
BUDGET = Budget(2, 1550.0)

_serial = count()

names = st.sampled_from(["a", "b"])
which = st.integers(0, 3)
results = st.sampled_from(["success", "failed", "timeout"])
ttls = st.sampled_from([1050.0, FOREVER])
specs = st.tuples(
    ttls, st.sampled_from(["rerun", "stop"]), st.sampled_from(["fail", "ignore"])
).map(lambda drawn: KeySpec(None, (), drawn[0], "skip", *drawn[1:]))


class LedgerMachine(RuleBasedStateMachine):
    """Two keys of one job, and the model."""

    store: ClassVar[Store]

    @initialize()
    def start(self) -> None:
        self.tag = f"{next(_serial)}"
        self.ledger = self.store.open()
        self.model_leases = LeaseModel()
        self.model = LedgerModel(FOREVER, self.model_leases)
        self.running: list[tuple[Run, Claim, KeySpec]] = []
        self.lost: list[tuple[Run, Claim, KeySpec]] = []
        """runs whose processes are gone, and who may have left an outcome in the spool"""
        self.told: list[Outcome] = []

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.same_rows()
            for run, claim, _ in self.running:
                self.ledger.finish(ended(run, claim))
            self.ledger.close()

    # ------------------------------------------------------------ before COMMAND

    def key(self, name: str) -> str:
        """A key of this history alone."""
        return f"{name}-{self.tag}"

    def run_of(self, key: str | None, fingerprint: str, *needs: str) -> Run:
        """A run that begins a moment later than the one before."""
        self.store.clock.time += 0.01
        return make_run(
            key,
            job=f"job-{self.tag}",
            fingerprint=fingerprint,
            started_at=self.now,
            needs=needs,
        )

    @property
    def now(self) -> float:
        """The model's time, and the host's."""
        return self.store.clock()

    def begin_both(self, run: Run, spec: KeySpec, again: bool = False) -> Claim | Refusal:
        """Begin it, and see that model and ledger say the same.

        Who asks ``again`` has its claim, but may not hear of the run before it once more.
        """
        expected = self.model.begin(run, spec, self.now)
        said: Claim | Refusal = self.ledger.begin(run, spec, due())
        if isinstance(expected, Claim):
            assert isinstance(said, Claim), said
            assert said.token == expected.token
            assert again or said.interrupted == expected.interrupted
        else:
            assert isinstance(said, Refusal), (said, expected)
            assert (said.kind, said.reason) == (expected.kind, expected.reason)
            holder, other = said.holder, expected.holder
            assert (holder and holder.job_id) == (other and other.job_id)
        return said

    @rule(name=names, fingerprint=st.sampled_from("xy"), spec=specs, needy=st.booleans())
    def begin(self, name: str, fingerprint: str, spec: KeySpec, needy: bool) -> None:
        """Claim a key, maybe only if the other one has succeeded."""
        needs = [self.key("b" if name == "a" else "a")] if needy else []
        spec = spec._replace(key=self.key(name))
        run = self.run_of(spec.key, fingerprint, *needs)
        said = self.begin_both(run, spec)
        if isinstance(said, Claim):
            self.running.append((run, said, spec))

    @rule()
    def begin_without_a_key(self) -> None:
        """Begin a run that claims nothing."""
        run = self.run_of(None, "x")
        said = self.begin_both(run, KeySpec(None))
        assert isinstance(said, Claim)
        self.running.append((run, said, KeySpec(None)))

    @precondition(lambda self: self.running)
    @rule(at=which)
    def begin_again(self, at: int) -> None:
        """Ask once more for what is claimed, as after an answer that was lost."""
        run, _, spec = self.running[at % len(self.running)]
        self.begin_both(run, spec, again=True)

    @rule(name=names)
    def look(self, name: str) -> None:
        """Ask what a key is like, by a need that is never met: nothing is stored for that."""
        run = self.run_of(None, "x", self.key(name), NEVER)
        assert isinstance(self.begin_both(run, KeySpec(None)), Refusal)

    # ------------------------------------------------------------ after it

    def finish_both(self, outcome: Outcome) -> None:
        """Record it, and see that model and ledger say the same."""
        expected = self.model.finish(outcome, self.now - outcome.finished_at, self.now)
        assert self.ledger.finish(outcome, due()) == expected.claim
        self.told.append(outcome)

    @precondition(lambda self: self.running)
    @rule(at=which, result=results, executed=st.booleans(), twice=st.booleans())
    def finish(self, at: int, result: str, executed: bool, twice: bool) -> None:
        """End a run, after COMMAND or before it was started."""
        run, claim, spec = self.running.pop(at % len(self.running))
        if executed:
            outcome = ended(run, claim, result, finished_at=self.now, key_ttl=spec.ttl)
        else:
            outcome = ended(run, claim, "interrupted", finished_at=self.now, attempts=())
        self.finish_both(outcome)
        if twice:
            self.finish_both(outcome)

    @precondition(lambda self: self.told)
    @rule(at=which)
    def finish_again(self, at: int) -> None:
        """Record once more what was recorded long ago, as from a spool: nothing changes."""
        self.finish_both(self.told[at % len(self.told)])

    @precondition(lambda self: self.running)
    @rule(at=which)
    def vanish(self, at: int) -> None:
        """Be killed, with nobody left to say so."""
        gone = self.running.pop(at % len(self.running))
        run = gone[0]
        self.ledger = self.store.vanish(self.ledger, run, [other for other, _, _ in self.running])
        self.model.rows[run.job_id].alive_until = self.now
        held = self.model.keys.get(run.key or "")
        if held is not None and held.token == run.token and held.state == "running":
            held.claim_until = self.now
        self.lost.append(gone)

    @precondition(lambda self: self.lost)
    @rule(at=which, result=results)
    def replay(self, at: int, result: str) -> None:
        """Record the outcome of a run that was killed after it had put that into the spool."""
        run, claim, spec = self.lost.pop(at % len(self.lost))
        self.finish_both(ended(run, claim, result, finished_at=self.now, key_ttl=spec.ttl))

    @rule(name=names, result=results, ttl=ttls, meanwhile=st.booleans())
    def run_without_a_claim(self, name: str, result: str, ttl: float, meanwhile: bool) -> None:
        """A run that had to do without the ledger; maybe another one has begun since."""
        self.pass_by(_LONG)
        run = self.run_of(self.key(name), "x")
        self.pass_by(_LONG)
        if meanwhile:
            self.begin(name, "x", KeySpec(None), False)
        self.finish_both(ended(run, None, result, finished_at=self.now, key_ttl=ttl))

    @rule()
    def spend_retry(self) -> None:
        """Count a retry of the job against its budget."""
        run = self.run_of(None, "x")
        expected = self.model.spend_retry(run, BUDGET, self.now)
        assert self.ledger.spend_retry(run, BUDGET, due()) == expected

    @rule(seconds=st.sampled_from([_LONG, 1000.0]))
    def pass_by(self, seconds: float) -> None:
        """Let time pass; who lives renews its claim meanwhile."""
        self.store.clock.pass_by(seconds)

    # ------------------------------------------------------------ what must be so

    def same_rows(self) -> None:
        """Every run's row says what the model says of it."""
        found = {row.job_id: row for row in self.store.runs(Filter(job=f"job-{self.tag}"))}
        assert found.keys() == self.model.rows.keys()
        for job_id, row in self.model.rows.items():
            dead = row.result == "running" and (row.alive_until or 0.0) <= self.now
            said = found[job_id]
            assert said.result == ("interrupted" if dead else row.result)
            assert (said.finished_at is not None, said.stale) == (row.terminal, row.stale)
            assert said.attempts == len(row.attempts)


class RemoteMachine(LedgerMachine):
    """The same behind a network: what a keeper, COMMAND and a slow network do beside that."""

    store: ClassVar[PostgresStore]
    leases: ClassVar[LeaseStore]

    def everybody(self) -> Iterator[tuple[Run, Claim, KeySpec]]:
        """The runs that have not told how they ended."""
        yield from self.running
        yield from self.lost

    def anybody(self, at: int) -> Run:
        """One of them."""
        found = list(self.everybody())
        return found[at % len(found)][0]

    @precondition(lambda self: self.running or self.lost)
    @rule(at=which)
    def renew(self, at: int) -> None:
        """Extend a claim; that of a run that was taken for dead is its own until another's."""
        run = self.anybody(at)
        assert self.ledger.renew(run, due()) == self.model.renew(run, self.now)
        for one in [one for one in self.lost if one[0] is run]:
            self.lost.remove(one)
            self.running.append(one)

    @precondition(lambda self: self.running or self.lost)
    @rule(at=which)
    def interrupt(self, at: int) -> None:
        """Have a keeper say that nothing of COMMAND is alive."""
        run = self.anybody(at)
        self.ledger.interrupt(run, due())
        self.model.interrupt(run)
        for one in [one for one in self.running if one[0] is run]:
            self.running.remove(one)
            self.lost.append(one)

    @precondition(lambda self: self.running)
    @rule(at=which, result=results, robbed=st.booleans())
    def finish_and_release(self, at: int, result: str, robbed: bool) -> None:
        """End a run together with its lease in the same database, unless that was taken away."""
        run, claim, spec = self.running.pop(at % len(self.running))
        wanted = request(lock_name(), ttl=86400.0)
        modelled = granted(self.model_leases.acquire(wanted, False, self.now))
        held = granted(self.leases.acquire(wanted, False, due()))
        if robbed:
            assert self.model_leases.take_away(wanted.lock, wanted.token, self.now)
            assert self.leases.take_away(wanted.lock, wanted.token, due())
        outcome = ended(run, claim, result, finished_at=self.now, key_ttl=spec.ttl)
        expected = self.model.finish_and_release(
            outcome._replace(fence=modelled.fence), wanted, 0.0, self.now
        )
        outcome = outcome._replace(fence=held.fence)
        assert self.ledger.finish_and_release(outcome, wanted, due()) == expected
        assert expected.lease is not robbed
        assert self.leases.holders(wanted.lock, due()) == ()
        self.told.append(outcome)

    @precondition(lambda self: self.running)
    @rule(at=which, heard=st.booleans())
    def give_back(self, at: int, heard: bool) -> None:
        """Free the key of a run that has executed nothing; it may be heard of again, or not."""
        one = run, claim, _ = self.running.pop(at % len(self.running))
        self.ledger.give_back(run, due())
        self.model.give_back(run, self.now)
        if heard:
            self.finish_both(ended(run, claim, "interrupted", finished_at=self.now, attempts=()))
        else:
            self.lost.append(one)

    @precondition(lambda self: self.running or self.lost)
    @rule(at=which)
    def complete(self, at: int) -> None:
        """Have COMMAND complete its key in a transaction of its own, if it still may."""
        run = self.anybody(at)
        if run.key is None or run.token is None:
            return
        statement = "SELECT guardrun.complete(%s, %s)"
        if self.model.complete(run.key, run.token, self.now):
            self.store.sql(statement, run.key, run.token)
        else:
            with pytest.raises(psycopg.Error, match="guardrun: this claim of the key"):
                self.store.sql(statement, run.key, run.token)

    @precondition(lambda self: self.told)
    @rule(at=which, spec=specs)
    def begin_too_late(self, at: int, spec: KeySpec) -> None:
        """A claim that was long on its way, of a run that has ended: nothing is claimed."""
        run = self.told[at % len(self.told)].run
        try:
            self.begin_both(run, spec._replace(key=run.key))
        except StoreUnavailable:
            with pytest.raises(StoreUnavailable):
                self.ledger.begin(run, spec._replace(key=run.key), due())


@pytest.mark.parametrize("kind", STORES)
def test_a_ledger_does_what_its_model_does(kind: str, tmp_path: Path) -> None:
    """Claim, finish, replay, vanish, complete, expire: all as in the model, and so are the rows."""
    store = STORES[kind](tmp_path)
    machine: Any = LedgerMachine if kind in LOCAL else RemoteMachine
    share = {"sqlite": 2, "postgres": 1, "pgbouncer": 0.25}[kind]
    shared: dict[str, Any] = {"store": store}
    try:
        if kind not in LOCAL:
            shared["leases"] = opener("postgres", store.place)
        run_state_machine_as_test(
            type("Machine", (machine,), shared),
            settings=settings(
                max_examples=max(int(share * ROUNDS), 1),
                stateful_step_count=_STEPS,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        if "leases" in shared:
            shared["leases"].close()
        store.close()
