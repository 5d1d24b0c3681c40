"""The ledger in Postgres: one truth for a fleet, decided by the server's clock.

Promises: a claim that was returned is durable; of any number of runs that claim one key at once,
one gets it; a claim that is not renewed is found interrupted when its time is over; nothing that
was decided is decided again when an answer got lost. Works through PgBouncer in transaction mode:
a transaction is all it ever needs of a connection. Declines: to wait for a lock of the database
longer than a few seconds, and to try again; the caller's jittered retries do that.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from guardrun import kernel, sql
from guardrun.chance import Chance
from guardrun.digest import sha256
from guardrun.errors import StoreUnavailable
from guardrun.ledger.nap import Nap
from guardrun.ledger.reasons import Found, refused, unmet
from guardrun.ledger.rows import (
    CUT_OFF,
    REFUSALS,
    SPENT_KEPT,
    attempt_values,
    key_state,
    microseconds,
    outcome_values,
    run_values,
)
from guardrun.ledger.text import plain
from guardrun.model import FOREVER, Claim, KeySpec, Recorded, Run
from guardrun.postgres import leases
from guardrun.postgres.connection import LEDGER
from guardrun.postgres.session import STATEMENT, Session, Unstorable

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardrun.model import Budget, LeaseRequest, Outcome, Refusal
_SQL = sql.statements("postgres", "run")

_PATIENCE = 30.0
"""s for a call without a ``due``"""
_SLOW_LINK = 64 * 1024
"""bytes a second that any link is expected to carry"""
_UPKEEP = 25.0
"""s that one statement of that may take at most"""
_NAP = 2.0
_AGES = 10_000 * 365.25 * 86400
"""s; a success that lasts longer than timestamps do lasts forever"""
_NOBODY = Run(
    "00000000-0000-0000-0000-000000000000", "", "", "", "", 0, (), "", 0.0, key="", token=""
)
"""whose claim is planned, and never made"""
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class PostgresLedger:
    """The ``RemoteLedger`` port over the database at ``url``, whose schema exists.

    ``now`` reads this host's clock, in seconds since 1970: only to tell how long ago something
    was. A claim is good for ``claim_ttl`` seconds after it was made or renewed. Nothing is
    connected before it is needed; after a failure the next call connects again. ``session``: one
    to that database that its leases use as well.
    """

    def __init__(
        self,
        url: str,
        now: Callable[[], float],
        claim_ttl: float = 900.0,
        session: Session | None = None,
    ) -> None:
        self._now = now
        self._claim_ttl_us = microseconds(claim_ttl)
        self._session = session or Session(url, LEDGER)
        self._rehearsed = -1
        """how many connections had ended when the one was made whose server has planned a claim"""

    # ------------------------------------------------------------ the port

    def prepare(self, due: float) -> None:
        """Connect, and have a claim planned, if that can be done now.

        For its first plan a server process reads its catalogs: half the time that a claim takes.
        """
        try:
            self._session.connect(due)
            if self._rehearsed != self._session.lost:
                values = self._begin_values(_NOBODY, KeySpec(_NOBODY.key))
                self._session.transact(due, (f"EXPLAIN {_SQL['claim']}", values))
                self._rehearsed = self._session.lost
        except StoreUnavailable:
            pass

    def begin(self, run: Run, key: KeySpec, due: float = FOREVER) -> Claim | Refusal:
        """Check ``run.needs``, claim ``run.key`` and store the run as running: one statement."""
        values = self._begin_values(run, key)
        name = "begin_run" if run.key is None else "claim"
        (found,) = self._session.transact(due, (_SQL[name], values))
        if found:
            return Claim(None if run.key is None else run.token, interrupted=found[0][0])
        return self._explain(run, key, due)

    def renew(self, run: Run, due: float) -> bool:
        """Extend the claim (without a key: the run's row); False when it is not ours any more."""
        ((claim, row),) = self._session.transact(due, (_SQL["renew"], self._own(run)))[0]
        return bool(row if run.key is None else claim)

    def interrupt(self, run: Run, due: float) -> None:
        """Record that the run was cut off, and nothing of COMMAND is alive."""
        self._session.transact(due, (_SQL["interrupt"], self._own(run) | {"cut_off": CUT_OFF}))

    def give_back(self, run: Run, due: float) -> None:
        """Record that the run is over, and free the key: nothing was executed under its claim."""
        self._session.transact(due, (_SQL["give_back"], self._own(run) | {"cut_off": CUT_OFF}))

    def spend_retry(self, run: Run, budget: Budget, due: float = FOREVER) -> bool:
        """Count one retry of ``run.job`` in a sliding window, if the budget has one left."""
        job = _text(plain(run.job))
        digest = _digest(job)
        values = {
            "job": job,
            "job_digest": digest,
            "lock": int.from_bytes(_digest(f"guardrun budget {job}")[:8], "big", signed=True),
            "window_us": microseconds(min(budget.window, _AGES)),
            "retries": budget.retries,
        }
        # The lock has to be a statement of its own: what a statement sees is settled at its start.
        _, spent = self._session.transact(
            due, (_SQL["lock_budget"], values), (_SQL["spend"], values)
        )
        return bool(spent)

    def finish(self, outcome: Outcome, due: float = FOREVER) -> bool:
        """Store run, attempts, output and the key's state; False when the claim was not ours.

        The first truth stays: repeating it, from memory or the spool, changes nothing.
        Raises ``ValueError`` and ``OverflowError`` for what no run can have.
        """
        return self._finish(outcome, None, due).claim

    def finish_and_release(self, outcome: Outcome, wanted: LeaseRequest, due: float) -> Recorded:
        """The same; the transaction sees whether the lease is ours, and gives it back."""
        return self._finish(outcome, wanted, due)

    def _finish(self, outcome: Outcome, wanted: LeaseRequest | None, due: float) -> Recorded:
        values = self._finish_values(outcome)
        statements: list[tuple[str, dict[str, Any]]] = [(_SQL["finish"], values)]
        unclaimed = outcome.claim is None and bool(outcome.attempts)
        if unclaimed and values["key"] is not None and values["state"] == "succeeded":
            statements.insert(0, (_SQL["unclaimed_success"], values))
        at = len(statements) - 1
        if wanted is not None:
            values["lease_id"] = leases.identity(leases.SCHEME, wanted.lock)
            values["lease_token"] = wanted.token
            lock, release, wake = leases.release(wanted)
            statements, at = [lock, *statements, release, wake], at + 1
        # A large output takes its time, on the way and in one statement.
        slow = sum(map(len, outcome.captured or ())) / _SLOW_LINK
        try:
            found = self._session.transact(due, *statements, longest=STATEMENT + slow)[at]
            if not found:  # another process has just recorded it
                (found,) = self._session.transact(due, (_SQL["as_recorded"], values))
        except Unstorable as error:
            raise ValueError(str(error)) from error
        stale, lease_lost = found[0]
        return Recorded(not stale, outcome.lease_lost or not lease_lost)

    def watch(self, job_id: str) -> Nap:  # noqa: ARG002
        """Wait a while: nobody tells when a key far away becomes free."""
        return Nap(Chance().uniform(_NAP / 4, _NAP))

    def stored_output(self, key: str, due: float = FOREVER) -> tuple[bytes, bytes] | None:
        """What the run that succeeded for ``key`` wrote, if it was captured."""
        (found,) = self._session.transact(due, (_SQL["stored_output"], {"key_id": _key_id(key)}))
        return (bytes(found[0][0]), bytes(found[0][1])) if found else None

    def idle(self) -> None:
        """Let go of the connection until it is needed again."""
        self._session.close_connection()

    def close(self) -> None:
        """Let go of everything."""
        self._session.close()

    # ------------------------------------------------------------ upkeep

    def prune(self, runs_older: float, refusals_older: float, batch: int) -> int:
        """Delete at most ``batch`` runs and as many keys, and so on: how many rows went.

        Locks without holder or waiter, in the same schema, are among them.

        The ages are seconds before now. Running rows and keys that block are never deleted.
        Call it until it returns 0. Takes the right to DELETE, which runs do not need.
        """
        texts = sql.statements("postgres", "prune")
        due = kernel.now() + _PATIENCE

        def delete(name: str, age: float, batch: int, **more: str) -> int:
            values = {"age_us": microseconds(min(age, _AGES)), "batch": batch, **more}
            (found,) = self._session.transact(due, (texts[name], values), longest=_UPKEEP)
            return int(found[0][0])

        gone = delete("runs", runs_older, batch)
        for result in REFUSALS:
            gone += delete("refusals", refusals_older, max(batch - gone, 0), result=result)
        for name in ("keys", "completions", "leases"):
            gone += delete(name, runs_older, batch)
        return gone + delete("budgets", max(runs_older, SPENT_KEPT), batch)

    # ------------------------------------------------------------ what is said

    def _begin_values(self, run: Run, key: KeySpec) -> dict[str, Any]:
        return (
            _row(run_values(run))
            | self._own(run)
            | {
                "needs": [_key_id(needed) for needed in dict.fromkeys(run.needs)],
                "key_ttl_us": _ttl_us(key.ttl),
                "rerun": key.on_interrupted == "rerun",
                "any_command": key.on_mismatch == "ignore",
                "cut_off": CUT_OFF,
            }
        )

    def _finish_values(self, outcome: Outcome) -> dict[str, Any]:
        run, claim, captured = outcome.run, outcome.claim, outcome.captured
        tried = [_row(attempt_values(run, attempt)) for attempt in outcome.attempts]
        columns = {
            "numbers": "number",
            "starts": "started_at",
            "durations": "duration_us",
            "results": "result",
            "codes": "exit_code",
            "signals": "signal",
            "reasons": "reason",
        }
        now = self._now()
        token = None if claim is None else claim.token
        return (
            _row(outcome_values(outcome))
            | self._own(run)
            | {
                # The claim's answer may have been lost, and the claim be ours all the same.
                "token": run.token or token,
                "claim": token,
                "lease_id": None,
                "lease_token": None,
                "state": key_state(outcome),
                "key_ttl_us": _ttl_us(outcome.key_ttl),
                # Host clocks may disagree with the server's, and with each other: only how long
                # ago it was can be told from here. One that was set back says: just now.
                "began_us": _ago_us(now, run.started_at),
                "ended_us": _ago_us(now, outcome.finished_at),
                "stdout": None if captured is None else captured.stdout,
                "stderr": None if captured is None else captured.stderr,
            }
            | {name: [row[column] for row in tried] for name, column in columns.items()}
        )

    def _own(self, run: Run) -> dict[str, Any]:
        return {
            "job_id": run.job_id,
            "key_id": None if run.key is None else _key_id(run.key),
            "token": run.token,
            "claim_ttl_us": self._claim_ttl_us,
        }

    def _explain(self, run: Run, key: KeySpec, due: float) -> Claim | Refusal:
        """Why nothing was claimed; from a look of its own, so it may find that all is well now."""
        wanted = [*run.needs, *([] if run.key is None else [run.key])]
        ids = {_key_id(name): name for name in wanted}
        (rows,) = self._session.transact(due, (_SQL["keys"], {"ids": list(ids)}))
        found = {ids[row[0]]: Found(*row[1:]) for row in rows}
        for needed in run.needs:
            said = unmet(needed, found.get(needed))
            if said is not None:
                return said
        if run.key is None:  # it has ended before: there is nothing to begin
            return Claim(token=None)
        one = found.get(run.key)
        if one is not None and not _is_free(one, run, key):
            return refused(one, run, key)
        raise StoreUnavailable(f"the key {run.key!r} is just changing hands; try again")


def _is_free(found: Found, run: Run, key: KeySpec) -> bool:
    """Whether what was found would have been claimed."""
    if found.state == "interrupted":
        same = key.on_mismatch == "ignore" or found.fingerprint == run.fingerprint
        return key.on_interrupted == "rerun" and same
    return found.expired


def _row(values: dict[str, object]) -> dict[str, Any]:
    """The same, as Postgres takes it: instants as such, text without NUL."""
    return {_NAMES.get(name, name): _value(name, value) for name, value in values.items()}


_NAMES = {"needs": "needed"}
"""``needs`` is what the statements ask for; this is what they write"""


def _value(name: str, value: object) -> object:
    if isinstance(value, int) and name.endswith("_at"):
        return _EPOCH + datetime.timedelta(microseconds=value)
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    return text.replace("\0", "\\x00")


def _key_id(key: str) -> bytes:
    return _digest(_text(plain(key)))


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()


def _ttl_us(seconds: float) -> int | None:
    return None if seconds > _AGES else microseconds(seconds)


def _ago_us(now: float, instant: float) -> int:
    return microseconds(min(max(now - instant, 0.0), _AGES))
