"""On a terminal guardrun behaves as if it were not there: real ptys, an interactive bash.

Numbers in docstrings are those of the list of behaviours of a process supervisor.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from support import (
    GUARDRUN,
    Host,
    Listener,
    alive,
    eventually,
    no_survivors,
    sleepers,
    status,
    stopped,
    stubborn_tree,
    waits,
    write_script,
)

CTRL_C, CTRL_BACKSLASH, CTRL_Z = "\x03", "\x1c", "\x1a"
QUIET = ("--log-to", "none")
BASH = ("bash", "--norc", "--noprofile", "--noediting", "-i")

TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A pseudo-terminal, and the process that leads the session on it."""

    def __init__(self, host: Host, words: Sequence[str]) -> None:
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        self._screen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", TAKE_TERMINAL, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=host.root,
            env=host.environment({"PS1": "ready> ", "TERM": "dumb", "HISTFILE": ""}),
            start_new_session=True,
        )
        os.close(slave)

    def screen(self) -> str:
        """All that was shown so far."""
        while True:
            try:
                data = os.read(self._master, 65536)
            except (BlockingIOError, OSError):  # EIO: the other side is closed
                return self._screen.decode(errors="replace")
            if not data:
                return self._screen.decode(errors="replace")
            self._screen += data

    def shows(self, text: str) -> str:
        """Wait until ``text`` is on the screen."""
        return eventually(
            lambda: screen if text in (screen := self.screen()) else "", what=f"{text!r} shown"
        )

    def type(self, text: str) -> None:
        """Press these keys."""
        self.screen()
        os.write(self._master, text.encode())

    def foreground(self) -> str:
        """The name of the process whose group has the terminal."""
        try:
            return Path(f"/proc/{os.tcgetpgrp(self._master)}/comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the window."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def ends(self) -> int:
        """Wait for the end of the session's leader; its code."""

        def ended() -> bool:
            self.screen()  # what it writes must not block it
            return self.process.poll() is not None

        eventually(ended, what="the end of the session")
        return self.process.returncode

    def hang_up(self) -> None:
        """Take the terminal away."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def close(self) -> None:
        """Hang up, and end what is left of the leader."""
        self.hang_up()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Shell(Terminal):
    """An interactive bash on a terminal."""

    def __init__(self, host: Host) -> None:
        if shutil.which("bash") is None:
            pytest.skip("bash is not installed")
        super().__init__(host, BASH)
        self.shows("ready> ")
        self._asked = 0

    def guardrun(self, *words: str, after: str = "") -> None:
        """Type a guardrun command line, quoted, and ``after``."""
        self.type(f"{shlex.join([*GUARDRUN, *words])}{after}\n")

    def interrupt(self) -> None:
        """Press Ctrl-C and wait for the prompt: what is typed before may be flushed with it."""
        prompts = self.screen().count("ready> ")
        self.type(CTRL_C)
        eventually(lambda: self.screen().count("ready> ") > prompts, what="the prompt")

    def says(self, expression: str) -> str:
        """What the shell, once it has its prompt back, makes of an expression."""
        # What is typed while bash takes the terminal back may be lost.
        eventually(lambda: self.screen().endswith("ready> "), what="a prompt")
        self._asked += 1
        self.type(f'echo "answer {self._asked}:"{expression}:\n')
        # What was typed is on the screen as well, with a quotation mark there.
        answer = re.compile(rf'answer {self._asked}:([^"\r\n]*):\r')
        return eventually(lambda: answer.search(self.screen()), what="the shell's answer")[1]

    def jobs(self) -> list[int]:
        """The pids of the shell's children."""
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def shell(host: Host) -> Iterator[Shell]:
    """An interactive bash on a terminal of its own."""
    with closing(Shell(host)) as own:
        yield own


@pytest.fixture
def on_terminal(host: Host) -> Iterator[Callable[..., Terminal]]:
    """Starts guardrun as the leader of a session on a terminal, as `ssh -t` and `docker -t` do."""
    started: list[Terminal] = []

    def start(*words: str) -> Terminal:
        started.append(Terminal(host, [*GUARDRUN, *words]))
        return started[-1]

    yield start
    for terminal in started:
        terminal.close()


@pytest.fixture
def listener(host: Host) -> Listener:
    """A COMMAND that writes down the signals it gets."""
    return Listener(host.root / "signals")


def guardrun_of(command: int) -> int:
    """The guardrun that COMMAND runs under: the parent of its warden's parent."""
    pid = command
    for _ in range(3):
        pid = int(status(pid)["PPid"])
    return pid


def written_pid(path: Path) -> int:
    """The pid that a script has written down."""
    return int(eventually(lambda: path.read_text().strip() if path.exists() else ""))


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("key", "name"), [(CTRL_C, "INT"), (CTRL_BACKSLASH, "QUIT")], ids=["INT", "QUIT"]
)
def test_key_reaches_command_once(
    host: Host, shell: Shell, listener: Listener, key: str, name: str
) -> None:
    """Ctrl-C and Ctrl-\\ reach COMMAND exactly once, and guardrun ends by the signal (#10)."""
    shell.guardrun(*QUIET, "--retries", "3", "--backoff", "1ms", "--", *listener.words("USR1=0"))
    guardrun = guardrun_of(listener.pid())
    shell.type(key)
    listener.heard(name)
    assert listener.heard_at_last(guardrun, "ALRM", "USR1") == [name]
    assert shell.says("$?") == str(128 + signal.Signals[f"SIG{name}"])
    assert [(row["result"], row["attempts"]) for row in host.rows()] == [("interrupted", 1)]


@pytest.mark.parametrize("name", ["INT", "QUIT", "WINCH"])
def test_session_leader(
    host: Host, on_terminal: Callable[..., Terminal], listener: Listener, name: str
) -> None:
    """Where guardrun leads the session, a terminal's signals reach COMMAND once, too (#10, #13)."""
    terminal = on_terminal(*QUIET, "--", *listener.words("USR1=0"))
    listener.pid()
    # Stopped, guardrun can add nothing before COMMAND has heard: two at once would count as one.
    terminal.process.send_signal(signal.SIGSTOP)
    eventually(lambda: stopped(terminal.process.pid))
    if name == "WINCH":
        terminal.resize(44, 88)
    else:
        terminal.type({"INT": CTRL_C, "QUIT": CTRL_BACKSLASH}[name])
    listener.heard(name)
    terminal.process.send_signal(signal.SIGCONT)
    assert listener.heard_at_last(terminal.process.pid, "ALRM", "USR1") == [name]
    told = name != "WINCH"
    assert terminal.ends() == (-signal.Signals[f"SIG{name}"] if told else 0)
    assert [row["result"] for row in host.rows()] == ["interrupted" if told else "success"]


def test_interrupt_of_an_obedient_command(host: Host, shell: Shell, mark: str) -> None:
    """Ctrl-C ends COMMAND and guardrun, whichever of them is first, and the run was interrupted."""
    shell.guardrun(*QUIET, "--", "sh", "-c", f"echo began; exec sleep {mark}")
    shell.shows("\nbegan")
    shell.interrupt()
    assert shell.says("$?") == "130"
    no_survivors(mark)
    assert [row["result"] for row in host.rows()] == ["interrupted"]


def test_interrupt_ends_what_ignores_it(host: Host, shell: Shell, mark: str) -> None:
    """Ctrl-C starts --kill-after for all that COMMAND started, whatever its session (#10, #18)."""
    tree = stubborn_tree(host.root / "tree", mark)
    shell.guardrun(*QUIET, "--kill-after", "300ms", "--", str(tree))
    sleepers(mark, 4)
    shell.type(CTRL_C)
    no_survivors(mark)
    assert shell.says("$?") == "130"


def test_interrupt_asks_other_sessions(shell: Shell, listener: Listener, mark: str) -> None:
    """What COMMAND started in a session of its own, which no key reaches, is asked to stop too."""
    far = listener.words("INT=0", "TERM=0", mark=mark)
    code = "trap 'exit 0' INT; setsid \"$@\" & while :; do sleep 0.01; done"
    shell.guardrun(*QUIET, "--kill-after", "1h", "--", "sh", "-c", code, "sh", *far)
    listener.pid()
    shell.interrupt()
    assert shell.says("$?") == "130"
    assert alive(mark) == []
    assert {"INT", "TERM"} & set(listener.heard())


@pytest.mark.parametrize("name", ["TERM", "HUP", "USR1", "WINCH"])
def test_signal_by_hand_is_passed_on_once(
    host: Host, shell: Shell, listener: Listener, name: str
) -> None:
    """What somebody sends to guardrun alone, on a terminal, reaches COMMAND exactly once (#7)."""
    shell.guardrun(*QUIET, "--", *listener.words("USR2=0"))
    guardrun = guardrun_of(listener.pid())
    os.kill(guardrun, signal.Signals[f"SIG{name}"])
    listener.heard(name)
    assert listener.heard_at_last(guardrun, "ALRM", "USR2") == [name]
    told = name in ("TERM", "HUP")  # with a terminal, HUP tells to stop
    assert shell.says("$?") == str(128 + signal.Signals[f"SIG{name}"] if told else 0)
    assert [row["result"] for row in host.rows()] == ["interrupted" if told else "success"]


def test_interrupt_in_lock_wait(host: Host, shell: Shell) -> None:
    """Ctrl-C ends a guardrun that waits for its lock, and COMMAND is never started (#8)."""
    holder = Listener(host.root / "holder")
    other = host.start(*QUIET, "--lock", "l", "--", *holder.words("TERM=0"))
    holder.pid()
    shell.guardrun(*QUIET, "--lock", "l", "--wait", "forever", "--", "touch", "ran")
    eventually(lambda: [pid for pid in shell.jobs() if waits(pid)], what="a guardrun at rest")
    shell.interrupt()
    assert shell.says("$?") == "130"
    other.terminate()
    assert other.wait(10) == -signal.SIGTERM
    assert not (host.root / "ran").exists()


# ---------------------------------------------------------------- job control


def test_suspend_and_resume(host: Host, shell: Shell) -> None:
    """Ctrl-Z stops guardrun and COMMAND, the lock stays held, `fg` continues both (#11)."""
    code = 'echo $$ >pid; read line; echo "got $line"'
    shell.guardrun(*QUIET, "--lock", "l", "--", "sh", "-c", code)
    command = written_pid(host.root / "pid")
    guardrun = guardrun_of(command)
    shell.type(CTRL_Z)
    eventually(lambda: stopped(command) and stopped(guardrun), what="both stopped")
    shell.shows("Stopped")
    assert host.run("--lock", "l", "--", "true").code == 75
    shell.type("fg\n")
    eventually(lambda: not stopped(command) and not stopped(guardrun), what="both run")
    shell.type("hello\n")
    shell.shows("got hello")
    assert shell.says("$?") == "0"
    assert next(row["result"] for row in host.rows() if row["lock"] == "l") == "success"


def test_timeout_while_suspended(host: Host, shell: Shell, mark: str) -> None:
    """A job that Ctrl-Z stopped is ended at its timeout all the same (#11, #12)."""
    code = f"echo began; exec sleep {mark}"
    words = ["--timeout", "1500ms", "--kill-after", "200ms", "--", "sh", "-c", code]
    shell.guardrun(*QUIET, *words)
    shell.shows("\nbegan")
    shell.type(CTRL_Z)
    shell.shows("Stopped")
    eventually(
        lambda: not [pid for pid in alive(mark) if not stopped(pid)] or None,
        what="a job that is stopped",
    )
    eventually(lambda: set(alive(mark)) <= set(shell.jobs()), what="the end of COMMAND")
    shell.type("fg\n")
    no_survivors(mark)
    eventually(lambda: [row["result"] for row in host.rows()] == ["timeout"])
    assert [row["exit_code"] for row in host.rows()] == [124]


def test_background_job_that_reads_the_terminal(host: Host, shell: Shell, mark: str) -> None:
    """A background COMMAND that reads the terminal is stopped, and its timeout holds (#12)."""
    code = "echo $$ >pid; read line; echo it must not get here"
    words = ["--timeout", "1500ms", "--kill-after", "200ms", "--", "sh", "-c", code, mark]
    shell.guardrun(*QUIET, *words, after=" &")
    command = written_pid(host.root / "pid")
    eventually(lambda: stopped(command), what="COMMAND stopped by SIGTTIN")
    eventually(lambda: set(alive(mark)) <= set(shell.jobs()), what="the end of COMMAND")
    shell.type("fg\n")
    no_survivors(mark)
    eventually(lambda: [row["result"] for row in host.rows()] == ["timeout"])
    assert "it must not get here" not in shell.screen().replace(code, "")


def test_background_job_is_left_alone_by_keys(host: Host, shell: Shell, listener: Listener) -> None:
    """Ctrl-C is for the foreground: a guardrun in the background, and its COMMAND, go on."""
    shell.guardrun(*QUIET, "--", *listener.words("USR1=0"), after=" &")
    guardrun = guardrun_of(listener.pid())
    shell.type("cat\n")
    eventually(lambda: shell.foreground() == "cat", what="cat in the foreground")
    shell.interrupt()
    assert shell.says("$?") == "130"
    os.kill(guardrun, signal.SIGUSR1)
    assert listener.heard("USR1") == ["USR1"]
    eventually(lambda: not status(guardrun), what="the end of guardrun")
    assert [row["result"] for row in host.rows()] == ["success"]


def test_suspend_in_lock_wait(host: Host, shell: Shell) -> None:
    """Ctrl-Z stops a guardrun that waits for its lock; after `fg` it still gets it (#11)."""
    holder = Listener(host.root / "holder")
    other = host.start(*QUIET, "--lock", "l", "--", *holder.words("TERM=0"))
    holder.pid()
    shell.guardrun(*QUIET, "--lock", "l", "--wait", "30s", "--", "echo", "it is", "ours")
    (guardrun,) = eventually(lambda: [pid for pid in shell.jobs() if waits(pid)])
    shell.type(CTRL_Z)
    eventually(lambda: stopped(guardrun), what="a guardrun that is stopped")
    shell.shows("Stopped")
    other.terminate()
    assert other.wait(10) == -signal.SIGTERM
    shell.type("fg\n")
    shell.shows("\nit is ours")
    assert shell.says("$?") == "0"


# ---------------------------------------------------------------- the terminal itself


def test_resize_is_seen_once(shell: Shell, listener: Listener) -> None:
    """A change of the window's size reaches COMMAND exactly once (#13)."""
    shell.guardrun(*QUIET, "--", *listener.words("USR1=0"))
    guardrun = guardrun_of(listener.pid())
    shell.resize(33, 77)
    listener.heard("WINCH")
    assert listener.heard_at_last(guardrun, "ALRM", "USR1") == ["WINCH"]
    shell.guardrun(*QUIET, "--", "stty", "size")
    shell.shows("33 77")


def test_command_reads_and_writes_the_terminal(host: Host, shell: Shell) -> None:
    """COMMAND has the terminal: /dev/tty can be read and written, as for a password (#11)."""
    code = "printf 'name? ' >/dev/tty; read name </dev/tty; echo \"hello, $name\" >/dev/tty"
    shell.guardrun("--log-to", str(host.root / "log"), "--", "sh", "-c", code)
    shell.shows("\nname? ")
    shell.type("world\n")
    shell.shows("\nhello, world")
    assert shell.says("$?") == "0"


def test_interactive_command(host: Host, shell: Shell) -> None:
    """A COMMAND with job control of its own can take the terminal and give it back."""
    shell.guardrun(*QUIET, "--", *BASH)
    eventually(lambda: shell.screen().count("ready> ") >= 2, what="the inner prompt")
    shell.type("cat\n")
    shell.type("echoed\n")
    eventually(lambda: shell.screen().count("echoed") >= 2, what="an inner job in the foreground")
    shell.interrupt()
    assert shell.says("inner$?") == "inner130"
    shell.type("exit 7\n")
    assert shell.says("outer$?") == "outer7"
    assert [row["command_code"] for row in host.rows()] == [7]


def test_pipeline_outlives_the_timeout(host: Host, shell: Shell, mark: str) -> None:
    """A timeout in the middle of a pipeline does not touch its neighbours (#14)."""
    write_script(
        host.root / "a",
        "#!/bin/sh\nwhile ! test -e go; do sleep 0.01; done\necho a survived >a.out\n",
    )
    write_script(host.root / "c", "#!/bin/sh\ncat >/dev/null\necho c survived >c.out\n")
    tree = stubborn_tree(host.root / "tree", mark)
    middle = shlex.join(
        [*GUARDRUN, *QUIET, "--timeout", "1s", "--kill-after", "300ms", "--", str(tree)]
    )
    shell.type(f"./a | {middle} | ./c\n")
    sleepers(mark, 4)
    no_survivors(mark)
    eventually((host.root / "c.out").exists, what="c reads to the end of its input")
    (host.root / "go").touch()
    eventually((host.root / "a.out").exists, what="a survives")
    assert shell.says('"${PIPESTATUS[*]}"') == "0 124 0"


def test_interrupted_pipeline(host: Host, shell: Shell, mark: str) -> None:
    """Ctrl-C ends a pipeline with guardrun in its middle as it ends one without."""
    middle = shlex.join([*GUARDRUN, *QUIET, "--", "sh", "-c", f"echo >began; exec sleep {mark}"])
    shell.type(f"sleep {mark} | {middle} | cat\n")
    eventually((host.root / "began").exists)
    shell.type(CTRL_C)
    no_survivors(mark)
    assert shell.says("$?") == "130"


# ---------------------------------------------------------------- the terminal goes away


def test_hang_up(host: Host, shell: Shell, mark: str) -> None:
    """When the terminal goes, guardrun ends, and with it all that COMMAND started."""
    tree = stubborn_tree(host.root / "tree", mark)
    shell.guardrun(*QUIET, "--kill-after", "300ms", "--", str(tree))
    sleepers(mark, 4)
    shell.hang_up()
    no_survivors(mark)
    eventually(lambda: [row["result"] for row in host.rows()] == ["interrupted"])


def test_hang_up_of_the_sessions_leader(
    host: Host, on_terminal: Callable[..., Terminal], listener: Listener
) -> None:
    """Of a hang-up the kernel tells the session's leader; COMMAND under it hears of it, too."""
    terminal = on_terminal(*QUIET, "--kill-after", "3s", "--", *listener.words("HUP=0"))
    command = listener.pid()
    terminal.hang_up()
    eventually(lambda: not status(command), what="the end of COMMAND")
    assert "HUP" in listener.heard()
    assert terminal.process.wait(10) == -signal.SIGHUP
    assert [row["result"] for row in host.rows()] == ["interrupted"]


@pytest.mark.parametrize("leader", [True, False], ids=["leader", "job"])
def test_group_killed_on_a_terminal(
    host: Host, on_terminal: Callable[..., Terminal], shell: Shell, mark: str, leader: bool
) -> None:
    """kill -9 of guardrun's group, which is COMMAND's too, leaves nothing behind (#30)."""
    tree = stubborn_tree(host.root / "tree", mark)
    if leader:
        group = on_terminal(*QUIET, "--", str(tree)).process.pid
        sleepers(mark, 4)
    else:
        shell.guardrun(*QUIET, "--", str(tree))
        sleepers(mark, 4)
        (group,) = shell.jobs()
    assert os.getpgid(group) == group  # ours alone: a job of its own
    os.killpg(group, signal.SIGKILL)
    no_survivors(mark)
