"""The spool: outcomes that the ledger could not take are kept, and replayed once each."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import NOON, SqliteStore, claimed, ended, job_id, make_run, refusal, workers

from guardrun.errors import StoreOutdated, StoreUnavailable
from guardrun.ledger.spool import Spool, from_json, to_json
from guardrun.model import (
    FOREVER,
    Attempt,
    Captured,
    Claim,
    Holder,
    KeySpec,
    Outcome,
    Run,
)


class Recorder:
    """A ledger that notes what it is given, and is down after so many."""

    def __init__(self, takes: float = FOREVER) -> None:
        self.takes = takes
        self.got: list[Outcome] = []

    def finish(self, outcome: Outcome, _due: float) -> bool:
        if len(self.got) >= self.takes:
            raise StoreUnavailable("down")
        self.got.append(outcome)
        return True


def nowhere() -> Any:
    """A ledger that takes everything."""
    return Recorder()


def outcome_at(second: int, **fields: Any) -> Outcome:
    """An outcome of a run that began so many seconds after noon."""
    at = NOON + second
    return ended(make_run("k", job_id=job_id(at), started_at=at), Claim("t"), **fields)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A spool whose directory does not exist yet."""
    return Spool(str(tmp_path / "spool"))


# ---------------------------------------------------------------- the text

words = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)
seconds = st.floats(-1e6, 4e9)
numbers = st.integers(-(2**63), 2**63 - 1)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The same, or nothing."""
    return st.none() | strategy


def tuples(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any number of them."""
    return st.lists(strategy, max_size=3).map(tuple)


by_kind: dict[str, st.SearchStrategy[Any]] = {
    "str": words,
    "int": numbers,
    "bool": st.booleans(),
    "bytes": st.binary(max_size=20),
    "float": seconds | st.just(FOREVER),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a class of ``model.py``, by its annotations, whatever fields it gets."""

    def strategy(annotation: str) -> st.SearchStrategy[Any]:
        name = annotation.removesuffix(" | None")
        if name != annotation:
            return maybe(strategy(name))
        if name.startswith("tuple["):
            return tuples(strategy(name[len("tuple[") : -len(", ...]")]))
        return by_kind[name]

    return st.builds(kind, **{name: strategy(text) for name, text in kind.__annotations__.items()})


for each in (Run, Holder, Claim, Attempt, Captured):
    by_kind[each.__name__] = values(each)


@given(outcome=values(Outcome))
@settings(deadline=None, max_examples=200)
def test_every_outcome_survives(outcome: Outcome) -> None:
    """What is written is read back the same, whatever it holds; the text is ASCII and JSON."""
    text = to_json(outcome)
    assert text.isascii()
    json.loads(text, parse_constant=pytest.fail)
    back = from_json(text)
    assert back == outcome
    assert isinstance(back.run, Run)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "{",
        '{"version": 1}',
        '{"version": "1", "outcome": {}}',
        '{"version": 1, "outcome": {}}',
        '{"version": 1, "outcome": null}',
        '{"version": true, "outcome": {}}',
    ],
)
def test_what_is_no_outcome_is_damaged(text: str) -> None:
    """Anything but a whole outcome is a ValueError and nothing else."""
    with pytest.raises(ValueError):
        from_json(text)


@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_a_changed_type_is_damaged(data: st.DataObject) -> None:
    """No field takes a value of another type: the ledger never sees one."""
    whole = json.loads(to_json(outcome_at(0, held_by=Holder("o", "j", 1.0))))
    place = whole["outcome"]
    if data.draw(st.booleans()):
        place = place[data.draw(st.sampled_from(["run", "claim", "held_by"]))]
    name = data.draw(st.sampled_from(sorted(place)))
    place[name] = data.draw(st.sampled_from([{"x": 1}, [[]], [None], [{}]]))
    with pytest.raises(ValueError):
        from_json(json.dumps(whole))


@given(cut=st.integers(0, 10_000))
@settings(deadline=None)
def test_a_cut_text_is_damaged(cut: int) -> None:
    """No beginning of the text is taken for the whole."""
    text = to_json(outcome_at(0))
    with pytest.raises(ValueError):
        from_json(text[: min(cut, len(text) - 1)])


def test_an_unknown_field_is_damaged() -> None:
    """A field that this version does not know is never dropped silently."""
    whole = json.loads(to_json(outcome_at(0)))
    whole["outcome"]["more"] = 1
    with pytest.raises(ValueError, match="more"):
        from_json(json.dumps(whole))


def test_a_field_of_later_versions_has_its_default() -> None:
    """What an earlier version wrote without a field reads as that field's default."""
    outcome = outcome_at(0)
    whole = json.loads(to_json(outcome))
    del whole["outcome"]["lease_lost"], whole["outcome"]["captured"]
    assert from_json(json.dumps(whole)) == outcome


def test_what_a_newer_version_wrote_is_not_damaged() -> None:
    """It is told apart, so that it can be left for that version."""
    whole = json.loads(to_json(outcome_at(0))) | {"version": 2}
    with pytest.raises(StoreOutdated, match="newer"):
        from_json(json.dumps(whole))


# ---------------------------------------------------------------- keeping


def test_an_outcome_is_kept_in_a_file_of_its_own(spool: Spool, tmp_path: Path) -> None:
    """It is named by its job_id, private under any umask, and loads as what it was."""
    before = os.umask(0)
    try:
        first, second = outcome_at(0), outcome_at(1)
        spool.keep(first)
        spool.keep(second)
    finally:
        os.umask(before)
    directory = tmp_path / "spool"
    assert spool.entries() == tuple(
        str(directory / f"{one.run.job_id}.json") for one in (first, second)
    )
    assert [spool.load(path) for path in spool.entries()] == [first, second]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_a_descriptor_is_no_part_of_an_outcome(spool: Spool) -> None:
    """The numbers of descriptors mean nothing to whoever replays it."""
    outcome = outcome_at(0)._replace(claim=Claim("t", fds=(7,)))
    spool.keep(outcome)
    assert spool.load(spool.entries()[0]) == outcome._replace(claim=Claim("t"))


def test_keeping_twice_keeps_the_last(spool: Spool, tmp_path: Path) -> None:
    """A second attempt to keep the same run's outcome replaces the first, with no remains."""
    outcome = outcome_at(0)
    spool.keep(outcome)
    spool.keep(outcome._replace(result="failed"))
    assert [spool.load(path).result for path in spool.entries()] == ["failed"]
    assert len(list((tmp_path / "spool").iterdir())) == 1


def test_a_spool_that_is_not_there_is_empty(spool: Spool, tmp_path: Path) -> None:
    """Looking makes nothing."""
    assert spool.entries() == ()
    assert spool.damaged() == ()
    assert spool.flush(nowhere()) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_it_is_on_disk_before_keep_returns(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is synced, then renamed, then its directory synced: in this order."""
    calls: list[str] = []
    sync, rename = os.fsync, os.rename

    def note_sync(fd: int) -> None:
        calls.append(f"sync {Path(os.readlink(f'/proc/self/fd/{fd}')).suffix or 'directory'}")
        sync(fd)

    def note_rename(source: str, target: str) -> None:
        calls.append(f"rename {Path(target).suffix}")
        rename(source, target)

    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    spool.keep(outcome_at(0))
    assert calls == ["sync .tmp", "rename .json", "sync directory"]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_failure_leaves_no_remains(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """When the disk fails at any step, the caller hears it and no half outcome is left."""

    def fail(*_arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="Input/output error"):
        spool.keep(outcome_at(0))
    monkeypatch.undo()
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_full_disk_costs_the_output_first(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what COMMAND printed does not fit, the outcome is kept without it."""
    write = os.write

    def small_disk(fd: int, data: bytes) -> int:
        if len(data) > 10_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", small_disk)
    outcome = outcome_at(0, captured=Captured(b"x" * 20_000, b""))
    spool.keep(outcome)
    assert spool.load(spool.entries()[0]) == outcome._replace(captured=None)


def test_the_spool_is_bounded(tmp_path: Path) -> None:
    """Output that would pass the bound is dropped; an outcome that would is refused, and what is
    kept already stays."""
    spool = Spool(str(tmp_path / "spool"), limit=8_000)
    large = outcome_at(0, captured=Captured(b"x" * 8_000, b""))
    spool.keep(large)
    assert spool.load(spool.entries()[0]) == large._replace(captured=None)
    kept = 1
    with pytest.raises(StoreUnavailable, match="any run records"):
        for second in range(1, 100):
            spool.keep(outcome_at(second))
            kept += 1
    assert 3 < kept < 20
    assert len(spool.entries()) == kept
    assert sum(os.stat(path).st_size for path in spool.entries()) <= 8_000


# ---------------------------------------------------------------- replaying


def test_the_oldest_is_replayed_first(spool: Spool) -> None:
    """All go to the ledger in the order in which the runs began, and their files go."""
    outcomes = [outcome_at(second * 7 % 20) for second in range(20)]
    for outcome in outcomes:
        spool.keep(outcome)
    ledger: Any = Recorder()
    assert spool.flush(ledger) == (20, 0)
    assert ledger.got == sorted(outcomes, key=lambda outcome: outcome.run.started_at)
    assert spool.entries() == ()


def test_a_ledger_that_goes_down_keeps_the_rest(spool: Spool) -> None:
    """What it took is gone from the spool, what it did not take waits, and the caller hears it."""
    for second in range(3):
        spool.keep(outcome_at(second))
    ledger: Any = Recorder(takes=1)
    with pytest.raises(StoreUnavailable, match="down"):
        spool.flush(ledger)
    assert len(spool.entries()) == 2
    ledger.takes = FOREVER
    assert spool.flush(ledger) == (2, 0)


def test_a_damaged_file_is_set_aside(spool: Spool, tmp_path: Path) -> None:
    """It is renamed and reported, it is never deleted, and it does not stop the others."""
    good, bad = outcome_at(1), tmp_path / "spool" / f"{job_id()}.json"
    spool.keep(good)
    bad.write_bytes(b'{"version": 1, "outco\xff')
    ledger: Any = Recorder()
    assert spool.flush(ledger) == (1, 0)
    assert ledger.got == [good]
    aside = bad.with_suffix(".bad")
    assert spool.damaged() == (str(aside),)
    assert aside.read_bytes() == b'{"version": 1, "outco\xff'
    assert spool.flush(ledger) == (0, 0)


@pytest.mark.parametrize("field", ["finished_at", "exit_code"])
def test_numbers_that_no_ledger_takes_are_damage(tmp_path: Path, field: str) -> None:
    """A file with an absurd number does not stop the outcomes behind it, nor any run."""
    store = SqliteStore(tmp_path)
    spool = Spool(str(tmp_path / "spool"))
    absurd = FOREVER if field == "finished_at" else 2**70
    spool.keep(outcome_at(0, **{field: absurd}))
    spool.keep(outcome_at(1))
    assert spool.flush(store.open()) == (1, 0)
    assert len(spool.damaged()) == 1
    assert len(store.runs()) == 1
    store.close()


def test_what_a_newer_version_wrote_waits_for_it(spool: Spool, tmp_path: Path) -> None:
    """It stays where it is, counts as left, and does not stop the others."""
    spool.keep(outcome_at(0))
    spool.keep(outcome_at(1))
    newer = Path(spool.entries()[0])
    newer.write_text(json.dumps(json.loads(newer.read_text()) | {"version": 2}))
    assert spool.flush(nowhere()) == (1, 1)
    assert spool.entries() == (str(newer),)
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [newer.name]


def test_half_written_files_are_nobodys_outcome(spool: Spool, tmp_path: Path) -> None:
    """What a crash left before its rename is not replayed, and goes when nobody can be at it."""
    spool.keep(outcome_at(0))
    fresh, stale = (tmp_path / "spool" / f"{job_id()}.json.7.tmp" for _ in range(2))
    fresh.write_text("{")
    stale.write_text("{")
    long_ago = fresh.stat().st_mtime - 2 * 3600
    os.utime(stale, (long_ago, long_ago))
    ledger: Any = Recorder()
    assert spool.flush(ledger) == (1, 0)
    assert spool.damaged() == ()
    assert (fresh.exists(), stale.exists()) == (True, False)


def test_a_spool_that_cannot_be_read_is_an_unavailable_store(tmp_path: Path) -> None:
    """It is not taken for an empty one: a key could be in it."""
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        Spool(str(tmp_path / "spool")).flush(nowhere())


def test_a_replayed_success_blocks_its_key(tmp_path: Path) -> None:
    """After the replay the key has succeeded, as if the ledger had never been away."""
    store = SqliteStore(tmp_path)
    spool = Spool(str(tmp_path / "spool"))
    run = make_run("k")
    ledger = store.open()
    spool.keep(ended(run, claimed(ledger.begin(run, KeySpec("k")))))
    ledger.close()
    later = store.open()
    assert spool.flush(later) == (1, 0)
    assert refusal(later.begin(make_run("k"), KeySpec("k"))).kind == "duplicate"
    store.close()


def test_many_may_replay_one_spool_at_once(tmp_path: Path) -> None:
    """Ten processes flush the same sixty outcomes: each is recorded once, none is lost."""
    store = SqliteStore(tmp_path)
    spool = Spool(str(tmp_path / "spool"))
    outcomes = [outcome_at(second)._replace(claim=None) for second in range(60)]
    for outcome in outcomes:
        spool.keep(outcome)
    script = """
from guardrun.ledger.spool import Spool
spool = Spool(sys.argv[3])
insist(lambda: spool.flush(ledger))
"""
    with workers(store, 10, script, str(tmp_path / "spool")) as started:
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.wait(60) for process in started] == [0] * 10
    assert spool.entries() == ()
    assert spool.damaged() == ()
    assert {row.job_id for row in store.runs()} == {outcome.run.job_id for outcome in outcomes}
    store.close()


def test_a_kill_at_any_moment_leaves_whole_files_only(tmp_path: Path) -> None:
    """Whatever call of keep is the last before SIGKILL, what can be seen is whole or not there."""
    script = """
import os, signal, sys
from guardrun.ledger import spool as module
from ledgers import Claim, ended, make_run
left = int(sys.argv[2])
for name in ("mkdir", "open", "write", "fsync", "rename", "close", "fchmod"):
    def counted(*words, _real=getattr(os, name), **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return _real(*words, **options)
    setattr(os, name, counted)
module.Spool(sys.argv[1]).keep(ended(make_run("k"), Claim("t")))
"""
    place = Path(__file__).parent.parent
    seen = set()
    for calls in range(40):
        directory = tmp_path / str(calls)
        result = subprocess.run(
            [sys.executable, "-c", script, str(directory), str(calls)],
            env=os.environ | {"PYTHONPATH": f"{place.parent}:{place}"},
            check=False,
        )
        spool = Spool(str(directory))
        kept = [spool.load(path).result for path in spool.entries()]
        seen.add((result.returncode, *kept))
        if result.returncode == 0:
            break
    assert seen == {(-9,), (-9, "success"), (0, "success")}


def test_a_large_output_comes_after_what_decides(spool: Spool) -> None:
    """An outcome with much output is recorded without it at once, and its output by `complete`."""
    run = make_run("k")
    whole = ended(run, Claim("t"), captured=Captured(b"x" * (2 << 20)))
    spool.keep(whole)
    ledger: Any = Recorder()
    assert spool.flush(ledger) == (1, 0)
    assert [outcome.captured for outcome in ledger.got] == [None]
    assert spool.entries() == ()
    assert len(spool.late()) == 1
    assert spool.flush(ledger) == (0, 0)
    spool.complete(ledger)
    assert [outcome.captured for outcome in ledger.got] == [None, whole.captured]
    assert spool.late() == ()


def test_output_that_cannot_be_recorded_now_keeps_waiting(spool: Spool) -> None:
    """A ledger that does not take the output has the outcome all the same."""
    spool.keep(ended(make_run("k"), Claim("t"), captured=Captured(b"x" * (2 << 20))))
    ledger: Any = Recorder(takes=1)
    assert spool.flush(ledger) == (1, 0)
    with pytest.raises(StoreUnavailable):
        spool.complete(ledger)
    assert len(spool.late()) == 1


def test_output_waits_for_a_ledger_whose_schema_is_outdated(spool: Spool) -> None:
    """Nothing is wrong with the file: it is there when the schema has been migrated."""
    spool.keep(ended(make_run("k"), Claim("t"), captured=Captured(b"x" * (2 << 20))))
    ledger: Any = Recorder()
    assert spool.flush(ledger) == (1, 0)

    class Outdated:
        def finish(self, _outcome: Outcome, _due: float) -> bool:
            raise StoreOutdated("run guardrun migrate")

    outdated: Any = Outdated()
    with pytest.raises(StoreOutdated):
        spool.complete(outdated)
    assert (len(spool.late()), spool.damaged()) == (1, ())
    spool.complete(ledger)
    assert (spool.late(), spool.damaged()) == ((), ())
