"""The parts of the benchmark that only compute: quantiles, ratios, verdicts, the table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import servers
from hypothesis import given, settings
from hypothesis import strategies as st
from support import eventually

from bench import fill, ledger, postgres, proc, scene, table
from bench.mark import Mark, Marks
from bench.stats import TIMES, Budget, Row, Section, quantile
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
