"""What only the embedded ledger promises: its files, its liveness, its failures, its pruning."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ledgers import (
    NOON,
    SqliteStore,
    answers,
    claimed,
    ended,
    job_id,
    make_run,
    refusal,
    refused,
    run_key,
    workers,
)

from guardrun import sql
from guardrun.errors import StoreOutdated, StoreUnavailable, UnsafePath
from guardrun.ledger.live import LiveFile
from guardrun.ledger.sqlite import SqliteLedger
from guardrun.ledger.sqlite_file import SCHEMA, connect
from guardrun.ledger.sqlite_writer import Transactions
from guardrun.model import FOREVER, Budget, Captured, KeySpec, Refusal

if TYPE_CHECKING:
    from guardrun.ledger.sqlite_writer import Value

DAY = 86400.0
K = KeySpec("k")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An empty store."""
    made = SqliteStore(tmp_path)
    yield made
    made.close()


def modes(directory: Path) -> dict[str, int]:
    """Permissions of every file."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_files_are_private_under_any_umask(store: SqliteStore, umask: int) -> None:
    """Database, log, index and liveness file are 0600, and the umask is left as it was."""
    before = os.umask(umask)
    try:
        claimed(store.open().begin(make_run("k"), K))
    finally:
        assert os.umask(before) == umask
    names = ("ledger.sqlite3", "ledger.sqlite3-wal", "ledger.sqlite3-shm", "runs.live")
    assert modes(store.directory) == dict.fromkeys(names, 0o600)


def test_nothing_is_made_before_it_is_needed(store: SqliteStore) -> None:
    """Constructing and closing a ledger touches no file; nor does reading one that is not there."""
    store.open().close()
    assert store.runs() == []
    assert list(store.directory.iterdir()) == []


def test_a_link_is_refused(store: SqliteStore) -> None:
    """Neither a ledger nor a liveness file that is a symbolic link is followed."""
    target = store.directory / "target"
    store.path.symlink_to(target)
    with pytest.raises(UnsafePath, match="symbolic link"):
        store.open().begin(make_run("k"), K)
    store.path.unlink()
    live = store.directory / "runs.live"
    live.unlink()
    live.symlink_to(target)
    with pytest.raises(UnsafePath, match="symbolic link"):
        store.open().begin(make_run("k"), K)
    assert not target.exists()


def test_a_liveness_file_that_is_no_file_is_refused(store: SqliteStore) -> None:
    """A FIFO in its place is refused at once, not waited for."""
    os.mkfifo(store.directory / "runs.live")
    with pytest.raises(UnsafePath, match="not a regular file"):
        store.open().begin(make_run("k"), K)


@pytest.mark.parametrize("name", ["a b", "per%20cent", "what?mode=ro", "#1", "ü", "\udcff"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    """Characters that mean something in a URL mean nothing in the path of a ledger."""
    directory = tmp_path / name
    directory.mkdir()
    store = SqliteStore(directory)
    run_key(store.open(), "k")
    assert store.path.exists()
    assert len(store.runs()) == 1
    store.close()


def test_fifty_processes_make_one_ledger(store: SqliteStore) -> None:
    """However many open a ledger that is not there yet, it is made once and all are recorded."""
    script = """
run = make_run(f"k{os.getpid()}")
claim = insist(lambda: ledger.begin(run, KeySpec(run.key)))
print(insist(lambda: ledger.finish(ended(run, claim))))
"""
    with workers(store, 50, script) as started:
        assert answers(started) == ["True"] * 50
    assert len(store.runs()) == 50
    with sqlite3.connect(store.path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_a_creation_that_was_cut_short_is_completed(store: SqliteStore) -> None:
    """A file that was made and never filled, or only switched to a log, becomes a ledger."""
    store.path.touch(0o600)
    run_key(store.open(), "a")
    store.close()
    store.path.unlink()
    db = sqlite3.connect(store.path)
    db.execute("PRAGMA journal_mode = WAL")
    db.close()
    run_key(store.open(), "b")
    assert [row.key for row in store.runs()] == ["b"]


def test_a_failed_upgrade_leaves_nothing_behind(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migrations are one transaction: when one fails, the file is as it was, and can be retried."""
    from guardrun.ledger import sqlite_file

    good = sql.migrations("sqlite")
    bad = [*good, (2, "CREATE TABLE more (x); CREATE TABLE runs (x);")]
    monkeypatch.setattr(sqlite_file, "migrations", lambda _dialect: bad)
    with pytest.raises(StoreUnavailable):
        store.open().begin(make_run("k"), K)
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        assert db.execute("PRAGMA user_version").fetchone() == (0,)
    db.close()
    monkeypatch.undo()
    run_key(store.open(), "k")


def test_a_later_migration_keeps_what_is_there(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger of an older schema is upgraded by whoever opens it next, to run or to read."""
    from guardrun.ledger import sqlite_file, sqlite_records

    run_key(store.open(), "old")
    more = [*sql.migrations("sqlite"), (2, "CREATE TABLE more (x INTEGER);")]
    monkeypatch.setattr(sqlite_file, "migrations", lambda _dialect: more)
    monkeypatch.setattr(sqlite_file, "SCHEMA", 2)
    monkeypatch.setattr(sqlite_records, "SCHEMA", 2)
    assert [row.key for row in store.runs()] == ["old"]
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT count(*) FROM more").fetchone() == (0,)
    db.close()
    assert refusal(store.open().begin(make_run("old"), KeySpec("old"))).kind == "duplicate"


def test_every_schema_has_its_migration() -> None:
    """The highest migration is the schema that the code knows, and none is missing before it."""
    numbers = [number for number, _ in sql.migrations("sqlite")]
    assert numbers == list(range(1, SCHEMA + 1))


def test_a_newer_schema_is_refused(store: SqliteStore) -> None:
    """A ledger of a newer guardrun is left alone, and the line says what to do."""
    run_key(store.open(), "k")
    store.close()
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreOutdated, match="upgrade guardrun"):
        store.open().begin(make_run("k"), K)
    with pytest.raises(StoreOutdated, match="upgrade guardrun"):
        store.runs()


def test_another_programs_database_is_refused(store: SqliteStore) -> None:
    """Tables of somebody else are never mixed with ours."""
    with sqlite3.connect(store.path) as db:
        db.execute("CREATE TABLE customers (name)")
    db.close()
    with pytest.raises(StoreUnavailable, match="another program"):
        store.open().begin(make_run("k"), K)
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("customers",)]
    db.close()


def test_the_log_stays_for_the_next_run(store: SqliteStore) -> None:
    """The last ledger to close leaves the write-ahead log: a lone run need not make it anew."""
    run_key(store.open(), "k")
    store.close()
    assert (store.directory / "ledger.sqlite3-wal").stat().st_size > 0
    assert [row.key for row in store.runs()] == ["k"]


def test_the_log_stays_short(store: SqliteStore) -> None:
    """Hundreds of lone runs leave a log of about a megabyte: it is read by every run to come."""
    for number in range(300):
        ledger = store.open()
        run_key(ledger, f"k{number}")
        ledger.close()
    assert (store.directory / "ledger.sqlite3-wal").stat().st_size < 2 << 20


# ---------------------------------------------------------------- liveness


def test_liveness_is_per_run(tmp_path: Path) -> None:
    """Each run holds a byte of its own; letting go of one leaves the others alive."""
    one, other = LiveFile(str(tmp_path / "live")), LiveFile(str(tmp_path / "live"))
    first, second = job_id(), job_id()
    assert not other.is_alive(first)
    fd = one.hold(first)
    assert one.hold(first) == fd == one.fd(first)
    other.hold(second)
    for view in (one, other, LiveFile(one.path)):
        assert view.is_alive(first)
        assert view.is_alive(second)
        assert not view.is_alive(job_id())
    one.let_go(first)
    assert not other.is_alive(first)
    assert one.is_alive(second)
    assert one.fd(first) is None
    one.close()
    assert one.is_alive(second)
    other.close()
    assert not LiveFile(one.path).is_alive(second)


def test_only_a_run_that_was_let_go_on_is_alive(store: SqliteStore) -> None:
    """A refused run is not; one that ended is not; one that could not begin is, until it ends."""
    ledger, other = store.open(), LiveFile(str(store.directory / "runs.live"))
    first = make_run("k")
    claim = claimed(ledger.begin(first, K))
    no = make_run("k")
    refusal(ledger.begin(no, K))
    assert not other.is_alive(no.job_id)
    blocker = sqlite3.connect(store.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    blocked = make_run("x")
    with pytest.raises(StoreUnavailable):
        ledger.begin(blocked, KeySpec("x"))
    blocker.execute("ROLLBACK")
    blocker.close()
    assert other.is_alive(first.job_id)
    assert other.is_alive(blocked.job_id)
    ledger.finish(ended(first, claim))
    ledger.finish(ended(blocked, None))
    assert not other.is_alive(first.job_id)
    assert not other.is_alive(blocked.job_id)
    other.close()


def test_one_id_cannot_be_two_runs(tmp_path: Path) -> None:
    """A second process that says it is the same run is refused."""
    one, other = LiveFile(str(tmp_path / "live")), LiveFile(str(tmp_path / "live"))
    same = job_id()
    one.hold(same)
    with pytest.raises(StoreUnavailable, match="twice"):
        other.hold(same)
    one.close()


def test_waiting_does_not_look_like_living(tmp_path: Path) -> None:
    """Whoever waits for a run to end may touch its byte; the run is dead all the same."""
    import fcntl

    from guardrun.ledger.live import _byte

    live = LiveFile(str(tmp_path / "live"))
    dead = job_id()
    live.hold(dead)
    live.let_go(dead)
    fd = os.open(live.path, os.O_RDONLY)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _byte(dead, fcntl.F_RDLCK))
    assert not live.is_alive(dead)
    os.close(fd)
    live.block_until_free(dead)
    live.close()


def test_descriptors_are_not_inherited_by_accident(store: SqliteStore) -> None:
    """Every descriptor of the ledger is close-on-exec; COMMAND gets the one it is given."""
    before = set(os.listdir("/proc/self/fd"))
    ledger = store.open()
    claimed(ledger.begin(make_run("k"), K))
    opened = {
        int(fd) for fd in os.listdir("/proc/self/fd") if fd not in before and _is_open(int(fd))
    }
    assert len(opened) >= 3
    assert not any(os.get_inheritable(fd) for fd in opened)
    ledger.close()
    assert not any(_is_open(fd) for fd in opened)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_run_that_ends_while_it_is_looked_at_is_not_called_interrupted(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader whose snapshot is older than the run's end looks again before it says dead."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    asked = LiveFile.is_alive

    def ends_just_now(self: LiveFile, job: str) -> bool:
        ledger.finish(ended(run, claim))
        return asked(self, job)

    monkeypatch.setattr(LiveFile, "is_alive", ends_just_now)
    assert store.row(run).result == "success"


def test_nobody_writes_between_a_look_and_the_claim(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a claim has read is still true when it decides: who wants to write meanwhile waits."""
    ledger, other = store.open(), store.open()
    run_key(other, "warm")
    dead = make_run("dead")
    with sqlite3.connect(store.path) as direct:
        direct.execute("UPDATE runs SET result = 'running', finished_at = NULL")
    direct.close()
    refusals: list[str] = []

    def write(self: LiveFile, job: str) -> bool:  # noqa: ARG001
        try:
            other.finish(refused(dead))
        except StoreUnavailable as error:
            refusals.append(str(error))
        return False

    monkeypatch.setattr(LiveFile, "is_alive", write)
    claimed(ledger.begin(make_run("k"), K))
    assert len(refusals) == 1
    assert "another process is writing" in refusals[0]


# ---------------------------------------------------------------- failures


def test_a_locked_ledger_is_unavailable_for_now(store: SqliteStore) -> None:
    """While another process writes, every write fails at once, and works afterwards."""
    ledger = store.open()
    run = make_run("k")
    claim = claimed(ledger.begin(run, K))
    blocker = sqlite3.connect(store.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="another process is writing"):
        ledger.begin(make_run("x"), KeySpec("x"))
    with pytest.raises(StoreUnavailable, match="another process is writing"):
        ledger.finish(ended(run, claim))
    with pytest.raises(StoreUnavailable, match="another process is writing"):
        ledger.spend_retry(run, Budget(1, 60.0))
    assert ledger.stored_output("k") is None
    assert ledger.live.is_alive(run.job_id)
    blocker.execute("ROLLBACK")
    blocker.close()
    assert ledger.finish(ended(run, claim))


def test_a_run_whose_begin_failed_may_still_be_recorded(store: SqliteStore) -> None:
    """A begin that found the ledger locked left nothing; the run's end is inserted later."""
    ledger = store.open()
    run_key(ledger, "other")
    blocker = sqlite3.connect(store.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    run = make_run()
    with pytest.raises(StoreUnavailable):
        ledger.begin(run, KeySpec(None))
    blocker.execute("ROLLBACK")
    blocker.close()
    assert ledger.finish(ended(run, None))
    assert store.row(run).result == "success"


class CommitsAndFails(Transactions):
    """A disk that has what was written, and says that it has not, as a failed fsync(2) may."""

    def write(self, synchronous: str, body: Callable[[sqlite3.Connection], Value]) -> Value:
        super().write(synchronous, body)
        raise StoreUnavailable("reading or writing failed")


@pytest.mark.parametrize(
    ("executed", "next_run"), [(None, None), ("success", "duplicate"), ("failed", None)]
)
def test_a_claim_that_was_never_heard_of_is_moved_on_by_the_outcome(
    store: SqliteStore, executed: str | None, next_run: str | None
) -> None:
    """The commit failed, and had happened: what the run tells of its end holds for that claim."""
    run = make_run("k")
    unheard = SqliteLedger(str(store.path), store.clock, writer=CommitsAndFails(str(store.path)))
    with pytest.raises(StoreUnavailable):
        unheard.begin(run, K)
    ledger = store.open()
    assert refusal(ledger.begin(make_run("k"), K)).kind == "held"
    outcome = refused(run, "store_unavailable") if executed is None else ended(run, None, executed)
    assert ledger.finish(outcome)
    unheard.close()
    said = ledger.begin(make_run("k"), KeySpec("k", on_interrupted="stop"))
    assert (said.kind if isinstance(said, Refusal) else None) == next_run


@pytest.mark.parametrize("content", [b"no database at all, just text\n" * 100, b"\0" * 8192])
def test_what_is_no_database_is_reported(store: SqliteStore, content: bytes) -> None:
    """A file that SQLite cannot read is left as it is, and the line says what to do."""
    store.path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match="move it away") as caught:
        store.open().begin(make_run("k"), K)
    assert "\n" not in str(caught.value)
    assert store.path.read_bytes() == content


def test_a_damaged_ledger_is_reported(store: SqliteStore) -> None:
    """Pages that make no sense are an unavailable store, not a traceback."""
    ledger = store.open()
    for number in range(50):
        run_key(ledger, f"k{number}")
    ledger.close()
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    size = store.path.stat().st_size
    with store.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with pytest.raises(StoreUnavailable, match="damaged"):
        store.open().begin(make_run("k1"), KeySpec("k1"))


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    """Nothing is made where the state directory is gone."""
    store = SqliteStore(tmp_path / "gone")
    with pytest.raises(StoreUnavailable, match="No such file or directory"):
        store.open().begin(make_run("k"), K)


def test_a_directory_without_permission_is_reported(store: SqliteStore) -> None:
    """A ledger that may not be opened is an unavailable store."""
    run_key(store.open(), "k")
    store.close()
    script = """
import os, sys
from guardrun.errors import StoreUnavailable
from guardrun.ledger.sqlite_file import open_for_writing
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    open_for_writing(sys.argv[1])
except StoreUnavailable as error:
    print(error)
"""
    store.directory.chmod(0o700 if os.geteuid() == 0 else 0o000)
    try:
        result = subprocess.run(
            [sys.executable, "-c", script, str(store.path)],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        store.directory.chmod(0o700)
    assert "Permission denied" in result.stdout


def test_a_full_disk_refuses_the_claim(store: SqliteStore) -> None:
    """On a filesystem without room a claim fails before anything is executed, an outcome fails
    with one line, and after there is room again everything goes on."""
    small = store.directory / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "guardrun-test", small],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a full disk needs the right to mount a tmpfs")
    full = SqliteStore(small)
    try:
        ledger = full.open()
        run = make_run("k")
        claim = claimed(ledger.begin(run, K))
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        outcome = ended(run, claim, captured=Captured(b"x" * 300_000, b""))
        with pytest.raises(StoreUnavailable, match="disk is full"):
            ledger.finish(outcome)
        with pytest.raises(StoreUnavailable):
            for number in range(1000):
                ledger.begin(make_run(f"{number}"), KeySpec(f"{number}"))
        filler.unlink()
        assert ledger.finish(outcome)
        assert refusal(ledger.begin(make_run("k"), K)).kind == "duplicate"
    finally:
        full.close()
        subprocess.run(["umount", small], check=True)


def test_a_file_size_limit_refuses_the_claim(store: SqliteStore) -> None:
    """Where the log may not grow, a claim is not given and nothing of it remains."""
    script = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = os.stat(sys.argv[2] + "-wal").st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    print(ledger.begin(make_run("k"), KeySpec("k")))
except StoreUnavailable as error:
    print(error)
"""
    run_key(store.open(), "other")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    with workers(store, 1, script) as started:
        (said,) = answers(started)
    assert said.startswith(f"the ledger {store.path}: "), said
    claimed(store.open().begin(make_run("k"), K))


# ---------------------------------------------------------------- pruning


def test_what_is_old_is_pruned_by_the_way(store: SqliteStore) -> None:
    """Runs after 90 days and refusals after 7 go while others finish; what is younger stays."""
    ledger = store.open()
    now = NOON
    for age, result in ((91, "success"), (91, "timeout"), (89, "success"), (8, "lock_busy")):
        old = make_run(job=f"{age} {result}", started_at=now - age * DAY)
        ledger.finish(ended(old, None, result, captured=Captured(b"x", b"")))
    for age in (6, 8, 30):
        for result in ("skipped_duplicate", "precondition_failed", "store_unavailable"):
            young = make_run(job=f"{age} {result}", started_at=now - age * DAY)
            ledger.finish(refused(young, result))
    for _ in range(4):
        own = job_id()[:-1] + "0"  # one of the runs that prune
        ledger.finish(ended(make_run(job="own", job_id=own), None))
    left = {row.job for row in store.runs()}
    assert left == {
        "own",
        "89 success",
        "6 skipped_duplicate",
        "6 precondition_failed",
        "6 store_unavailable",
    }
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT count(*) FROM attempts").fetchone() == (5,)
        assert db.execute("SELECT count(*) FROM outputs").fetchone() == (1,)
    db.close()


def test_only_one_run_in_sixteen_prunes(store: SqliteStore) -> None:
    """The others leave even the oldest rows alone."""
    ledger = store.open()
    old = make_run(job_id=job_id()[:-1] + "1", started_at=NOON - 1000 * DAY)
    ledger.finish(ended(old, None))
    for digit in "123456789abcdef":
        ledger.finish(ended(make_run(job_id=job_id()[:-1] + digit), None))
    assert len(store.runs()) == 16


def test_a_run_that_cannot_prune_is_recorded(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where guardrun was upgraded meanwhile, or no descriptor is left: that is no one's end."""

    def gone(*_: str) -> dict[str, str]:
        raise FileNotFoundError(2, "No such file or directory")

    ledger = store.open()
    run = make_run("a", job_id=job_id()[:-1] + "0")
    claim = claimed(ledger.begin(run, K))
    monkeypatch.setattr(sql, "statements", gone)
    assert ledger.finish(ended(run, claim))


def test_pruning_spares_running_rows_and_keys_that_block(store: SqliteStore) -> None:
    """However old: what runs stays, and so does a key that succeeded, runs or was interrupted;
    a key that failed or whose success expired goes."""
    ledger = store.open()
    run = make_run("running", started_at=NOON - 1000 * DAY)
    claimed(ledger.begin(run, KeySpec("running")))
    long_ago: dict[str, Any] = {"started_at": NOON - 1000 * DAY}
    run_key(ledger, "succeeded", **long_ago)
    run_key(ledger, "expired", key_ttl=60.0, **long_ago)
    run_key(ledger, "lasts", key_ttl=2000 * DAY, **long_ago)
    run_key(ledger, "failed", "failed", **long_ago)
    run_key(ledger, "interrupted", "timeout", **long_ago)
    run_key(ledger, "again", "failed", **long_ago)
    again = make_run("again")
    claimed(ledger.begin(again, KeySpec("again")))
    while ledger.prune(0.0, 0.0, 2):
        pass
    assert {row.job_id for row in store.runs()} == {run.job_id, again.job_id}
    with sqlite3.connect(store.path) as db:
        keys = {row[0] for row in db.execute("SELECT key FROM keys")}
    db.close()
    assert keys == {"running", "succeeded", "lasts", "interrupted", "again"}
    said = refusal(ledger.begin(make_run("succeeded"), KeySpec("succeeded")))
    assert said.kind == "duplicate"
    assert said.holder is not None
    assert said.holder.since == NOON - 1000 * DAY + 1.5


def test_pruning_never_fails_a_run(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is recorded also when the pruning after it finds the ledger busy."""
    ledger = store.open()

    def busy(*_ages: object) -> int:
        raise StoreUnavailable("busy")

    monkeypatch.setattr(ledger, "prune", busy)
    assert ledger.finish(ended(make_run(job_id=job_id()[:-1] + "0"), None))


def test_keep_forever_prunes_nothing(store: SqliteStore) -> None:
    """With keep = forever the oldest rows stay."""
    ledger = store.open(keep=FOREVER)
    ledger.finish(ended(make_run(started_at=NOON - 10_000 * DAY), None))
    ledger.finish(ended(make_run(job_id=job_id()[:-1] + "0"), None))
    assert len(store.runs()) == 2


# ---------------------------------------------------------------- cost


def test_every_statement_of_the_run_path_is_served_by_an_index(store: SqliteStore) -> None:
    """No statement that a run executes reads a table from end to end."""
    import re

    run_key(store.open(), "k")
    db = connect(str(store.path), "ro", 5.0)
    checked = 0
    for file in ("run", "prune"):
        for name, text in sql.statements("sqlite", file).items():
            if name == "delete_spent":
                continue  # a table of retries within their windows is always small
            names = re.findall(r":(\w+)", text)
            values: Any = dict.fromkeys(names, "1") if names else ["1"] * text.count("?")
            for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {text}", values):
                assert not detail.startswith("SCAN") or "(subquery" in detail, (name, detail)
                assert "TEMP B-TREE" not in detail, (name, detail)
                checked += 1
    assert checked > 10
    db.close()


def test_what_reports_ask_per_job_is_served_by_an_index(store: SqliteStore) -> None:
    """The list of jobs, a job's newest runs and what failed for good are had without all runs."""
    run_key(store.open(), "k")
    texts = sql.statements("sqlite", "records")
    where = f"{texts['by_result'].strip()} AND {texts['for_good'].strip()}"
    asked = (texts["jobs"], texts["latest_runs"], texts["runs"].format(where=where))
    values = {"since": 0, "job": "j", "last": 9, "result": "failed"}
    db = connect(str(store.path), "ro", 5.0)
    for text in asked:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {text}", values)]
        assert plan
        assert not [step for step in plan if step.startswith("SCAN runs")]
        assert not [step for step in plan if "TEMP B-TREE" in step]
    db.close()


def test_the_run_path_imports_nothing_heavy() -> None:
    """Ledger and spool load none of the modules that cost a run milliseconds."""
    script = """
import sys
before = set(sys.modules)
import guardrun.ledger.spool, guardrun.ledger.sqlite
print(*sorted(set(sys.modules) - before))
"""
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(result.stdout.split())
    assert "_sqlite3" in loaded
    heavy = {"sqlite3", "json", "re", "typing", "datetime", "uuid", "base64", "contextlib"}
    assert not loaded & heavy


def test_a_claim_and_its_end_cost_two_syncs(store: SqliteStore, tmp_path: Path) -> None:
    """On a warm ledger a keyed run waits for the disk twice: claim and outcome; a run without a
    key once."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("counting syncs needs strace")
    run_key(store.open(), "warm")
    script = """
for key in sys.argv[3:]:
    run = make_run(key or None)
    claim = ledger.begin(run, KeySpec(run.key))
    os.write(2, b"begun\\n")
    ledger.finish(ended(run, claim))
    os.write(2, b"ended\\n")
os._exit(0)
"""
    from ledgers import _PREAMBLE

    trace = tmp_path / "trace"
    place = Path(__file__).parent.parent
    result = subprocess.run(
        [
            *(strace, "-f", "-o", str(trace), "-e", "trace=fsync,fdatasync,write"),
            *(sys.executable, "-c", _PREAMBLE + script, "sqlite", store.place, "first", "k", ""),
        ],
        input="go\n",
        text=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": f"{place.parent}:{place}"},
        check=False,
    )
    if "begun" not in result.stderr:
        pytest.skip(f"strace cannot trace here: {result.stderr[-200:]}")
    counts = [0]
    for line in trace.read_text().splitlines():
        if "sync(" in line and "= 0" in line:
            counts[-1] += 1
        elif "begun" in line or "ended" in line:
            counts.append(0)
    first_begin, first_end, begin, end, keyless_begin, keyless_end, _ = counts
    assert first_begin <= 3  # and the directory, where SQLite opens the log
    assert (first_end, begin, end) == (1, 1, 1)
    assert (keyless_begin, keyless_end) == (0, 1)
