"""The completions, in the real shells: keys are pressed, and the line is read back."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import GUARDRUN, Host, eventually, finish, need, write_script

from guardrun.cli import SUBCOMMANDS
from guardrun.options import FILE_ONLY, OPTIONS

COMPLETIONS = Path(__file__).parents[2] / "completions"
NAMES = {f"--{name}" for name, option in OPTIONS.items() if option.where != FILE_ONLY}
FIRST = {"run", *SUBCOMMANDS}
ALL, READ = "\x18a", "\x18d"
"""keys: insert everything that may follow; write the line to a file, and clear it"""

BASH_COMPLETION = "/usr/share/bash-completion/bash_completion"
BASH = """\
bind 'set bell-style none'; bind 'set enable-bracketed-paste off'
bind '"\\C-xa": insert-completions'
read_back() {{ printf %s "$READLINE_LINE" >line.new; mv line.new line; READLINE_LINE=; }}
bind -x '"\\C-xd": read_back'
source {completions}/guardrun.bash
: >ready
"""
ZSH = """\
fpath=({completions} $fpath)
autoload -Uz compinit && compinit -u -d dump
zle -C all-matches complete-word _generic
zstyle ':completion:all-matches:*' completer _all_matches _complete
zstyle ':completion:all-matches:*' insert true
read_back() {{ print -rn -- $BUFFER >line.new; mv line.new line; BUFFER= }}
zle -N read-back read_back
bindkey '^Xa' all-matches
bindkey '^Xd' read-back
: >ready
"""
SHELLS = {
    "bash": (("bash", "--norc", "--noprofile", "-i"), BASH),
    "bash-completion": (
        ("bash", "--norc", "--noprofile", "-i"),
        f"source {BASH_COMPLETION}\n{BASH}",
    ),
    "zsh": (("zsh", "-f", "-i"), ZSH),
}


class Typist:
    """An interactive shell on a terminal of its own, with our completions loaded."""

    def __init__(self, host: Host, shell: str) -> None:
        words, setup = SHELLS[shell]
        self._root = host.root
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=host.root,
            env=host.environment({"TERM": "dumb", "HISTFILE": "", "INPUTRC": "/dev/null"}),
            start_new_session=True,
        )
        os.close(slave)
        script = host.root / "setup"
        script.write_text(setup.format(completions=shlex.quote(str(COMPLETIONS))))
        self._type(f". ./{script.name}\n")
        self._appears("ready")

    def after(self, line: str) -> list[str]:
        """The words of the line once everything that may follow ``line`` has been inserted."""
        self._type(line + ALL + READ)
        words = shlex.split(self._appears("line"))
        # zsh adds the = to an option that stands alone.
        return [word.rstrip("=") if word.startswith("-") else word for word in words]

    def close(self) -> None:
        """Hang up."""
        os.close(self._master)
        self._process.wait(10)

    def _type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def _appears(self, name: str) -> str:
        path = self._root / name
        screen = b""

        def appeared() -> bool:
            nonlocal screen
            try:
                screen += os.read(self._master, 65536)  # what it shows must not block it
            except BlockingIOError:
                pass
            return path.exists()

        try:
            eventually(appeared, within=30)
        except AssertionError as error:
            raise AssertionError(screen.decode(errors="replace")) from error
        text = path.read_text()
        path.unlink()
        return text


class Fish:
    """fish says itself what it would offer."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def after(self, line: str) -> list[str]:
        """The line's words with everything that may follow ``line`` instead of its last."""
        script = f"source {COMPLETIONS}/guardrun.fish; complete -C {shlex.quote(line)}"
        said = subprocess.run(
            ["fish", "--no-config", "-c", script],
            cwd=self._host.root,
            env=self._host.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert said.stderr == ""
        return [offer.partition("\t")[0] for offer in said.stdout.splitlines()]

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, host: Host) -> Iterator[Typist | Fish]:
    """Each shell that is installed, in a directory with three files in it."""
    need(request.param)
    yield from opened(host, request.param)


def opened(host: Host, shell: str) -> Iterator[Typist | Fish]:
    """That shell, closed in the end."""
    for name in ("notes.txt", "night.toml"):
        (host.root / name).write_text("")
    (host.root / "bin").mkdir()
    write_script(host.root / "bin" / "zz-our-program", "#!/bin/sh\n")
    write_script(
        host.root / "bin" / "guardrun",
        f'#!/bin/sh\necho asked >>{host.root}/asked\nexec {shlex.join(GUARDRUN)} "$@"\n',
    )
    host.env["PATH"] = f"{host.root / 'bin'}:{os.environ['PATH']}"
    host.env["HOME"] = str(host.root)
    typist = Fish(host) if shell == "fish" else Typist(host, shell)
    yield typist
    typist.close()


def test_options_are_offered(shell: Typist | Fish) -> None:
    """After a dash every option of the command line is offered, and none that is for files only."""
    offered = set(shell.after("guardrun -"))
    assert offered >= NAMES
    assert not {"--keep", "--redact"} & offered


def test_an_option_is_completed(shell: Typist | Fish) -> None:
    """The beginning of an option's name is enough."""
    assert "--conflict-exit-code" in shell.after("guardrun --conf")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("guardrun --on-duplicate ", {"skip", "fail", "replay"}),
        ("guardrun --log-format ", {"auto", "json", "console"}),
        ("guardrun --lock a -q --scope ", {"host", "distributed"}),
        ("guardrun -w ", {"forever"}),
        ("guardrun -nqw ", {"forever"}),
        ("guardrun --lock fd:3 --signal ", {"TERM", "INT", "USR1"}),
        ("guardrun run --jitter ", {"full", "equal", "decorrelated"}),
        ("guardrun --log-to ", {"stdout", "stderr", "none"}),
        ("guardrun history --result ", {"success", "failed", "lock_busy", "interrupted"}),
        ("guardrun history --json --result ", {"success", "failed", "lock_busy", "interrupted"}),
        ("guardrun keys --state ", {"running", "succeeded", "expired", "failed", "interrupted"}),
        ("guardrun rerun 04c0ffee --on-mismatch ", {"fail", "ignore"}),
        ("guardrun completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_fixed_values_are_offered(shell: Typist | Fish, line: str, words: set[str]) -> None:
    """Where a value is one of a few words, those are offered."""
    assert words <= set(shell.after(line))


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("guardrun --on-duplicate=r", "--on-duplicate=replay"),
        ("guardrun --lock=a:b --jitter=dec", "--jitter=decorrelated"),
        ("guardrun history --result=lock", "--result=lock_busy"),
    ],
)
def test_a_value_after_an_equals_sign(shell: Typist | Fish, line: str, word: str) -> None:
    """``--name=`` is completed in place."""
    assert word in shell.after(line)


@pytest.mark.parametrize(
    "line",
    ["guardrun --config ni", "guardrun --lock-file ni", "guardrun metrics --textfile=./ni"],
)
def test_files_are_offered_where_a_path_is_meant(shell: Typist | Fish, line: str) -> None:
    """A path is completed from the directory."""
    assert any(word.endswith("night.toml") for word in shell.after(line))


def test_directories_are_offered_where_one_is_meant(shell: Typist | Fish) -> None:
    """Where a directory is meant, files are left out."""
    offered = [word.rstrip("/") for word in shell.after("guardrun --metrics-textfile ")]
    assert "bin" in offered
    assert "notes.txt" not in offered


def test_subcommands_are_offered_first(shell: Typist | Fish) -> None:
    """The first word may be a subcommand of this version, or COMMAND; the second only COMMAND."""
    assert "show" in shell.after("guardrun sho")
    assert "show" not in shell.after("guardrun -q sho")
    offered = {word for name in FIRST for word in shell.after(f"guardrun {name}")}
    assert offered >= FIRST


def test_options_of_a_subcommand(shell: Typist | Fish) -> None:
    """After a subcommand its own options are offered, and not those of a run."""
    offered = set(shell.after("guardrun history --"))
    assert offered >= {"--limit", "--json", "--since", "--ledger-url", "--config", "--help"}
    assert "--lock" not in offered
    offered = set(shell.after("guardrun show --"))
    assert "--json" in offered
    assert "--limit" not in offered


def test_what_is_below_a_subcommand(shell: Typist | Fish) -> None:
    """After ``keys`` come its own options, or what is below it with options of its own."""
    assert {"show", "forget"} <= set(shell.after("guardrun keys "))
    assert "running" in shell.after("guardrun keys --state run")
    assert {"--limit", "--state", "--json"} <= set(shell.after("guardrun keys --"))
    offered = set(shell.after("guardrun keys forget --"))
    assert {"--force", "--ledger-url"} <= offered
    assert not {"--limit", "--state", "--json"} & offered


def test_run_options_after_the_run_to_be_repeated(shell: Typist | Fish) -> None:
    """``rerun`` takes its own options before RUN, and those of a run after it."""
    assert "--retries" not in shell.after("guardrun rerun --")
    assert "--retries" in shell.after("guardrun rerun --config night.toml 04c0ffee --ret")
    assert "--retries" in shell.after("guardrun rerun 04c0ffee -q --ret")


def test_each_is_completed_as_a_run(shell: Typist | Fish) -> None:
    """``each`` takes options of its own and those of a run, and then COMMAND."""
    offered = set(shell.after("guardrun each -"))
    assert offered >= NAMES | {"--parallel", "--null", "--jsonl", "--halt-after", "--tag"}
    assert "decorrelated" in shell.after("guardrun each -0P 4 --jitter ")
    assert "zz-our-program" in shell.after("guardrun each -P 4 --lock a zz-our-")
    assert "notes.txt" in shell.after("guardrun each --tag -P4 -- cat no")


def test_names_are_what_guardrun_knows(shell: Typist | Fish, host: Host) -> None:
    """Names of jobs, keys and locks are offered, with all that is in them, and the latest runs."""
    run = host.run("--job", "night job", "--key", "k:1", "--", "true").finished["job_id"]
    holder = host.hold("--lock", "it's a lock")
    for line, word in {
        "guardrun why ": "night job",
        "guardrun why nig": "night job",
        "~/bin/guardrun why nig": "night job",
        "guardrun --job ": "night job",
        "guardrun stats --job=nig": "--job=night job",
        "guardrun keys show ": "k:1",
        "guardrun keys forget --force k": "k:1",
        "guardrun history --key ": "k:1",
        "guardrun unlock --scope host ": "it's a lock",
        "guardrun show ": run[-8:],
        "guardrun rerun ": run[-8:],
    }.items():
        assert word in shell.after(line), line
    assert "night job" not in shell.after("guardrun why x")
    finish(holder)


def test_names_are_those_of_the_ledger_on_the_line(shell: Typist | Fish, host: Host) -> None:
    """A ledger that the line names is the one that is asked."""
    url = f"sqlite:///{host.root}/other.db"
    assert host.run("--job", "elsewhere", "--ledger-url", url, "--", "true").code == 0
    assert "elsewhere" in shell.after(f"guardrun why --ledger-url {url} els")
    assert "elsewhere" in shell.after(f"guardrun stats --ledger-url={url} --json --job els")
    assert "elsewhere" not in shell.after("guardrun why els")


def test_nothing_is_started_where_no_names_are_meant(shell: Typist | Fish, host: Host) -> None:
    """Subcommands, options and fixed values are in the file: guardrun is not asked for them."""
    for line in ("guardrun -", "guardrun hist", "guardrun keys ", "guardrun show --"):
        assert shell.after(line)
    assert shell.after("guardrun history --result ")
    assert not (host.root / "asked").exists()
    shell.after("guardrun why ")
    assert (host.root / "asked").exists()


def test_what_was_typed_is_not_executed(shell: Typist | Fish, host: Host) -> None:
    """Words of the line are handed to guardrun as they stand there, never to a shell."""
    shell.after("guardrun why --ledger-url $(touch done) --config '`touch done`' ")
    assert (host.root / "asked").exists()
    assert not (host.root / "done").exists()


@pytest.mark.parametrize(
    "line",
    [
        "guardrun zz-our-",
        "guardrun -- zz-our-",
        "guardrun --lock a -q zz-our-",
        "guardrun --wait=5s -- zz-our-",
        "guardrun run --needs a --needs b zz-our-",
    ],
)
def test_command_is_completed(shell: Typist | Fish, line: str) -> None:
    """COMMAND is looked for in PATH, as if it stood alone."""
    assert "zz-our-program" in shell.after(line)


@pytest.mark.parametrize(
    "line",
    ["guardrun cat no", "guardrun --lock a -- cat no", "guardrun -w 5 cat night.toml no"],
)
def test_words_of_command_are_completed(shell: Typist | Fish, line: str) -> None:
    """What follows COMMAND is completed as COMMAND's: files, where nothing better is known."""
    assert "notes.txt" in shell.after(line)


def test_bash_completion_completes_the_words_of_command(host: Host) -> None:
    """Where bash-completion is loaded, it is asked for COMMAND's own options."""
    need(BASH_COMPLETION)
    for shell in opened(host, "bash-completion"):
        assert "--verbose" in shell.after("guardrun --lock a:b -- tar --verb")
        assert "--verbose" in shell.after("guardrun tar -c --verb")
        assert "notes.txt" in shell.after("guardrun -w 5 cat no")
        assert "--on-duplicate=replay" in shell.after("guardrun --on-duplicate=r")


def test_options_after_command_are_not_ours(shell: Typist | Fish) -> None:
    """Once COMMAND stands there, no option of guardrun is offered any more."""
    assert "--on-duplicate" not in shell.after("guardrun zz-our-program --on-dup")
    assert "--on-duplicate" not in shell.after("guardrun -- zz-our-program --on-dup")
