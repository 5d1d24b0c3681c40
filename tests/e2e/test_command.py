"""COMMAND as guardrun starts it: exit code, words, standard streams, surroundings.

Numbers in docstrings are those of the list of behaviours of a process supervisor.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from support import GUARDRUN, Host, Listener, finish, has_signal, write_script

SHOW_WORDS = (
    "import os, sys; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])) + b'\\0')"
)
QUIET = ("--log-to", "none")
LOW = 10
"""Descriptors below this are a shell script's own."""


def python(code: str, *words: str | bytes) -> list[str | bytes]:
    """A COMMAND that runs a piece of Python."""
    return ["--", sys.executable, "-I", "-S", "-c", code, *words]


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize("code", [0, 1, 2, 64, 75, 124, 125, 126, 127, 128, 255])
def test_exit_code_passes_unchanged(host: Host, code: int) -> None:
    """guardrun exits with COMMAND's own code, whatever guardrun itself means by it (#1)."""
    result = host.run("--", "sh", "-c", f"exit {code}")
    assert result.code == code
    assert result.finished["exit_code"] == code
    assert result.finished["result"] == ("failed" if code else "success")
    (row,) = host.rows()
    assert (row["command_code"], row["exit_code"]) == (code, code)


def test_exit_code_that_counts_as_success(host: Host) -> None:
    """A code among --success-codes is a success, and still the code guardrun exits with."""
    result = host.run("--success-codes", "0,3-5", "--", "sh", "-c", "exit 4")
    assert result.code == 4
    assert result.finished["result"] == "success"
    assert [row["result"] for row in host.rows()] == ["success"]


@pytest.mark.parametrize("name", ["SEGV", "KILL", "TERM", "USR1", "ABRT", "PIPE"])
def test_death_by_signal_is_handed_up(host: Host, name: str) -> None:
    """A COMMAND that a signal ended makes guardrun end by the same signal (#2)."""
    result = host.run("--", "sh", "-c", f"kill -{name} $$")
    assert result.code == -signal.Signals[f"SIG{name}"]
    assert result.finished["signal"] == f"SIG{name}"
    assert result.finished["result"] == "failed"
    assert [row["exit_code"] for row in host.rows()] == [128 - result.code]


def test_death_by_signal_writes_no_second_core(host: Host) -> None:
    """COMMAND may dump core, guardrun that ends by the same signal does not (#2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = f"ulimit -c {hard if hard != resource.RLIM_INFINITY else 'unlimited'}"
    words = ["sh", "-c", f'{limit}; exec "$@"', "sh", *GUARDRUN, *QUIET, "--"]
    process = subprocess.Popen(
        [*words, "sh", "-c", "kill -SEGV $$"],
        cwd=host.root,
        env=host.environment(),
        start_new_session=True,
    )
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # it is reaped: nothing to wait for
    assert os.WTERMSIG(status) == signal.SIGSEGV
    assert not os.WCOREDUMP(status)
    assert len(list(host.root.glob("core*"))) <= 1


def test_as_pid_1_exits_128_plus_n(host: Host) -> None:
    """PID 1, which no signal can end, exits with 128 + N instead."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("unshare(1) may not make a PID namespace here")
    done = subprocess.run(
        [*unshare, *GUARDRUN, *QUIET, "--", "sh", "-c", "kill -TERM $$"],
        env=host.environment(),
        cwd=host.root,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM, done


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("./missing", 127),
        ("a-program-nobody-has", 127),
        ("./no-interpreter", 127),
        ("./plain.txt", 126),
        ("./directory", 126),
    ],
)
def test_command_that_cannot_be_executed(host: Host, command: str, code: int) -> None:
    """Not found is 127, found but not executable 126, and no retry follows (#3)."""
    (host.root / "directory").mkdir()
    (host.root / "plain.txt").write_text("true\n")
    write_script(host.root / "no-interpreter", "#!/missing/interpreter\n")
    result = host.run("--retries", "3", "--backoff", "1ms", "--", command)
    assert result.code == code
    assert result.finished["result"] == "failed"
    assert [line["event"] for line in result.lines].count("attempt_finished") == 1
    assert [row["exit_code"] for row in host.rows()] == [code]


def test_without_a_log_stderr_says_that_command_is_not_found(host: Host) -> None:
    """Where there is no log, somebody hears of it all the same, as from every such program."""
    result = host.run("--log-to", "none", "--", "a-program-nobody-has")
    said = b"guardrun: a-program-nobody-has: COMMAND is not found\n"
    assert (result.code, result.stdout, result.stderr) == (127, b"", said)
    result = host.run("--log-to", "none", "--", "sh", "-c", "exit 127")
    assert (result.code, result.stdout, result.stderr) == (127, b"", b"")


def test_only_command_itself_not_found_is_127(host: Host) -> None:
    """A COMMAND that exits with 127 itself ran, and is recorded as one that ran (#4)."""
    result = host.run("--", "sh", "-c", "exit 127")
    assert result.code == 127
    assert "exit code" in result.finished["reason"]


@pytest.mark.parametrize("word", ["./bare", "bare"])
def test_script_without_interpreter_line(host: Host, word: str) -> None:
    """An executable text without #! is run by /bin/sh, words and all (#5)."""
    write_script(host.root / "bare", 'echo "$1|$2"\nexit 3\n')
    path = f"{host.root}:{os.environ['PATH']}"
    result = host.run(*QUIET, "--", word, "a b", "*", env={"PATH": path})
    assert (result.code, result.stdout) == (3, b"a b|*\n")


# ---------------------------------------------------------------- its words


def test_words_are_exact(host: Host) -> None:
    """COMMAND's words arrive byte for byte, without a shell in between (#6)."""
    words = [
        *(b"a b", b"", b"new\nline", b"*", b"$HOME", b"--", b"-n", b"--lock", b"--wait=1", b"'"),
        *(b'"', b"\\", b"{item}", b"{{", b"\xff\xfe", "żółć".encode(), b"a;b&c|d", b"-"),
    ]
    result = host.run(*QUIET, *python(SHOW_WORDS), *words)
    assert result.code == 0
    assert result.stdout == b"\0".join(words) + b"\0"


def test_options_end_at_the_first_word(host: Host) -> None:
    """What follows COMMAND is COMMAND's, also without -- and also where it looks like ours (#6)."""
    result = host.run(*QUIET, "echo", "--retries", "3", "--", "-q")
    assert (result.code, result.stdout) == (0, b"--retries 3 -- -q\n")


@pytest.mark.parametrize("before", [("--",), ("--log-to", "none")])
def test_subcommand_name_as_command(host: Host, before: Sequence[str]) -> None:
    """A COMMAND called like a subcommand is COMMAND after an option, or after --."""
    write_script(host.root / "history", "#!/bin/sh\necho it is mine\n")
    result = host.run(*before, "history", env={"PATH": f"{host.root}:{os.environ['PATH']}"})
    assert result.code == 0
    assert b"it is mine\n" in result.stdout


def test_shell_string(host: Host) -> None:
    """-c runs one string by /bin/sh (#6)."""
    result = host.run(*QUIET, "-c", "for i in 1 2; do echo $i; done; exit 5")
    assert (result.code, result.stdout) == (5, b"1\n2\n")


def test_shell_string_takes_no_further_words(host: Host) -> None:
    """Words after -c STRING are a usage error, and nothing is run (#6)."""
    result = host.run("-c", "touch ran", "more")
    assert result.code == 64
    assert len(result.stderr.splitlines()) == 1
    assert not (host.root / "ran").exists()


def test_mistyped_option_is_never_command(host: Host) -> None:
    """An option we do not have is a usage error of one line, and nothing is run."""
    result = host.run("--retrys", "3", "--", "touch", "ran")
    assert result.code == 64
    assert len(result.stderr.splitlines()) == 1
    assert b"Traceback" not in result.stderr
    assert not (host.root / "ran").exists()


# ---------------------------------------------------------------- stdin and stdout


def test_streams_are_inherited_and_binary_safe(host: Host) -> None:
    """10 MB of random bytes go through COMMAND's stdin and stdout unharmed (#15)."""
    data = random.Random(15).randbytes(10_000_000)
    result = host.run(*QUIET, "--", "cat", data=data)
    assert result.code == 0
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()


def test_stderr_is_inherited(host: Host) -> None:
    """COMMAND's stderr is guardrun's own, and guardrun adds nothing to it."""
    result = host.run("--", "sh", "-c", "echo wrong >&2; exit 1")
    assert result.stderr == b"wrong\n"


def test_stdin_is_left_where_command_left_it(host: Host) -> None:
    """guardrun reads nothing of an inherited stdin: what COMMAND leaves is there for the next."""
    path = host.root / "in"
    path.write_bytes(b"one\ntwo\n")
    with path.open("rb") as file:
        result = host.run(*QUIET, "--", "sh", "-c", "read line; echo $line", stdin=file)
        assert result.stdout == b"one\n"
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) in (4, 8)  # how much sh reads is its own
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        assert host.run(*QUIET, "--", "true", stdin=file).code == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 0


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams(host: Host, closed: str) -> None:
    """A closed standard stream harms nobody: not the exit code, not the ledger, not a lock file."""
    command = "test -e /proc/self/fd/3 && exit 9; exit 7"
    words = [*GUARDRUN, "--key", "k", "--lock", "l", "--", "sh", "-c", command]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *words]
    done = subprocess.run(
        shell,
        env=host.environment(),
        cwd=host.root,
        capture_output=True,
        start_new_session=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 7
    assert [(row["result"], row["command_code"]) for row in host.rows()] == [("failed", 7)]
    assert host.rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]


def test_closed_streams_stay_closed_for_command(host: Host) -> None:
    """What was closed of 0, 1 and 2 is closed in COMMAND too, not some file of guardrun's."""
    code = """
import os, sys
found = []
for fd in (0, 1, 2):
    try:
        found.append(os.readlink(f"/proc/self/fd/{fd}"))
    except FileNotFoundError:
        pass
open(sys.argv[1], "w").write(repr(found))
"""
    words = [*GUARDRUN, "--lock", "l", *python(code, "found")]
    subprocess.run(
        ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *map(str, words)],
        env=host.environment(),
        cwd=host.root,
        start_new_session=True,
        timeout=60,
        check=True,
    )
    # sys.stdin and its like are absent then, and the probe itself opens nothing before it looks.
    assert (host.root / "found").read_text() == "[]"


def test_broken_pipe_ends_quietly(host: Host) -> None:
    """COMMAND finds SIGPIPE at its default: `guardrun -- yes | head -1` ends quietly (#25)."""
    process = host.start(*QUIET, "--", "yes", start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    process.stdout = None
    result = finish(process)
    assert result.code == -signal.SIGPIPE
    assert result.stderr == b""


# ---------------------------------------------------------------- what is around it

SHOW_SURROUNDINGS = """
import json, os, resource
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
fds = {}
for fd in os.listdir("/proc/self/fd"):
    try:
        fds[fd] = os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # that of listdir(3) itself
        pass
print(json.dumps({
    "umask": os.umask(0), "cwd": os.getcwd(), "nice": os.nice(0), "fds": fds,
    "limits": {
        name: resource.getrlimit(getattr(resource, name))
        for name in dir(resource) if name.startswith("RLIMIT_")
    },
    "affinity": sorted(os.sched_getaffinity(0)), "policy": os.sched_getscheduler(0),
    **{name: status[name].strip() for name in ("Groups", "Uid", "Gid", "CapEff", "NoNewPrivs")},
}))
"""


def test_surroundings_are_untouched(host: Host) -> None:
    """umask, cwd, limits, nice, descriptors: COMMAND finds what guardrun found (#27)."""
    before = ["nice", "-n", "3", "sh", "-c", 'ulimit -n 200; umask 027; cd /; exec "$@"', "sh"]
    probe = [sys.executable, "-I", "-S", "-c", SHOW_SURROUNDINGS]

    def seen(*between: str) -> dict[str, Any]:
        done = subprocess.run(
            [*before, *between, *probe],
            env=host.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=60,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        for name in ("1", "2"):  # a pipe of this very call
            del found["fds"][name]
        return found

    found = seen(*GUARDRUN, *QUIET, "--")
    found["fds"] = {fd: target for fd, target in found["fds"].items() if int(fd) < LOW}
    assert found == seen()


def test_environment_is_untouched(host: Host) -> None:
    """Only GUARDRUN_ variables are added to COMMAND's environment, and nothing is changed (#27)."""
    env = shutil.which("env") or "env"
    # No locale, as under cron: where CPython puts LC_CTYPE into its own environment.
    given = {
        "PATH": os.environ["PATH"].encode(),
        "GUARDRUN_STATE_DIR": os.fsencode(host.state),
        "GUARDRUN_LOCK_DIR": os.fsencode(host.locks),
        "NOT_UTF_8": b"\xff\xfe",
        "EMPTY": b"",
        "MULTILINE": b"a\nb=c\n",
        "with space": b"x",
        "INVOCATION_ID": b"0123",
        "CREDENTIALS_DIRECTORY": os.fsencode(host.root),
        "LISTEN_FDS": b"1",
        "NOTIFY_SOCKET": b"@nowhere",
        "PYTHONWARNINGS": b"error",
        "HOME": b"/nonexistent",
        "PWD": b"/elsewhere",
    }
    done = subprocess.run(
        [*GUARDRUN, *QUIET, "--", env, "-0"],
        env=given,
        cwd=host.root,
        capture_output=True,
        start_new_session=True,
        timeout=60,
        check=True,
    )
    entries = [entry.partition(b"=") for entry in done.stdout.split(b"\0") if entry]
    found = {name.decode(): value for name, _, value in entries}
    assert len(found) == len(entries)
    ours = found.keys() - given.keys()
    assert {name: found[name] for name in given} == given
    assert {name for name in ours if not name.startswith("GUARDRUN_")} == set()


def test_what_command_is_told(host: Host) -> None:
    """COMMAND's environment says which run, attempt, lock and claim it belongs to."""
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    log = host.root / "log"
    words = ["--log-to", str(log), "--job", "name", "--lock", "l-{job}", "--key", "k-{job}"]
    env = json.loads(host.run(*words, *python(code)).stdout)
    (row,) = host.rows()
    assert env["GUARDRUN_JOB_ID"] == row["job_id"]
    assert env["GUARDRUN_JOB"] == "name"
    assert env["GUARDRUN_ATTEMPT"] == "1"
    assert env["GUARDRUN_IDEMPOTENCY_KEY"] == "k-name"
    assert env["GUARDRUN_LOCK"] == "l-name"
    assert env["GUARDRUN_LOCK_OWNER"] == row["owner"]
    assert env["GUARDRUN_FENCING_TOKEN"] == str(row["fencing_token"])
    assert env["GUARDRUN_CLAIM_TOKEN"] == row["token"]
    assert env["GUARDRUN_JOB_PATH"].split() == [row["job_id"]]
    assert row["owner"].split(":")[2] == row["job_id"]


def test_nested_runs_know_their_path(host: Host) -> None:
    """GUARDRUN_JOB_PATH names every guardrun around COMMAND, the outermost first."""
    inner = [*GUARDRUN, *QUIET, "--job", "inner", "--", "sh", "-c", "echo $GUARDRUN_JOB_PATH"]
    result = host.run(*QUIET, "--job", "outer", "--", *inner)
    by_job = {row["job"]: row["job_id"] for row in host.rows()}
    assert result.stdout.decode().split() == [by_job["outer"], by_job["inner"]]


def test_descriptors_are_handed_down(host: Host) -> None:
    """A descriptor that guardrun was given, COMMAND has under the same number (#28)."""
    read, write = os.pipe()
    try:
        code = "import os, sys; os.write(int(sys.argv[1]), b'handed down')"
        command = python(code, str(write))
        result = host.run(*QUIET, "--lock", "l", *command, pass_fds=[write])
        assert result.code == 0
        assert os.read(read, 100) == b"handed down"
    finally:
        os.close(read)
        os.close(write)


def test_only_what_holds_lock_and_claim_is_added(host: Host) -> None:
    """Of guardrun's own descriptors COMMAND gets those that hold lock and claim, no other."""
    result = host.run(*QUIET, "--lock", "l", "--key", "k", *python(SHOW_SURROUNDINGS))
    added = {
        int(fd): where for fd, where in json.loads(result.stdout)["fds"].items() if int(fd) > 2
    }
    assert 1 <= len(added) <= 2
    for fd, where in added.items():
        assert fd >= LOW
        assert where.startswith((str(host.locks), str(host.state)))
        assert "sqlite" not in where


def test_notify_socket_works(host: Host) -> None:
    """systemd's NOTIFY_SOCKET reaches COMMAND, which can say READY=1 itself (#28)."""
    path = str(host.root / "notify")
    code = (
        "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
        "s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(10)
        assert host.run(*QUIET, *python(code), env={"NOTIFY_SOCKET": path}).code == 0
        assert manager.recv(100) == b"READY=1"


# ---------------------------------------------------------------- inherited signal dispositions


STARTED_WITH = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_SETMASK, [])
for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
    signal.signal(number, signal.SIG_DFL)
for word in sys.argv[1].split():
    action, name = word.split(":")
    if action == "ignore":
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name)])
os.execvp(sys.argv[2], sys.argv[2:])
"""
SHOW_SIGNALS = ["sh", "-c", "grep -E '^Sig(Blk|Ign)' /proc/self/status"]


def signals_of(host: Host, setup: str, *words: str) -> dict[str, int]:
    """SigBlk and SigIgn of what is started with these inherited dispositions."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", STARTED_WITH, setup, *words, *SHOW_SIGNALS],
        env=host.environment(),
        cwd=host.root,
        capture_output=True,
        check=True,
        timeout=60,
    )
    pairs = (line.split(":") for line in done.stdout.decode().splitlines())
    # 32 and 33 are glibc's own: posix_spawn(3) leaves them ignored.
    return {name: int(value, 16) & ~(3 << 31) for name, value in pairs}


@pytest.mark.parametrize(
    "setup",
    [
        "",
        "ignore:SIGHUP",
        "ignore:SIGINT ignore:SIGQUIT",
        "ignore:SIGTERM ignore:SIGUSR1 ignore:SIGCHLD",
        "block:SIGUSR1",
        "block:SIGTERM block:SIGCHLD",
    ],
)
def test_signal_dispositions_are_inherited(host: Host, setup: str) -> None:
    """Signals that guardrun found ignored or blocked are so in COMMAND, no others (#25, #26)."""
    expected = signals_of(host, setup)
    found = signals_of(host, setup, *GUARDRUN, *QUIET, "--")
    assert found == expected


def test_ignored_child_signal_loses_no_exit_code(host: Host) -> None:
    """SIGCHLD ignored by whoever started guardrun does not cost COMMAND's exit code (#26)."""
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-S", "-c", STARTED_WITH, "ignore:SIGCHLD"),
            *(*GUARDRUN, *QUIET, "--", "sh", "-c", "exit 5"),
        ],
        env=host.environment(),
        cwd=host.root,
        timeout=60,
        check=False,
    )
    assert done.returncode == 5


def test_nohup(host: Host) -> None:
    """Under nohup(1) a hang-up reaches neither guardrun nor COMMAND (#26)."""
    listener = Listener(host.root / "signals")
    process = subprocess.Popen(
        ["nohup", *GUARDRUN, *QUIET, "--", *listener.words("USR1=0")],
        env=host.environment(),
        cwd=host.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    listener.pid()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGUSR1)
    result = finish(process)
    assert result.code == 0
    assert listener.heard("USR1") == ["USR1"]
    assert [row["result"] for row in host.rows()] == ["success"]


def test_child_signal_is_not_blocked_in_command(host: Host) -> None:
    """The signals that guardrun reads for itself are not blocked in COMMAND (#26)."""
    result = host.run(*QUIET, "--", *SHOW_SIGNALS)
    masks = dict(line.split(":\t") for line in result.stdout.decode().splitlines())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGWINCH):
        assert not has_signal(masks["SigBlk"], number)
