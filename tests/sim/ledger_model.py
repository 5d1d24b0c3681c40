"""What a ledger is: the ``RemoteLedger`` port as pure decisions of a server's clock.

The simulator runs on it, and state machines compare the real ledger with it. All instants are
seconds since 1970 by the server's clock, given as ``now``; nothing here reads one. What begins or
ends a run for the same ``job_id`` twice changes nothing the second time.
"""

from __future__ import annotations

from dataclasses import dataclass

from guardrun.errors import StoreUnavailable
from guardrun.ledger.reasons import Found, refused, unmet
from guardrun.ledger.rows import CUT_OFF, key_state
from guardrun.model import (
    Attempt,
    Budget,
    Claim,
    KeySpec,
    LeaseRequest,
    Outcome,
    Recorded,
    Refusal,
    Run,
)

from .lease_model import LeaseModel


@dataclass
class Row:
    """One run's row. ``finished_at`` is set when the run itself told how it ended."""

    run: Run
    result: str = "running"
    reason: str | None = None
    alive_until: float | None = None
    token: str | None = None
    finished_at: float | None = None
    """by the host's clock"""
    exit_code: int | None = None
    fence: int | None = None
    lease_lost: bool = False
    stale: bool = False
    """its claim was somebody else's when it finished"""
    attempts: tuple[Attempt, ...] = ()

    @property
    def terminal(self) -> bool:
        """Whether the run's own truth is in it; from then on nothing may change."""
        return self.finished_at is not None


@dataclass
class Key:
    """One key, as its latest claim left it."""

    state: str
    token: str | None
    job_id: str
    owner: str
    fingerprint: str
    key_ttl: float
    claimed_at: float
    claim_until: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    follows: str | None = None
    """job_id of the interrupted run before it"""


class LedgerModel:
    """All rows of one database; ``leases`` are those that are kept in the same one."""

    def __init__(self, claim_ttl: float, leases: LeaseModel | None = None) -> None:
        self._claim_ttl = claim_ttl
        self._leases = leases
        self.rows: dict[str, Row] = {}
        self.keys: dict[str, Key] = {}
        self.completions: dict[str, float] = {}
        """claim token → when COMMAND itself completed it"""
        self._spent: dict[str, list[float]] = {}

    # ------------------------------------------------------------ before COMMAND

    def begin(self, run: Run, key: KeySpec, now: float) -> Claim | Refusal:
        """Check needs, claim the key, store the row as running: one step, or nothing.

        Raises ``StoreUnavailable`` where a run that has ended would claim its key anew.
        """
        for needed in run.needs:
            said = unmet(needed, self.found(needed, now))
            if said is not None:
                return said
        if run.key is None:
            return self._begin_unkeyed(run, now)
        held = self.keys.get(run.key)
        row = self.rows.get(run.job_id)
        ended = row is not None and row.terminal
        free = held is None or self._may_claim(held, run, key, now)
        if ended and free:  # a request that was long on its way
            raise StoreUnavailable("the run has ended: it claims nothing")
        if not free:
            found = self.found(run.key, now)
            assert found is not None
            return refused(found, run, key)
        follows = self._follows(held, run)
        self.keys[run.key] = Key(
            "running",
            run.token,
            run.job_id,
            run.owner,
            run.fingerprint,
            key.ttl,
            claimed_at=now,
            claim_until=now + self._claim_ttl,
            follows=follows,
        )
        if follows in self.rows and not self.rows[follows].terminal:
            self._cut_off(self.rows[follows])
        self._store(run, now)
        return Claim(run.token, interrupted=follows)

    def _begin_unkeyed(self, run: Run, now: float) -> Claim:
        row = self.rows.get(run.job_id)
        if row is not None and row.terminal:
            return Claim(token=None)
        before = [
            other
            for other in self.rows.values()
            if other.run.job == run.job and other.run.job_id != run.job_id
        ]
        last = max(before, key=lambda row: row.run.started_at, default=None)
        cut_off = (
            last is not None
            and not last.terminal
            and (last.result == "interrupted" or (last.alive_until or 0.0) <= now)
        )
        self._store(run, now)
        return Claim(None, interrupted=last.run.job_id if last is not None and cut_off else None)

    def _may_claim(self, held: Key, run: Run, key: KeySpec, now: float) -> bool:
        completed = self._completed(held)
        if held.state == "running" and held.token == run.token and completed is None:
            return True  # its answer may have been lost
        if held.state == "succeeded":
            return held.expires_at is not None and held.expires_at <= now
        if completed is not None:
            return completed + held.key_ttl <= now
        if held.state == "failed":
            return True
        if held.state == "running" and (held.claim_until or 0.0) > now:
            return False
        same = key.on_mismatch == "ignore" or held.fingerprint == run.fingerprint
        return key.on_interrupted == "rerun" and same

    def _follows(self, held: Key | None, run: Run) -> str | None:
        if held is None:
            return None
        if held.state == "running" and held.token == run.token:
            return held.follows
        cut_off = held.state in ("running", "interrupted") and self._completed(held) is None
        return held.job_id if cut_off else None

    def _store(self, run: Run, now: float) -> None:
        row = self.rows.setdefault(run.job_id, Row(run))
        if not row.terminal:
            row.result, row.reason = "running", None
            row.token, row.alive_until = run.token, now + self._claim_ttl

    # ------------------------------------------------------------ while COMMAND runs

    def renew(self, run: Run, now: float) -> bool:
        """Extend the claim (without a key: the run's row); False when it is not ours any more."""
        held = self._own_claim(run)
        if held is not None:
            held.claim_until = now + self._claim_ttl
        row = self.rows.get(run.job_id)
        alive = row is not None and not row.terminal and row.result != "interrupted"
        if row is not None and alive:
            row.alive_until = now + self._claim_ttl
        return alive if run.key is None else held is not None

    def spend_retry(self, run: Run, budget: Budget, now: float) -> bool:
        """Count one retry of the job if the window has one left."""
        spent = self._spent.setdefault(run.job, [])
        if sum(at > now - budget.window for at in spent) >= budget.retries:
            return False
        spent.append(now)
        return True

    def complete(self, key: str, token: str, now: float) -> bool:
        """COMMAND's own word that its effect is done; False where the real one raises."""
        held = self.keys.get(key)
        ours = held is not None and held.token == token and held.state == "running"
        if not ours or token in self.completions:
            return False
        self.completions[token] = now
        return True

    # ------------------------------------------------------------ after COMMAND

    def finish(self, outcome: Outcome, ended_ago: float, now: float) -> Recorded:
        """Store the outcome: a compare-and-set on the claim's token. Repeated, it changes nothing.

        ``ended_ago`` is how long ago the run ended, in seconds: all that a host's clock is good
        for here.
        """
        return self._finish(outcome, ended_ago, now, lease_lost=False)

    def finish_and_release(
        self, outcome: Outcome, wanted: LeaseRequest, ended_ago: float, now: float
    ) -> Recorded:
        """The same; the lease, if it is ours until now, ends in the same step."""
        assert self._leases is not None
        ours = any(
            place.token == wanted.token and place.fence == outcome.fence and not place.released
            for place in self._leases.holders(wanted.lock, now)
        )
        recorded = self._finish(outcome, ended_ago, now, lease_lost=not ours)
        self._leases.release(wanted, now)
        return recorded

    def _finish(self, outcome: Outcome, ended_ago: float, now: float, lease_lost: bool) -> Recorded:
        run, claim = outcome.run, outcome.claim
        row = self.rows.setdefault(run.job_id, Row(run))
        if not row.terminal:
            token = run.token or (None if claim is None else claim.token)
            state = key_state(outcome)
            if run.key is not None and claim is None and outcome.attempts:
                self._succeed_unclaimed(outcome, ended_ago, now)
            ours = self._move_on(outcome, token, state, ended_ago, now)
            row.result, row.exit_code, row.reason = (
                outcome.result,
                outcome.exit_code,
                outcome.reason,
            )
            row.finished_at, row.attempts = outcome.finished_at, outcome.attempts
            row.fence = outcome.fence
            row.lease_lost = outcome.lease_lost or lease_lost
            claimed = claim is not None and claim.token is not None
            row.stale = claimed and not ours and token not in self.completions
        return Recorded(not row.stale, outcome.lease_lost or not row.lease_lost)

    def _move_on(
        self, outcome: Outcome, token: str | None, state: str, ended_ago: float, now: float
    ) -> bool:
        """Leave the key in the state that the outcome means, if the latest claim is its own."""
        key = outcome.run.key
        held = None if key is None else self.keys.get(key)
        if held is None or held.token is None or held.token != token:
            return False
        completed = token in self.completions
        succeeded = state == "succeeded" or completed
        if held.state == "succeeded":
            return True
        held.finished_at = now - ended_ago
        held.expires_at = None
        if succeeded:
            held.expires_at = now - ended_ago + outcome.key_ttl
        elif state == "failed":
            held.expires_at = now
        held.state = "succeeded" if succeeded else state
        return True

    def _succeed_unclaimed(self, outcome: Outcome, ended_ago: float, now: float) -> None:
        """A run that went on without the ledger yields to what began after it, and to a success
        that had not expired when it ended."""
        run, key = outcome.run, outcome.run.key
        assert key is not None
        held = self.keys.get(key)
        if key_state(outcome) != "succeeded" or (held is not None and held.token == run.token):
            return
        claimed_at = now - ended_ago - (outcome.finished_at - run.started_at)
        if held is not None and (
            held.claimed_at > claimed_at or not self._gives_way(held, now - ended_ago, now)
        ):
            return
        self.keys[key] = Key(
            "succeeded",
            None,
            run.job_id,
            run.owner,
            run.fingerprint,
            outcome.key_ttl,
            claimed_at=claimed_at,
            finished_at=now - ended_ago,
            expires_at=now - ended_ago + outcome.key_ttl,
        )

    def _gives_way(self, held: Key, ended_at: float, now: float) -> bool:
        """Whether the key is free for a success without a claim that came then."""
        if held.state == "succeeded":
            return held.expires_at is not None and held.expires_at <= ended_at
        completed = self._completed(held)
        if completed is not None:
            return completed + held.key_ttl <= ended_at
        lapsed = held.state == "running" and (held.claim_until or 0.0) <= now
        return held.state in ("failed", "interrupted") or lapsed

    def interrupt(self, run: Run) -> None:
        """Record that the run was cut off, and nothing of COMMAND is alive."""
        held = self._own_claim(run)
        if held is not None:
            held.state = "interrupted"
        self._is_over(run)

    def give_back(self, run: Run, now: float) -> None:
        """Free the key of a claim under which nothing was executed; the run is over, too."""
        held = self._own_claim(run)
        if held is not None:
            held.state, held.finished_at, held.expires_at = "failed", now, now
        self._is_over(run)

    # ------------------------------------------------------------ what is to be seen

    def found(self, key: str, now: float) -> Found | None:
        """What the key really is: completed means succeeded, lapsed means interrupted."""
        held = self.keys.get(key)
        if held is None:
            return None
        state, finished, expires = held.state, held.finished_at, held.expires_at
        completed = self._completed(held)
        if completed is not None and state != "succeeded":
            state, finished, expires = "succeeded", completed, completed + held.key_ttl
        elif state == "running" and (held.claim_until or 0.0) <= now:
            state = "interrupted"
        free = state == "failed" or (expires is not None and expires <= now)
        since = held.claimed_at if finished is None else finished
        return Found(state, held.job_id, held.owner, held.fingerprint, since, free)

    def _completed(self, held: Key) -> float | None:
        return None if held.token is None else self.completions.get(held.token)

    def _own_claim(self, run: Run) -> Key | None:
        held = None if run.key is None else self.keys.get(run.key)
        if held is None or held.state != "running" or held.token != run.token:
            return None
        return held

    def _is_over(self, run: Run) -> None:
        row = self.rows.get(run.job_id)
        if row is not None and not row.terminal:
            self._cut_off(row)

    def _cut_off(self, row: Row) -> None:
        row.result, row.reason = "interrupted", CUT_OFF
