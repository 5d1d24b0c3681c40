"""Wrong input, from outside: the right exit code, one clear line, and COMMAND is not executed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import Host, Result

USAGE, UNSAFE, CONFIG = 64, 73, 78


def refused(
    host: Host, code: int, *words: str | bytes, env: dict[str, str] | None = None
) -> Result:
    """Run guardrun with ``touch started`` as COMMAND; check that it was refused in one line."""
    result = host.run(*words, env=env)
    check(host, result, code)
    return result


def check(host: Host, result: Result, code: int) -> None:
    """The rules for every refusal."""
    assert result.code == code, result
    assert result.stdout == b""
    assert result.stderr.startswith(b"guardrun: ")
    assert result.stderr.count(b"\n") == 1
    assert result.stderr.endswith(b"\n")
    text = result.stderr.decode()  # UTF-8, whatever the input was
    assert text[:-1].isprintable()
    assert "Traceback" not in text
    assert "internal error" not in text
    assert not (host.root / "started").exists()


def command(*words: str | bytes) -> tuple[str | bytes, ...]:
    """These options, and a COMMAND that leaves a trace."""
    return (*words, "--", "touch", "started")


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    "words",
    [
        command("--lokc", "x"),
        command("--tim", "5"),
        command("--lock=a", "--lokc"),
        command("-Z"),
        command("-qZ"),
        command("---"),
        command("--=x"),
        command(b"--\xff\xfe"),
        command(b"-\xff"),
        command("--a\nb"),
        command("--\x1b[31m"),
        command("--quiet=yes"),
        command("--dry-run=1"),
        command("--lock"),
        command("--lock", "--key", "x"),
        ("--timeout",),
        ("-t",),
        ("-qt",),
        (),
        ("--",),
        ("run",),
        ("run", "--"),
        ("-q",),
        ("",),
        ("--", ""),
        command("-c", "touch started"),
        ("-c", ""),
        ("-c", "  "),
        ("-c",),
        ("unlock",),
        ("stats", "extra"),
        ("stats", "--last", "0"),
        ("dead", "--since", "soon"),
        ("why",),
        ("rerun",),
        ("each", "-P2", "--halt-after", "0", "--", "touch", "started"),
        ("each", "-P0", "--", "touch", "started"),
        ("each", "-0", "--jsonl", "--", "touch", "started"),
        ("each", "--ping-url", "http://localhost/", "--", "touch", "started"),
        ("each", "--", "touch", "{item.name}"),
        ("each", "--key", "k-{item.id}", "--", "touch", "started"),
        ("each", "-c", "touch {item}"),
        ("prune",),
        ("each",),
        ("keys", "show"),
        ("keys", "forget"),
        ("keys", "--limit", "many"),
        ("prune", "--older-than", "soon"),
        ("flush", "extra"),
        ("migrate", "extra"),
        ("history", "--bogus"),
        ("history", "--limit", "many"),
        ("history", "--limit", "-1"),
        ("history", "extra"),
        ("history", "--ledger-url", "mysql://h"),
        ("history", "--ledger-url", "postgresql://u:secret@h/db"),
        ("show",),
        ("show", "--json"),
    ],
    ids=str,
)
def test_words_that_are_wrong(host: Host, words: tuple[str | bytes, ...]) -> None:
    """An option, a subcommand or a COMMAND that cannot be is a usage error."""
    refused(host, USAGE, *words)


@pytest.mark.parametrize(
    "word",
    [
        "--wait=5x",
        "--wait=-5",
        "--wait=",
        "--wait=1h-5m",
        "--wait=never",
        "--wait=1e3",
        "--wait=\u0661",
        "--wait= 5",
        "-w5 m",
        "--timeout=0",
        "--timeout=0ms",
        "--timeout=inf",
        "--timeout=nan",
        "--timeout=5M",
        "--timeout=99999999d",
        "--timeout=" + "9" * 10_000,
        "--deadline=0",
        "--key-ttl=0",
        "--kill-after=forever",
        "--splay=-1s",
        "--min-hold=soon",
        "--store-wait=x",
        "--record-wait=x",
        "--ttl=9s",
        "--ttl=25h",
        "--claim-ttl=1s",
        "--retries=-1",
        "--retries=1.5",
        "--retries=many",
        "--retries=1_000",
        "--retries=9999999999",
        "--slots=0",
        "--slots=-1",
        "--slots=x",
        "--conflict-exit-code=256",
        "--conflict-exit-code=-1",
        "-E",
        "--retry-on=256",
        "--retry-on=9-5",
        "--retry-on=1,,2",
        "--retry-on=",
        "--retry-on=never",
        "--success-codes=timeout",
        "--success-codes=0-",
        "--backoff=1m..1s",
        "--backoff=..5s",
        "--backoff=1s..",
        "--retry-budget=5",
        "--retry-budget=/1h",
        "--retry-budget=5/0s",
        "--jitter=none",
        "--signal=99",
        "--signal=NOPE",
        "--signal=",
        "--capture=1Q",
        "--capture=-1",
        "--capture=1.5K",
        "--stdin-max=lots",
        "--stdin=file",
        "--output=yaml",
        "--on-duplicate=maybe",
        "--on-interrupted=ask",
        "--on-mismatch=stop",
        "--on-lease-loss=run",
        "--on-ledger-down=wait",
        "--scope=global",
        "--log-to=",
        "--log-to=fd:",
        "--log-to=fd:-1",
        "--log-to=fd:x",
        "--log-format=xml",
        "--log-level=verbose",
        "--enqueued-at=yesterday",
        "--enqueued-at=2026-13-01T00:00:00Z",
        "--enqueued-at=2026-11-24T08:15:00",
        "--enqueued-at=1764000000000",
        "--ledger-url=",
        "--ledger-url=nonsense",
        "--ledger-url=none",
        "--ledger-url=mysql://h/db",
        "--ledger-url=sqlite://relative",
        "--ledger-url=sqlite:///",
        "--lease-url=http://h",
        "--lease-url=redis://",
        "--lease-url=redis://h",
        "--job=",
        "--job=a\nb",
        "--job=\x1b[31mred",
        "--job=" + "x" * 200,
        "--lock-file=",
        "--config=",
    ],
    ids=lambda word: word[:40],
)
def test_values_that_are_wrong(host: Host, word: str) -> None:
    """A value that an option cannot have is a usage error that names the option."""
    line = refused(host, USAGE, *command(word)).stderr.decode()
    named = word.partition("=")[0] if word.startswith("--") else ""
    assert named in line


@pytest.mark.parametrize(
    "word", [b"--job=\xff", b"--ledger-url=sqlite:///\xff", b"--wait=\xff5s", b"--log-level=\xc3"]
)
def test_bytes_that_are_not_text(host: Host, word: bytes) -> None:
    """A value that is not UTF-8, where it has to be text, is a usage error."""
    refused(host, USAGE, *command(word))


@pytest.mark.parametrize(
    "words",
    [
        command("--lock=a", "--lock-file=b"),
        command("--lock-file=b", "-j2"),
        command("--lock=a", "-j2", "-s"),
        command("--lock=a", "-sx"),
        command("-n", "-w5"),
        command("--lock-file=b", "--min-hold=1m"),
        command("-j2"),
        command("--shared"),
        command("--min-hold=5m"),
        command("--lock=a", "--scope=distributed"),
        command("--lock=a", "--scope=distributed", "--lease-url=consul://token@h"),
        command("--lock=a", "--shared", "--lease-url=redis://h"),
        command("--key-ttl=1d"),
        command("--on-duplicate=replay"),
        command("--key=a", "--ledger-url=none:"),
        command("--needs=a", "--ledger-url=none:"),
        command("--retry-budget=1/1h", "--ledger-url=none:"),
        command("--key={stdin.sha256}", "--stdin=null"),
        command("--lock={stdin.json:a}", "--stdin=inherit"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(host: Host, words: tuple[str, ...]) -> None:
    """Options that exclude each other, or miss the one they are about, are a usage error."""
    refused(host, USAGE, *words)


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:hunter2@h/db", "redis://:hunter2@h", "postgresql://h/db?password=hunter2"],
)
@pytest.mark.parametrize("option", ["--ledger-url", "--lease-url"])
def test_a_password_on_the_command_line(host: Host, option: str, url: str) -> None:
    """A password that ps would show is refused, and not shown once more."""
    result = refused(host, USAGE, *command("--lock=a", f"{option}={url}"))
    assert b"hunter2" not in result.stderr


# ---------------------------------------------------------------- templates


@pytest.mark.parametrize(
    "template",
    [
        "",
        "{",
        "}",
        "{}",
        "{nope}",
        "{job",
        "a}b",
        "{{job}",
        "{env.}",
        "{env.GUARDRUN_TEST_UNSET}",
        "{env.GUARDRUN_TEST_EMPTY}",
        "{arg.x}",
        "{arg.99}",
        "{argv.md5}",
        "{date:}",
        "{date:fixed}",
        "{date@}",
        "{date@Mars/Olympus}",
        "{window}",
        "{window:90s}",
        "{window:0}",
        "{file.sha256:}",
        "{file.sha256:/nonexistent}",
        "{stdin.json:}",
        "{stdin.json:a}",
        "{item}",
        "a\nb",
        b"\xff",
        "x" * 2000,
    ],
    ids=lambda template: repr(template[:30]),
)
def test_templates_that_are_wrong(host: Host, template: str | bytes) -> None:
    """A template that is wrong, or has no value, is a mistake of its own kind."""
    text = template if isinstance(template, bytes) else template.encode()
    refused(host, CONFIG, *command(b"--key=" + text), env={"GUARDRUN_TEST_EMPTY": ""})


@pytest.mark.parametrize("template", ["", "{nope}", "{env.GUARDRUN_TEST_UNSET}"])
@pytest.mark.parametrize("option", ["--lock", "--needs"])
def test_all_templates_have_the_same_rules(host: Host, option: str, template: str) -> None:
    """Lock and needs are templates as the key is."""
    refused(host, CONFIG, *command(f"{option}={template}"))


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    "text",
    [
        "[defaults",
        "[defaults]\nretries = ",
        "[defaults]\nretries = 1\nretries = 2\n",
        "[defaults]\nretires = 3\n",
        "[defaults]\nkill-after = '3s'\n",
        "[default]\n",
        "retries = 3\n",
        "defaults = 3\n",
        "[jobs]\nx = 1\n",
        "[jobs.other]\nbogus = 1\n",
        "[jobs.other]\nretries = -1\n",
        "[defaults]\nretries = true\n",
        "[defaults]\nretries = 1.5\n",
        "[defaults]\nretries = []\n",
        "[defaults]\nquiet = 'yes'\n",
        "[defaults]\nlock = 3\n",
        "[defaults]\nlock = '{nope}'\n",
        "[defaults]\nlock = ''\n",
        "[defaults]\nwait = '5x'\n",
        "[defaults]\nwait = -5\n",
        "[defaults]\nneeds = [1]\n",
        "[defaults]\nneeds = {a = 1}\n",
        "[defaults]\nredact = ['(']\n",
        "[defaults]\nkeep = 'x'\n",
        "[defaults]\ncommand = 'touch started'\n",
        "[defaults]\nconfig = 'x'\n",
        "[defaults]\ndry_run = true\n",
        "[defaults]\nlock = 'a'\nlock_file = 'b'\n",
        "[defaults]\nwait = 5\nnonblock = true\n",
        "[defaults]\nledger_url = 'mysql://u:hunter2@h'\n",
        "[defaults]\nkey = 'a'\nledger_url = 'none:'\n",
        '[defaults]\nlog_to = "a\\u0000b"\n',
        "a = " + "[" * 5000,
    ],
    ids=lambda text: text[:40],
)
def test_a_configuration_file_that_is_wrong(host: Host, text: str) -> None:
    """A file that is malformed, or says what cannot be, stops the run and is named."""
    path = host.root / "c.toml"
    path.write_text(text)
    result = refused(host, CONFIG, *command("--config", "c.toml"))
    assert b"c.toml" in result.stderr
    assert b"hunter2" not in result.stderr


@pytest.mark.parametrize("path", ["nope.toml", ".", "/dev/zero", "/proc/self/mem", b"\xff.toml"])
def test_a_configuration_file_that_cannot_be_read(host: Host, path: str | bytes) -> None:
    """A file that was named has to be there, and be a file."""
    refused(host, CONFIG, *command("--config", path))


def test_a_configuration_file_of_the_environment_has_to_be_there(host: Host) -> None:
    """$GUARDRUN_CONFIG names a file, too."""
    refused(host, CONFIG, *command(), env={"GUARDRUN_CONFIG": "/nonexistent"})


def test_a_configuration_file_that_is_not_utf8(host: Host) -> None:
    """The line with the bytes that are not text is named."""
    (host.root / "c.toml").write_bytes(b"[defaults]\nlock = '\xff'\n")
    assert b"line 2" in refused(host, CONFIG, *command("--config=c.toml")).stderr


def test_the_file_in_its_usual_place_counts(host: Host) -> None:
    """A file that was found, not named, is refused all the same."""
    directory = host.root / "config" / "guardrun"
    directory.mkdir(parents=True)
    (directory / "config.toml").write_text("[defaults]\nbogus = 1\n")
    refused(host, CONFIG, *command())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GUARDRUN_LEDGER_URL", "postgresql://u:hunter2@x@h/db"),
        ("GUARDRUN_LEDGER_URL", "mysql://u:hunter2@h/db"),
        ("GUARDRUN_LEDGER_URL", "hunter2"),
        ("GUARDRUN_LEASE_URL", "http://u:hunter2@h"),
        ("GUARDRUN_LEASE_URL", "redis://u:hunter2@h/a b"),
        ("GUARDRUN_LOG_TO", "fd:x"),
        ("GUARDRUN_LOG_LEVEL", "loud"),
        ("GUARDRUN_STATE_DIR", "relative"),
        ("GUARDRUN_LOCK_DIR", "relative"),
    ],
)
def test_variables_that_are_wrong(host: Host, name: str, value: str) -> None:
    """A variable that is wrong is named, and a password in it is not shown."""
    result = refused(host, USAGE, *command(), env={name: value})
    assert name.encode() in result.stderr
    assert b"hunter2" not in result.stderr


def test_a_credential_that_is_wrong(host: Host) -> None:
    """What systemd hands over is a file, and is named like one."""
    (host.root / "guardrun.ledger-url").write_text("mysql://u:hunter2@h/db\n")
    env = {"CREDENTIALS_DIRECTORY": str(host.root)}
    result = refused(host, CONFIG, *command(), env=env)
    assert b"guardrun.ledger-url" in result.stderr
    assert b"hunter2" not in result.stderr


# ---------------------------------------------------------------- paths


def make_open_to_all(path: Path) -> None:
    """Make a directory that everybody can write to."""
    path.mkdir()
    path.chmod(0o777)


def test_a_lock_directory_that_others_can_write_to(host: Host) -> None:
    """Whoever can write to it could take locks apart."""
    make_open_to_all(host.locks)
    refused(host, UNSAFE, *command("--log-to=none", "--lock=a"))


def test_a_state_directory_that_others_can_write_to(host: Host) -> None:
    """Whoever can write to it could forge outcomes."""
    make_open_to_all(host.state)
    refused(host, UNSAFE, *command("--log-to=none"))


@pytest.mark.parametrize("name", ["GUARDRUN_STATE_DIR", "GUARDRUN_LOCK_DIR"])
@pytest.mark.parametrize("path", ["/proc/guardrun", "/dev/null", "/dev/null/x"])
def test_a_directory_that_cannot_be_made(host: Host, name: str, path: str) -> None:
    """A directory of ours that cannot be made stops the run."""
    refused(host, UNSAFE, *command("--log-to=none", "--lock=a"), env={name: path})


@pytest.mark.parametrize("path", ["missing/x", "/dev/null/x", "/proc/x"])
def test_a_lock_file_that_cannot_be_opened(host: Host, path: str) -> None:
    """--lock-file has to be where a file can be."""
    refused(host, UNSAFE, *command("--log-to=none", f"--lock-file={path}"))


# ---------------------------------------------------------------- where the line goes


def test_a_stderr_that_is_full_changes_nothing(host: Host) -> None:
    """The exit code is right even where the line cannot be written."""
    with open("/dev/full", "wb") as full:
        assert host.run(*command("--bogus"), stderr=full).code == USAGE


def test_a_long_word_makes_no_endless_line(host: Host) -> None:
    """A message shows the beginning of what is wrong, not all of it."""
    result = refused(host, USAGE, *command("--bogus" + "x" * 100_000))
    assert len(result.stderr) < 1000


def test_right_input_is_executed(host: Host) -> None:
    """The trace that the tests above look for is left when nothing is wrong."""
    assert host.run(*command("--lock=a", "--key={date}", "-w5")).code == 0
    assert (host.root / "started").exists()
