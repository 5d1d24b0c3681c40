"""COMMAND's streams under --stdin, --output and --capture, and the log beside them.

Numbers in docstrings are those of the list of behaviours of a process supervisor.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import (
    Host,
    Listener,
    Result,
    alive,
    eventually,
    family,
    finish,
    no_survivors,
    status,
    waits,
    write_script,
)

QUIET = ("--log-to", "none")
LINE_MAX = 4096
PROMPT = 5.0
"""s that nothing here may take longer than, however long a reader sleeps"""
MEGABYTE = 1 << 20


def python(code: str, *words: str) -> list[str]:
    """A COMMAND that runs a piece of Python."""
    return ["--", sys.executable, "-I", "-S", "-c", code, *words]


def outputs(result: Result, stream: str) -> list[dict[str, Any]]:
    """The `output` lines of one stream."""
    return [line for line in result.lines if line["event"] == "output" and line["stream"] == stream]


# ---------------------------------------------------------------- --stdin


def test_replay_gives_every_attempt_all_of_stdin(host: Host) -> None:
    """--stdin replay: each attempt gets the same bytes, whole, whatever the last one read (#15)."""
    data = random.Random(1).randbytes(3_000_000)
    code = (
        "import hashlib, os, sys\n"
        "attempt = int(os.environ['GUARDRUN_ATTEMPT'])\n"
        "data = sys.stdin.buffer.read(1000 if attempt == 2 else -1)\n"
        "print(attempt, hashlib.sha256(data).hexdigest())\n"
        "sys.exit(attempt < 3)\n"
    )
    words = ["--stdin", "replay", "--retries", "2", "--backoff", "1ms", *QUIET]
    result = host.run(*words, *python(code), data=data)
    assert result.code == 0
    whole, head = (hashlib.sha256(part).hexdigest() for part in (data, data[:1000]))
    assert result.stdout.decode().split() == ["1", whole, "2", head, "3", whole]


def test_replay_of_nothing(host: Host) -> None:
    """An empty stdin is replayed as an empty stdin."""
    result = host.run("--stdin", "replay", *QUIET, "--", "wc", "-c", data=b"")
    assert (result.code, result.stdout.strip()) == (0, b"0")


def test_replay_to_a_command_that_does_not_read(host: Host) -> None:
    """A COMMAND that leaves its stdin alone holds up nothing."""
    result = host.run("--stdin", "replay", *QUIET, "--", "true", data=bytes(3_000_000))
    assert result.code == 0


def test_stdin_max(host: Host) -> None:
    """More than --stdin-max is exit 64, and nothing is run; as much is not."""
    words = ["--stdin", "replay", "--stdin-max", "1K", *QUIET, "--", "sh", "-c", "echo >>ran"]
    result = host.run(*words, data=bytes(1025))
    assert result.code == 64
    assert len(result.stderr.splitlines()) == 1
    assert not (host.root / "ran").exists()
    assert host.run(*words, data=bytes(1024)).code == 0
    assert (host.root / "ran").exists()


def test_deadline_while_stdin_is_read(host: Host) -> None:
    """A stdin that never ends does not keep a run from its --deadline."""
    process = host.start(
        *("--stdin", "replay", "--deadline", "300ms", "--", "true"), stdin=subprocess.PIPE
    )
    assert process.wait(0.3 + PROMPT) == 124
    finish(process)


def test_stdin_null(host: Host) -> None:
    """--stdin null: COMMAND finds an empty stdin, and ours is left alone."""
    read, write = os.pipe()
    os.write(write, b"ours")
    result = host.run("--stdin", "null", *QUIET, "--", "wc", "-c", stdin=read)
    assert (result.code, result.stdout.strip()) == (0, b"0")
    assert os.read(read, 10) == b"ours"
    os.close(read)
    os.close(write)


def test_key_of_stdin_hands_it_on(host: Host) -> None:
    """{stdin.sha256} makes a key of stdin, which COMMAND still gets whole."""
    words = ["--key", "k-{stdin.sha256}", *QUIET, "--", "cat"]
    assert host.run(*words, data=b"one\0").stdout == b"one\0"
    assert host.run(*words, data=b"two\0").stdout == b"two\0"
    assert host.run(*words, data=b"one\0").stdout == b""
    keys = {row["key"] for row in host.rows("SELECT key FROM keys")}
    assert f"k-{hashlib.sha256(b'one' + bytes(1)).hexdigest()}" in keys


# ---------------------------------------------------------------- --output json


def test_output_as_log_lines(host: Host) -> None:
    """--output json: each line of COMMAND's is a log line that says which stream it came from."""
    code = "echo one; echo two >&2; printf 'no newline'; exit 3"
    result = host.run("--output", "json", "--", "sh", "-c", code)
    assert result.code == 3
    assert result.stderr == b""
    assert len(result.lines) == len(result.stdout.splitlines())
    assert [line["line"] for line in outputs(result, "stdout")] == ["one", "no newline"]
    assert [line["line"] for line in outputs(result, "stderr")] == ["two"]
    events = [line["event"] for line in result.lines]
    assert events[-1] == "run_finished"
    assert events.index("attempt_started") < events.index("output")
    assert len(events) - 1 - events[::-1].index("output") < events.index("attempt_finished")
    assert {line["job_id"] for line in result.lines} == {result.finished["job_id"]}


def test_binary_output_is_safe(host: Host) -> None:
    """Random bytes become lines that parse, from which the bytes can be had back (#22)."""
    data = random.Random(22).randbytes(200_000) + b"\n"
    (host.root / "data").write_bytes(data)
    result = host.run("--output", "json", "--", "cat", "data")
    raw = result.stdout.splitlines(keepends=True)
    assert all(len(line) <= LINE_MAX and line.endswith(b"\n") for line in raw)
    assert [json.loads(line.decode("utf-8")) for line in raw] == result.lines
    assert b"".join(lines_back(outputs(result, "stdout"))) == data


def lines_back(lines: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    """The bytes that COMMAND wrote, from the `output` lines that tell of them."""
    for line in lines:
        part = line["line"].encode(line.get("encoding", "utf-8"))
        whole = line.get("part", 1) == line.get("parts", 1) and not line.get("continued")
        yield part + b"\n" if whole else part


@pytest.mark.parametrize("text", ["x" * 100_000, "żółć€" * 20_000, '"\\' * 30_000, "\x01" * 9000])
def test_long_lines_are_split(host: Host, text: str) -> None:
    """A line that is too long for the log comes in parts of at most 4096 bytes (#23)."""
    (host.root / "data").write_text(text)
    result = host.run("--output", "json", "--", "cat", "data")
    assert all(len(line) <= LINE_MAX for line in result.stdout.splitlines(keepends=True))
    parts = outputs(result, "stdout")
    assert "".join(part["line"] for part in parts) == text
    assert len(parts) > 1


@pytest.mark.parametrize("mode", ["json", "on-failure", "discard", "inherit"])
@pytest.mark.parametrize("capture", ["0", "1K"])
def test_daemon_with_our_pipe_does_not_hold_us(
    host: Host, mark: str, mode: str, capture: str
) -> None:
    """A daemon may keep COMMAND's stdout: guardrun ends, with all that was written (#20)."""
    code = f"setsid sleep {mark} & echo told; exit 1"
    path = host.root / "out"
    with path.open("wb") as file:
        begun = time.monotonic()
        process = host.start(
            *("--output", mode, "--capture", capture, "--", "sh", "-c", code), stdout=file
        )
        process.wait(PROMPT)
        assert time.monotonic() - begun < PROMPT
    assert process.returncode == 1
    assert len(alive(mark)) == 1
    assert (b"told" in path.read_bytes()) == (mode != "discard")
    if capture != "0":
        assert [row["stdout"] for row in host.rows("SELECT stdout FROM outputs")] == [b"told\n"]


# ---------------------------------------------------------------- --output on-failure, discard


def test_output_on_failure(host: Host) -> None:
    """--output on-failure shows what COMMAND wrote, stream by stream, when the run fails."""
    code = "echo out; echo err >&2; exit $1"
    words = ["--output", "on-failure", *QUIET, "--", "sh", "-c", code, "sh"]
    good = host.run(*words, "0")
    assert (good.code, good.stdout, good.stderr) == (0, b"", b"")
    bad = host.run(*words, "4")
    assert (bad.code, bad.stdout, bad.stderr) == (4, b"out\n", b"err\n")


def test_output_on_failure_is_the_runs(host: Host) -> None:
    """A run that succeeds at last shows nothing; one that fails shows all its attempts."""
    code = 'echo "attempt $GUARDRUN_ATTEMPT"; test "$GUARDRUN_ATTEMPT" = "$1"'
    words = ["--output", "on-failure", "--retries", "2", "--backoff", "1ms", *QUIET]
    command = ["--", "sh", "-c", code, "sh"]
    assert host.run(*words, *command, "3").stdout == b""
    assert host.run(*words, *command, "9").stdout == b"attempt 1\nattempt 2\nattempt 3\n"


@pytest.mark.parametrize("how", ["timeout", "signal", "told"])
def test_output_on_failure_of_a_stopped_run(host: Host, mark: str, how: str) -> None:
    """A run that was stopped has failed, and shows what COMMAND had written so far."""
    code = f"echo so far; echo >began; test {how} = signal && kill -KILL $$; exec sleep {mark}"
    words = ["--output", "on-failure", *QUIET]
    if how == "timeout":
        words += ["--timeout", "1s"]
    process = host.start(*words, "--", "sh", "-c", code)
    eventually((host.root / "began").exists)
    if how == "told":
        process.terminate()
    result = finish(process)
    assert result.code == {"timeout": 124, "signal": -signal.SIGKILL, "told": -15}[how]
    assert result.stdout == b"so far\n"


@pytest.mark.parametrize("ledger", [(), ("--ledger-url", "none:")])
def test_output_on_failure_after_the_deadline(host: Host, ledger: tuple[str, ...]) -> None:
    """What COMMAND wrote is shown although --deadline is over, with a ledger and without one."""
    words = ["--output", "on-failure", "--deadline", "1s", *ledger, *QUIET]
    result = host.run(*words, "--", "sh", "-c", "echo so far; exec sleep 60")
    assert (result.code, result.stdout) == (124, b"so far\n")


def test_output_discard(host: Host) -> None:
    """--output discard: nothing is shown, whatever happens."""
    result = host.run("--output", "discard", *QUIET, "--", "sh", "-c", "echo a; echo b >&2; exit 3")
    assert (result.code, result.stdout, result.stderr) == (3, b"", b"")


def test_output_inherit_is_the_same_file(host: Host) -> None:
    """By default COMMAND writes to the very file that guardrun was given, at its offset."""
    path = host.root / "out"
    with path.open("wb") as file:
        file.write(b"before\n")
        file.flush()
        assert host.run(*QUIET, "--", "echo", "from COMMAND", stdout=file).code == 0
        file.seek(0, os.SEEK_END)
        file.write(b"after\n")
    assert path.read_bytes() == b"before\nfrom COMMAND\nafter\n"


# ---------------------------------------------------------------- --capture


def test_capture_keeps_the_last_bytes(host: Host) -> None:
    """--capture keeps the last bytes of each stream; --on-duplicate replay writes them again."""
    data = random.Random(7).randbytes(5000)
    (host.root / "data").write_bytes(data)
    words = ["--key", "k", "--capture", "1K", "--on-duplicate", "replay", *QUIET]
    command = ["--", "sh", "-c", "cat data; echo warning >&2; echo >>ran"]
    first = host.run(*words, *command)
    assert (first.code, first.stdout, first.stderr) == (0, data, b"warning\n")
    again = host.run(*words, *command)
    assert (again.code, again.stdout, again.stderr) == (0, data[-1024:], b"warning\n")
    assert (host.root / "ran").read_text() == "\n"
    assert [row["result"] for row in host.rows()] == ["success", "skipped_duplicate"]


@pytest.mark.parametrize("mode", ["json", "on-failure", "discard"])
def test_capture_beside_every_output(host: Host, mode: str) -> None:
    """What is kept does not depend on what is shown."""
    code = "printf 0123456789; printf abc >&2"
    words = ["--output", mode, "--capture", "4", *QUIET, "--", "sh", "-c", code]
    assert host.run(*words).code == 0
    kept = host.rows("SELECT stdout, stderr FROM outputs")
    assert kept == [{"stdout": b"6789", "stderr": b"abc"}]


def test_captured_output_goes_no_faster_than_its_reader(host: Host) -> None:
    """With --capture a slow reader slows down COMMAND, and gets all of it."""
    words = ["--capture", "1K", *QUIET, "--", "sh", "-c", "head -c 5000000 /dev/zero; echo >ended"]
    process = host.start(*words, bufsize=0)
    assert process.stdout is not None
    read = process.stdout.read(1)
    eventually(lambda: waits(process.pid), what="a guardrun at rest")
    assert not (host.root / "ended").exists()
    result = finish(process)
    assert result.code == 0
    assert len(read + result.stdout) == 5_000_000


def test_captured_output_into_a_closed_pipe(host: Host) -> None:
    """With --capture COMMAND still gets SIGPIPE when our reader has gone (#25)."""
    process = host.start("--capture", "1K", *QUIET, "--", "yes")
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    process.stdout = None
    result = finish(process)
    assert result.code == -signal.SIGPIPE
    assert result.stderr == b""


# ---------------------------------------------------------------- bounded memory


def peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    return int(status(pid)["VmHWM"].split()[0]) * 1024


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["--output", "discard", "--capture", "64K"], 2 << 30),
        (["--output", "inherit", "--capture", "64K"], 2 << 30),
        (["--output", "on-failure"], 600 << 20),
        (["--output", "json", "--log-to", "none"], 600 << 20),
    ],
    ids=["capture", "passed on", "on-failure", "json"],
)
def test_memory_is_bounded(host: Host, words: list[str], size: int) -> None:
    """However much COMMAND writes, guardrun's memory stays small (#21)."""
    ended = Listener(host.root / "signals")
    code = f'head -c {size} /dev/zero; echo the end; exec "$@"'
    process = host.start(
        *(*words, "--", "sh", "-c", code, "sh", *ended.words("USR1=0")), stdout=subprocess.DEVNULL
    )
    eventually(ended.log.exists, 60, "the end of COMMAND's output")
    ended.pid()
    pids = family(process.pid)
    assert {name: used for name, pid in pids.items() if (used := peak(pid)) > 60 << 20} == {}
    process.send_signal(signal.SIGUSR1)
    assert finish(process).code == 0
    if "--capture" in words:
        (kept,) = host.rows("SELECT stdout FROM outputs")
        assert kept["stdout"] == bytes((64 << 10) - 8) + b"the end\n"


# ---------------------------------------------------------------- many writers


def check_log(data: bytes, runs: int) -> None:
    """Check that these are whole log lines, of so many runs that were told to their end."""
    lines = data.splitlines(keepends=True)
    assert all(len(line) <= LINE_MAX and line.endswith(b"\n") for line in lines)
    told = [json.loads(line) for line in lines]
    ends = [line["job_id"] for line in told if line["event"] == "run_finished"]
    assert len(ends) == len(set(ends)) == runs
    for job_id in ends:
        own = [line for line in told if line["job_id"] == job_id]
        assert own[-1]["event"] == "run_finished"
        texts = [line for line in own if line["event"] == "output"]
        assert len("".join(line["line"] for line in texts)) == 10 * 3000 + 9000


WRITER = "for n in range(10): print(str(n) * 3000)\nprint('x' * 9000)"


def test_twenty_writers_to_one_file(host: Host) -> None:
    """Twenty guardruns append to one file: every line is whole (#23)."""
    log = host.root / "log"
    words = ["--output", "json", "--log-to", str(log), "--ledger-url", "none:", *python(WRITER)]
    assert [finish(process).code for process in [host.start(*words) for _ in range(20)]] == [0] * 20
    check_log(log.read_bytes(), 20)


def test_twenty_writers_to_one_pipe(host: Host) -> None:
    """Twenty guardruns write to one pipe: every line is whole (#23)."""
    words = ["--output", "json", "--ledger-url", "none:", *python(WRITER)]
    with (host.root / "log").open("wb") as log:
        # It reads from the first line on: a run waits for a reader no longer than 100 ms.
        reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log)
    assert reader.stdin is not None
    writers = [host.start(*words, stdout=reader.stdin) for _ in range(20)]
    reader.stdin.close()
    assert [finish(process).code for process in writers] == [0] * 20
    assert reader.wait(60) == 0
    check_log((host.root / "log").read_bytes(), 20)


# ---------------------------------------------------------------- a log that cannot be written


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that is full to the last byte, and nobody reads."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    for piece in (65536, 4096, 1):
        try:
            while True:
                os.write(write, bytes(piece))
        except BlockingIOError:
            pass
    os.set_blocking(write, True)
    try:
        yield read, write
    finally:
        for fd in (read, write):
            try:
                os.close(fd)
            except OSError:  # closed by the test
                pass


def unread(read: int) -> int:
    """How many bytes wait in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(read, termios.FIONREAD, count)
    return count[0]


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("to", ["stdout", "/dev/full", "closed"])
def test_log_that_fails(host: Host, to: str, code: int) -> None:
    """A full disk or a closed pipe for a log changes neither COMMAND nor the exit code (#24)."""
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full", "wb") as full:
        words = ["--log-to", to if to == "/dev/full" else "stdout"]
        stdout = {"stdout": full, "/dev/full": None, "closed": write}[to]
        result = host.run(*words, "--", "sh", "-c", f"echo >ran; exit {code}", stdout=stdout)
    os.close(write)
    assert result.code == code
    assert result.stderr == b""
    assert (host.root / "ran").exists()
    assert [row["command_code"] for row in host.rows()] == [code]


def test_log_to_a_pipe_that_closes(host: Host) -> None:
    """`guardrun --output json … | head -1`: COMMAND runs to its end, its code is ours (#24)."""
    code = "for i in $(seq 1000); do echo line $i; done; echo >ran; exit 5"
    process = host.start("--output", "json", "--", "sh", "-c", code)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    assert finish(process).code == 5
    assert (host.root / "ran").exists()


def test_blocked_log_delays_nothing(host: Host) -> None:
    """A log pipe that nobody reads delays neither COMMAND's start nor guardrun's end (#24)."""
    with full_pipe() as (read, write):
        before = unread(read)
        begun = time.monotonic()
        result = host.run("--lock", "l", "--", "sh", "-c", "echo >ran; exit 3", stdout=write)
        assert time.monotonic() - begun < PROMPT
        assert result.code == 3
        assert unread(read) == before
    assert (host.root / "ran").exists()


def test_blocked_log_delays_no_limit(host: Host, mark: str) -> None:
    """A log pipe that nobody reads does not delay a timeout, nor being told to stop (#24)."""
    with full_pipe() as (_, write):
        begun = time.monotonic()
        words = ["--timeout", "300ms", "--kill-after", "0", "--", "sleep", mark]
        assert host.run(*words, stdout=write).code == 124
        assert time.monotonic() - begun < PROMPT
        code = f"touch began; exec sleep {mark}"
        process = host.start("--output", "json", "--", "sh", "-c", code, stdout=write)
        eventually((host.root / "began").exists)
        process.terminate()
        assert process.wait(PROMPT) == -signal.SIGTERM
        finish(process)
    no_survivors(mark)


def test_blocked_log_loses_only_what_does_not_fit(host: Host) -> None:
    """Lines wait for a slow reader in 1 MiB of memory; what is dropped is counted (#24)."""
    ended = Listener(host.root / "signals")
    code = "for n in range(12000): print('%08d' % n + 'x' * 92)"
    command = f'{sys.executable} -I -S -c "{code}"; exec "$@"'
    with full_pipe() as (read, write):
        filling = unread(read)
        words = ["--output", "json", "--", "sh", "-c", command, "sh", *ended.words("USR1=0")]
        process = host.start(*words, stdout=write)
        eventually(ended.log.exists, 40, "the end of COMMAND's output")
        ended.pid()
        assert peak(process.pid) < 60 << 20
        os.close(write)
        with open(read, "rb", closefd=False) as file:
            file.read(filling)
            process.send_signal(signal.SIGUSR1)
            lines = [json.loads(line) for line in file]
        assert finish(process).code == 0
    dropped = [line for line in lines if line["event"] == "log_dropped"]
    written = [line for line in lines if line["event"] == "output"]
    assert sum(line["count"] for line in dropped) + len(lines) - len(dropped) >= 12000 + 3
    assert 0 < len(written) < 12000
    assert lines[-1]["event"] == "run_finished"


def test_shared_pipe_stays_blocking(host: Host) -> None:
    """guardrun never makes a pipe non-blocking that COMMAND writes to as well (#24)."""
    code = (
        "import fcntl, os, sys; print([bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK)"
        " for fd in (0, 1, 2)], flush=True)"
    )
    read, write = os.pipe()
    result = host.run("--output", "inherit", *python(code), stdin=read)
    os.close(read)
    os.close(write)
    assert b"[False, False, False]\n" in result.stdout


# ---------------------------------------------------------------- where the log goes


def test_log_to_stderr_keeps_stdout_clean(host: Host) -> None:
    """With --log-to stderr COMMAND's stdout is data and nothing else."""
    result = host.run("--log-to", "stderr", "--", "echo", "data")
    assert result.stdout == b"data\n"
    assert Result(0, result.stderr, b"").finished["result"] == "success"


def test_log_to_a_descriptor(host: Host) -> None:
    """With --log-to fd:N the lines go to a descriptor that guardrun was given."""
    read, write = os.pipe()
    result = host.run("--log-to", f"fd:{write}", "--", "echo", "data", pass_fds=[write])
    os.close(write)
    with open(read, "rb") as file:
        lines = file.read()
    assert result.stdout == b"data\n"
    assert Result(0, lines, b"").finished["result"] == "success"


def test_log_to_a_file_appends(host: Host) -> None:
    """With --log-to PATH the lines of one run follow those of the last."""
    log = host.root / "log"
    for _ in range(2):
        assert host.run("--log-to", str(log), "--", "true").stdout == b""
    events = [json.loads(line)["event"] for line in log.read_bytes().splitlines()]
    assert events.count("run_finished") == 2


def test_quiet(host: Host) -> None:
    """-q: not a line when all went well, every line when it did not (cron mail)."""
    assert host.run("-q", "--", "true").stdout == b""
    result = host.run("-q", "--", "false")
    assert result.finished["result"] == "failed"
    assert result.lines[0]["event"] == "run_started"


def test_lines_of_a_run(host: Host) -> None:
    """Each line has a time in UTC to the microsecond, level, event, job_id and job."""
    result = host.run("--job", "name", "--lock", "l", "--key", "k", "--", "true")
    assert [line["event"] for line in result.lines] == [
        "run_started",
        "lock_acquired",
        "attempt_started",
        "attempt_finished",
        "run_finished",
    ]
    for line in result.lines:
        assert list(line)[:5] == ["timestamp", "level", "event", "job_id", "job"]
        assert len(line["timestamp"]) == len("2026-11-24T08:00:00.000000Z")
        assert line["timestamp"].endswith("Z")
        assert line["job"] == "name"
    assert [line["timestamp"] for line in result.lines] == sorted(
        line["timestamp"] for line in result.lines
    )


def test_each_line_is_one_write(host: Host, tmp_path: Path) -> None:
    """Every log line is written with one write(2): a packet socket keeps writes apart."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        script = write_script(tmp_path / "long", "#!/bin/sh\nhead -c 9000 /dev/zero | tr '\\0' x\n")
        process = host.start("--output", "json", "--", str(script), stdout=theirs)
        theirs.close()
        ours.settimeout(30)
        packets = list(iter(lambda: ours.recv(1 << 16), b""))
        assert finish(process).code == 0
    assert all(packet.count(b"\n") == 1 and packet.endswith(b"\n") for packet in packets)
    assert json.loads(packets[-1])["event"] == "run_finished"


@pytest.mark.parametrize("limit", ["--timeout", "--deadline"])
def test_last_words_are_heard(host: Host, limit: str) -> None:
    """What COMMAND writes when it is told that its time is up is logged to the end."""
    code = "trap 'seq 5000; exit' TERM; while :; do sleep 0.01; done"
    result = host.run(limit, "500ms", "--output", "json", "--", "sh", "-c", code)
    assert result.code == 124
    lines = [line["line"] for line in result.lines if line.get("stream") == "stdout"]
    assert lines == [str(number) for number in range(1, 5001)]
