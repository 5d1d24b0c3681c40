"""Help, version, dry run and subcommands, from outside; and the state descriptors are in."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from support import GUARDRUN, Host, write_script

from guardrun.options import FILE_ONLY, OPTIONS
from guardrun.version import version

# What a short run must not wait for.
_SLOW = {
    *("click", "rich", "structlog", "typing", "re", "json", "dataclasses"),
    *("tomllib", "difflib", "argparse", "subprocess"),
}


def dry_run(host: Host, *words: str | bytes, **options: Any) -> dict[str, Any]:
    """What a dry run says."""
    result = host.run("--dry-run", *words, **options)
    assert (result.code, result.stderr) == (0, b""), result
    said: dict[str, Any] = json.loads(result.stdout)
    return said


# ---------------------------------------------------------------- help and version


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["run", "--help"], ["-q", "-h", "--bogus"]])
def test_help_names_every_option(host: Host, words: list[str]) -> None:
    """Help goes to stdout, exits 0, and leaves no option out."""
    result = host.run(*words)
    assert (result.code, result.stderr) == (0, b"")
    text = result.stdout.decode()
    for option in OPTIONS.values():
        assert (f"--{option.name}" in text) is (option.where != FILE_ONLY)


def test_the_version_is_told(host: Host) -> None:
    """``--version`` prints name and version."""
    result = host.run("--version")
    assert (result.code, result.stdout) == (0, f"guardrun {version()}\n".encode())


def test_a_reader_that_has_seen_enough_is_no_error(host: Host) -> None:
    """Help for a pipe nobody reads any more ends by SIGPIPE, as other programs do."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        result = host.run("--help", stdout=pipe)
    assert (result.code, result.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("words", [["--help"], ["history", "--help"], ["--dry-run", "true"]])
def test_a_full_stdout_is_told(host: Host, words: list[str]) -> None:
    """What cannot be written was not said: one line, and not exit 0."""
    with open("/dev/full", "wb") as full:
        result = host.run(*words, stdout=full)
    assert result.code == 70
    assert result.stderr == b"guardrun: cannot write to stdout: No space left on device\n"


# ---------------------------------------------------------------- the dry run


def test_a_dry_run_says_what_would_happen(host: Host) -> None:
    """Names are resolved, limits are seconds, and the file that counted is named."""
    (host.root / "c.toml").write_text("[jobs.b]\nretries = 3\n")
    said = dry_run(
        host,
        *("--config=c.toml", "--job=b", "--lock={job}-{arg.1}", "--key=k-{env.WHO}", "-j2", "-w1m"),
        *("--needs=n-{job}", "--retry-on=75,timeout", "--retry-budget=9/1h", "--", "echo", "x"),
        env={"WHO": "me"},
    )
    assert said["job"] == "b"
    assert said["command"] == ["echo", "x"]
    assert (said["lock"]["lock"], said["lock"]["slots"]) == ("b-x", 2)
    assert said["lock"]["lock_dir"] == str(host.locks)
    assert (said["key"]["key"], said["key"]["key_ttl"]) == ("k-me", "forever")
    assert said["needs"] == ["n-b"]
    assert (said["wait"], said["conflict_exit_code"]) == (60.0, 75)
    assert said["attempts"]["retries"] == 3
    assert said["attempts"]["retry_on"] == [75, "timeout"]
    assert said["attempts"]["retry_budget"] == {"retries": 9, "window": 3600.0}
    assert said["attempts"]["signal"] == "SIGTERM"
    assert said["ledger"]["ledger_url"] == f"sqlite://{host.state}/ledger.sqlite3"
    assert said["config"] == "c.toml"


def test_a_dry_run_hashes_the_files_a_template_names(host: Host) -> None:
    """``{file.sha256:PATH}`` is shown with its value: reading a file changes nothing."""
    (host.root / "in").write_bytes(b"x")
    said = dry_run(host, "--key={file.sha256:in}", "true")
    assert said["key"]["key"] == hashlib.sha256(b"x").hexdigest()


def test_a_dry_run_touches_nothing(host: Host) -> None:
    """No directory is made, no COMMAND executed, no log line written."""
    dry_run(host, "--lock=a", "--key=b", "--log-to=log", "--", "touch", "started")
    assert list(host.root.iterdir()) == []


def test_a_dry_run_does_not_read_stdin(host: Host) -> None:
    """A template that reads stdin is shown as it is, with a note."""
    reader, writer = os.pipe()
    with open(reader, "rb") as stdin, open(writer, "wb"):  # a pipe that never ends
        said = dry_run(host, "--key={stdin.sha256}-{{x", "--lock={job}", "true", stdin=stdin)
    assert said["key"]["key"] == "{stdin.sha256}-{{x"
    assert said["lock"]["lock"] == "true"
    assert said["stdin"] == "replay"
    assert "does not read stdin" in said["notes"][0]


def test_a_dry_run_shows_no_secrets(host: Host) -> None:
    """COMMAND's passwords, and what the file's patterns match, are hidden."""
    (host.root / "c.toml").write_text("[defaults]\nredact = ['tok_[a-z]+']\n")
    words = ("--password=hunter2", "postgresql://u:hunter2@h/db", "tok_hunter", b"\xff")
    said = dry_run(host, "--config=c.toml", "--", "echo", *words)
    text = json.dumps(said)
    assert "hunter" not in text
    assert said["command"][-1] == "\\xff"


def test_a_dry_run_is_for_people_on_a_terminal(host: Host) -> None:
    """On a terminal the object is laid out on many lines."""
    master, slave = os.openpty()
    with open(slave, "wb") as terminal:
        assert host.run("--dry-run", "true", stdout=terminal).code == 0
    text = os.read(master, 65536)
    os.close(master)
    assert text.count(b"\n") > 10
    assert json.loads(text)["job"] == "true"


# ---------------------------------------------------------------- subcommands


def test_run_is_the_same_as_no_subcommand(host: Host) -> None:
    """``guardrun run`` takes the same options and the same COMMAND."""
    assert dry_run(host, "true") == json.loads(host.run("run", "--dry-run", "--", "true").stdout)
    assert host.run("run", "-q", "--", "sh", "-c", "exit 7").code == 7


@pytest.mark.parametrize("words", [["--"], ["-q"], ["run"], ["run", "--"]])
def test_a_subcommand_is_one_only_as_the_very_first_word(host: Host, words: list[str]) -> None:
    """After an option or ``--`` a word is COMMAND, whatever it is called."""
    tools = host.root / "bin"
    tools.mkdir()
    write_script(tools / "history", "#!/bin/sh\nexit 42\n")
    path = f"{tools}:{os.environ['PATH']}"
    assert host.run(*words, "history", "--limit", "x", env={"PATH": path}).code == 42


def test_a_word_like_a_subcommand_is_a_command(host: Host) -> None:
    """Names are exact: what is nearly a subcommand is COMMAND."""
    assert host.run("histor", "--limit", "5").code == 127


def test_a_subcommand_takes_the_ledger_of_its_options(host: Host) -> None:
    """``--ledger-url`` and ``--config`` work for every subcommand."""
    url = f"sqlite://{host.root}/other/l.sqlite3"
    assert host.run("-q", f"--ledger-url={url}", "true").code == 0
    (host.root / "c.toml").write_text(f"[defaults]\nledger_url = '{url}'\n")
    for option in (f"--ledger-url={url}", "--config=c.toml"):
        result = host.run("history", option, "--json")
        assert [json.loads(line)["job"] for line in result.stdout.splitlines()] == ["true"]
    assert host.run("history", "--json").stdout == b""


# ---------------------------------------------------------------- the process


def test_closed_descriptors_are_not_taken_by_our_own_files(host: Host) -> None:
    """With 0, 1 and 2 closed, no ledger or lock becomes stderr, and COMMAND finds them closed."""
    look = write_script(
        host.root / "look",
        "#!/bin/sh\n"
        "pid=${GUARDRUN_LOCK_OWNER#*:} pid=${pid%%:*}\n"
        "for n in 0 1 2; do readlink /proc/$pid/fd/$n >>ours; done\n"
        "test -e /proc/$$/fd/0 || test -e /proc/$$/fd/2 || touch closed\n",
    )
    words = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *GUARDRUN, "--lock=a", "--", str(look)]
    subprocess.run(words, env=host.environment(), cwd=host.root, check=True)
    assert (host.root / "ours").read_text() == "/dev/null\n" * 3
    assert (host.root / "closed").exists()


def test_a_closed_stderr_changes_no_exit_code(host: Host) -> None:
    """A line that nobody can read is not missed."""
    words = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *GUARDRUN, "--bogus"]
    assert subprocess.run(words, env=host.environment(), check=False).returncode == 64


def test_a_plan_is_made_without_anything_slow() -> None:
    """Parsing and merging load no module that costs more than they do."""
    script = (
        "import sys; before = set(sys.modules)\n"
        "from guardrun import cli, config, options\n"
        "words = ['--lock', '{job}', '--key', '{date}', '-w5', '--retries=3', '--', 'true']\n"
        "environ = {'GUARDRUN_STATE_DIR': '/x', 'XDG_CONFIG_HOME': '/x'}\n"
        "config.settle(options.parse(words), environ)\n"
        f"print(*sorted((set(sys.modules) - before) & {_SLOW!r}))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert result.stdout.decode().split() == []
