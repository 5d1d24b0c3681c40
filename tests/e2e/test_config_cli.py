"""Configuration: flag > environment > [jobs.NAME] > [defaults], and where the file is found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support import Host, Result, finish


def config(host: Host, text: str, name: str = "guardrun.toml") -> str:
    """Write a configuration file."""
    path = host.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def plan(host: Host, *words: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a dry run says would happen."""
    result = host.run("--dry-run", *words, env=env)
    assert result.code == 0, result
    described = json.loads(result.stdout)
    assert isinstance(described, dict)
    return described


def wrong(result: Result, *said: str, code: int = 78) -> None:
    """Check that nothing was done but one line written, with these words."""
    assert result.code == code, result
    (line,) = result.stderr.decode().splitlines()
    for word in said:
        assert word in line, line
    assert result.stdout == b""


# ---------------------------------------------------------------- precedence


def test_flag_environment_job_defaults(host: Host) -> None:
    """Each place wins over the ones below it; taken away one by one, the next one counts."""
    places = [host.root / name for name in ("flag", "environment", "job", "defaults")]
    flag, environment, job, defaults = (str(place) for place in places)
    both = f'[defaults]\nlog_to = "{defaults}"\n[jobs.nightly]\nlog_to = "{job}"\n'
    file = config(host, both)
    words = ("--config", file, "--job", "nightly")
    variables = {"GUARDRUN_LOG_TO": environment}
    calls: list[tuple[tuple[str, ...], dict[str, str]]] = [
        ((*words, "--log-to", flag), variables),
        (words, variables),
        (words, {}),
        (("--config", file, "--job", "other"), {}),
    ]
    for (options, env), place in zip(calls, places, strict=True):
        result = host.run(*options, "--", "true", env=env)
        assert (result.code, result.stdout) == (0, b"")
        assert b"run_finished" in place.read_bytes()
        place.unlink()
        assert not [other for other in places if other.exists()]


def test_what_has_no_variable(host: Host) -> None:
    """For an option without a variable: flag > job > defaults > what guardrun does by itself."""
    file = config(host, "[defaults]\nconflict_exit_code = 10\n[jobs.j]\nconflict_exit_code = 11\n")
    holder = host.hold("--lock", "l")
    codes = [
        host.run("--config", file, "--lock", "l", *words, "--", "true").code
        for words in (["--job", "j", "-E", "12"], ["--job", "j"], ["--job", "other"])
    ]
    codes.append(host.run("--lock", "l", "--", "true").code)
    finish(holder)
    assert codes == [12, 11, 10, 75]


def test_places_are_merged_option_by_option(host: Host) -> None:
    """A job's table adds to the defaults; it replaces only what it names itself."""
    text = '[defaults]\nretries = 2\nbackoff = "1ms"\n[jobs.j]\nlock = "{job}"\nretries = 1\n'
    file = config(host, text)
    result = host.run("--config", file, "--job", "j", "--", "false")
    assert result.events.count("attempt_started") == 2
    assert result.event("lock_acquired")["lock"] == "j"
    other = host.run("--config", file, "--job", "other", "--", "false")
    assert other.events.count("attempt_started") == 3
    assert "lock_acquired" not in other.events


def test_a_jobs_table_is_found_by_the_name_of_command(host: Host) -> None:
    """Without `--job` the table is chosen by the name that COMMAND gives the run."""
    file = config(host, "[jobs.job]\nsuccess_codes = [0, 3]\n")
    result = host.run("--config", file, "--", host.job, env={"ACT": "exit 3"})
    assert (result.code, result.finished["result"]) == (3, "success")
    script = host.run("--config", file, "--", "sh", host.job, env={"ACT": "exit 3"})
    assert script.finished["job"] == "job"
    assert script.finished["result"] == "success"


def test_a_job_with_a_name_that_needs_quotes(host: Host) -> None:
    """A table's name may be any job's: dots and blanks in quotes."""
    file = config(host, '[jobs."a.b c"]\nsuccess_codes = 3\n')
    result = host.run("--config", file, "--job", "a.b c", "-c", "exit 3")
    assert result.finished["result"] == "success"


def test_a_list_replaces_a_list(host: Host) -> None:
    """A higher place replaces a list as a whole; on the command line options add up."""
    file = config(host, '[defaults]\nneeds = ["a", "b"]\n')
    assert plan(host, "--config", file, "--", "true")["needs"] == ["a", "b"]
    words = ("--config", file, "--needs", "c", "--needs", "d", "--", "true")
    assert plan(host, *words)["needs"] == ["c", "d"]


# ---------------------------------------------------------------- values


def test_values_as_toml_has_them(host: Host) -> None:
    """Strings, numbers, booleans and lists mean what the same words mean on a command line."""
    text = """
        [defaults]
        retries = 3
        backoff = "2s..10s"
        timeout = "1h30m"
        kill_after = 5
        wait = 1.5
        lock = "l"
        quiet = true
        success_codes = [0, 3]
        capture = "64K"
        min_hold = "1m"
        slots = 4
        signal = "INT"
    """
    told = plan(host, "--config", config(host, text), "--", "true")
    flags = ["--retries", "3", "--backoff", "2s..10s", "-t", "1h30m", "-k", "5", "-w", "1.5"]
    flags += ["--lock", "l", "-q", "--success-codes", "0,3", "--capture", "64K"]
    flags += ["--min-hold", "1m", "-j", "4", "--signal", "INT"]
    same = plan(host, *flags, "--", "true")
    assert told.pop("config") is not None
    assert same.pop("config") is None
    assert told == same
    assert told["attempts"]["retries"] == 3
    assert told["attempts"]["timeout"] == 5400


def test_a_flag_takes_back_what_a_file_says(host: Host) -> None:
    """What a file made shared, or patient, a flag makes exclusive, or impatient, again."""
    file = config(host, '[defaults]\nshared = true\nwait = "forever"\n')
    words = ("--config", file, "--lock", "l")
    holder = host.hold(*words)
    assert host.run(*words, "--", "true").code == 0
    assert host.run(*words, "-x", "-n", "--", "true").code == 75
    finish(holder)


# ---------------------------------------------------------------- where the file is


def test_where_the_file_is_found(host: Host) -> None:
    """`--config`, then `$GUARDRUN_CONFIG`, then the user's own: the first one found, alone."""
    own = config(host, "[defaults]\nretries = 1\n", "config/guardrun/config.toml")
    by_variable = config(host, "[defaults]\nretries = 2\n", "variable.toml")
    by_flag = config(host, "[defaults]\nretries = 3\n", "flag.toml")
    env = {"GUARDRUN_CONFIG": by_variable}
    told = [
        plan(host, "--config", by_flag, "--", "true", env=env),
        plan(host, "--", "true", env=env),
        plan(host, "--", "true"),
    ]
    assert [one["attempts"]["retries"] for one in told] == [3, 2, 1]
    assert [one["config"] for one in told] == [by_flag, by_variable, own]


def test_home_is_no_place_to_look(host: Host) -> None:
    """`$HOME` counts for nothing: cron, sudo and a login shell differ about it."""
    config(host, "[defaults]\nretries = 9\n", "home/.config/guardrun/config.toml")
    env = {"HOME": str(host.root / "home"), "XDG_CONFIG_HOME": ""}
    told = plan(host, "--", "true", env=env)
    assert told["attempts"]["retries"] != 9
    assert not str(told["config"]).startswith(str(host.root))


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_file_that_was_named_must_be_there(host: Host, by: str) -> None:
    """A file named by flag or variable that is not there is exit 78, not a run without it."""
    missing = str(host.root / "missing.toml")
    words = ["--config", missing] if by == "flag" else []
    env = {"GUARDRUN_CONFIG": missing} if by == "variable" else {}
    wrong(host.run(*words, "--", host.job, env=env), "missing.toml")
    assert host.executions() == []


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "text",
    [
        "retries = 3",
        "[defaults]\nretrys = 3",
        "[defaults]\nretries = -1",
        "[defaults]\nretries = true",
        "[defaults]\nretries = 'x'",
        "[defaults]\nwait = 'soon'",
        "[defaults]\nquiet = 'yes'",
        "[defaults]\nsuccess_codes = [0, 256]",
        "[defaults]\nredact = ['(']",
        "[defaults]\nlock = '{nonsense}'",
        "[defaults]\nlog_level = 'loud'",
        "[defaults]\non_duplicate = 'explode'",
        "[defaults]\ncommand = 'true'",
        "[defaults]\nconfig = 'other'",
        "[defaults]\ndry_run = true",
        "[job.j]\nretries = 1",
        "[jobs]\nretries = 1",
        "[jobs.j]\nretries = 'x'",
        "[jobs.other]\nretrys = 1",
        "[defaults]\nlock = 'l'\nlock_file = '/tmp/x'",
        "defaults = 3",
        "[defaults\n",
        "\xff",
    ],
)
def test_a_file_that_is_wrong(host: Host, text: str) -> None:
    """A mistake anywhere in the file, also in another job's table, is exit 78 and one line."""
    path = host.root / "guardrun.toml"
    path.write_bytes(text.encode("latin-1"))
    wrong(host.run("--config", str(path), "--job", "j", "--", host.job), "guardrun.toml")
    assert host.executions() == []


def test_a_mistyped_key_is_told_with_the_right_one(host: Host) -> None:
    """The line about an unknown key names it and the one that was probably meant."""
    file = config(host, "[defaults]\nretrys = 3\n")
    wrong(host.run("--config", file, "--", "true"), "retrys", "retries")


def test_a_directory_is_no_file(host: Host) -> None:
    """A directory in the file's place is exit 78."""
    wrong(host.run("--config", str(host.root), "--", "true"))


# ---------------------------------------------------------------- the environment


def test_only_what_the_contract_names_comes_from_the_environment(host: Host) -> None:
    """No other option can be set by a variable, whatever it is called."""
    env = {"GUARDRUN_RETRIES": "3", "GUARDRUN_WAIT": "x", "GUARDRUN_KEY": "k", "GUARDRUN_JOB": "j"}
    told = plan(host, "--", "true", env=env)
    assert told["attempts"]["retries"] == 0
    assert told["key"] is None
    assert told["job"] == "true"


def test_state_and_lock_directory(host: Host) -> None:
    """`$GUARDRUN_STATE_DIR` and `$GUARDRUN_LOCK_DIR` say where ledger and locks are."""
    env = {"GUARDRUN_STATE_DIR": str(host.root / "s"), "GUARDRUN_LOCK_DIR": str(host.root / "l")}
    assert host.run("--lock", "x", "--", "true", env=env).code == 0
    assert (host.root / "s" / "ledger.sqlite3").exists()
    assert list((host.root / "l").iterdir())
    assert not host.state.exists()
    assert not host.locks.exists()


@pytest.mark.parametrize("name", ["GUARDRUN_STATE_DIR", "GUARDRUN_LOCK_DIR"])
def test_a_directory_is_named_from_the_root(host: Host, name: str) -> None:
    """A relative directory would be another one for every caller: it is refused."""
    wrong(host.run("--lock", "x", "--", "true", env={name: "here"}), name, code=64)
    assert not (host.root / "here").exists()


def test_the_level_from_the_environment(host: Host) -> None:
    """`$GUARDRUN_LOG_LEVEL` is the log level, where no flag says otherwise."""
    env = {"GUARDRUN_LOG_LEVEL": "error"}
    assert host.run("--", "true", env=env).stdout == b""
    assert host.run("--log-level", "info", "--", "true", env=env).finished


def test_a_wrong_variable_is_a_usage_error(host: Host) -> None:
    """A variable with a value that makes no sense is exit 64, and the line names it."""
    result = host.run("--", host.job, env={"GUARDRUN_LOG_LEVEL": "loud"})
    wrong(result, "GUARDRUN_LOG_LEVEL", "loud", code=64)
    assert host.executions() == []


def test_credentials_of_systemd(host: Host) -> None:
    """`guardrun.ledger-url` in `$CREDENTIALS_DIRECTORY` names the ledger; the variable wins."""
    credentials = host.root / "credentials"
    credentials.mkdir()
    (credentials / "guardrun.ledger-url").write_text(f"sqlite://{host.root}/credential.db\n")
    env = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert host.run("--", "true", env=env).code == 0
    assert (host.root / "credential.db").exists()
    assert not (host.state / "ledger.sqlite3").exists()
    env["GUARDRUN_LEDGER_URL"] = f"sqlite://{host.root}/variable.db"
    assert host.run("--", "true", env=env).code == 0
    assert (host.root / "variable.db").exists()


def test_a_password_may_stand_in_the_environment(host: Host) -> None:
    """A URL with a password is refused as an option only; nothing of it is told."""
    secret = "hunter2-swordfish"
    url = f"postgresql://me:{secret}@db.example/x"
    told = host.run("--dry-run", "--", "true", env={"GUARDRUN_LEDGER_URL": url})
    assert secret.encode() not in told.stdout + told.stderr
    file = config(host, f'[defaults]\nledger_url = "{url}"\n')
    told = host.run("--config", file, "--dry-run", "--", "true")
    assert secret.encode() not in told.stdout + told.stderr


# ---------------------------------------------------------------- dry run


def test_a_dry_run_touches_nothing(host: Host) -> None:
    """`--dry-run` shows the resolved plan as JSON, executes nothing and makes nothing."""
    options = ("--job", "j", "--lock", "{job}-lock", "--key", "{job}-key", "--needs", "{job}-need")
    told = plan(host, *options, "--", host.job, "--password=secret")
    assert told["lock"]["lock"] == "j-lock"
    assert told["key"]["key"] == "j-key"
    assert told["needs"] == ["j-need"]
    assert told["command"] == [host.job, "--password=***"]
    assert str(host.state) in told["ledger"]["ledger_url"]
    assert host.executions() == []
    assert {path.name for path in Path(host.root).iterdir()} == {"job"}


def test_a_dry_run_finds_mistakes(host: Host) -> None:
    """What would be wrong in earnest is wrong in a dry run, with the same exit code."""
    assert host.run("--dry-run", "--key", "{env.NOT_SET}", "--", "true").code == 78
    assert host.run("--dry-run", "--wait", "soon", "--", "true").code == 64
    assert host.run("--dry-run", "--config", "/nonexistent", "--", "true").code == 78
