"""Events become lines: what a line looks like, when it is written, and when it is not."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guardrun.model import Event, Holder, ReportSpec
from guardrun.report.log import Log

AT = 1795508142.382156
JOB_ID = "0192e4a0-0000-7000-8000-000000000000"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def start(path: Path, job: str = "backup", **spec: Any) -> Log:
    return Log.start(ReportSpec(to=str(path), **spec), job_id=JOB_ID, job=job)


def event(name: str, level: str = "info", at: float = AT, **fields: object) -> Event:
    return Event(at, level, name, fields)


def logged(path: Path, *events: Event, job: str = "backup", **spec: Any) -> list[dict[str, Any]]:
    """The lines that these events make."""
    log = start(path, job, **spec)
    log.open()
    for each in events:
        log.emit(each)
    log.close()
    lines = path.read_bytes().splitlines(True)
    assert all(len(line) <= 4096 and line.endswith(b"\n") for line in lines)
    return [json.loads(line) for line in lines]


# ---------------------------------------------------------------- what a line looks like


def test_the_always_fields_come_first(path: Path) -> None:
    """Order is stable: timestamp, level, event, job_id, job, then the rest."""
    [line] = logged(path, event("attempt_finished", "warning", attempt=1, exit_code=3))
    assert list(line.items()) == [
        ("timestamp", "2026-11-24T08:15:42.382156Z"),
        ("level", "warning"),
        ("event", "attempt_finished"),
        ("job_id", JOB_ID),
        ("job", "backup"),
        ("attempt", 1),
        ("exit_code", 3),
    ]


def test_bound_fields_are_on_every_later_line_of_that_log(path: Path) -> None:
    """Binding makes another log; the first one goes on without the fields."""
    log = start(path)
    locked = log.bind(lock="db", fencing_token=17)
    log.emit(event("run_started"))
    locked.emit(event("attempt_started", attempt=1))
    log.close()
    first, second = map(json.loads, path.read_bytes().splitlines())
    assert "lock" not in first
    assert (second["lock"], second["fencing_token"]) == ("db", 17)


def test_what_does_not_apply_is_left_out(path: Path) -> None:
    """None, and an infinite duration, which JSON can't hold, make no field."""
    [line] = logged(path, event("run_started", lock=None, key_ttl=float("inf"), note="ok"))
    assert line.keys() - {"timestamp", "level", "event", "job_id", "job"} == {"note"}


def test_values_become_plain_json(path: Path) -> None:
    """Frozen values are objects, tuples and sets are lists, anything else is its text."""
    held_by = Holder("h:1:x", "x", None)
    [line] = logged(path, event("lock_busy", held_by=held_by, pids=(1, 2), where=Path("/x")))
    assert line["held_by"] == {"owner": "h:1:x", "job_id": "x"}
    assert (line["pids"], line["where"]) == ([1, 2], "/x")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("grün \x00\x1b", "grün \x00\x1b"),
    ],
)
def test_text_that_is_no_utf8_is_escaped(path: Path, text: str, shown: str) -> None:
    """Names and arguments may be any bytes; the line is UTF-8 all the same."""
    [line] = logged(path, event("run_started", reason=text, many=[{text: text}]), job=text)
    assert line["job"] == line["reason"] == shown
    assert line["many"] == [{shown: shown}]


def test_secrets_in_messages_are_taken_out(path: Path) -> None:
    """A URL's password in any field, and what the patterns match in a reason; never in output."""
    url = "postgresql://me:hunter2@db/x"
    failed, output = logged(
        path,
        event("outcome_spooled", reason=f"cannot reach {url}: card 1234", where=url),
        event("output", stream="stdout", line=url),
        redact=("card [0-9]+",),
    )
    assert failed["reason"] == "cannot reach postgresql://me:***@db/x: ***"
    assert failed["where"] == "postgresql://me:***@db/x"
    assert output["line"] == url


def test_long_output_is_split_into_parts(path: Path) -> None:
    """The parts' lines joined are the line; each knows its number and how many there are."""
    text = "".join(f"{number} grün \x00 " for number in range(2000))
    parts = logged(path, event("output", stream="stderr", line=text))
    assert len(parts) > 5
    assert "".join(part["line"] for part in parts) == text
    assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
    assert {(part["parts"], part["stream"]) for part in parts} == {(len(parts), "stderr")}


def test_other_long_lines_are_cut(path: Path) -> None:
    """The longest field ends in an ellipsis; job_id stays even under a job name of 10 KB."""
    [line] = logged(path, event("run_finished", reason="r" * 9000, result="failed"), job="j" * 9000)
    assert line["job_id"] == JOB_ID
    assert line["result"] == "failed"
    assert line["job"].startswith("jjj")
    assert line["reason"].startswith("rrr")
    assert line["job"].endswith("…")
    assert line["reason"].endswith("…")


# ---------------------------------------------------------------- which lines, and when


def test_lines_below_the_level_are_left_out(path: Path) -> None:
    """debug < info < warning < error."""
    events = [event("e", level) for level in ("debug", "info", "warning", "error")]
    for number, level in enumerate(("debug", "info", "warning", "error")):
        path.unlink(missing_ok=True)
        assert [line["level"] for line in logged(path, *events, level=level)] == [
            each.level for each in events[number:]
        ]


def test_events_wait_until_the_log_is_opened(path: Path) -> None:
    """Nothing is written before, and then everything, with its own timestamps and in order."""
    log = start(path)
    log.emit(event("run_started", at=AT))
    log.emit(event("lock_acquired", at=AT + 1))
    assert path.read_bytes() == b""
    log.open()
    log.emit(event("attempt_started", at=AT + 2))
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [(line["event"], line["timestamp"][17:19]) for line in lines] == [
        ("run_started", "42"),
        ("lock_acquired", "43"),
        ("attempt_started", "44"),
    ]
    log.close()


def test_quiet_writes_nothing_when_nothing_went_wrong(path: Path) -> None:
    """No line, so cron sends no mail."""
    assert logged(path, event("run_started"), event("run_finished"), quiet=True) == []


def test_quiet_tells_the_whole_story_once_something_went_wrong(path: Path) -> None:
    """A warning or an error brings the lines that were held back, and those that follow."""
    lines = logged(
        path,
        event("run_started"),
        event("attempt_finished", "warning"),
        event("run_finished"),
        quiet=True,
    )
    assert [line["event"] for line in lines] == ["run_started", "attempt_finished", "run_finished"]


def test_quiet_holds_back_the_last_mebibyte(path: Path) -> None:
    """Of endless output the oldest lines are dropped, counted, and that is said first."""
    events = [event("output", stream="stdout", line=f"{n} {'x' * 1000}") for n in range(3000)]
    first, *lines = logged(path, *events, event("run_finished", "error"), quiet=True)
    assert first["event"] == "log_dropped"
    assert first["level"] == "warning"
    assert first["job_id"] == JOB_ID
    assert first["count"] == 3001 - len(lines)
    assert 500 < len(lines) < 1100
    assert lines[-1]["event"] == "run_finished"


def test_a_blocked_pipe_gets_the_count_first() -> None:
    """Once the reader goes on it reads log_dropped, then the lines that were kept."""
    read, write = os.pipe()
    log = Log.start(ReportSpec(to=f"fd:{write}"), job_id=JOB_ID, job="backup")
    os.close(write)
    log.open()
    for number in range(1500):
        log.emit(event("output", stream="stdout", line="x" * 1500, n=number))
    assert log.interests()
    data = os.read(read, 1 << 20)
    in_pipe = data.count(b"\n")
    while log.interests():
        log.ready(log.interests()[0][0])
        data += os.read(read, 1 << 20)
    lines = [json.loads(line) for line in data.splitlines()]
    assert lines[in_pipe]["event"] == "log_dropped"
    kept = lines[in_pipe + 1 :]
    assert lines[in_pipe]["count"] == 1500 - in_pipe - len(kept)
    assert [line["n"] for line in kept] == list(range(1500 - len(kept), 1500))
    log.close()
    os.close(read)


_NOTHING_SHOWN = """
import sys
from guardrun.model import Event, ReportSpec
from guardrun.report.log import Log
log = Log.start(ReportSpec({spec}), job_id="x", job="y")
log.emit(Event(1.0, "info", "run_started", {{}}))
log.open()
log.emit(Event(1.0, "info", "run_finished", {{}}))
log.close()
print("structlog" in sys.modules, "json" in sys.modules)
"""


@pytest.mark.parametrize("spec", ["to='none'", "quiet=True", "level='warning'"])
def test_structlog_is_not_imported_for_nothing(spec: str) -> None:
    """A run that shows no line does not pay for rendering one."""
    code = _NOTHING_SHOWN.format(spec=spec)
    assert subprocess.check_output([sys.executable, "-c", code]) == b"False False\n"


# ---------------------------------------------------------------- where they go


def test_a_destination_that_cannot_be_opened_is_said_once(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One line on stderr; the run goes on without a log."""
    os.mkfifo(tmp_path / "fifo")
    for to in (str(tmp_path / "no" / "log"), str(tmp_path / "fifo"), "fd:987"):
        log = Log.start(ReportSpec(to=to), job_id="x", job="y")
        log.open()
        log.emit(event("run_started"))
        assert log.interests() == []
        log.close()
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(": ")[-1] for line in lines] == [
        f"{reason}; the run goes on without it"
        for reason in (
            "No such file or directory",
            "No such device or address",
            "Bad file descriptor",
        )
    ]
    assert all(line.startswith("guardrun: no log: cannot write to '") for line in lines)


def test_a_renderer_that_cannot_be_imported_is_said_once(
    capfd: pytest.CaptureFixture[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation that breaks while COMMAND runs must not end COMMAND."""
    monkeypatch.setitem(sys.modules, "guardrun.report.render", None)
    log = start(path)
    log.emit(event("run_started"))
    log.open()
    log.emit(event("run_finished"))
    log.close()
    assert capfd.readouterr().err.count("\n") == 1
    assert path.read_bytes() == b""


def test_a_log_can_be_closed_twice(path: Path) -> None:
    """Closing again, or logging after it, does nothing."""
    log = start(path)
    log.emit(event("run_started"))
    log.close()
    log.emit(event("run_finished"))
    log.close()
    assert path.read_bytes().count(b"\n") == 1


# ---------------------------------------------------------------- for people


def on_terminal(*events: Event, **spec: Any) -> list[str]:
    """What a terminal shows."""
    master, slave = pty.openpty()
    log = Log.start(ReportSpec(to=f"fd:{slave}", **spec), job_id=JOB_ID, job="backup")
    log.open()
    for each in events:
        log.emit(each)
    log.close()
    os.close(slave)
    data = b""
    try:
        while piece := os.read(master, 1 << 16):
            data += piece
    except OSError:  # Linux says EIO where the other side is closed
        pass
    os.close(master)
    return data.decode().replace("\r\n", "\n").splitlines()


@pytest.fixture
def dull(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal without colours, in UTC."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TZ", "UTC")


@pytest.mark.usefixtures("dull")
def test_people_get_words() -> None:
    """Time, level, event in words, job, then key=value; constant fields only once."""
    lines = on_terminal(
        event("run_started", lock="db"),
        event("attempt_finished", "warning", lock="db", reason="exit code 3", exit_code=3),
        event("output", stream="stdout", line="two words"),
    )
    assert lines == [
        f"08:15:42 info    run started      backup job_id={JOB_ID} lock=db",
        "08:15:42 warning attempt finished backup reason='exit code 3' exit_code=3",
        "08:15:42 info    stdout           backup | two words",
    ]


@pytest.mark.usefixtures("dull")
def test_nothing_logged_moves_the_cursor() -> None:
    """Control characters in output, names and messages are shown escaped."""
    evil = "\x1b[2J\x9b2J\x07\r\n"
    lines = on_terminal(
        event("output", stream="stdout", line=evil), event("run_finished", job=evil, reason=evil)
    )
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_colours_are_asked_for_by_the_terminal(
    environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_COLOR and TERM=dumb are respected."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("TERM", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    [line] = on_terminal(event("run_started"))
    assert ("\x1b[" in line) is coloured


@pytest.mark.usefixtures("dull")
def test_format_overrules_the_terminal(path: Path) -> None:
    """--log-format json on a terminal, console in a file (then never with colours)."""
    [line] = on_terminal(event("run_started"), format="json")
    assert json.loads(line)["event"] == "run_started"
    log = start(path, format="console")
    log.emit(event("run_started"))
    log.close()
    assert path.read_text().startswith("08:15:42 info    run started")
