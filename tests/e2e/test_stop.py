"""The end of COMMAND's whole tree: by a limit, by kill -9 of any of guardrun's processes, or not.

Numbers in docstrings are those of the list of behaviours of a process supervisor.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from support import (
    GUARDRUN,
    Host,
    Listener,
    alive,
    busy_ledger,
    eventually,
    family,
    finish,
    kill,
    no_survivors,
    sleepers,
    status,
    stopped,
    stubborn_tree,
    waits,
    write_script,
)

AT_ONCE = 5.0
"""s in which a tree must be gone that is ended at once; it takes milliseconds"""
MEMBERS = ("supervisor", "backstop", "warden")
PAIRS = (("supervisor", "warden"), ("supervisor", "backstop"), ("warden", "backstop"))


@pytest.fixture
def tree(host: Host, mark: str) -> Path:
    """A COMMAND of four processes that do what they can to stay."""
    return stubborn_tree(host.root / "tree", mark)


# ---------------------------------------------------------------- limits


def test_timeout(host: Host, mark: str) -> None:
    """A COMMAND that takes longer than --timeout is ended, guardrun exits with 124 (#16)."""
    begun = time.monotonic()
    result = host.run("--timeout", "200ms", "--", "sleep", mark)
    assert time.monotonic() - begun >= 0.2
    assert result.code == 124
    assert result.finished["result"] == "timeout"
    assert result.event("attempt_finished")["result"] == "timeout"
    assert alive(mark) == []
    assert [(row["result"], row["exit_code"]) for row in host.rows()] == [("timeout", 124)]


def test_timeout_by_force(host: Host, tree: Path, mark: str) -> None:
    """124 also where SIGKILL was needed; no session, no lost parent saves a process (#16, #18)."""
    begun = time.monotonic()
    result = host.run("--timeout", "300ms", "--kill-after", "300ms", "--", str(tree))
    assert time.monotonic() - begun >= 0.6
    assert (result.code, result.finished["result"]) == (124, "timeout")
    assert alive(mark) == []


def test_timeout_lets_command_tidy_up(host: Host) -> None:
    """TERM comes first, then there is time to tidy up; COMMAND's code is not the run's (#16)."""
    code = "trap 'echo tidied >done; exit 0' TERM; while :; do sleep 0.01; done"
    result = host.run("--timeout", "200ms", "--kill-after", "1h", "--", "sh", "-c", code)
    assert (result.code, result.finished["result"]) == (124, "timeout")
    assert (host.root / "done").read_text() == "tidied\n"


@pytest.mark.parametrize("name", ["INT", "USR1", "HUP"])
def test_signal_that_asks_to_stop(host: Host, name: str) -> None:
    """--signal names what COMMAND is sent first, and it is sent once (#16)."""
    listener = Listener(host.root / "signals")
    words = ["--timeout", "500ms", "--signal", name, "--kill-after", "1h"]
    result = host.run(*words, "--", *listener.words(f"{name}=0"))
    assert result.code == 124
    assert listener.heard(name) == [name]


def test_kill_after_zero(host: Host, tree: Path, mark: str) -> None:
    """With --kill-after 0 nobody is asked."""
    result = host.run("--timeout", "300ms", "--kill-after", "0", "--", str(tree))
    assert result.code == 124
    assert alive(mark) == []


def test_timeout_of_a_stopped_command(host: Host) -> None:
    """A COMMAND that has stopped itself is continued, so that it hears TERM (#16)."""
    code = "trap 'echo heard >done; exit 0' TERM; kill -STOP $$; while :; do sleep 0.01; done"
    result = host.run("--timeout", "300ms", "--kill-after", "1h", "--", "sh", "-c", code)
    assert result.code == 124
    assert (host.root / "done").read_text() == "heard\n"


def test_timeout_ends_the_group(host: Host, mark: str) -> None:
    """What COMMAND runs in the background ends with it (#17)."""
    code = f"sleep {mark} & sleep {mark}"
    assert host.run("--timeout", "300ms", "--", "sh", "-c", code).code == 124
    assert alive(mark) == []


def test_timeout_asks_every_descendant(host: Host) -> None:
    """A grandchild in a session of its own gets TERM too, and time to tidy up (#17, #18)."""
    grandchild = Listener(host.root / "signals")
    own = host.root / "own"
    code = "setsid \"$@\" >/dev/null 2>&1 & echo $! >own; trap 'exit 0' TERM; wait"
    result = host.run(
        *("--timeout", "1s", "--kill-after", "1h", "--"),
        *("sh", "-c", code, "sh", *grandchild.words("TERM=0")),
    )
    assert own.exists()
    assert result.code == 124
    assert "TERM" in grandchild.heard("TERM")


RUNNER = """
import fcntl, os, sys, time
held = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(held, fcntl.LOCK_EX)
for _ in range(4):
    if not os.fork(): break
else: time.sleep(60)
os.setsid()
end = time.monotonic() + 30
for generation in range(1 << 30):
    if generation == 20: os.open(sys.argv[1] + ".running", os.O_CREAT)
    if time.monotonic() > end or os.fork(): os._exit(0)
"""
"""A COMMAND with daemons that fork and exit without end: new pids whenever one looks."""


def runner(host: Host) -> list[str]:
    """A COMMAND that is hard to catch; all of it holds a lock on the file ``held``."""
    return ["--", sys.executable, "-I", "-S", "-c", RUNNER, str(host.root / "held")]


def caught(host: Host) -> bool:
    """Whether nothing of the runner is alive: the kernel knows better than any list."""
    with (host.root / "held").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_timeout_catches_who_never_rests(host: Host) -> None:
    """A daemon that has a new pid all the time does not get away from a timeout (#18)."""
    result = host.run("--timeout", "500ms", "--kill-after", "100ms", *runner(host), timeout=20)
    assert result.code == 124
    assert caught(host)


@pytest.mark.parametrize(
    "members", [("supervisor",), ("warden",), ("supervisor", "warden")], ids="-".join
)
def test_killed_over_who_never_rests(host: Host, members: tuple[str, ...]) -> None:
    """Nor does it get away from the death of guardrun's own processes (#18, #30)."""
    process = host.start("--lock", "l", *runner(host))
    eventually((host.root / "held.running").exists)
    pids = family(process.pid)
    for member in members:
        os.kill(pids[member], signal.SIGKILL)
    assert finish(process, 20).code != 0
    eventually(lambda: caught(host), AT_ONCE, "the end of the runner")
    assert host.run("--lock", "l", "--", "true").code == 0


def test_runaway_recursion_is_ended(host: Host, mark: str) -> None:
    """A script that calls itself without end is ended however deep it has got (#17)."""
    script = write_script(
        host.root / "deep",
        "#!/bin/sh\n"
        'test "$1" -gt 0 || { echo >bottom; exec sleep "$2"; }\n'
        '"$0" $(($1 - 1)) "$2"\nexit 1\n',
    )
    process = host.start("--timeout", "20s", "--kill-after", "0", "--", str(script), "1200", mark)
    eventually((host.root / "bottom").exists, 20, "the bottom")
    process.terminate()
    assert finish(process, 20).code == -signal.SIGTERM
    assert alive(mark) == []


def test_deadline_of_a_running_command(host: Host, tree: Path, mark: str) -> None:
    """--deadline ends a running COMMAND, all of it, with 124."""
    result = host.run("--deadline", "500ms", "--kill-after", "200ms", "--", str(tree))
    assert (result.code, result.finished["result"]) == (124, "timeout")
    assert alive(mark) == []


def test_timeout_within_deadline(host: Host) -> None:
    """A timeout ends an attempt, the deadline the run, also where --retries would allow more."""
    begun = time.monotonic()
    result = host.run(
        *("--timeout", "100ms", "--deadline", "2s", "--retries", "1000", "--backoff", "1ms..1ms"),
        *("--", "sleep", "60"),
    )
    assert 0.1 <= time.monotonic() - begun < 2 + AT_ONCE
    assert (result.code, result.finished["result"]) == (124, "timeout")
    attempts = [line for line in result.lines if line["event"] == "attempt_finished"]
    assert len(attempts) >= 2
    assert attempts[0]["result"] == "retry"


@pytest.mark.parametrize("waiting_for", ["splay", "lock", "key"])
def test_deadline_while_waiting(host: Host, mark: str, waiting_for: str) -> None:
    """--deadline counts splay and waits too, and nothing is run after it."""
    holder = Listener(host.root / "holder")
    held = {
        "splay": [],
        "lock": ["--lock", "l"],
        "key": ["--key", "k", "--on-mismatch", "ignore"],
    }[waiting_for]
    process = host.start("--log-to", "none", *held, "--", *holder.words("TERM=0"))
    holder.pid()
    wait = ["--splay", "365d"] if waiting_for == "splay" else ["--wait", "forever"]
    begun = time.monotonic()
    result = host.run(*held, *wait, "--deadline", "500ms", "--", "sleep", mark)
    took = time.monotonic() - begun
    process.terminate()
    finish(process)
    assert 0.5 <= took < 0.5 + AT_ONCE
    assert (result.code, result.finished["result"]) == (124, "timeout")
    assert "attempt_started" not in [line["event"] for line in result.lines]
    assert alive(mark) == []


# ---------------------------------------------------------------- normal ends


@pytest.mark.parametrize("code", [0, 3])
def test_daemon_is_left_alone(host: Host, mark: str, code: int) -> None:
    """A normal end leaves alone what COMMAND left running, says so, and frees the lock (#19)."""
    tree = stubborn_tree(host.root / "tree", mark, last=f"exit {code}")
    result = host.run("--lock", "l", "--", str(tree))
    assert result.code == code
    assert result.event("orphans_left")["job_id"] == result.finished["job_id"]
    assert len(sleepers(mark, 3)) == 3
    assert host.run("--lock", "l", "--", "true").code == 0
    assert len(alive(mark)) == 3


def test_daemon_is_left_alone_without_a_backstop(host: Host, mark: str) -> None:
    """A normal end is one also for a warden that hears of it when guardrun is gone (#19)."""
    last = "while ! test -e go; do sleep 0.01; done"
    tree = stubborn_tree(host.root / "tree", mark, last=last)
    log = host.root / "log"
    process = host.start("--log-to", str(log), "--", str(tree))
    sleepers(mark, 3)
    pids = family(process.pid)
    os.kill(pids["backstop"], signal.SIGKILL)  # guardrun waits for nobody else
    with busy_ledger(host):
        (host.root / "go").touch()
        eventually(lambda: b"attempt_finished" in log.read_bytes())
        os.kill(pids["warden"], signal.SIGSTOP)
    assert process.wait(20) == 0
    kill(pids["warden"], signal.SIGCONT)
    eventually(lambda: status(pids["warden"]).get("State", "Z").startswith("Z"))
    assert len(alive(mark)) == 3


@pytest.mark.parametrize("name", ["KILL", "SEGV", "TERM"])
def test_death_by_signal_is_no_normal_end(host: Host, mark: str, name: str) -> None:
    """A COMMAND that a signal ended (the OOM killer's) leaves nothing running (#2, #18)."""
    tree = stubborn_tree(host.root / "tree", mark, last=f"trap - TERM; kill -{name} $$")
    result = host.run("--lock", "l", "--kill-after", "100ms", "--", str(tree))
    assert result.code == -signal.Signals[f"SIG{name}"]
    assert alive(mark) == []


def test_no_orphans_no_word(host: Host) -> None:
    """A COMMAND that leaves nothing running has no orphans_left in its log (#19)."""
    result = host.run("--", "sh", "-c", "true & wait")
    assert "orphans_left" not in [line["event"] for line in result.lines]


def test_lock_is_held_until_the_run_has_ended(host: Host) -> None:
    """The lock is never free before the run's end: it is busy as long as COMMAND runs."""
    listener = Listener(host.root / "signals")
    process = host.start("--lock", "l", "--", *listener.words("USR1=0"))
    listener.pid()
    assert host.run("--lock", "l", "--", "true").code == 75
    process.send_signal(signal.SIGUSR1)
    assert finish(process).code == 0
    assert host.run("--lock", "l", "--", "true").code == 0


@pytest.mark.parametrize("how", ["normal end", "timeout", "warden killed"])
def test_child_from_before_is_left_alone(host: Host, mark: str, how: str) -> None:
    """A child that a shell had when it became guardrun is none of guardrun's business."""
    words = [
        "--log-to",
        "none",
        "--kill-after",
        "0",
        "--timeout",
        "1s" if how == "timeout" else "1h",
    ]
    begun = host.root / "began"
    process = subprocess.Popen(
        [
            *("sh", "-c", f'sleep {mark} >/dev/null 2>&1 & exec "$@"', "sh"),
            *(*GUARDRUN, *words, "--", "sh", "-c", 'echo >began; exec "$@"', "sh"),
            *(["true"] if how == "normal end" else ["sleep", "60"]),
        ],
        cwd=host.root,
        env=host.environment(),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    (stranger,) = sleepers(mark, 1)
    eventually(begun.exists)
    if how == "warden killed":
        children = eventually(lambda: [pid for pid in children_of(process.pid) if pid != stranger])
        (warden,) = children_of(children[0])
        os.kill(warden, signal.SIGKILL)
    code = process.wait(15)
    assert {"normal end": 0, "timeout": 124}.get(how, code) == code
    assert alive(mark) == [stranger]


def children_of(pid: int) -> list[int]:
    """The children of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# ---------------------------------------------------------------- guardrun itself is killed


def contender(host: Host, mark: str) -> subprocess.Popen[bytes]:
    """A run that waits for the lock, and then writes down how many of the other are alive."""
    probe = write_script(
        host.root / "probe.py",
        f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
import support
print(len(support.alive({mark!r})))
""",
    )
    process = host.start("--log-to", "none", "--lock", "l", "--wait", "30s", "--", str(probe))
    eventually(lambda: queued(process.pid), what="a contender in the queue")
    return process


def queued(pid: int) -> bool:
    """Whether a process, or a child of it, waits for a flock(2) lock."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    pids = {fields[5] for fields in waiting if fields[1] == "->"}
    return bool(pids & {str(pid), *children})


def killed(host: Host, tree: Path, mark: str, members: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a run, and kill these of its processes as close to at once as can be."""
    process = host.start("--lock", "l", "--key", "k", "--", str(tree))
    sleepers(mark, 4)
    pids = family(process.pid)
    waiting = contender(host, mark)
    for member in members:
        kill(pids[member])  # it may be gone: the others are quick
    no_survivors(mark, AT_ONCE)
    result = finish(waiting, 10)
    assert (result.code, result.stdout) == (0, b"0\n"), "the next holder met survivors"
    return process


def interrupted_and_free(host: Host) -> None:
    """Check that the run counts as interrupted, and that its key may run again."""
    again = host.run("--key", "k", "--on-interrupted", "stop", "--", "true")
    assert again.code == 76
    again = host.run("--key", "k", "--on-mismatch", "ignore", "--", "true")
    assert again.code == 0
    rows = [row for row in host.rows() if row["key"] == "k"]
    assert rows[0]["result"] == "interrupted"
    assert "running" not in {row["result"] for row in host.rows()}


def test_supervisor_killed(host: Host, tree: Path, mark: str) -> None:
    """kill -9 of guardrun: the whole tree ends at once, then the lock is free (#30)."""
    process = killed(host, tree, mark, ["supervisor"])
    assert finish(process).code == -signal.SIGKILL
    interrupted_and_free(host)


def test_warden_killed(host: Host, tree: Path, mark: str) -> None:
    """kill -9 of the warden: guardrun ends the tree, and says that the run was cut off (#30)."""
    process = killed(host, tree, mark, ["warden"])
    result = finish(process)
    assert result.code != 0
    assert result.finished["result"] == "interrupted"
    interrupted_and_free(host)


def test_backstop_killed(host: Host) -> None:
    """kill -9 of the backstop costs nothing: COMMAND runs to its end (#30)."""
    listener = Listener(host.root / "signals")
    process = host.start("--key", "k", "--", *listener.words("USR1=5"))
    listener.pid()
    backstop = family(process.pid)["backstop"]
    os.kill(backstop, signal.SIGKILL)
    eventually(lambda: status(backstop).get("State", "Z").startswith("Z"))
    process.send_signal(signal.SIGUSR1)
    result = finish(process)
    assert (result.code, result.finished["result"]) == (5, "failed")


@pytest.mark.parametrize("later", MEMBERS[::2])
def test_backstop_killed_and_then_another(host: Host, tree: Path, mark: str, later: str) -> None:
    """Without a backstop the other two still guard each other (#30)."""
    process = host.start("--lock", "l", "--key", "k", "--", str(tree))
    sleepers(mark, 4)
    pids = family(process.pid)
    os.kill(pids["backstop"], signal.SIGKILL)
    eventually(lambda: status(pids["backstop"]).get("State", "Z").startswith("Z"))
    waiting = contender(host, mark)
    os.kill(pids[later], signal.SIGKILL)
    no_survivors(mark, AT_ONCE)
    assert finish(waiting, 10).stdout == b"0\n"
    assert finish(process).code != 0
    interrupted_and_free(host)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("order", [1, -1], ids=["", "reversed"])
def test_two_killed_at_once(
    host: Host, tree: Path, mark: str, pair: tuple[str, str], order: int
) -> None:
    """Whichever two of guardrun's processes are killed at once, the third ends the tree (#30)."""
    process = killed(host, tree, mark, pair[::order])
    assert finish(process).code != 0
    interrupted_and_free(host)


def test_process_group_killed(host: Host, tree: Path, mark: str) -> None:
    """kill -9 of guardrun's whole process group leaves nothing of COMMAND (#30)."""
    process = host.start("--lock", "l", "--key", "k", "--", str(tree))
    sleepers(mark, 4)
    waiting = contender(host, mark)
    os.killpg(process.pid, signal.SIGKILL)  # our child, and the leader of its own session
    no_survivors(mark, AT_ONCE)
    assert finish(waiting, 10).stdout == b"0\n"
    assert finish(process).code == -signal.SIGKILL
    interrupted_and_free(host)


@pytest.mark.parametrize("members", [("supervisor",), *PAIRS], ids="-".join)
def test_lock_is_not_commands_alone(host: Host, mark: str, members: tuple[str, ...]) -> None:
    """The lock outlives the death of guardrun also where COMMAND has closed every descriptor (#30).

    As sudo does, and every subprocess of Python. Whoever could end the tree at once is stopped.
    """
    code = (
        "import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "os.closerange(3, 1 << 16); os.execvp('sleep', ['sleep', sys.argv[1]])"
    )
    hidden = write_script(
        host.root / "hidden", f'#!/bin/sh\nexec {sys.executable} -I -S -c "{code}" {mark}\n'
    )
    process = host.start("--lock", "l", "--key", "k", "--", str(hidden))
    eventually(lambda: [pid for pid in alive(mark) if name_of(pid) == "sleep"])
    pids = family(process.pid)
    waiting = contender(host, mark)
    for member in set(MEMBERS) - set(members):
        os.kill(pids[member], signal.SIGSTOP)
        eventually(partial(stopped, pids[member]))
    for member in members:
        kill(pids[member])  # it may be gone: the others are quick
    for member in set(MEMBERS) - set(members) - {"warden"}:
        kill(pids[member], signal.SIGCONT)
    assert finish(waiting, 20).stdout == b"0\n"
    no_survivors(mark, AT_ONCE)
    assert finish(process, 15).code != 0
    interrupted_and_free(host)


def name_of(pid: int) -> str:
    """The name of a process; empty when it is gone."""
    return status(pid).get("Name", "")


def test_killed_while_stopping(host: Host, tree: Path, mark: str) -> None:
    """kill -9 of guardrun during the grace period ends the grace period."""
    process = host.start("--kill-after", "1h", "--", str(tree))
    sleepers(mark, 4)
    process.terminate()
    plain = write_script(host.root / "unrelated", "#!/bin/sh\nexit 0\n")
    assert host.run("--", str(plain)).code == 0  # other runs are none of its business
    assert len(alive(mark)) == 4
    process.kill()
    no_survivors(mark, AT_ONCE)
    assert finish(process).code == -signal.SIGKILL


@pytest.mark.parametrize("waiting_for", ["splay", "lock", "backoff"])
def test_killed_while_waiting(host: Host, mark: str, waiting_for: str) -> None:
    """kill -9 of a guardrun that waits leaves no helper behind, and no place in the queue."""
    holder = Listener(host.root / "holder")
    log = host.root / "log"
    if waiting_for == "lock":
        other = host.start("--log-to", "none", "--lock", "l", "--", *holder.words("TERM=0"))
        holder.pid()
    words = {
        "splay": ["--splay", "365d"],
        "lock": ["--lock", "l", "--wait", "forever"],
        "backoff": ["--retries", "1", "--backoff", "1h..1h", "--jitter", "equal"],
    }[waiting_for]
    process = host.start("--log-to", str(log), *words, "--", "sh", "-c", "exit 1", "sh", mark)
    if waiting_for == "lock":
        eventually(lambda: queued(process.pid), what="a guardrun in the queue")
    elif waiting_for == "backoff":
        eventually(lambda: log.exists() and b"retry_scheduled" in log.read_bytes())
    else:
        eventually(lambda: status(process.pid).get("SigBlk", "0").strip("0"))
    process.kill()
    no_survivors(mark, AT_ONCE)
    assert finish(process).code == -signal.SIGKILL
    if waiting_for == "lock":
        other.terminate()
        finish(other)
        assert host.run("--lock", "l", "--", "true").code == 0


# ---------------------------------------------------------------- guardrun itself is stopped


def test_warden_stopped_then_timeout(host: Host, tree: Path, mark: str) -> None:
    """A warden that somebody stopped does not save COMMAND from its timeout."""
    process = host.start("--timeout", "1s", "--kill-after", "200ms", "--", str(tree))
    sleepers(mark, 4)
    os.kill(family(process.pid)["warden"], signal.SIGSTOP)
    result = finish(process, 15)
    assert result.code == 124
    assert alive(mark) == []


def test_warden_stopped_then_told_to_stop(host: Host, tree: Path, mark: str) -> None:
    """A warden that somebody stopped does not keep guardrun from being told to stop."""
    process = host.start("--kill-after", "200ms", "--", str(tree))
    sleepers(mark, 4)
    os.kill(family(process.pid)["warden"], signal.SIGSTOP)
    process.terminate()
    assert finish(process, 15).code == -signal.SIGTERM
    assert alive(mark) == []


def test_supervisor_stopped_then_timeout(host: Host, tree: Path, mark: str) -> None:
    """A guardrun that somebody stopped does not save COMMAND from its timeout."""
    process = host.start("--timeout", "1s", "--kill-after", "200ms", "--", str(tree))
    sleepers(mark, 4)
    process.send_signal(signal.SIGSTOP)
    no_survivors(mark, 1.2 + AT_ONCE)
    process.send_signal(signal.SIGCONT)
    result = finish(process, 15)
    assert (result.code, result.finished["result"]) == (124, "timeout")


def test_supervisor_stopped_then_deadline(host: Host, tree: Path, mark: str) -> None:
    """A guardrun that somebody stopped does not save COMMAND from its deadline."""
    process = host.start("--deadline", "1s", "--kill-after", "200ms", "--", str(tree))
    sleepers(mark, 4)
    process.send_signal(signal.SIGSTOP)
    no_survivors(mark, 1.2 + AT_ONCE)
    process.send_signal(signal.SIGCONT)
    assert finish(process, 15).code == 124


@pytest.mark.parametrize("stopped_first", ["warden", "backstop"])
def test_key_is_held_although_command_has_closed_everything(
    host: Host, mark: str, stopped_first: str
) -> None:
    """A key stays held until the tree is dead, also when COMMAND drops its descriptors (#30)."""
    journal = host.root / "journal"
    script = write_script(
        host.root / "drops",
        "#!/bin/bash\n"
        'for fd in /proc/self/fd/*; do fd=${fd##*/}; ((fd > 2)) && eval "exec $fd>&-"; done\n'
        f'echo $$ >>"$1"; exec sleep {mark}\n',
    )
    words = ("--key", "x", "--wait", "30s", "--log-to", "none", "--", str(script))
    first = host.start(*words, str(journal))
    eventually(lambda: alive(mark), what="the first COMMAND")
    second = host.start(*words, str(journal))
    eventually(lambda: waits(second.pid), what="the second waits")
    own = family(first.pid)
    os.kill(own[stopped_first], signal.SIGSTOP)
    first.kill()
    pids = eventually(
        lambda: journal.read_text().split() if journal.read_text().count("\n") == 2 else [],
        what="the second COMMAND",
    )
    assert int(pids[0]) not in alive(mark), "both COMMANDs were alive"
    second.terminate()
    finish(second)
    no_survivors(mark)
    first.communicate()


@pytest.mark.parametrize(
    ("sleeper", "victim"),
    [
        *(("backstop", "supervisor"), ("warden", "supervisor"), ("supervisor", "supervisor")),
        *(("supervisor", "warden"), ("backstop", "warden"), ("warden", "warden")),
    ],
)
def test_one_stopped_one_killed(
    host: Host, tree: Path, mark: str, sleeper: str, victim: str
) -> None:
    """One of guardrun's processes stopped, it or another killed: the tree ends (#30)."""
    process = host.start("--lock", "l", "--key", "k", "--", str(tree))
    sleepers(mark, 4)
    pids = family(process.pid)
    os.kill(pids[sleeper], signal.SIGSTOP)
    eventually(lambda: stopped(pids[sleeper]))
    kill(pids[victim])
    no_survivors(mark, AT_ONCE)
    if sleeper != victim:
        kill(pids[sleeper], signal.SIGCONT)
    assert finish(process, 15).code != 0
    interrupted_and_free(host)


@pytest.mark.parametrize("sleeper", MEMBERS)
def test_one_stopped_two_killed(host: Host, tree: Path, mark: str, sleeper: str) -> None:
    """Two killed while the third is stopped: the lock is taken until the tree has ended (#30)."""
    process = host.start("--lock", "l", "--key", "k", "--", str(tree))
    sleepers(mark, 4)
    pids = family(process.pid)
    waiting = contender(host, mark)
    os.kill(pids[sleeper], signal.SIGSTOP)
    eventually(lambda: stopped(pids[sleeper]))
    for victim in MEMBERS:
        if victim != sleeper:
            kill(pids[victim])
    kill(pids[sleeper], signal.SIGCONT)
    no_survivors(mark, AT_ONCE)
    assert finish(waiting, 10).stdout == b"0\n"
    assert finish(process, 15).code != 0
    interrupted_and_free(host)
