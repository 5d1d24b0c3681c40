"""What docs/looking.md shows is what guardrun prints."""

from __future__ import annotations

import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
from ledgers import claimed, ended, make_run, refused
from support import Host

from guardrun.ledger.sqlite import SqliteLedger
from guardrun.model import Attempt, Holder, KeySpec, Run

PAGE = (Path(__file__).parents[2] / "docs" / "looking.md").read_text()
CAPTURES = re.findall(r"^\$ guardrun (.*?)\n(.*?)^```$", PAGE, re.M | re.S)
AGO = 3000.0
"""s ago, when the first run started; refusals of last week would not be kept"""


@pytest.fixture
def night(host: Host) -> Host:
    """A host whose ledger has a backup that is skipped behind another one, and a report that failed
    for good."""
    host.env.update(TZ="UTC", COLUMNS="80")
    host.state.mkdir(parents=True, mode=0o700)
    ledger = SqliteLedger(str(host.state / "ledger.sqlite3"), time.time)
    start = time.time() - AGO

    def begun(number: int, job: str, key: str | None = None, **fields: Any) -> Run:
        name = f"01a20000-0000-7000-8000-0000{number:02}c0ffee"
        at = start + number * 300
        run = make_run(key, job_id=name, job=job, started_at=at, **fields)
        return run._replace(owner=f"db1:{4710 + number}:{name}", host="db1", pid=4710 + number)

    first = begun(1, "backup", "backup-2026-11-27", lock="nightly")
    claim = claimed(ledger.begin(first, KeySpec(first.key)))
    ledger.finish(ended(first, claim, held=True, lock_wait=0.002))
    again = begun(2, "backup", first.key)
    ledger.finish(refused(again, "skipped_duplicate", duration=0.004, exit_code=0))
    late = begun(3, "backup", "backup-2026-11-28", lock="nightly")
    holder = Holder(first.owner, first.job_id, first.started_at)
    waited: dict[str, Any] = {
        "lock_wait": 30.0,
        "duration": 30.0,
        "finished_at": late.started_at + 30,
    }
    ledger.finish(refused(late, held_by=holder, **waited))
    report = begun(4, "report", argv=("report", "--month"))
    tries = tuple(Attempt(n, report.started_at + n, 0.8, "failed", 3) for n in (1, 2, 3))
    ledger.finish(
        ended(
            *(report, None, "failed"),
            attempts=tries,
            exit_code=3,
            command_code=3,
            duration=3.8,
            finished_at=report.started_at + 3.8,
            reason="exit code 3",
        )
    )
    ledger.close()
    return host


def masked(text: str) -> str:
    """Text without what is another moment's: dates, and the value of every digit."""
    shapes = re.sub(r"\d{4}-\d\d-\d\d(?= \d\d:)", "", text)
    lines = re.sub(r"\d+", "0", shapes).splitlines()
    return "\n".join(" ".join(line.split()) for line in lines).strip()


def test_captures_are_what_is_printed(night: Host) -> None:
    """Each command of the page prints what stands below it, but for the moment."""
    assert len(CAPTURES) >= 6
    for command, shown in CAPTURES:
        said = night.run(*shlex.split(command))
        assert (said.code, said.stderr) == (0, b""), command
        assert masked(said.stdout.decode()) == masked(shown), command


@pytest.mark.parametrize("command", ["history", "stats"])
def test_documented_fields_are_those_of_json(night: Host, command: str) -> None:
    """The page lists every field of an object, in its order, and no other."""
    listed = re.search(rf"^`{command} --json`: (.*?)\.$", PAGE, re.M | re.S)
    assert listed is not None
    said = night.run(command, "--json")
    assert re.findall(r"`(\w+)`", listed[1]) == list(json.loads(said.stdout.splitlines()[0]))
