"""What a run is called where nobody said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrun.jobname import job_name, shell_job_name
from guardrun.kinds import job_name as read_job_name


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("backup", "backup"),
        ("/usr/local/bin/backup.sh --full /data", "backup.sh"),
        ("./backup/", "backup"),
        ("sh /opt/x.sh", "x.sh"),
        ("/bin/bash -eu /opt/x.sh -c y", "x.sh"),
        ("bash -o pipefail -e x.sh", "x.sh"),
        ("bash -euo pipefail x.sh", "x.sh"),
        ("bash +x x.sh", "x.sh"),
        ("bash --rcfile /etc/rc x.sh", "x.sh"),
        ("bash --norc x.sh", "x.sh"),
        ("bash -- x.sh", "x.sh"),
        ("bash -es arg", "bash"),
        ("bash -", "bash"),
        ("zsh", "zsh"),
        ("python3 /opt/app/run.py --job x", "run.py"),
        ("python3.11 -u run.py", "run.py"),
        ("python -W ignore -X dev run.py", "run.py"),
        ("python -Wignore run.py", "run.py"),
        ("python -m pkg.tool arg", "pkg.tool"),
        ("python -Im pkg.tool", "pkg.tool"),
        ("python -mpkg.tool", "pkg.tool"),
        ("python3 -c print(1)", "python3"),
        ("perl -w /opt/report.pl", "report.pl"),
        ("perl -I lib -MFoo report.pl", "report.pl"),
        ("perl -ne print", "perl"),
        ("perl5.36 -i.bake report.pl", "report.pl"),
        ("ruby -r json job.rb", "job.rb"),
        ("ruby -e 1", "ruby"),
        ("node --require ./hook job.js", "job.js"),
        ("node --require=./hook job.js", "job.js"),
        ("node --eval 1", "node"),
        ("php -d memory_limit=1G -f cron.php", "cron.php"),
        ("env A=1 B=2 python3 x.py", "x.py"),
        ("env -i -u HOME /bin/job", "job"),
        ("env", "env"),
        ("pythonista x.py", "pythonista"),
        ("/", "command"),
    ],
)
def test_the_script_counts_where_command_is_an_interpreter(line: str, name: str) -> None:
    """A run is named after COMMAND, or the script an interpreter is to run."""
    assert job_name(line.split()) == name


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["sh", "-c", "/opt/sync.sh --all; echo done"], "sync.sh"),
        (["bash", "-lc", "sync --all"], "sync"),
        (["bash", "-c", "-e", "sync --all"], "sync"),
        (["bash", "-ceuo", "pipefail", "sync | cat"], "sync"),
        (["sh", "-c", "TZ=UTC PATH=/x:/y /opt/sync a=b"], "sync"),
        (["sh", "-c", '"/opt/sync" x'], "sync"),
        (["sh", "-c", "(cd /x && make)"], "cd"),
        (["sh", "-c", ""], "sh"),
        (["sh", "-c"], "sh"),
    ],
)
def test_the_first_word_counts_where_a_shell_gets_a_string(words: list[str], name: str) -> None:
    """A run of ``sh -c STRING`` is named after the string's first word."""
    assert job_name(words) == name


def test_a_string_of_our_own_counts_the_same() -> None:
    """``-c STRING`` is named after the string's first word."""
    assert shell_job_name("/usr/bin/pg_dump db | gzip > x") == "pg_dump"


def test_what_cannot_be_shown_is_escaped() -> None:
    """Bytes that are not UTF-8 and control characters do not get into a name."""
    assert job_name(["/opt/a\udcffb\n\x1b[31m"]) == r"a\xffb\n\x1b[31m"


def test_a_name_is_bounded() -> None:
    """A long file name is cut."""
    name = job_name(["x" * 255])
    assert len(name) == 128
    assert name.endswith("…")


@given(st.lists(st.text(), min_size=1))
def test_every_name_could_have_been_given(words: list[str]) -> None:
    """Whatever COMMAND is, its name is one that ``--job`` takes."""
    name = job_name(words)
    assert read_job_name(name) == name
