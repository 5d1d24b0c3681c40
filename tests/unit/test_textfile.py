"""The metrics file of one job: what is counted, what is kept, and that Prometheus reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import make_run
from monitoring import promtool

from guardrun.model import Attempt, Outcome
from guardrun.report import textfile


def outcome(
    job: str = "a", result: str = "success", attempts: int = 1, at: float = 100.0
) -> Outcome:
    """How a run ended."""
    made = tuple(Attempt(number, at, 1.0, result) for number in range(1, attempts + 1))
    code = 0 if result == "success" else 1
    return Outcome(make_run(job=job), result, code, at, 2.5, attempts=made, lock_wait=0.25)


def after(*outcomes: Outcome) -> dict[str, float]:
    """The samples after these runs, each read back from the text of the one before."""
    text = ""
    for one in outcomes:
        text = textfile.render(textfile.merge(textfile.parse(text), one))
    return textfile.parse(text)


def test_counters_go_on() -> None:
    """Every run counts one by its result, every further attempt one retry."""
    found = after(outcome(), outcome(result="failed", attempts=3), outcome(attempts=2))
    assert found['guardrun_runs_total{job_name="a",result="success"}'] == 2
    assert found['guardrun_runs_total{job_name="a",result="failed"}'] == 1
    assert found['guardrun_retries_total{job_name="a"}'] == 3


def test_a_failure_keeps_the_last_success() -> None:
    """When the last success was stays in the file until there is another one."""
    found = after(outcome(at=100.0), outcome(result="failed", at=200.0))
    assert found['guardrun_last_success_timestamp_seconds{job_name="a"}'] == 100.0
    assert found['guardrun_last_run_timestamp_seconds{job_name="a"}'] == 200.0


def test_a_refused_run_says_nothing_of_execution() -> None:
    """A run that executed nothing is counted; duration, exit code and attempts stay."""
    found = after(outcome(attempts=2), outcome(result="lock_busy", attempts=0))
    assert found['guardrun_runs_total{job_name="a",result="lock_busy"}'] == 1
    assert found['guardrun_last_run_exit_code{job_name="a"}'] == 0
    assert found['guardrun_last_run_attempts{job_name="a"}'] == 2


@pytest.mark.parametrize(
    ("job", "name"),
    [
        ("report-2.sh", "guardrun_report-2.sh.prom"),
        ("../etc", "guardrun_.._etc-"),
        ("naïve", "guardrun_na_ve-"),
    ],
)
def test_names_of_files(job: str, name: str) -> None:
    """A job's file is named after it, stays in its directory, and is no other job's."""
    found = textfile.file_name(job)
    assert found.startswith(name)
    assert "/" not in found
    assert found.endswith(".prom")


def test_jobs_that_look_alike_have_files_of_their_own() -> None:
    """What had to be replaced in a name is told apart by a hash."""
    assert len({textfile.file_name(job) for job in ("a b", "a_b", "a/b", "a\\b")}) == 4


def test_damaged_text_is_passed_over() -> None:
    """What cannot be read does not stop the next run from being counted."""
    assert textfile.parse("\0\x01\nguardrun_runs_total\n# HELP x 1\nx nan\n") == {}


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1))
def test_any_name_of_a_job_survives(job: str) -> None:
    """Quotes, backslashes and blanks in a job's name are read back as they were."""
    twice = after(outcome(job), outcome(job))
    assert twice[textfile.sample("guardrun_runs_total", job, "success")] == 2


def test_promtool_takes_it() -> None:
    """Prometheus' own linter has nothing to say."""
    text = textfile.render(textfile.merge({}, outcome('a "b\\', attempts=2)))
    said = subprocess.run(
        [promtool(), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    """Where the file cannot be replaced, no draft stays behind."""
    (tmp_path / textfile.file_name("a")).mkdir()
    with pytest.raises(OSError):
        textfile.write(str(tmp_path), outcome())
    assert [path.name for path in tmp_path.iterdir()] == [textfile.file_name("a")]
