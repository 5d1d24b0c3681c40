"""What every ledger keeps: one suite, run over each store."""

from __future__ import annotations

import collections
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledgers import (
    NOON,
    SqliteStore,
    Store,
    answers,
    claimed,
    ended,
    make_run,
    refusal,
    refused,
    release,
    run_key,
    workers,
)
from postgres_stores import PgBouncerStore, PostgresStore
from support import eventually

from guardrun.ledger.records import Filter
from guardrun.model import (
    FOREVER,
    Attempt,
    Budget,
    Captured,
    Claim,
    Holder,
    KeySpec,
    Refusal,
    Run,
)

STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": SqliteStore,
    "postgres": PostgresStore,
    "pgbouncer": PgBouncerStore,
}
LOCAL = ("sqlite",)
"""Those that see at once when a run's processes are gone; the others wait for ``--claim-ttl``."""
K = KeySpec("k")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    made = STORES[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture(params=LOCAL)
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of those in ``LOCAL``."""
    made = STORES[request.param](tmp_path)
    yield made
    made.close()


def cut_off(store: Store, key: str | None = "k", **fields: object) -> tuple[Run, Claim]:
    """Have a run begin, and its process vanish."""
    ledger = store.open()
    run = make_run(key, **fields)
    claim = claimed(ledger.begin(run, KeySpec(key)))
    store.vanish(ledger, run)
    return run, claim


# ---------------------------------------------------------------- the claim


def test_a_new_key_is_claimed(store: Store) -> None:
    """Whoever comes first gets a claim with a random token of 128 bits, and a running row."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    assert claim.token is not None
    assert len(bytes.fromhex(claim.token)) == 16
    assert claim.interrupted is None
    row = store.row(run)
    assert (row.result, row.key, row.finished_at) == ("running", "k", None)
    other = claimed(ledger.begin(make_run("another"), KeySpec("another")))
    assert other.token != claim.token


def test_a_key_that_runs_is_held(store: Store) -> None:
    """While a run has the key, every other one is told who and since when."""
    store.clock.pass_by(5)
    holder = make_run("k")
    claimed(store.open().begin(holder, K))
    store.clock.pass_by(60)
    said = refusal(store.open().begin(make_run("k"), K))
    assert said.kind == "held"
    assert said.holder == Holder(holder.owner, holder.job_id, store.at(NOON + 5))


def test_a_key_is_held_since_its_latest_claim(store: Store) -> None:
    """What an earlier run did with the key is no part of the answer."""
    ledger = store.open()
    run_key(ledger, "k", "failed")
    store.clock.pass_by(60)
    claimed(ledger.begin(make_run("k"), K))
    said = refusal(ledger.begin(make_run("k"), K))
    assert said.holder is not None
    assert said.holder.since == store.at(NOON + 60)


def test_a_key_that_succeeded_is_a_duplicate(store: Store) -> None:
    """After a success the key says no, and names the run that succeeded."""
    ledger = store.open()
    first = run_key(ledger, "k")
    said = refusal(ledger.begin(make_run("k"), K))
    assert said.kind == "duplicate"
    assert said.holder == Holder(first.owner, first.job_id, store.at(NOON + 1.5))


def test_a_key_belongs_to_the_ledger_not_to_a_job(store: Store) -> None:
    """Another job with the same key and command line is a duplicate as well."""
    ledger = store.open()
    run_key(ledger, "k", job="backup")
    assert refusal(ledger.begin(make_run("k", job="other"), K)).kind == "duplicate"


def test_a_key_that_failed_may_run_again(store: Store) -> None:
    """After a failure any command line may have the key, and it is the key's from then on."""
    ledger = store.open()
    run_key(ledger, "k", "failed", fingerprint="a" * 64)
    again = make_run("k", fingerprint="b" * 64)
    claim = claimed(ledger.begin(again, K._replace(on_interrupted="stop")))
    assert claim.interrupted is None
    assert ledger.finish(ended(again, claim))
    said = refusal(ledger.begin(make_run("k", fingerprint="a" * 64), K))
    assert said.kind == "mismatch"


@pytest.mark.parametrize("result", ["timeout", "lease_lost", "interrupted", "store_unavailable"])
def test_what_did_not_end_by_itself_was_interrupted(store: Store, result: str) -> None:
    """A COMMAND that ran and did not end by its own exit leaves its key interrupted."""
    ledger = store.open()
    first = run_key(ledger, "k", result)
    said = refusal(ledger.begin(make_run("k"), K._replace(on_interrupted="stop")))
    assert said.kind == "interrupted"
    assert said.holder is not None
    assert said.holder.job_id == first.job_id
    assert claimed(ledger.begin(make_run("k"), K)).interrupted == first.job_id


def test_a_claim_under_which_nothing_ran_frees_the_key(store: Store) -> None:
    """A run that was told to stop before its first attempt has interrupted nothing."""
    ledger = store.open()
    run_key(ledger, "k", "interrupted", attempts=())
    claim = claimed(ledger.begin(make_run("k"), K._replace(on_interrupted="stop")))
    assert claim.interrupted is None


@pytest.mark.parametrize("before", ["success", "timeout", "running", "cut off"])
def test_another_command_line_is_a_mismatch(store: Store, before: str) -> None:
    """The command line of the run that succeeded, runs or was interrupted is the key's."""
    ledger = store.open()
    if before == "running":
        first = make_run("k")
        claimed(ledger.begin(first, K))
    elif before == "cut off":
        first, _ = cut_off(store)
    else:
        first = run_key(ledger, "k", before)
    other = make_run("k", fingerprint="0" * 64)
    said = refusal(ledger.begin(other, K))
    assert said.kind == "mismatch"
    assert said.holder is not None
    assert said.holder.job_id == first.job_id


@pytest.mark.parametrize(
    ("before", "kind"), [("success", "duplicate"), ("running", "held"), ("timeout", None)]
)
def test_mismatch_can_be_ignored(store: Store, before: str, kind: str | None) -> None:
    """With on_mismatch=ignore the other rules go on."""
    ledger = store.open()
    if before == "running":
        claimed(ledger.begin(make_run("k"), K))
    else:
        run_key(ledger, "k", before)
    other = make_run("k", fingerprint="0" * 64)
    said = ledger.begin(other, K._replace(on_mismatch="ignore"))
    assert (said.kind if isinstance(said, Refusal) else None) == kind


def test_a_success_blocks_until_its_ttl_is_over(store: Store) -> None:
    """At that moment the key is free, for any command line, and nothing was interrupted."""
    ledger = store.open()
    run_key(ledger, "k", key_ttl=3600.0, finished_at=store.clock())
    other = make_run("k", fingerprint="0" * 64)
    store.clock.pass_by(3600 - store.tick)
    assert refusal(ledger.begin(other, K)).kind == "mismatch"
    store.clock.pass_by(store.tick)
    claim = claimed(ledger.begin(other, K._replace(on_interrupted="stop")))
    assert claim.interrupted is None


def test_a_success_without_ttl_blocks_forever(store: Store) -> None:
    """A century later the key still says no."""
    ledger = store.open()
    run_key(ledger, "k", key_ttl=FOREVER)
    store.clock.pass_by(36525 * 86400)
    assert refusal(ledger.begin(make_run("k"), K)).kind == "duplicate"


def test_the_ttl_is_that_of_the_run_that_succeeded(store: Store) -> None:
    """A short ttl of an earlier success does not end the later one early."""
    ledger = store.open()
    run_key(ledger, "k", key_ttl=10.0)
    store.clock.pass_by(20)
    run_key(ledger, "k", started_at=NOON + 20, key_ttl=7200.0)
    store.clock.pass_by(3600)
    assert refusal(ledger.begin(make_run("k"), K)).kind == "duplicate"


def test_a_run_may_claim_again_what_it_claims(store: Store) -> None:
    """Repeating begin, as after a commit whose answer was lost, gives the same run the key."""
    run = make_run("k")
    ledger = store.open()
    claimed(ledger.begin(run, K))
    claim = claimed(ledger.begin(run, K))
    assert claim.interrupted is None
    assert ledger.finish(ended(run, claim))
    assert refusal(ledger.begin(make_run("k"), K)).kind == "duplicate"


# ---------------------------------------------------------------- needs


@pytest.mark.parametrize("before", ["never", "failed", "timeout", "running", "cut off", "expired"])
def test_what_is_needed_must_have_succeeded(store: Store, before: str) -> None:
    """Any other state of a needed key refuses the run, names the key, and says why."""
    ledger = store.open()
    if before == "running":
        claimed(ledger.begin(make_run("n"), KeySpec("n")))
    elif before == "cut off":
        cut_off(store, "n")
    elif before == "expired":
        run_key(ledger, "n", key_ttl=1.0)
        store.clock.pass_by(10)
    elif before != "never":
        run_key(ledger, "n", before)
    run_key(ledger, "ok")
    said = refusal(ledger.begin(make_run("k", needs=("ok", "n")), K))
    assert said.kind == "needs"
    assert "'n'" in said.reason
    assert (said.holder is None) == (before == "never")


def test_needs_are_checked_before_the_claim(store: Store) -> None:
    """A run whose needs are not met leaves its key to others, whatever state that is in."""
    ledger = store.open()
    assert refusal(ledger.begin(make_run("k", needs=("n",)), K)).kind == "needs"
    run_key(ledger, "k")
    assert refusal(ledger.begin(make_run("k", needs=("n",)), K)).kind == "needs"


def test_met_needs_let_the_run_go_on(store: Store) -> None:
    """With every needed key succeeded, the claim decides; also where there is no key to claim."""
    ledger = store.open()
    run_key(ledger, "a")
    run_key(ledger, "b", key_ttl=60.0)
    claimed(ledger.begin(make_run("k", needs=("a", "b")), K))
    assert claimed(ledger.begin(make_run(needs=("a", "b")), KeySpec(None))).token is None


# ---------------------------------------------------------------- refusals


def test_a_refusal_stores_nothing(store: Store) -> None:
    """A refused begin leaves no row of that run."""
    ledger = store.open()
    first = run_key(ledger, "k")
    refusal(ledger.begin(make_run("k"), K))
    refusal(ledger.begin(make_run("x", needs=("never",)), KeySpec("x")))
    assert [row.job_id for row in store.runs()] == [first.job_id]


def test_a_refused_run_is_recorded_and_leaves_the_key_alone(store: Store) -> None:
    """Its outcome inserts the row; the key stays another run's."""
    ledger = store.open()
    holder = make_run("k")
    claim = claimed(ledger.begin(holder, K))
    late = make_run("k")
    assert ledger.finish(refused(late, "lock_busy", held_by=Holder(holder.owner, holder.job_id)))
    row = store.row(late)
    assert (row.result, row.attempts) == ("lock_busy", 0)
    assert row.held_by == Holder(holder.owner, holder.job_id)
    assert refusal(ledger.begin(make_run("k"), K)).kind == "held"
    assert ledger.finish(ended(holder, claim))


# ---------------------------------------------------------------- the outcome


def test_the_whole_outcome_is_recorded(store: Store) -> None:
    """Every field of run, outcome and attempts comes back as it went in."""
    ledger = store.open()
    run = make_run("k", lock="l", path=("p1", "p2"), enqueued_at=NOON - 2, started_at=NOON + 0.125)
    claim = claimed(ledger.begin(run, K))
    attempts = (
        Attempt(1, NOON + 1, 0.5, "retry", 75, None, "because"),
        Attempt(2, NOON + 2, 0.25, "failed", None, signal.SIGSEGV),
    )
    outcome = ended(
        run,
        claim,
        "failed",
        exit_code=139,
        command_code=None,
        signal=int(signal.SIGSEGV),
        reason="why",
        attempts=attempts,
        held=True,
        fence=2**60,
        lock_wait=0.75,
        lease_lost=True,
        captured=Captured(b"out\xff", b""),
    )
    assert ledger.finish(outcome)
    row = store.row(run)
    assert (row.job, row.host, row.user, row.pid, row.owner) == (
        *("backup", "h", "u", 1),
        run.owner,
    )
    assert (row.argv, row.fingerprint, row.path) == (run.argv, run.fingerprint, run.path)
    assert (row.lock, row.key, row.needs) == ("l", "k", ())
    assert row.started_at == round((NOON + 0.125) * 1e6)
    assert row.enqueued_at == round((NOON - 2) * 1e6)
    assert row.finished_at == round(outcome.finished_at * 1e6)
    assert (row.duration, row.lock_wait) == (1_500_000, 750_000)
    assert (row.result, row.exit_code, row.command_code) == ("failed", 139, None)
    assert (row.signal, row.reason, row.attempts) == (signal.SIGSEGV, "why", 2)
    assert (row.held, row.fence, row.lease_lost, row.stale) == (True, 2**60, True, False)
    assert store.attempts(run) == 2


def test_told_to_stop_is_recorded_as_a_shell_sees_it(store: Store) -> None:
    """A guardrun that ends itself by a signal has exit code 128 + N and that signal."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    ledger.finish(ended(run, claim, "interrupted", exit_code=0, die_by=int(signal.SIGTERM)))
    row = store.row(run)
    assert (row.exit_code, row.signal) == (143, signal.SIGTERM)


def test_repeating_finish_changes_nothing(store: Store) -> None:
    """The first truth stays, from the same process and from the spool of a later one."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    outcome = ended(run, claim, captured=Captured(b"1", b"2"))
    assert ledger.finish(outcome)
    before = store.runs()
    assert ledger.finish(outcome)
    assert store.open().finish(outcome._replace(result="failed", exit_code=3, attempts=()))
    assert store.runs() == before
    assert store.attempts(run) == 1
    assert ledger.stored_output("k") == (b"1", b"2")
    assert refusal(ledger.begin(make_run("k"), K)).kind == "duplicate"


def test_a_replayed_failure_does_not_free_a_key_that_succeeded_since(store: Store) -> None:
    """A failure that waited in the spool comes too late for a key another run has completed."""
    first, claim = cut_off(store)
    ledger = store.open()
    run_key(ledger, "k")
    assert not ledger.finish(ended(first, claim, "failed"))
    assert refusal(ledger.begin(make_run("k"), K)).kind == "duplicate"


def test_a_stale_finish_completes_its_row_and_leaves_the_key(store: Store) -> None:
    """When another run has the key since, the outcome is recorded truthfully, and says False."""
    first, claim = cut_off(store)
    ledger = store.open()
    second = make_run("k")
    new = claimed(ledger.begin(second, K))
    assert new.interrupted == first.job_id
    for _ in range(2):
        assert not store.open().finish(ended(first, claim))
    row = store.row(first)
    assert (row.result, row.exit_code, row.stale, row.attempts) == ("success", 0, True, 1)
    assert refusal(ledger.begin(make_run("k"), K)).kind == "held"
    assert ledger.finish(ended(second, new))
    assert not store.row(second).stale


def test_late_truth_completes_an_interrupted_key(store: Store) -> None:
    """An outcome from the spool makes a key succeed that was found interrupted, and row and key
    tell it."""
    run, claim = cut_off(store)
    ledger = store.open()
    stop = K._replace(on_interrupted="stop")
    assert refusal(ledger.begin(make_run("k"), stop)).kind == "interrupted"
    assert store.row(run).result == "interrupted"
    assert ledger.finish(ended(run, claim))
    assert refusal(ledger.begin(make_run("k"), stop)).kind == "duplicate"
    row = store.row(run)
    assert (row.result, row.reason, row.attempts) == ("success", None, 1)


def test_an_outcome_without_a_beginning_is_inserted(store: Store) -> None:
    """A run that began while the ledger was down is recorded whole when it ends."""
    ledger = store.open()
    run = make_run("k")
    assert ledger.finish(ended(run, None))
    row = store.row(run)
    assert (row.result, row.attempts, row.argv) == ("success", 1, run.argv)


@pytest.mark.parametrize("before", [None, "failed", "timeout"])
def test_a_success_without_a_claim_blocks_its_key(store: Store, before: str | None) -> None:
    """Once it is recorded, a success that had to do without a claim is as good as any other."""
    ledger = store.open()
    if before is not None:
        run_key(ledger, "k", before)
    run = make_run("k", started_at=store.clock() + 10)
    assert ledger.finish(ended(run, None))
    assert refusal(ledger.begin(make_run("k"), K)).kind == "duplicate"


def test_a_success_without_a_claim_comes_after_a_run_that_vanished(store: Store) -> None:
    """A killed run does not hold the key against it: recorded first thing, it blocks the key."""
    ledger = store.open()
    gone = make_run("k")
    claimed(ledger.begin(gone, K))
    ledger = store.vanish(ledger, gone)
    store.clock.pass_by(100)
    later = make_run("k", started_at=store.clock())
    store.clock.pass_by(100)
    assert ledger.finish(ended(later, None, finished_at=store.clock()))
    said = refusal(ledger.begin(make_run("k"), K))
    assert (said.kind, said.holder and said.holder.job_id) == ("duplicate", later.job_id)


def test_a_success_without_a_claim_comes_after_one_that_has_expired(store: Store) -> None:
    """A success that blocked nobody any more does not keep the next one from blocking."""
    ledger = store.open()
    run_key(ledger, "k", key_ttl=60.0, finished_at=store.clock())
    store.clock.pass_by(100)
    later = make_run("k", started_at=store.clock())
    store.clock.pass_by(10)
    assert ledger.finish(ended(later, None, finished_at=store.clock(), key_ttl=60.0))
    store.clock.pass_by(10)
    said = refusal(ledger.begin(make_run("k"), K))
    assert (said.kind, said.holder and said.holder.job_id) == ("duplicate", later.job_id)
    store.clock.pass_by(60)
    claimed(ledger.begin(make_run("k"), K))


def test_a_success_without_a_claim_leaves_one_that_blocks(store: Store) -> None:
    """The first success stays the key's, with its own time to live."""
    ledger = store.open()
    first = run_key(ledger, "k", key_ttl=200.0, finished_at=store.clock())
    store.clock.pass_by(100)
    later = make_run("k", started_at=store.clock())
    assert ledger.finish(ended(later, None, finished_at=store.clock() + 1.5))
    said = refusal(ledger.begin(make_run("k"), K))
    assert (said.kind, said.holder and said.holder.job_id) == ("duplicate", first.job_id)


def test_a_success_without_a_claim_yields_to_later_truth(store: Store) -> None:
    """It neither takes a key from a run that holds it, nor rewrites what began after it."""
    ledger = store.open()
    holder = make_run("held")
    claim = claimed(ledger.begin(holder, K))
    assert ledger.finish(ended(make_run("held", started_at=store.clock() - 10), None))
    assert refusal(ledger.begin(make_run("held"), K)).kind == "held"
    assert ledger.finish(ended(holder, claim, "failed"))
    assert ledger.finish(ended(make_run("held", started_at=store.clock() - 10), None))
    claimed(ledger.begin(make_run("held"), K))


def test_a_run_without_a_key(store: Store) -> None:
    """It has no token, is recorded as running, and its end touches no key."""
    ledger = store.open()
    run = make_run()
    claim = claimed(ledger.begin(run, KeySpec(None)))
    assert claim.token is None
    assert store.row(run).result == "running"
    assert ledger.finish(ended(run, claim))
    assert store.row(run).result == "success"


def test_stored_output_is_that_of_the_run_that_succeeded(store: Store) -> None:
    """Bytes come back as they were; without a capture, or a success, there is nothing."""
    ledger = store.open()
    assert ledger.stored_output("k") is None
    run_key(ledger, "k", "failed", captured=Captured(b"wrong", b""))
    assert ledger.stored_output("k") is None
    data = bytes(range(256)) * 1000
    run_key(ledger, "k", captured=Captured(data, b"\0"))
    assert ledger.stored_output("k") == (data, b"\0")
    run_key(ledger, "bare")
    assert ledger.stored_output("bare") is None


WORDS = ("\udcff\udc80", "ü", "\U0001f600", 'a"b\\c\n', "", "\x00\x1b[2J", "\\udcff")


def test_undecodable_words_survive(store: Store) -> None:
    """COMMAND's words come back byte for byte; names that are no UTF-8 are stored readably."""
    ledger = store.open()
    run = make_run("k\udcff", argv=WORDS, job="j\udcff", lock="l\udcff")
    claim = claimed(ledger.begin(run, KeySpec("k\udcff")))
    assert ledger.finish(ended(run, claim, reason="r\udcff"))
    row = store.row(run)
    assert row.argv == WORDS
    assert (row.key, row.job, row.lock, row.reason) == tuple(f"{c}\\udcff" for c in "kjlr")
    said = refusal(ledger.begin(make_run("k\udcff"), KeySpec("k\udcff")))
    assert said.kind == "duplicate"
    assert store.runs(Filter(key="k\udcff", job="j\udcff")) == [row]


# ---------------------------------------------------------------- crashes


def test_a_run_that_vanished_was_interrupted(store: Store) -> None:
    """The next run marks it, names it, and gets the key; when it ended, nobody knows."""
    run, _ = cut_off(store)
    claim = claimed(store.open().begin(make_run("k"), K))
    assert claim.interrupted == run.job_id
    row = store.row(run)
    assert (row.result, row.finished_at, row.duration) == ("interrupted", None, None)
    assert row.reason


def test_any_run_marks_what_vanished(store: Store) -> None:
    """Also one with another key; whoever comes for the key later still hears of it."""
    run, _ = cut_off(store)
    ledger = store.open()
    run_key(ledger, "other")
    assert store.row(run).result == "interrupted"
    assert claimed(ledger.begin(make_run("k"), K)).interrupted == run.job_id


def test_without_a_key_the_jobs_last_run_is_named(store: Store) -> None:
    """A run without a key hears of its own job's last run when that was cut off, not of others."""
    cut_off(store, None, started_at=NOON - 60)
    latest, _ = cut_off(store, None, started_at=NOON - 30)
    cut_off(store, None, started_at=NOON - 10, job="another")
    ledger = store.open()
    run = make_run()
    claim = claimed(ledger.begin(run, KeySpec(None)))
    assert claim.interrupted == latest.job_id
    ledger.finish(ended(run, claim, "interrupted"))
    later = make_run(started_at=NOON + 10)
    assert claimed(ledger.begin(later, KeySpec(None))).interrupted is None


def test_a_kill_minus_9_frees_the_key(local: Store) -> None:
    """A key is held until its run is killed; then the next run has it, and knows why."""
    script = """
run = make_run("k")
assert isinstance(ledger.begin(run, KeySpec("k")), Claim)
print(run.job_id, flush=True)
sys.stdin.readline()
"""
    with workers(local, 1, script) as (process,):
        release([process])
        assert process.stdout is not None
        killed = process.stdout.readline().strip()
        ledger = local.open()
        assert refusal(ledger.begin(make_run("k"), K)).kind == "held"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert claimed(ledger.begin(make_run("k"), K)).interrupted == killed


def test_a_run_lives_as_long_as_commands_tree(local: Store) -> None:
    """After a kill of guardrun, the key is held until every process with its descriptors ends."""
    script = """
import subprocess
run = make_run("k")
claim = ledger.begin(run, KeySpec("k"))
child = subprocess.Popen(["sleep", "60"], pass_fds=claim.fds, stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.readline()
"""
    with workers(local, 1, script) as (process,):
        release([process])
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        ledger = local.open()
        assert refusal(ledger.begin(make_run("k"), K)).kind == "held"
        os.kill(child, signal.SIGKILL)
        said = eventually(
            lambda: [said] if isinstance(said := ledger.begin(make_run("k"), K), Claim) else None,
            what="the key is free",
        )
        assert said[0].interrupted is not None


def test_a_finished_run_is_over_whatever_it_left_running(store: Store) -> None:
    """A daemon that inherited the run's descriptors does not keep the run alive."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    daemon = os.dup(claim.fds[0]) if claim.fds else None
    assert ledger.finish(ended(run, claim, "timeout"))
    assert claimed(store.open().begin(make_run("k"), K)).interrupted == run.job_id
    if daemon is not None:
        os.close(daemon)


def test_waiting_for_a_run_ends_with_it(local: Store) -> None:
    """What watch returns becomes readable when the run has ended, and not before."""
    import select

    ledger, other = local.open(), local.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    child = other.watch(run.job_id)
    assert not select.select([child.fileno()], [], [], 0.05)[0]
    ledger.finish(ended(run, claim))
    assert select.select([child.fileno()], [], [], 10)[0]
    child.cancel()


# ---------------------------------------------------------------- the budget


def test_a_budget_is_a_sliding_window(store: Store) -> None:
    """At most N retries in any window, each job on its own, over all runs and ledger handles."""
    budget = Budget(2, 3600.0)
    ledger = store.open()
    assert ledger.spend_retry(make_run(), budget)
    store.clock.pass_by(1800)
    assert store.open().spend_retry(make_run(), budget)
    assert not ledger.spend_retry(make_run(), budget)
    assert ledger.spend_retry(make_run(job="another"), budget)
    store.clock.pass_by(1800 - store.tick)
    assert not ledger.spend_retry(make_run(), budget)
    store.clock.pass_by(store.tick)
    assert ledger.spend_retry(make_run(), budget)
    assert not ledger.spend_retry(make_run(), budget)


def test_what_one_window_is_over_for_counts_in_another(store: Store) -> None:
    """Neither a run of the job with a shorter window nor pruning fills a budget up again."""
    ledger = store.open()
    assert ledger.spend_retry(make_run(), Budget(1, 86400.0))
    store.clock.pass_by(600)
    assert ledger.spend_retry(make_run(), Budget(1, 60.0))
    ledger.prune(60.0, 60.0, 100)
    assert not ledger.spend_retry(make_run(), Budget(2, 86400.0))


def test_retries_of_one_moment_all_count(store: Store) -> None:
    """A clock that stands still does not make two retries one."""
    ledger = store.open()
    spent = [ledger.spend_retry(make_run(), Budget(3, 60.0)) for _ in range(5)]
    assert spent == [True, True, True, False, False]


# ---------------------------------------------------------------- many at once


def test_of_many_claims_one_wins(store: Store) -> None:
    """A crowd of processes claims one key at once: one executes, the others hear why not."""
    script = """
run = make_run("k")
said = insist(lambda: ledger.begin(run, KeySpec("k")))
if isinstance(said, Claim):
    assert insist(lambda: ledger.finish(ended(run, said)))
    print("claim")
else:
    print(said.kind)
"""
    with workers(store, store.crowd, script) as started:
        said = collections.Counter(answers(started))
    assert said["claim"] == 1, said
    assert said["held"] + said["duplicate"] == store.crowd - 1, said
    (row,) = store.runs()
    assert row.result == "success"


def test_concurrent_retries_never_exceed_the_budget(store: Store) -> None:
    """Twenty processes that each want three retries share a budget of seven."""
    script = """
budget = Budget(7, 3600.0)
print(sum(insist(lambda: ledger.spend_retry(make_run(), budget)) for _ in range(3)))
"""
    with workers(store, 20, script) as started:
        assert sum(map(int, answers(started))) == 7


def test_output_may_come_after_the_outcome(store: Store) -> None:
    """An outcome that was recorded without its output takes it later, and nothing else changes."""
    ledger = store.open()
    run = make_run("k")
    outcome = ended(run, claimed(ledger.begin(run, K)))
    assert ledger.finish(outcome)
    before = store.row(run)
    assert ledger.stored_output("k") is None
    assert ledger.finish(outcome._replace(captured=Captured(b"out", b"err")))
    assert ledger.stored_output("k") == (b"out", b"err")
    assert store.row(run) == before
