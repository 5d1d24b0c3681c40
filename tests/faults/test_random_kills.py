"""kill -9 at random moments: guardrun's processes and COMMAND, alone and in pairs.

GUARDRUN_TEST_ROUNDS is the number of rounds, GUARDRUN_TEST_SEED repeats the kills of a failure.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import Host, alive, kill, no_survivors, write_script

ROUNDS = int(os.environ.get("GUARDRUN_TEST_ROUNDS", "40"))
SEED = int(os.environ.get("GUARDRUN_TEST_SEED") or random.SystemRandom().getrandbits(32))

VICTIMS = (
    *(("supervisor",), ("warden",), ("backstop",), ("command",)),
    *(("supervisor", "warden"), ("supervisor", "backstop"), ("warden", "backstop")),
    *(("supervisor", "command"), ("warden", "command"), ("backstop", "command")),
)

COMMAND = """\
import fcntl, os, signal, sys, time
journal, held, mark, *hidden = sys.argv[1:]
out = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def say(what):
    os.write(out, f"{what} {os.environ['GUARDRUN_JOB_ID']}\\n".encode())

# Held by all that this COMMAND starts: the kernel knows when two are alive together.
tree = os.open(held, os.O_RDWR | os.O_CREAT, 0o600)
try:
    fcntl.flock(tree, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    say("overlap")
say("start")
os.set_inheritable(tree, True)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
grandchild = os.posix_spawn(hidden[0], hidden, os.environ)
time.sleep(float(os.environ["WORK"]))
code = int(os.environ["CODE"])
if code == 0:
    say("success")
os.kill(grandchild, signal.SIGKILL)
os.waitpid(grandchild, 0)
sys.exit(code)
"""


@dataclass
class Contender:
    """One guardrun of a round, and what was killed of it."""

    process: subprocess.Popen[bytes]
    killed: set[str] = field(default_factory=set)

    def pids(self) -> dict[str, int]:
        """The processes it has at the moment; those that are not there yet are left out."""
        found = {"supervisor": self.process.pid}
        for name, parent in zip(
            ("backstop", "warden", "command"), ("supervisor", "backstop", "warden"), strict=True
        ):
            children = children_of(found[parent])
            if len(children) != 1:
                break
            found[name] = children[0]
        return found


def children_of(pid: int) -> list[int]:
    """The children of a process; none when it is gone."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for word in listed.split()]


def kill_members(contender: Contender, members: tuple[str, ...], mark: str) -> None:
    """Kill these of a guardrun's processes, as close to at once as can be."""
    pids = contender.pids()
    if not set(members) <= pids.keys() or contender.process.poll() is not None:
        return
    handles = []
    try:
        for member in members:
            handles.append((member, os.pidfd_open(pids[member])))
        # Each is a guardrun of this test, or what it started: the pids are not others' by now.
        if set(members) <= {name for name, pid in contender.pids().items() if pid in alive(mark)}:
            for member, handle in handles:
                contender.killed.add(member)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        for _, handle in handles:
            os.close(handle)


@dataclass(frozen=True)
class Arena:
    """What all rounds share."""

    host: Host
    mark: str
    command: Path
    journal: Path

    @classmethod
    def on(cls, host: Host, mark: str) -> Arena:
        """With the COMMAND written there."""
        command = write_script(host.root / "command", f"#!{sys.executable} -IS\n{COMMAND}")
        return cls(host, mark, command, host.root / "journal")

    def words(self, key: str) -> list[str]:
        """A guardrun command line."""
        hidden = ["/usr/bin/env", "-i", "setsid", "sleep", self.mark]
        held = str(self.host.root / "held")
        return [
            *("--log-to", "none", "--lock", "l", "--key", key, "--wait", "30s"),
            *("--retries", "1", "--backoff", "1ms..5ms", "--kill-after", "50ms"),
            *("--", str(self.command), str(self.journal), held, self.mark, *hidden),
        ]

    def start(self, key: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a guardrun for this key."""
        null = subprocess.DEVNULL
        return self.host.start(*self.words(key), env=env, stdout=null, stderr=null)

    def told(self) -> list[tuple[str, str]]:
        """What COMMAND has written down: (what, job_id), in order."""
        if not self.journal.exists():
            return []
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        return [(what, job_id) for what, job_id in lines]

    def rows(self, key: str) -> dict[str, dict[str, Any]]:
        """The ledger's rows of one key, by job_id."""
        return {row["job_id"]: row for row in self.host.rows() if row["key"] == key}


@pytest.fixture
def arena(host: Host, mark: str) -> Arena:
    """A COMMAND with a grandchild that hides, and a place to write down what it did."""
    return Arena.on(host, mark)


def test_random_kills(arena: Arena) -> None:
    """Whatever is killed, and when: no overlap, no second success, no survivor, no false row."""
    for number in range(ROUNDS):
        try:
            one_round(arena, f"key-{number}", random.Random(f"{SEED}-{number}"))
        except BaseException as error:
            error.add_note(f"round {number} of GUARDRUN_TEST_SEED={SEED}")
            raise


def one_round(arena: Arena, key: str, rng: random.Random) -> list[Contender]:
    """Start runs of one key, kill some of their processes, and check what is left and told."""
    before = len(arena.told())
    contenders = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        env = {"WORK": str(rng.uniform(0, 0.15)), "CODE": rng.choice("0001")}
        contenders.append(Contender(arena.start(key, env)))
    begun = time.monotonic()
    for moment in sorted(rng.uniform(0, 0.5) for _ in range(rng.choice((1, 1, 2, 3)))):
        victim, members = rng.choice(contenders), rng.choice(VICTIMS)
        time.sleep(max(0.0, begun + moment - time.monotonic()))  # a moment, not a condition
        kill_members(victim, members, arena.mark)
    codes = [contender.process.wait(40) for contender in contenders]
    no_survivors(arena.mark)
    last = arena.host.run(*arena.words(key), env={"WORK": "0", "CODE": "0"})
    assert last.code == 0, last
    no_survivors(arena.mark)

    told, rows = arena.told()[before:], arena.rows(key)
    started = [job_id for what, job_id in told if what == "start"]
    finished = [job_id for what, job_id in told if what == "success"]
    recorded = [job_id for job_id, row in rows.items() if row["result"] == "success"]
    assert "overlap" not in {what for what, _ in told}, told
    assert len(recorded) == 1, rows
    assert set(recorded) <= set(finished), (told, rows)
    # An attempt may be killed between these words and its end: then the same run tries again.
    last_success = max(at for at, line in enumerate(told) if line == ("success", recorded[0]))
    after = told[last_success + 1 :]
    assert "start" not in {what for what, _ in after}, "it was run again after its success"
    assert set(started) <= rows.keys(), "it was run before it was claimed"
    assert "running" not in {row["result"] for row in rows.values()}
    by_pid = {row["pid"]: row for row in rows.values()}
    for contender, code in zip(contenders, codes, strict=True):
        check_row(contender, code, by_pid.get(contender.process.pid), finished)
    states = arena.host.rows(f"SELECT state FROM keys WHERE key = '{key}'")
    assert [row["state"] for row in states] == ["succeeded"]
    return contenders


def check_row(
    contender: Contender, code: int, row: dict[str, Any] | None, finished: list[str]
) -> None:
    """Check that a run's row tells what came of it."""
    if "supervisor" in contender.killed:  # before, in or after it: all are true then
        return
    assert row is not None
    assert row["exit_code"] == (code if code >= 0 else 128 - code), (code, row)
    if row["result"] == "interrupted":  # without a backstop there may never have been a warden
        assert contender.killed & {"warden", "backstop"}, row
    if not contender.killed:
        expected = {0: ("success", "skipped_duplicate"), 1: ("failed",)}
        assert row["result"] in expected[code], row
    if row["job_id"] in finished:
        assert row["result"] == "success" or contender.killed, row


def test_killed_together(arena: Arena) -> None:
    """Ten runs of one key whose guardruns are all killed at once: the next one runs it, alone."""
    rng = random.Random(SEED)
    env = {"WORK": "30", "CODE": "0"}
    processes = [arena.start("k", env) for _ in range(10)]
    deadline = time.monotonic() + 20
    while not arena.told() and time.monotonic() < deadline:
        time.sleep(0.01)
    rng.shuffle(processes)
    for process in processes:
        kill(process.pid)
    for process in processes:
        assert process.wait(10) == -signal.SIGKILL
    no_survivors(arena.mark)
    assert arena.host.run(*arena.words("k"), env={"WORK": "0", "CODE": "0"}).code == 0
    told = arena.told()
    assert "overlap" not in {what for what, _ in told}, f"GUARDRUN_TEST_SEED={SEED}: {told}"
    assert [what for what, _ in told].count("success") == 1
    results = [row["result"] for row in arena.rows("k").values()]
    assert results.count("success") == 1
    assert "running" not in results
