"""The embedded ledger: one SQLite file, no server, no heartbeat.

Promises: a claim that was returned is durable (WAL, ``synchronous=FULL``); of any number of
processes that claim one key at once, one gets it; a run whose processes are gone is found
interrupted by the next one. Declines: to wait (SQLite's busy timeout is 0, the caller's jittered
retries are fairer: with a plain 5 s timeout 52 of 300 simultaneous claims failed), and network
filesystems, where neither WAL nor the liveness locks hold.
"""

from __future__ import annotations

import os

from guardrun import sql
from guardrun.blocking import BlockedChild
from guardrun.errors import StoreUnavailable
from guardrun.ledger.live import LiveFile
from guardrun.ledger.rows import (
    CUT_OFF,
    REFUSALS,
    SPENT_KEPT,
    attempt_values,
    key_state,
    key_ttl_us,
    microseconds,
    outcome_values,
    run_values,
)
from guardrun.ledger.sqlite_file import driver
from guardrun.ledger.sqlite_writer import Transactions
from guardrun.ledger.text import plain
from guardrun.model import FOREVER, Claim, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from typing import Any

    from guardrun.ledger.reasons import Found
    from guardrun.ledger.sqlite_writer import Writer
    from guardrun.model import Budget, KeySpec, Outcome, Run

_SQL = sql.statements("sqlite", "run")

_REFUSALS_KEPT = 7 * 86400.0
_BATCH = 32


class SqliteLedger:
    """The ``Ledger`` port over the file at ``path`` (no symbolic link), in a directory that exists.

    ``now`` reads seconds since 1970; runs older than ``keep`` seconds are pruned. The liveness file
    lies beside the ledger, so that all who share the one share the other. Nothing is opened before
    it is needed; after a failure the next call starts afresh. Every call answers at once,
    so a ``due`` means nothing here. What is written, ``writer`` commits: one transaction for each
    call, unless it knows better.
    """

    def __init__(
        self,
        path: str,
        now: Callable[[], float],
        keep: float = 90 * 86400.0,
        writer: Writer | None = None,
    ) -> None:
        self.path = path
        self._writer = writer or Transactions(path)
        self.live = LiveFile(os.path.join(os.path.dirname(path), "runs.live"))
        self._now = now
        self._keep = keep

    # ------------------------------------------------------------ the port

    def prepare(self, _due: float) -> None:
        """Open the file, if that can be done now."""
        try:
            self._writer.connection()
        except StoreUnavailable:
            pass

    def begin(self, run: Run, key: KeySpec, _due: float = FOREVER) -> Claim | Refusal:
        """Mark dead runs, check ``run.needs``, claim ``run.key``, and store the run as running.

        From before the commit until ``finish``, a refusal or ``close`` the run is alive:
        ``live.fd(run.job_id)`` is the descriptor that makes it so.
        """
        alive = self.live.hold(run.job_id)

        def claim(db: sqlite3.Connection) -> Claim | Refusal:
            self._mark_dead(db)
            now = microseconds(self._now())
            said = _needs(db, run, now) or _claim(db, run, key, now)
            if isinstance(said, Claim):
                said = said._replace(fds=(alive,))
                db.execute(_SQL["begin_run"], run_values(run) | {"token": said.token})
            return said

        # The row of a run without a key may be lost with the power: nothing was promised for it.
        said = self._writer.write("NORMAL" if run.key is None else "FULL", claim)
        if isinstance(said, Refusal):
            self.live.let_go(run.job_id)
        return said

    def spend_retry(self, run: Run, budget: Budget, _due: float = FOREVER) -> bool:
        """Count one retry of ``run.job`` in a sliding window, if the budget has one left."""

        def spend(db: sqlite3.Connection) -> bool:
            now = microseconds(self._now())
            values = {"job": plain(run.job), "now": now, "since": now - microseconds(budget.window)}
            kept = microseconds(max(budget.window, SPENT_KEPT))
            db.execute(_SQL["forget_spent"], {"job": values["job"], "before": now - kept})
            spent: int = db.execute(_SQL["count_spent"], values).fetchone()[0]
            if spent >= budget.retries:
                return False
            db.execute(_SQL["spend"], values)
            return True

        return self._writer.write("NORMAL", spend)

    def finish(self, outcome: Outcome, _due: float = FOREVER) -> bool:
        """Store run, attempts, output and the key's state; False when the claim was not ours.

        The first truth stays: repeating it, from memory or the spool, changes nothing.
        """
        run = outcome.run

        def store(db: sqlite3.Connection) -> bool:
            token = None if outcome.claim is None else outcome.claim.token
            values = outcome_values(outcome) | {"token": token}
            if db.execute(_SQL["finish_run"], values).rowcount == 0:
                ours = not db.execute(_SQL["was_stale"], {"job_id": run.job_id}).fetchone()[0]
            else:
                if outcome.claim is None and outcome.attempts:
                    # A run that was killed yields its key to a success; one that lives does not.
                    self._mark_dead(db)
                ours = _finish_key(db, outcome)
                if not ours:
                    db.execute(_SQL["mark_stale"], {"job_id": run.job_id})
                for attempt in outcome.attempts:
                    db.execute(_SQL["attempt"], attempt_values(run, attempt))
            if outcome.captured is not None:  # also of one that was recorded without
                db.execute(_SQL["output"], (run.job_id, *outcome.captured))
            return ours

        ours = self._writer.write("FULL", store)
        self.live.let_go(run.job_id)
        self._prune_now_and_then(run.job_id)
        return ours

    def watch(self, job_id: str) -> BlockedChild:
        """Start waiting, in a process of its own, for the end of a run of this host."""
        return BlockedChild(lambda: self.live.block_until_free(job_id))

    def stored_output(self, key: str, _due: float = FOREVER) -> tuple[bytes, bytes] | None:
        """What the run that succeeded for ``key`` wrote, if it was captured."""
        try:
            row = (
                self._writer.connection()
                .execute(_SQL["stored_output"], {"key": plain(key)})
                .fetchone()
            )
        except driver.Error as error:
            raise self._writer.failed(error) from error
        return None if row is None else (row[0], row[1])

    def close(self) -> None:
        """Let go of the connection and of every run that is still alive through this ledger."""
        self.live.close()
        self._writer.close()

    # ------------------------------------------------------------ upkeep

    def prune(self, runs_older: float, refusals_older: float, batch: int) -> int:
        """Delete at most ``batch`` runs and as many keys: how many went.

        The ages are seconds before now. Running rows and keys that block are never deleted.
        Call it until it returns 0.
        """
        texts = sql.statements("sqlite", "prune")

        def delete(db: sqlite3.Connection) -> int:
            self._mark_dead(db)  # so that they do not count as running
            now = self._now()
            old = {"before": microseconds(now - runs_older), "batch": batch}
            found = db.execute(texts["old_runs"], old).fetchall()
            for result in REFUSALS:
                room = batch - len(found)
                refused = {
                    "result": result,
                    "before": microseconds(now - refusals_older),
                    "batch": room,
                }
                found += db.execute(texts["old_refusals"], refused).fetchall()
            found = list(dict.fromkeys(found))  # old refusals may be old runs as well
            gone = len(found)
            db.executemany(texts["delete_run"], found)
            db.executemany(texts["delete_attempts"], found)
            db.executemany(texts["delete_output"], found)
            gone += db.execute(texts["delete_keys"], old).rowcount
            spent = {"before": microseconds(now - max(runs_older, SPENT_KEPT))}
            db.execute(texts["delete_spent"], spent)
            return gone

        return self._writer.write("NORMAL", delete)

    def _prune_now_and_then(self, job_id: str) -> None:
        # One run in 16, by a random digit of its own: no counter to read and write in every run.
        # 32 rows may go for 16 that came, in a few milliseconds.
        if job_id[-1] != "0" or self._keep == FOREVER:
            return
        try:
            self.prune(self._keep, min(self._keep, _REFUSALS_KEPT), _BATCH)
        # OSError: what says how is only read now, and an upgrade may have taken it away.
        except (StoreUnavailable, OSError):
            pass  # some later run will

    def _mark_dead(self, db: sqlite3.Connection) -> None:
        for job_id, key, token in db.execute(_SQL["running"]).fetchall():
            # A run locks its byte before it commits its row, and commits its end before it
            # unlocks: so whoever is running in this snapshot, and not alive, is dead.
            if self.live.is_alive(job_id):
                continue
            db.execute(_SQL["mark_dead"], {"job_id": job_id, "reason": CUT_OFF})
            if token is not None:
                db.execute(_SQL["interrupt_key"], {"key": key, "token": token})


def _needs(db: sqlite3.Connection, run: Run, now: int) -> Refusal | None:
    if not run.needs:
        return None
    from guardrun.ledger.reasons import unmet

    for key in run.needs:
        row = db.execute(_SQL["key"], {"key": plain(key)}).fetchone()
        said = unmet(key, None if row is None else _found(row, now))
        if said is not None:
            return said
    return None


def _claim(db: sqlite3.Connection, run: Run, key: KeySpec, now: int) -> Claim | Refusal:
    if run.key is None:
        cut_off = db.execute(_SQL["cut_off"], {"job": plain(run.job)}).fetchone()
        return Claim(token=None, interrupted=cut_off[0] if cut_off else None)
    # Read first, to explain the decision; the decision itself is the claim's alone.
    before = db.execute(_SQL["key"], {"key": plain(run.key)}).fetchone()
    claimed = db.execute(
        _SQL["claim"],
        {
            "key": plain(run.key),
            "token": run.token,
            "job_id": run.job_id,
            "owner": plain(run.owner),
            "fingerprint": run.fingerprint,
            "now": now,
            "rerun": key.on_interrupted == "rerun",
            "any_command": key.on_mismatch == "ignore",
        },
    )
    if claimed.rowcount == 1:
        interrupted = before is not None and before[0] == "interrupted"
        return Claim(run.token, interrupted=before[1] if interrupted else None)
    from guardrun.ledger.reasons import refused

    return refused(_found(before, now), run, key)


def _found(row: tuple[Any, ...], now: int) -> Found:
    from guardrun.ledger.reasons import Found

    state, job_id, owner, fingerprint, claimed_at, finished_at, expires_at = row
    since = claimed_at if finished_at is None else finished_at
    expired = expires_at is not None and expires_at <= now
    return Found(state, job_id, owner, fingerprint, since / 1e6, expired)


def _finish_key(db: sqlite3.Connection, outcome: Outcome) -> bool:
    """The compare-and-set on the claim's token; False when the claim is somebody else's."""
    run, claim = outcome.run, outcome.claim
    if run.key is None:
        return True
    state = key_state(outcome)
    finished_at = microseconds(outcome.finished_at)
    ttl = key_ttl_us(outcome)
    expires_at = {
        "succeeded": None if ttl is None else finished_at + ttl,
        "failed": finished_at,
        "interrupted": None,
    }[state]
    values = {
        "key": plain(run.key),
        "state": state,
        "finished_at": finished_at,
        "expires_at": expires_at,
        # A claim whose commit was answered with an error may have happened all the same.
        "token": run.token if claim is None else claim.token,
    }
    moved = db.execute(_SQL["finish_key"], values).rowcount == 1
    if claim is not None:
        return moved
    if not moved and state == "succeeded":
        db.execute(_SQL["unclaimed_success"], values | run_values(run))
    return True
