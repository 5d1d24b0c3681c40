"""``rerun``: a recorded COMMAND once more, out of either ledger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from places import KINDS, Place, make_place
from support import Host, Result


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, host: Host) -> Iterator[Place]:
    """An empty ledger."""
    made = make_place(request.param, host)
    yield made
    made.close()


def newest(place: Place) -> dict[str, Any]:
    """The run that started last."""
    return place.objects("history", "--limit", "1")[0]


def rerun(place: Place, *words: str | bytes) -> Result:
    """Run the newest run again."""
    return place.run("rerun", newest(place)["job_id"][-8:], *words, timeout=60)


def test_what_failed_is_run_again_as_what_it_was(place: Place) -> None:
    """The same words, byte for byte, under the same job, key and needs; a success ends it: the key
    does not run again after that."""
    script = "echo x >> tried; test $(wc -l < tried) -gt 1"
    place.run("--key", "first", "--", "true")
    words = ("--job", "{j}", "--key", "{{k}}", "--needs", "first", "--", "sh", "-c", script)
    assert place.run(*words, b"\xff", "", "a b").code == 1
    failed = newest(place)
    assert rerun(place).code == 0
    again = newest(place)
    assert again["job_id"] != failed["job_id"]
    for name in ("job", "command", "idempotency_key"):
        assert again[name] == failed[name]
    assert again["idempotency_key"] == "{k}"
    (whole,) = place.objects("show", again["job_id"])
    assert (whole["result"], whole["needs"]) == ("success", ["first"])
    assert place.run("rerun", failed["job_id"]).code == 0
    assert newest(place)["result"] == "skipped_duplicate"
    assert place.objects("dead") == []


def test_options_come_from_the_line_and_from_the_configuration(place: Place) -> None:
    """Of the options that are not recorded, those after RUN count before those of the job's
    configuration."""
    place.run("--job", "j", "--", "sh", "-c", "exit 3")
    file = place.host.root / "rerun.toml"
    file.write_text("[jobs.j]\nretries = 1\nbackoff = '1ms'\n")
    run = newest(place)["job_id"]
    assert place.run("rerun", "--config", str(file), run).code == 3
    assert newest(place)["attempts"] == 2
    assert place.run("rerun", "--config", str(file), run, "--retries", "2").code == 3
    assert newest(place)["attempts"] == 3


def test_a_lock_is_not_guessed(place: Place) -> None:
    """Whether a recorded lock was this host's is not recorded, so it has to be said."""
    place.run("--lock", "l", "--", "false")
    refused = rerun(place)
    assert (refused.code, refused.stdout) == (64, b"")
    (line,) = refused.stderr.decode().splitlines()
    assert "the lock 'l'" in line
    assert "--scope host" in line
    assert len(place.objects("history")) == 1
    assert rerun(place, "--scope", "host").code == 1
    assert newest(place)["lock"] == "l"
    file = place.host.root / "file.lock"
    assert rerun(place, "--lock-file", str(file)).code == 1
    assert newest(place)["lock"] == str(file)


def test_what_was_redacted_is_not_run(place: Place) -> None:
    """A COMMAND line that is not what ran is refused in one line, whatever was taken out of it."""
    place.run("--", "false", "--password", "swordfish")
    refused = rerun(place)
    assert (refused.code, refused.stdout) == (1, b"")
    (line,) = refused.stderr.decode().splitlines()
    assert "secrets are not recorded" in line
    assert len(place.objects("history")) == 1


def test_what_still_runs_is_not_run_again(place: Place) -> None:
    """A run that has not ended is left alone."""
    run, _ = place.begin("k")
    refused = place.run("rerun", run.job_id)
    assert (refused.code, refused.stdout) == (1, b"")
    assert b"has not ended" in refused.stderr


@pytest.mark.parametrize("words", [("true",), ("--", "true"), ("--help",), ("--bogus",)], ids=str)
def test_only_run_options_stand_after_run(place: Place, words: tuple[str, ...]) -> None:
    """COMMAND is what is recorded: another one, or a wrong option, is a usage error."""
    place.run("--", "false")
    assert rerun(place, *words).code == 64
    assert len(place.objects("history")) == 1


def test_a_run_that_nobody_knows(place: Place) -> None:
    """One line and exit code 1, with an empty ledger and with one that has others."""
    assert place.run("rerun", "00000000").code == 1
    place.begin("k")
    result = place.run("rerun", "00000000")
    assert (result.code, result.stdout) == (1, b"")
    assert len(result.stderr.splitlines()) == 1
