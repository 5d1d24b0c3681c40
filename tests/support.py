"""What the tests share: a private host, a way to wait for a condition, a way to find survivors."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

GUARDRUN = (sys.executable, "-m", "guardrun")
GENTLY = ("taskset", "-c", str(max(os.sched_getaffinity(0))), *GUARDRUN)
"""A hundred at once must not starve the tests beside them: they get one processor.

Not nice(1): where the kernel groups by session, it counts within the session only, and each of
these has one or two of its own.
"""

_JOB = """#!/bin/sh
# Says that it runs, and then does what $ACT says.
echo "$GUARDRUN_JOB_ID" >>"${0%/*}/ran"
eval "$ACT"
"""


def eventually(condition: Callable[[], T | None], within: float = 10.0, what: str = "") -> T:
    """Wait until ``condition`` is true, and return what it said; fail after ``within`` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what or condition}")
        time.sleep(0.002)


def need(program: str) -> None:
    """Skip a test without this program, or file, but fail it in CI, which installs them all."""
    if shutil.which(program) is None and not os.path.isfile(program):
        assert not os.environ.get("CI"), f"{program} is not installed"
        pytest.skip(f"{program} is not installed")


@dataclass(frozen=True)
class Result:
    """How one guardrun ended."""

    code: int
    """as of subprocess: negative is death by signal"""
    stdout: bytes
    stderr: bytes

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log lines among the lines of stdout."""
        return log_lines(self.stdout)

    @property
    def events(self) -> list[str]:
        """What the log lines are about, in their order."""
        return [line["event"] for line in self.lines]

    def event(self, name: str) -> dict[str, Any]:
        """The one log line with this event."""
        found = [line for line in self.lines if line["event"] == name]
        assert len(found) == 1, (name, self)
        return found[0]

    @property
    def finished(self) -> dict[str, Any]:
        """The last line of the run."""
        last = self.lines[-1]
        assert last["event"] == "run_finished", self
        return last


@dataclass(frozen=True)
class Host:
    """One host: a state directory, a lock directory, and nothing else that could be shared."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment that a guardrun on this host gets."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("GUARDRUN_")
        }
        return {
            **kept,
            "GUARDRUN_STATE_DIR": str(self.state),
            "GUARDRUN_LOCK_DIR": str(self.locks),
            "XDG_CONFIG_HOME": str(self.root / "config"),
            **self.env,
            **(extra or {}),
        }

    @property
    def job(self) -> str:
        """A COMMAND that is always the same line: it notes its run, then does what $ACT says."""
        path = self.root / "job"
        if not path.exists():
            write_script(path, _JOB)
        return str(path)

    def executions(self) -> list[str]:
        """The job_ids of the runs that executed ``job``, in the order in which they did."""
        path = self.root / "ran"
        return path.read_text().split() if path.exists() else []

    def hold(
        self, *words: str, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start guardrun with these options and ``job``, and return when that is being executed.

        It ends when its stdin does: ``finish`` lets it go.
        """
        before = len(self.executions())
        process = self.start(
            *words,
            "--",
            self.job,
            env={"ACT": "exec cat", **(env or {})},
            stdin=subprocess.PIPE,
            **options,
        )
        eventually(
            lambda: len(self.executions()) > before or process.poll() is not None,
            30,
            "job executed",
        )
        if process.poll() is not None:
            raise AssertionError(finish(process))
        return process

    def start(
        self,
        *words: str | bytes,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = GUARDRUN,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start guardrun with these words, in a session of its own: without a terminal."""
        options.setdefault("start_new_session", True)
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        options.setdefault("cwd", self.root)
        process = subprocess.Popen([*program, *words], env=self.environment(env), **options)
        self.started.append(process)
        return process

    def close(self) -> None:
        """End what a failed test left: only what was started here, and its pipes."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
            close_pipes(process)

    def run(
        self,
        *words: str | bytes,
        env: Mapping[str, str] | None = None,
        data: bytes | None = None,
        timeout: float = 60.0,
        **options: Any,
    ) -> Result:
        """Run guardrun with these words to its end."""
        if data is not None:
            options["stdin"] = subprocess.PIPE
        return finish(self.start(*words, env=env, **options), timeout, data)

    def rows(
        self, query: str = "SELECT * FROM runs ORDER BY started_at, job_id"
    ) -> list[dict[str, Any]]:
        """Rows of the SQLite ledger, read without touching it."""
        path = self.state / "ledger.sqlite3"
        if not path.exists():
            return []
        connection = sqlite3.connect(path, timeout=10)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(query)]
        finally:
            connection.close()


def finish(
    process: subprocess.Popen[bytes], timeout: float = 60.0, data: bytes | None = None
) -> Result:
    """Wait for a guardrun and collect what it wrote."""
    try:
        stdout, stderr = process.communicate(data, timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        close_pipes(process)  # not read to their end: a survivor may have them
        raise
    return Result(process.returncode, stdout or b"", stderr or b"")


def log_lines(data: bytes) -> list[dict[str, Any]]:
    """The log lines among these lines."""
    return [json.loads(line) for line in data.splitlines() if line.startswith(b"{")]


def queued(path: Path) -> int:
    """How many processes the kernel keeps waiting for a flock(2) on this file, or on one in it."""
    paths = [path, *path.iterdir()] if path.is_dir() else [path]
    inodes = {str(one.stat().st_ino) for one in paths}
    fields = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sum(
        one[1:3] == ["->", "FLOCK"] and one[6].rpartition(":")[2] in inodes for one in fields
    )


def close_pipes(process: subprocess.Popen[bytes]) -> None:
    """Close our ends of a process's pipes."""
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def marker() -> str:
    """A number of seconds to sleep that no other process has: it finds the sleeper again."""
    return f"987654.{secrets.randbits(50)}"


def alive(mark: str) -> list[int]:
    """Pids of processes that have ``mark`` in their command line, whatever they did to hide."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            state = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if state != b"Z" and any(mark.encode() == word for word in words):
            found.append(int(name))
    return found


def no_survivors(mark: str, within: float = 5.0) -> None:
    """Fail unless every process with ``mark`` as a word of its own is gone in time."""
    eventually(lambda: not alive(mark), within, f"survivors with {mark}")


def family(pid: int) -> dict[str, int]:
    """Pids of a running guardrun's own processes: supervisor, backstop, warden, keeper if any."""

    def children(of: int) -> list[int]:
        return [int(one) for one in Path(f"/proc/{of}/task/{of}/children").read_text().split()]

    def complete() -> dict[str, int] | None:
        found = {"supervisor": pid}
        try:
            for child in children(pid):
                if os.getsid(child) == child:  # in a session of its own, or on the way there
                    found["keeper"] = child
                for grandchild in children(child):
                    found |= {"backstop": child, "warden": grandchild}
        except (FileNotFoundError, ProcessLookupError):
            return None
        return found if "warden" in found else None

    return eventually(complete, what="backstop and warden")


def kill(pid: int, signum: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone already."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


@contextlib.contextmanager
def busy_ledger(host: Host) -> Iterator[None]:
    """The ledger as it is while somebody else writes to it for a long time."""
    if not host.rows():
        assert host.run("--log-to", "none", "--", "true").code == 0
    with contextlib.closing(
        sqlite3.connect(host.state / "ledger.sqlite3", timeout=10)
    ) as connection:
        connection.isolation_level = None
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def status(pid: int) -> dict[str, str]:
    """What /proc says of a process, by name; empty when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def has_signal(mask: str, signum: int) -> bool:
    """Whether a signal is in a mask of /proc/PID/status, such as SigBlk or SigIgn."""
    return bool(int(mask, 16) >> (signum - 1) & 1)


def stopped(pid: int) -> bool:
    """Whether a process is stopped, as by SIGSTOP."""
    return status(pid).get("State", "").startswith("T")


def takes_signals(pid: int) -> bool:
    """Whether a guardrun has got so far that it reads its signals itself."""
    return has_signal(status(pid).get("SigBlk", "0"), signal.SIGTERM)


def waits(pid: int) -> bool:
    """Whether a guardrun reads its signals itself, and has come to rest."""

    def asleep() -> tuple[str, ...] | None:
        now = status(pid)
        if not now.get("State", "").startswith("S"):
            return None
        return now["voluntary_ctxt_switches"], now["nonvoluntary_ctxt_switches"]

    before = asleep()
    if before is None or not takes_signals(pid):
        return False
    time.sleep(0.03)  # rest is that nothing happens for a while
    return asleep() == before


_LISTENER = r"""
import os, signal, sys
every = signal.valid_signals() - {signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
signal.pthread_sigmask(signal.SIG_BLOCK, every)
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
ends = dict(word.split("=") for word in sys.argv[2:] if "=" in word)
os.write(log, f"{os.getpid()}\n".encode())
while True:
    name = signal.Signals(signal.sigwait(every)).name.removeprefix("SIG")
    os.write(log, f"{name}\n".encode())
    if name in ends:
        sys.exit(int(ends[name]))
"""


@dataclass(frozen=True)
class Listener:
    """A COMMAND that writes down every signal it gets."""

    log: Path

    def words(self, *ends: str, mark: str = "") -> list[str]:
        """Its command line; ``TERM=3`` among ``ends``: it exits with 3 after SIGTERM."""
        return [sys.executable, "-I", "-S", "-c", _LISTENER, str(self.log), *ends, mark]

    def _lines(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def pid(self) -> int:
        """Its pid, once it listens."""
        return int(eventually(self._lines, what="a COMMAND that listens")[0])

    def heard(self, *until: str) -> list[str]:
        """The signals it got, in order, once all of ``until`` are among them."""
        self.pid()
        return eventually(
            lambda: self._lines()[1:] if set(until) <= set(self._lines()[1:]) else None,
            what=f"{until} among {self._lines()[1:]}",
        )

    def heard_at_last(self, guardrun: int, *fences: str) -> list[str]:
        """What it got beside ``fences``, once nothing is on its way to it any more.

        Pending signals arrive by their numbers, not by their age. So a fence goes through guardrun
        when the one before has arrived: what is older than both is there then.
        """
        for fence in fences:
            os.kill(guardrun, signal.Signals[f"SIG{fence}"])
            self.heard(fence)
        return [name for name in self.heard(*fences) if name not in (*fences, "CONT")]


def stubborn_tree(path: Path, mark: str, *, last: str = "exec sleep {mark}") -> Path:
    """Write a COMMAND that starts three sleepers which do what they can to outlive it.

    They ignore TERM; one has a session of its own and no environment, one has lost its parent
    as well, one is a plain child. Then it becomes a sleeper itself, or does what ``last`` says.
    """
    env, setsid, sleep = (shutil.which(name) for name in ("env", "setsid", "sleep"))
    return write_script(
        path,
        f"""#!/bin/sh
        trap '' TERM HUP INT QUIT
        {env} -i {setsid} {sleep} {mark} >/dev/null 2>&1 &
        ({setsid} {sleep} {mark} >/dev/null 2>&1 &)
        {sleep} {mark} >/dev/null 2>&1 &
        {last.format(mark=mark)}
        """,
    )


def sleepers(mark: str, number: int) -> list[int]:
    """Wait until so many processes with ``mark`` are alive; their pids."""
    return eventually(
        lambda: found if len(found := alive(mark)) == number else None,
        what=f"{number} processes with {mark}",
    )


def write_script(path: Path, text: str) -> Path:
    """Write an executable script."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def compile_library(place: Path, name: str, source: str) -> Path:
    """Make C source a library for LD_PRELOAD; needs cc."""
    code, library = place / f"{name}.c", place / f"{name}.so"
    code.write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, code], check=True)
    return library


def words(values: Sequence[object]) -> list[str]:
    """The values as words of a command line."""
    return [str(value) for value in values]
