"""``guardrun completion``: the installed file, and the names that shells offer."""

from __future__ import annotations

import pytest
from support import Host, finish

from guardrun.commands.completion import FILES


def names(host: Host, kind: str) -> list[list[str]]:
    """The lines of ``--names``, taken apart."""
    found = host.run("completion", "--names", kind)
    assert (found.code, found.stderr) == (0, b"")
    return [line.split("\t") for line in found.stdout.decode().splitlines()]


@pytest.mark.parametrize("shell", FILES)
def test_the_completion_of_a_shell_is_printed(host: Host, shell: str) -> None:
    """What is printed is a completion for that shell, byte for byte as it was installed."""
    found = host.run("completion", shell)
    assert (found.code, found.stderr) == (0, b"")
    begin = {"bash": b"# bash", "zsh": b"#compdef guardrun\n", "fish": b"# fish"}[shell]
    assert found.stdout.startswith(begin)
    assert found.stdout.endswith(b"\n")


def test_names_on_an_empty_host(host: Host) -> None:
    """Nothing recorded and nothing held is an empty list, and nothing is made by asking."""
    assert [names(host, kind) for kind in ("jobs", "keys", "locks", "runs")] == [[], [], [], []]
    assert not host.state.exists()
    assert not host.locks.exists()


def test_names_with_what_is_to_be_said_of_them(host: Host) -> None:
    """A line is a name, and after a tab a key's state, a lock's owner, a run's job and result."""
    run = host.run("--job", "nightly", "--key", "k 1", "--", "true").finished["job_id"]
    holder = host.hold("--job", "holder", "--lock", "l:ö")
    assert names(host, "jobs") == [["holder", ""], ["nightly", ""]]
    assert names(host, "keys") == [["k 1", "succeeded"]]
    assert [run[-8:], "nightly, success"] in names(host, "runs")
    [[lock, owner]] = names(host, "locks")
    assert lock == "l:ö"
    assert owner.split(":")[1] == str(holder.pid)
    finish(holder)
    assert names(host, "locks") == []


def test_a_store_that_is_down_is_not_waited_for(host: Host) -> None:
    """A ledger that cannot be reached is exit code 69; names that others know are told."""
    url = "postgresql://u@127.0.0.1:1/none"
    found = host.run("completion", "--names", "jobs", env={"GUARDRUN_LEDGER_URL": url}, timeout=10)
    assert (found.code, found.stdout) == (69, b"")
    holder = host.hold("--lock", "here")
    found = host.run("completion", "--names", "locks", "--lease-url", "redis://127.0.0.1:1")
    assert (found.code, found.stdout.partition(b"\t")[0]) == (69, b"here")
    finish(holder)


@pytest.mark.parametrize("words", [[], ["tcsh"], ["bash", "--names", "jobs"], ["--names", "x"]])
def test_one_thing_is_asked_for(host: Host, words: list[str]) -> None:
    """Neither, both, or what there is not, is a usage error in one line."""
    found = host.run("completion", *words)
    assert (found.code, found.stdout) == (64, b"")
    assert found.stderr.count(b"\n") == 1


def test_a_broken_configuration_does_not_matter_to_the_file(host: Host) -> None:
    """The completion is printed whatever the configuration file says."""
    (host.root / "wrong.toml").write_text("nonsense")
    wrong = {"GUARDRUN_CONFIG": str(host.root / "wrong.toml")}
    assert host.run("completion", "bash", env=wrong).code == 0
    assert host.run("completion", "--names", "jobs", env=wrong).code == 78


@pytest.mark.parametrize("words", [["zsh"], ["--names", "jobs"], ["--names", "keys"]])
def test_nobody_at_a_prompt_waits_for_what_is_not_needed(host: Host, words: list[str]) -> None:
    """Neither drivers nor what draws tables is loaded."""
    host.run("--key", "k", "--", "true")
    found = host.run("completion", *words, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert found.code == 0
    loaded = {line.rpartition("|")[2].strip() for line in found.stderr.decode().splitlines()}
    assert "click" in loaded
    assert not {"rich", "psycopg", "redis", "structlog", "prometheus_client"} & loaded
