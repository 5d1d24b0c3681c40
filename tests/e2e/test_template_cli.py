"""Templates of locks, keys and needs, from the command line to COMMAND, log and ledger."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import time

import pytest
from support import Host, Result, eventually, finish


def key_of(host: Host, template: str, *options: str, data: bytes | None = None) -> str:
    """What a template resolves to, as COMMAND, the log and the ledger agree."""
    tell = 'printf %s "$GUARDRUN_IDEMPOTENCY_KEY" >&2; cat >/dev/null'
    words = ("--key", template, *options, "--", "sh", "-c", tell, "zero", "one")
    result = host.run(*words, data=data)
    assert result.code == 0, result
    key = result.stderr.decode()
    assert result.finished["idempotency_key"] == key
    assert host.rows()[-1]["key"] == key
    return key


def wrong(result: Result, *said: str) -> None:
    """Check that a template was refused: 78, one line that says which and why."""
    assert result.code == 78, result
    (line,) = result.stderr.decode().splitlines()
    for word in said:
        assert word in line, line
    assert b"attempt_started" not in result.stdout


# ---------------------------------------------------------------- what there is


def test_names_of_job_host_and_user(host: Host) -> None:
    """`{job}`, `{host}` and `{user}` are what the run is called, where it runs, and as whom."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    key = key_of(host, "{job}/{host}/{user}", "--job", "nightly")
    assert key == f"nightly/{os.uname().nodename}/{user}"


def test_variables_of_the_environment(host: Host) -> None:
    """`{env.NAME}` is the value that COMMAND finds as well."""
    words = ("--key", "v-{env.RELEASE}", "-c", 'test "$RELEASE" = 1.2')
    result = host.run(*words, env={"RELEASE": "1.2"})
    assert result.code == 0, result
    assert result.finished["idempotency_key"] == "v-1.2"


def test_words_of_command(host: Host) -> None:
    """`{arg.N}` is COMMAND's word number N, the program is 0."""
    assert key_of(host, "{arg.0} {arg.1} {arg.4}") == "sh -c one"


def test_a_hash_of_command(host: Host) -> None:
    """`{argv.sha256}` is the same for the same words, and another one for others."""
    hashes = [
        host.run("--key", "{argv.sha256}", "--", *words).finished["idempotency_key"]
        for words in (["echo", "a", "b"], ["echo", "a b"], ["echo", "a", "b"])
    ]
    assert hashes[0] == hashes[2] != hashes[1]
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in hashes)


def test_a_hash_of_a_file(host: Host) -> None:
    """`{file.sha256:PATH}` is the hash of the file's bytes: one run for each content."""
    (host.root / "input").write_bytes(b"one")
    words = ("--key", "{file.sha256:input}", "--", host.job)
    first = host.run(*words)
    assert first.finished["idempotency_key"] == hashlib.sha256(b"one").hexdigest()
    assert host.run(*words).event("duplicate_skipped")
    (host.root / "input").write_bytes(b"two")
    assert host.run(*words).code == 0
    assert len(host.executions()) == 2


def test_braces(host: Host) -> None:
    """`{{` and `}}` are braces."""
    assert key_of(host, "{{{job}}}", "--job", "j") == "{j}"


def test_locks_and_needs_are_templates_too(host: Host) -> None:
    """Lock and needs are resolved as the key is; what resolves alike is alike."""
    assert host.run("--key", "load-{job}", "--job", "a", "--", "true").code == 0
    options = ("--needs", "load-{env.WHAT}", "--lock", "{env.WHAT}")
    result = host.run(*options, "--", "true", env={"WHAT": "a"})
    assert result.code == 0, result
    assert result.event("lock_acquired")["lock"] == "a"
    holder = host.hold("--lock", "{job}", "--job", "a")
    assert host.run("--lock", "a", "--", "true").code == 75
    finish(holder)


# ---------------------------------------------------------------- stdin


def test_a_value_from_stdin(host: Host) -> None:
    """`{stdin.json:PATH}` is a value of the JSON on stdin, which COMMAND gets whole anyway."""
    data = json.dumps({"order": {"lines": [{"id": 4711}]}, "rest": "ü" * 100_000}).encode()
    words = ("--key", "order-{stdin.json:order.lines.0.id}", "--log-to", "stderr", "--", "cat")
    result = host.run(*words, data=data)
    assert result.code == 0, result
    assert result.stdout == data
    assert b'"idempotency_key": "order-4711"' in result.stderr


def test_a_hash_of_stdin(host: Host) -> None:
    """`{stdin.sha256}`: the same bytes are the same key, however they come in."""
    key = key_of(host, "{stdin.sha256}", data=b"binary\0\xff")
    assert key == hashlib.sha256(b"binary\0\xff").hexdigest()
    again = host.run("--key", "{stdin.sha256}", "--on-mismatch", "ignore", "--", "cat", data=b"x")
    assert again.finished["idempotency_key"] == hashlib.sha256(b"x").hexdigest()


def test_every_attempt_gets_stdin_whole(host: Host) -> None:
    """A template that reads stdin implies `--stdin replay`: retries find all of it again."""
    options = ("--retries", "2", "--backoff", "1ms", "--log-to", "none")
    act = 'cat; [ "$GUARDRUN_ATTEMPT" = 3 ]'
    result = host.run("--key", "{stdin.json:id}", *options, "-c", act, data=b'{"id": "x"}\n')
    assert result.code == 0, result
    assert result.stdout == b'{"id": "x"}\n' * 3


def test_stdin_that_is_too_long(host: Host) -> None:
    """More on stdin than `--stdin-max` is exit 64, before anything is executed."""
    options = ("--key", "{stdin.sha256}", "--stdin-max", "1K")
    result = host.run(*options, "--", host.job, data=b"x" * 1025)
    assert result.code == 64, result
    assert host.executions() == []
    assert host.run(*options, "--", host.job, data=b"x" * 1024).code == 0


@pytest.mark.parametrize(
    "data", [b"", b"no JSON", b'{"b": 1}', b'{"a": null}', b'{"a": ""}', b'{"a": [1]}', b"[1]"]
)
def test_stdin_without_the_value(host: Host, data: bytes) -> None:
    """What is not on stdin, or is nothing, is exit 78: never an empty key."""
    wrong(host.run("--key", "{stdin.json:a}", "--", host.job, data=data), "stdin.json:a")
    assert host.executions() == []


# ---------------------------------------------------------------- time


@pytest.mark.parametrize(
    ("template", "resolved"),
    [
        ("{date}", "2026-11-24"),
        ("{date:iso}", "2026-11-24"),
        ("{date:hour}", "2026-11-24T23"),
        ("{date:month}", "2026-11"),
        ("{date:%Y/%j}", "2026/328"),
        ("{date@Europe/Berlin}", "2026-11-25"),
        ("{date@Europe/Berlin:hour}", "2026-11-25T00"),
        ("{date@America/New_York:%H:%M}", "18:30"),
        ("{window:15m}", "2026-11-24T23:30Z"),
        ("{window:1h}", "2026-11-24T23:00Z"),
        ("{window:13m}", "2026-11-24T23:19Z"),
        ("{window:1d}", "2026-11-24T00:00Z"),
    ],
)
def test_the_time_is_when_the_work_was_due(host: Host, template: str, resolved: str) -> None:
    """With `--enqueued-at` the time of a template is that time, however late the run is."""
    assert key_of(host, template, "--enqueued-at", "2026-11-24T23:30:00Z") == resolved


@pytest.mark.parametrize("due", ["2026-11-25T00:30:00+01:00", "1795563000", "1795563000.5"])
def test_one_time_in_many_forms(host: Host, due: str) -> None:
    """When the work was due can be said in any zone, and in seconds since 1970."""
    assert key_of(host, "{date:%Y-%m-%d %H:%M}", "--enqueued-at", due) == "2026-11-24 23:30"


def test_the_time_is_now_otherwise(host: Host) -> None:
    """Without `--enqueued-at` the time is that of the run's start, in UTC whatever TZ says."""
    before = time.gmtime()
    result = host.run("--key", "{date:hour}", "--", "true", env={"TZ": "Pacific/Kiritimati"})
    after = time.gmtime()
    possible = {time.strftime("%Y-%m-%dT%H", moment) for moment in (before, after)}
    assert result.finished["idempotency_key"] in possible


def test_one_run_a_window(host: Host) -> None:
    """With `{window:15m}` as key, of all runs of a quarter of an hour one executes."""
    codes = []
    for minute in (0, 7, 14, 15, 29, 30):
        due = f"2026-11-24T08:{minute:02}:59Z"
        words = ("--key", "{window:15m}", "--enqueued-at", due, "--", host.job)
        codes.append(host.run(*words).finished["result"])
    skipped, done = "skipped_duplicate", "success"
    assert codes == [done, skipped, skipped, done, skipped, done]


# ---------------------------------------------------------------- once per run


def test_a_template_is_resolved_once(host: Host) -> None:
    """Every attempt has the key of the run's start, though what it was made of has changed."""
    (host.root / "input").write_bytes(b"before")
    act = 'echo "$GUARDRUN_IDEMPOTENCY_KEY" >>keys; echo after >input; [ "$GUARDRUN_ATTEMPT" = 3 ]'
    options = ("--retries", "2", "--backoff", "1ms", "--key", "{file.sha256:input}")
    result = host.run(*options, "--", host.job, env={"ACT": act})
    assert result.code == 0, result
    keys = (host.root / "keys").read_text().split()
    assert keys == [hashlib.sha256(b"before").hexdigest()] * 3
    assert host.run("--key", keys[0], "--", host.job).event("duplicate_skipped")


def test_a_template_is_resolved_before_the_wait(host: Host) -> None:
    """A run that waits for its lock has the key of the time it started, not of its turn."""
    (host.root / "input").write_bytes(b"before")
    holder = host.hold("--lock", "l")
    log = host.root / "log"
    options = ("--log-to", str(log), "--lock", "l", "-w", "60s", "--key", "{file.sha256:input}")
    waiter = host.start(*options, "--", host.job)
    eventually(lambda: log.exists() and b"lock_busy" in log.read_bytes(), what="a run that waits")
    (host.root / "input").write_bytes(b"after")
    finish(holder)
    assert finish(waiter).code == 0
    assert host.rows("SELECT key FROM keys") == [{"key": hashlib.sha256(b"before").hexdigest()}]


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize("option", ["--lock", "--key", "--needs"])
@pytest.mark.parametrize(
    "template",
    [
        "{env.NOT_SET}",
        "{env.EMPTY}",
        "a-{env.EMPTY}-b",
        "{arg.9}",
        "{nonsense}",
        "{",
        "}",
        "{job",
        "{}",
        "{date:}",
        "{date:nonsense}",
        "{date@Nowhere/Atall}",
        "{window:}",
        "{window:90s}",
        "{window:0m}",
        "{file.sha256:/nonexistent/file}",
        "{item}",
        "{env.LINES}",
        "",
    ],
)
def test_a_template_that_cannot_be_resolved(host: Host, option: str, template: str) -> None:
    """Unknown, unset, empty or malformed: exit 78, one line, and nothing is executed."""
    env = {"EMPTY": "", "LINES": "one\ntwo"}
    wrong(host.run(option, template, "--", host.job, env=env))
    assert host.executions() == []


def test_a_mistake_is_told_with_its_variable(host: Host) -> None:
    """The line names the variable, and what to do about it."""
    wrong(host.run("--key", "x-{env.NOT_SET}", "--", "true"), "{env.NOT_SET}", "not set")
    wrong(host.run("--key", "x-{dat}", "--", "true"), "{dat}")


def test_a_mistake_is_no_traceback(host: Host) -> None:
    """Not even a template of bytes that are no text makes guardrun fail in a way of its own."""
    wrong(host.run("--key", b"\xff\xfe", "--", host.job))
    wrong(host.run("--key", "k" * 5000, "--", host.job))
    assert host.executions() == []


def test_no_more_than_the_template_is_resolved(host: Host) -> None:
    """A value that looks like a template is a value: it is not resolved again."""
    result = host.run("--key", "{env.X}", "--", "true", env={"X": "{job}-{env.Y}", "Y": "y"})
    assert result.finished["idempotency_key"] == "{job}-{env.Y}"
