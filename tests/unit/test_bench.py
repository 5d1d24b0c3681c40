"""The parts of the benchmark that only compute: quantiles, ratios, verdicts, the table."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lease_stores
import pytest
import servers
from hypothesis import given, settings
from hypothesis import strategies as st
from support import eventually

from bench import fill, launcher, ledger, postgres, proc, remotes, scene, store_handoff, table
from bench.handoff import Handoff
from bench.launcher import Launched
from bench.mark import Mark, Marks
from bench.queues import PostgresStore, RedisStore
from bench.stats import TIMES, Budget, Row, Section, quantile
from bench.store_handoff import Crowd
from bench.stores import Stores
from bench.subjects import Subject, guardruns, waiters
from guardrun import kernel
from guardrun.ledger.records import Filter, RunRecord
from guardrun.postgres import schema as postgres_schema

SAMPLES = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


def section(*rows: Row, base: float | None = None) -> Section:
    return Section("how long it takes", "ms", rows, base, "B" if base else "")


@settings(deadline=None)  # a shared machine can make any one example slow
@given(SAMPLES, st.floats(0.01, 1))
def test_a_quantile_is_a_sample_that_enough_others_do_not_exceed(
    samples: list[float], share: float
) -> None:
    """At least the share of all samples is at or below the quantile, and less is below it."""
    found = quantile(samples, share)
    assert found in samples
    assert sum(one <= found for one in samples) >= share * len(samples)
    assert sum(one < found for one in samples) < share * len(samples)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)]
)
def test_quantiles_are_nearest_ranks(share: float, expected: float) -> None:
    """The p99 of a hundred samples is the 99th of them, whatever their order."""
    assert quantile([float(rank) for rank in range(100, 0, -1)], share) == expected


@pytest.mark.parametrize(("samples", "share"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.1)])
def test_a_quantile_of_nothing_is_refused(samples: list[float], share: float) -> None:
    """No samples, or a share outside of ]0, 1], is an error and not a number."""
    with pytest.raises(ValueError, match="no quantile"):
        quantile(samples, share)


@pytest.mark.parametrize(
    ("samples", "budget", "expected"),
    [
        ((1.0, 9.0, 10.0), Budget(9), "OK"),
        ((1.0, 9.1, 1.0e9, 9.1), Budget(9), "OVER"),
        ((50.0,), Budget(5, relative=True), "OK"),
        ((50.1,), Budget(5, relative=True), "OVER"),
        ((0.0,), Budget(0), "OK"),
        ((1.0,), None, ""),
        ((), Budget(9), ""),
    ],
)
def test_the_median_is_held_against_the_budget(
    samples: tuple[float, ...], budget: Budget | None, expected: str
) -> None:
    """A row is OK up to its budget, absolute or as a multiple of the base, and OVER beyond it."""
    row = Row("guardrun", samples, budget)
    assert section(row, base=10.0).verdict(row) == expected


def test_a_remark_stands_beside_the_verdict() -> None:
    """What is said about a row is not lost where it has a verdict as well."""
    row = Row("guardrun", (1.0,), Budget(2), "3 processes")
    assert section(row).verdict(row) == "OK; 3 processes"


def test_ratios_are_of_medians() -> None:
    """A ratio is the row's median over the base; without either there is none."""
    row = Row("flock", (1.0, 2.0, 600.0))
    assert section(row, base=4.0).ratio(row) == 0.5
    assert section(row).ratio(row) is None
    assert section(Row("gone"), base=4.0).ratio(Row("gone")) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        (0.0, "0"),
        (0.004, "0.00"),
        (1.5, "1.50"),
        (9.996, "10.0"),
        (10.25, "10.2"),
        (99.96, "100"),
        (1234.5, "1234"),
    ],
)
def test_numbers_have_three_digits(value: float | None, expected: str) -> None:
    """Numbers are cut to what a measurement can mean, without a jump at the powers of ten."""
    assert table.number(value) == expected


def test_budgets_name_limit_and_aim() -> None:
    """A budget says its limit, its aim, and whether they are multiples."""
    assert str(Budget(20)) == "≤ 20"
    assert str(Budget(5, relative=True, aim=4)) == f"≤ 5 {TIMES}, aim 4 {TIMES}"


SECTIONS = (
    section(
        Row("flock", (1.25,) * 25),
        Row("guardrun --lock --key", (40.0, 41.0, 60.0), Budget(4, relative=True)),
        Row("chronic", remark="lives on"),
        base=10.0,
    ),
    section(Row("guardrun | cat", (120.0,), Budget(100))),
)


def test_the_text_table_is_aligned() -> None:
    """Numbers end, and words begin, in the same column in all sections; the header names them."""
    lines = table.text(SECTIONS).splitlines()
    header = lines[0]
    flock, guardrun = (
        next(line for line in lines if line.strip().startswith(name))
        for name in ("flock", "guardrun --lock")
    )
    for name in ("p50", "p99", "ratio"):
        end = header.index(name) + len(name)
        assert flock[end - 1].isdigit() and guardrun[end - 1].isdigit()
    assert guardrun[header.index("budget") :].split() == ["≤", "4", TIMES, "OVER"]
    assert f"how long it takes, ms (ratio: {TIMES} B)" in lines
    assert all(line == line.rstrip() for line in lines)


def test_a_row_without_samples_keeps_its_place() -> None:
    """A subject that gave no sample is in the table, with the reason instead of numbers."""
    (line,) = (line for line in table.text(SECTIONS).splitlines() if "chronic" in line)
    assert line.split() == ["chronic", "lives", "on"]


def test_the_markdown_table_is_one_table() -> None:
    """Every line has the same number of cells; a bar inside a cell is escaped."""
    lines = table.markdown(SECTIONS).splitlines()
    cells = {line.replace("\\|", "").count("|") for line in lines}
    assert cells == {len(table.HEADER) + 1}
    assert "| guardrun \\| cat | 1 | 120 | 120 |  | ≤ 100 | OVER |" in lines
    assert sum(set(line) <= set("|:- ") for line in lines) == 1


def test_a_command_line_has_its_number_and_its_locks() -> None:
    """Placeholders are replaced in the words of the subject, never in COMMAND's own."""
    subject = Subject("flock", ("flock", "{locks}/lock", "key-@"))
    assert subject.line(7, "/tmp/x", ("echo", "@", "{locks}")) == [
        *("flock", "/tmp/x/lock", "key-7"),
        *("echo", "@", "{locks}"),
    ]


def test_each_setting_has_a_name_of_its_own() -> None:
    """Samples are gathered by name: two settings with one name would be mixed up."""
    for group in (guardruns("guardrun", "postgresql:///x"), waiters("guardrun")):
        assert len({one.name for one in group}) == len(group)
        assert all(one.line(1, "", ("true",))[-2:] == ["--", "true"] for one in group)


def test_the_environment_measured_in_changes_nothing() -> None:
    """What slows Python's start down, and what configures guardrun or parallel, is left out."""
    given_ = {
        "PATH": "/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GUARDRUN_LOG_TO": "stderr",
        "PARALLEL": "-j9",
        "PGSERVICE": "production",
    }
    assert scene.clean(given_) == {"PATH": "/bin"}


def test_the_interpreter_is_the_one_that_the_script_names(tmp_path: Path) -> None:
    """B is measured with guardrun's own interpreter."""
    python = tmp_path / "python"
    python.write_text("")
    python.chmod(0o755)
    script = tmp_path / "guardrun"
    script.write_text(f"#!{python}\nimport guardrun\n")
    assert scene.interpreter(str(script)) == str(python)


def test_marks_that_arrive_in_pieces_are_put_together(tmp_path: Path) -> None:
    """A mark counts once its line is whole, and others are kept for who waits for them."""
    marks = Marks(tmp_path)
    pipe = os.open(marks.out, os.O_WRONLY)
    os.write(pipe, b"e 7 10\ns 8 1")
    assert marks.read() == [Mark("e", 7, 10)]
    os.write(pipe, b"1\ne 8 12\n")
    assert marks.wait("e") == [Mark("e", 8, 12)]
    assert marks.wait("s") == [Mark("s", 8, 11)]
    os.close(pipe)
    marks.close()


def test_a_ledger_in_postgres_is_named_by_the_environment() -> None:
    """Without a server its settings are left out; with one no command line shows its password."""
    url = "postgresql://me:secret@h/bench"
    remote = [one for one in guardruns("guardrun", url) if one.ledger]
    assert len(remote) == 2
    assert {one.ledger for one in remote} == {url}
    assert not any("secret" in word for one in remote for word in one.line(1, "", ("true",)))
    assert not any(one.ledger for one in guardruns("guardrun"))


def test_who_left_the_session_is_still_of_the_family() -> None:
    """Memory is counted of all processes below, wherever their session; COMMAND's is left out."""
    script = "setsid sleep 600 & echo $!; sleep 600 & echo $!; wait"
    shell = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    away, command = (int(shell.stdout.readline()) for _ in range(2))
    eventually(lambda: os.getsid(away) == away, what="setsid")
    found = proc.family(shell.pid, without=command)
    for pid in (away, command):
        os.kill(pid, 9)
    shell.communicate()
    assert sorted(found) == sorted([shell.pid, away])


def test_the_cpu_time_of_a_process_is_that_of_all_its_threads() -> None:
    """What a thread beside the first one does is counted."""
    enough = threading.Event()
    alone = proc.cpu(os.getpid())

    def spin() -> None:
        while not enough.is_set():
            sum(range(1000))

    spinner = threading.Thread(target=spin)
    spinner.start()
    main = time.thread_time()
    eventually(lambda: proc.cpu(os.getpid()) - alone > 100 + (time.thread_time() - main) * 1000)
    enough.set()
    spinner.join()


# ---------------------------------------------------------------- locks in stores


def test_a_lock_in_a_store_is_named_like_its_directory() -> None:
    """Runs that are given the same directory meet in the store too, and others do not."""
    subject = Subject("consul lock", ("consul", "lock", "{lock}"))
    assert subject.line(1, "/var/tmp/x/handoff-7", ("true",)) == [
        *("consul", "lock", "handoff-7"),
        "true",
    ]


def test_a_program_is_also_found_where_it_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is not on PATH can be named for the peers, and comes first."""
    (tmp_path / "etcd").write_text("#!/bin/sh\n")
    (tmp_path / "etcd").chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv(launcher.BINARIES, raising=False)
    assert launcher.which("etcd") is None
    monkeypatch.setenv(launcher.BINARIES, str(tmp_path))
    assert launcher.which("etcd") == str(tmp_path / "etcd")


@pytest.mark.parametrize("kind", ["etcd", "consul"])
def test_a_server_that_is_not_there_is_missing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has none of it is told how to have it, and measures the rest."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv(launcher.BINARIES, raising=False)
    with pytest.raises(launcher.Missing, match=launcher.BINARIES):
        launcher.launch(kind, tmp_path)
    assert not list(tmp_path.iterdir())


def all_remotes(monkeypatch: pytest.MonkeyPatch) -> remotes.Remotes:
    """What would be measured if everything were there."""
    server = postgres.Server("postgresql://me:secret@h/postgres", "15.1", Path("/"))
    monkeypatch.setattr(postgres.Server, "ledger", lambda *_: "postgresql://me:secret@h/remote")
    monkeypatch.setattr(remotes, "which", lambda name: f"/bin/{name}")
    here = scene.Scene(Path("/"), None, "/bin/guardrun", "/bin/python", {}, 0, 0)  # type: ignore[arg-type]
    redis, etcd, consul = (
        Launched(url, "1", Path("/"))
        for url in ("redis://:secret@h:1/0", "http://h:2", "http://h:3")
    )
    return remotes.find(here, Stores(server, redis, etcd, consul, ()))


def test_every_store_is_measured_with_and_without_a_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two settings have one name, all know their queue, and what they cost is counted."""
    found = all_remotes(monkeypatch)
    every = [*found.whole, *found.bare, *found.peers]
    assert len({one.name for one in every}) == len(every)
    assert all(one.is_remote and one.counted for one in every)
    schemes = {one.environ["GUARDRUN_LEASE_URL"].partition(":")[0] for one in found.bare}
    assert schemes == {"redis", "postgresql", "postgresql+advisory", "etcd", "consul"}
    assert [one.name for one in found.whole if one.full and one.ledger]
    assert remotes.CONSUL in {one.name for one in found.peers}


def test_no_password_of_a_store_is_on_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """URLs go through the environment, as guardrun wants them and ps does not see them."""
    found = all_remotes(monkeypatch)
    for one in (*found.whole, *found.bare, *found.peers):
        assert not any("secret" in word for word in one.line(1, "/x", ("true",)))


def test_without_stores_there_is_nothing_remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no server runs, nothing of it is measured, whatever programs there are."""
    monkeypatch.setattr(remotes, "which", lambda name: f"/bin/{name}")
    here = scene.Scene(Path("/"), None, "/bin/guardrun", "/bin/python", {}, 0, 0)  # type: ignore[arg-type]
    found = remotes.find(here, Stores(None, None, None, None, ("all",)))
    assert found == remotes.Remotes((), (), (), (), ())


def crowd(waiters: int, asked: tuple[float, ...], from_release: float | None = 1.0) -> Crowd:
    subject = Subject("guardrun", guardrun=True, counted="commands")
    handoffs = tuple(Handoff(from_release, 2.0) for _ in asked)
    return Crowd(subject, waiters, handoffs, asked, 0.5)


def test_many_waiters_may_cost_no_more_than_few() -> None:
    """What few waiters cost is the budget of many, a fraction of a command aside."""
    small = crowd(2, (10.2, 10.3, 10.1))
    for asked, verdict in (((11.0,), "OK; commands"), ((11.1,), "OVER; commands")):
        handoffs, waiting = store_handoff.costs([small], [crowd(100, asked)])
        few, many = handoffs.rows
        assert few.budget is None
        assert handoffs.verdict(many) == verdict
        assert [row.median for row in waiting.rows] == [0.5, 0.5]


def test_a_release_that_nobody_told_of_is_no_sample() -> None:
    """Where the next one starts before the line is there, only COMMAND's end is known."""
    from_release, from_end = store_handoff.times("2 waiters", [crowd(2, (1.0,), None)])
    assert not from_release.rows[0].samples and from_release.rows[0].remark
    assert from_end.rows[0].samples == (2.0,)


def test_what_we_ask_a_redis_is_not_counted() -> None:
    """Of all that it has done, only what others had done counts."""
    import redis

    with servers.Redis.start() as server, contextlib.closing(RedisStore(server.url)) as store:
        begun = store.count()
        assert store.queue(Path("/x/none")) == 0
        assert store.count() == begun
        with redis.Redis.from_url(server.url) as other:
            other.ping()
            before = store.count()
            for _ in range(7):
                other.ping()
            assert store.count() == before + 7
            assert other.lock("l", timeout=60).acquire()
            assert store.pollers(Path("/x/l")) == 0


def test_transactions_that_wrote_are_counted() -> None:
    """One that only reads costs nothing that counts."""
    import psycopg

    with (
        servers.Postgres.start() as server,
        contextlib.closing(PostgresStore(server.url)) as store,
        psycopg.connect(server.url, autocommit=True) as other,
    ):
        other.execute("CREATE TABLE t (n integer)")
        before = store.count()
        for number in range(5):
            other.execute("INSERT INTO t VALUES (%s)", (number,))
            other.execute("SELECT * FROM t")
        assert store.count() == before + 5


@pytest.mark.parametrize(
    ("kind", "store", "ask"),
    [
        ("redis", RedisStore, RedisStore.queue),
        ("postgres", PostgresStore, PostgresStore.queue),
        ("advisory", PostgresStore, PostgresStore.advisory_queue),
    ],
)
def test_who_waits_is_counted(kind: str, store: Any, ask: Callable[[Any, Path], int]) -> None:
    """Each lock's own queue: who holds it is not in it, nor who waits for another."""
    leases = lease_stores.STORES[kind].shared()
    lock = lease_stores.lock_name()
    with contextlib.closing(leases), contextlib.closing(store(leases.url)) as asked:
        for expected in (0, 0, 1, 2):
            assert ask(asked, Path(lock)) == expected
            leases.open().acquire(lease_stores.request(lock), True, lease_stores.due())
        assert ask(asked, Path("/x/another")) == 0


RUNS = 2000


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> fill.Filled:
    """A file with some runs."""
    return fill.sqlite(tmp_path_factory.mktemp("filled"), RUNS)


@pytest.fixture(scope="module")
def remote() -> fill.Filled:
    """A database with as many."""
    url = servers.database(servers.postgres_url())
    postgres_schema.migrate(url, kernel.now() + 60)
    return fill.postgres(url, RUNS)


def recorded(filled: fill.Filled) -> list[RunRecord]:
    """All runs, oldest first."""
    records = filled.records()
    try:
        return list(records.runs(Filter()))[::-1]
    finally:
        records.close()


def test_a_filled_ledger_is_like_one_in_use(tmp_path: Path) -> None:
    """Most runs succeeded, each other has a key, its jobs and hosts are many, and all are told."""
    runs = recorded(fill.sqlite(tmp_path, RUNS))
    assert len({run.job_id for run in runs}) == len(runs) == RUNS
    assert 0.88 < sum(run.result == "success" for run in runs) / RUNS < 0.92
    assert sum(run.key is not None for run in runs) == RUNS / 2
    assert len({run.job for run in runs}) == 20
    assert {run.attempts for run in runs} == {0, 1, 3}
    assert [run.job_id for run in runs] == sorted(run.job_id for run in runs)


def test_both_ledgers_are_filled_alike(embedded: fill.Filled, remote: fill.Filled) -> None:
    """What is compared between the stores was asked of the same runs."""

    def told(run: RunRecord) -> tuple[object, ...]:
        return (*run[1:5], run.argv, run.fingerprint, run.key, *run[15:24])

    assert [told(run) for run in recorded(embedded)] == [told(run) for run in recorded(remote)]


@pytest.mark.parametrize("store", ["embedded", "remote"])
def test_every_question_has_an_answer(store: str, request: pytest.FixtureRequest) -> None:
    """Each query finds something in a filled ledger, and each round asks it once."""
    section = ledger.queries(request.getfixturevalue(store), 2)
    assert all(len(row.samples) == 2 for row in section.rows)


def test_claims_are_compared_with_those_of_an_empty_ledger(tmp_path: Path) -> None:
    """The empty ledger has no budget and is the base; what was claimed is recorded as finished."""
    grown, empty = tmp_path / "grown", tmp_path / "empty"
    for directory in (grown, empty):
        directory.mkdir()
    filled = [fill.sqlite(empty, 0), fill.sqlite(grown, RUNS)]
    section = ledger.claims(filled, 3)
    assert [row.budget is None for row in section.rows] == [True, False]
    assert section.ratio(section.rows[0]) == 1
    new = recorded(filled[0])
    assert new and all(run.result == "success" for run in new)
    assert len(recorded(filled[1])) == RUNS + len(new)


def test_the_server_ends_with_the_benchmark() -> None:
    """It keeps what it says while the benchmark lives; then nothing of it is left."""
    servers.find_binaries(servers.POSTGRES)
    script = """
import psycopg, sys
from pathlib import Path
from bench import postgres
server = postgres.start(Path("/tmp"))
with psycopg.connect(server.url) as connection:
    print(server.directory, connection.execute("SHOW fsync").fetchone()[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(postgres.__file__).parent.parent,
    )
    directory, fsync = done.stdout.split()
    assert fsync == "on"
    eventually(lambda: not Path(directory).exists(), 60, "the server to end")
