"""Flag > environment > credential > [jobs.NAME] > [defaults] → Plan, and what is refused."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardrun import paths
from guardrun.config import Settled, ledger_spec, settle
from guardrun.errors import ConfigError, GuardrunError, UnsafePath, UsageError
from guardrun.kinds import has_password
from guardrun.model import FOREVER, Budget, Codes, Plan
from guardrun.options import LINE_ONLY, OPTIONS, parse

# For every option but those that are answered elsewhere: a value that is not its default, and
# what the option needs beside it to make sense.
SAMPLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "job": ("nightly", ()),
    "lock": ("{job}", ()),
    "lock-file": ("/tmp/x", ()),
    "slots": ("3", ("--lock=x",)),
    "shared": ("", ("--lock=x",)),
    "exclusive": ("", ("--lock=x",)),
    "wait": ("forever", ()),
    "nonblock": ("", ()),
    "conflict-exit-code": ("0", ()),
    "min-hold": ("5m", ("--lock=x",)),
    "scope": ("distributed", ("--lock=x", "--ledger-url=postgresql://h/db")),
    "lease-url": (
        "redis://h",
        ("--lock=x", "--scope=distributed", "--ledger-url=postgresql://h/db"),
    ),
    "ttl": ("10s", ("--lock=x", "--lease-url=redis://h")),
    "on-lease-loss": ("warn", ("--lock=x", "--lease-url=redis://h")),
    "store-wait": ("1s", ()),
    "key": ("{date}", ()),
    "key-ttl": ("1d", ("--key=x",)),
    "on-duplicate": ("replay", ("--key=x",)),
    "on-interrupted": ("stop", ("--key=x",)),
    "on-mismatch": ("ignore", ("--key=x",)),
    "claim-ttl": ("10m", ("--key=x",)),
    "needs": ("a", ()),
    "retries": ("3", ()),
    "backoff": ("5s..10m", ()),
    "jitter": ("equal", ()),
    "retry-on": ("75,timeout", ()),
    "retry-budget": ("20/1h", ()),
    "success-codes": ("0,3", ()),
    "timeout": ("1h30m", ()),
    "deadline": ("2h", ()),
    "signal": ("INT", ()),
    "kill-after": ("500ms", ()),
    "splay": ("10m", ()),
    "stdin": ("null", ()),
    "stdin-max": ("1M", ()),
    "output": ("on-failure", ()),
    "capture": ("64K", ()),
    "ledger-url": ("sqlite:///tmp/x.db", ()),
    "record-wait": ("5s", ()),
    "on-ledger-down": ("stop", ()),
    "enqueued-at": ("1764000000", ()),
    "keep": ("7d", ()),
    "log-to": ("stderr", ()),
    "log-format": ("json", ()),
    "log-level": ("debug", ()),
    "quiet": ("", ()),
    "redact": ("tok_[a-z]+", ()),
    "metrics-textfile": ("/var/lib/node_exporter", ()),
    "ping-url": ("https://hc-ping.com/a", ()),
}
# Their own defaults say so: nothing changes when they are given.
_SAY_THE_DEFAULT = {"exclusive", "nonblock"}
_NO_SETTING = {"command", "config", "dry-run", "help", "version"}


class Place:
    """A configuration file, an environment, and what comes out of both."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "config.toml"
        self.file.write_text("")
        self.env = {
            "GUARDRUN_CONFIG": str(self.file),
            "GUARDRUN_STATE_DIR": "/state",
            "GUARDRUN_LOCK_DIR": "/locks",
        }

    def write(self, text: str) -> None:
        """Set the text of the configuration file."""
        self.file.write_text(text)

    def settle(self, *words: str) -> Settled:
        """Settle these words, with ``true`` as COMMAND."""
        return settle(parse([*words, "--", "true"]), self.env)

    def plan(self, *words: str) -> Plan:
        """The Plan of these words."""
        return self.settle(*words).plan

    def refused(self, *words: str, by: type[GuardrunError] = UsageError) -> str:
        """What is said about words that are refused."""
        with pytest.raises(by) as caught:
            self.settle(*words)
        assert type(caught.value) is by
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty configuration file and an environment that names it."""
    return Place(tmp_path)


def written(name: str, text: str) -> str:
    """An option as it stands on the command line."""
    return f"--{name}={text}" if OPTIONS[name].kind else f"--{name}"


# ---------------------------------------------------------------- from option to field


def test_the_samples_cover_every_option() -> None:
    """No option is left out of the tests below."""
    assert SAMPLES.keys() | _NO_SETTING == OPTIONS.keys()


@pytest.mark.parametrize("name", sorted(SAMPLES.keys() - {"keep", "redact"}))
def test_every_option_of_the_line_reaches_the_plan(place: Place, name: str) -> None:
    """An option that is given changes the Plan, unless it says the default."""
    text, context = SAMPLES[name]
    changed = place.plan(*context, written(name, text)) != place.plan(*context)
    assert changed is (name not in _SAY_THE_DEFAULT)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_file_says_what_the_line_says(place: Place, name: str) -> None:
    """A key of ``[defaults]`` makes the same Plan as the option does."""
    option = OPTIONS[name]
    text, context = SAMPLES[name]
    plain = place.plan(*context)
    key = name.replace("-", "_")
    value = f"'{text}'" if option.kind else "true"
    place.write(f"[defaults]\n{key} = {value}\n")
    from_file = place.plan(*context)
    assert (from_file != plain) is (name not in _SAY_THE_DEFAULT)
    place.write("")
    if name not in ("keep", "redact"):
        assert from_file == place.plan(*context, written(name, text))


@pytest.mark.parametrize(
    "name",
    [n for n in SAMPLES if OPTIONS[n].default and n not in ("job", "retry-on", "ledger-url")],
)
def test_the_default_that_people_read_is_the_one_that_holds(place: Place, name: str) -> None:
    """Giving an option the default of its help changes nothing."""
    context = SAMPLES[name][1]
    default = {"on-ledger-down": "run"}.get(name, OPTIONS[name].default)
    key = name.replace("-", "_")
    plain = place.plan(*context)
    place.write(f"[defaults]\n{key} = '{default}'\n")
    assert place.plan(*context) == plain


def test_values_are_read_into_the_types_of_the_model(place: Place) -> None:
    """Texts become numbers, sets and durations in seconds."""
    plan = place.plan(
        *("--lock={job}", "-j3", "-w", "1m", "-E0", "--min-hold=1.5s", "--key={date}"),
        *("--key-ttl=1d", "--retries=2", "--backoff=2s..5m", "--retry-on=1,5-6,timeout"),
        *("--retry-budget=9/1h", "--success-codes=0,3", "-t90", "-k0", "--signal=SIGINT"),
        *("--capture=64K", "--needs=a", "--needs=b", "--enqueued-at=1764000000", "-q"),
    )
    assert plan.job == "true"
    assert (plan.wait, plan.conflict_code, plan.enqueued_at) == (60.0, 0, 1764000000.0)
    assert plan.lock is not None
    assert plan.lock.name == "{job}"
    assert (plan.lock.directory, plan.lock.slots, plan.lock.min_hold) == ("/locks", 3, 1.5)
    assert (plan.key.key, plan.key.ttl, plan.key.needs) == ("{date}", 86400.0, ("a", "b"))
    retry = plan.exec.retry
    assert (retry.retries, retry.base, retry.cap) == (2, 2.0, 300.0)
    assert retry.retry_on == Codes(frozenset({1, 5, 6}), timeout=True)
    assert retry.budget == Budget(9, 3600.0)
    assert plan.exec.success_codes == {0, 3}
    assert (plan.exec.timeout, plan.exec.kill_after) == (90.0, 0.0)
    assert (plan.exec.stop_signal, plan.exec.capture) == (signal.SIGINT, 65536)
    assert plan.report.quiet


def test_without_options_the_model_decides(place: Place) -> None:
    """A bare COMMAND has no lock, no key, no limits, and the SQLite file as ledger."""
    plan = place.plan()
    assert plan.lock is None
    assert plan.key.key is None
    assert (plan.exec.timeout, plan.exec.deadline) == (FOREVER, FOREVER)
    assert plan.ledger.url == "sqlite:///state/ledger.sqlite3"
    assert (plan.ledger.state_dir, plan.ledger.on_down) == ("/state", "run")


@pytest.mark.parametrize("word", ["--key=x", "--needs=x", "--retry-budget=1/1h"])
def test_who_depends_on_the_ledger_stops_without_it(place: Place, word: str) -> None:
    """``--on-ledger-down`` is ``stop`` by default with a key, a need or a budget."""
    assert place.plan(word).ledger.on_down == "stop"
    assert place.plan(word, "--on-ledger-down=run").ledger.on_down == "run"


@pytest.mark.parametrize(
    "word", ["--lock={stdin.sha256}", "--key={stdin.json:a}", "--needs={stdin.sha256}"]
)
def test_a_template_that_reads_stdin_implies_replay(place: Place, word: str) -> None:
    """COMMAND still gets the stdin that a template has read."""
    assert place.plan(word).exec.stdin == "replay"
    assert place.plan(word, "--stdin=replay").exec.stdin == "replay"
    assert "cannot go with" in place.refused(word, "--stdin=null")


def test_a_string_is_run_by_the_shell() -> None:
    """``-c STRING`` makes ``/bin/sh -c STRING``, named after its first word."""
    plan = settle(parse(["-c", "/opt/x.sh --all | wc"]), {"GUARDRUN_STATE_DIR": "/state"}).plan
    assert plan.exec.argv == ("/bin/sh", "-c", "/opt/x.sh --all | wc")
    assert plan.job == "x.sh"


def test_command_comes_through_untouched(place: Place) -> None:
    """COMMAND's words are the ones that were given, byte for byte."""
    words = ("a b", "", "*", "--", "\udcff\n")
    assert settle(parse(["--", *words]), place.env).plan.exec.argv == words


# ---------------------------------------------------------------- which place counts


def test_the_order_of_places(place: Place) -> None:
    """Flag > environment > [jobs.NAME] > [defaults]."""
    place.write("[defaults]\nlog_level = 'error'\n")
    assert place.plan().report.level == "error"
    place.write("[defaults]\nlog_level = 'error'\n[jobs.true]\nlog_level = 'warning'\n")
    assert place.plan().report.level == "warning"
    place.env["GUARDRUN_LOG_LEVEL"] = "info"
    assert place.plan().report.level == "info"
    assert place.plan("--log-level=debug").report.level == "debug"


PLACES = ("defaults", "job", "environment", "line")
"""from the weakest to the strongest"""

MERGED: dict[str, tuple[str, ...]] = {
    "retries": ("1", "2", "3", "4"),
    "wait": ("10s", "20s", "30s", "40s"),
    "jitter": ("full", "equal", "decorrelated", "equal"),
    "needs": ("a", "b", "c", "d"),
    "log-to": ("none", "stderr", "/defaults", "/line"),
    "log-level": ("debug", "info", "warning", "error"),
}
"""what each place says, where it says something"""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    said=st.fixed_dictionaries(
        {name: st.sets(st.sampled_from(PLACES)) for name in MERGED},
    ),
    order=st.randoms(use_true_random=False),
)
def test_each_setting_is_what_the_strongest_place_says(
    place: Place, said: dict[str, set[str]], order: random.Random
) -> None:
    """Whoever says what: every setting is merged by itself, and its strongest place counts."""
    said = {
        name: places if OPTIONS[name].environment else places - {"environment"}
        for name, places in said.items()
    }

    def table(where: str) -> str:
        values = MERGED.items()
        at = PLACES.index(where)
        lines = [f"{n.replace('-', '_')} = '{v[at]}'" for n, v in values if where in said[n]]
        return "\n".join(order.sample(lines, len(lines)))

    place.write(f"[defaults]\n{table('defaults')}\n[jobs.true]\n{table('job')}\n")
    for name, option in OPTIONS.items():
        if option.environment in ("GUARDRUN_LOG_TO", "GUARDRUN_LOG_LEVEL"):
            place.env[option.environment] = MERGED[name][2] if "environment" in said[name] else ""
    words = [f"--{name}={values[3]}" for name, values in MERGED.items() if "line" in said[name]]
    strongest = {
        name: MERGED[name][max(map(PLACES.index, places))]
        for name, places in said.items()
        if places
    }
    plan = place.plan(*order.sample(words, len(words)))
    place.write("")
    place.env.update({"GUARDRUN_LOG_TO": "", "GUARDRUN_LOG_LEVEL": ""})
    assert plan == place.plan(*(f"--{name}={value}" for name, value in strongest.items()))


def test_a_credential_stands_between_environment_and_file(place: Place) -> None:
    """What systemd hands to the unit beats the file, and the environment beats both."""
    place.write("[defaults]\nledger_url = 'sqlite:///file'\n")
    place.env["CREDENTIALS_DIRECTORY"] = str(place.root)
    assert place.plan().ledger.url == "sqlite:///file"
    (place.root / "guardrun.ledger-url").write_text("sqlite:///credential\nsecond line\n")
    assert place.plan().ledger.url == "sqlite:///credential"
    place.env["GUARDRUN_LEDGER_URL"] = "sqlite:///environment"
    assert place.plan().ledger.url == "sqlite:///environment"


def test_the_table_of_the_job_that_runs_counts(place: Place) -> None:
    """[jobs.NAME] is chosen by --job, else by the name COMMAND gives."""
    place.write("[jobs.true]\nretries = 1\n[jobs.nightly]\nretries = 2\n")
    assert place.plan().exec.retry.retries == 1
    assert place.plan("--job=nightly").exec.retry.retries == 2
    assert place.plan("--job=other").exec.retry.retries == 0


def test_the_file_can_name_all_jobs(place: Place) -> None:
    """``job`` in [defaults] names the run, and so chooses its table."""
    place.write("[defaults]\njob = 'all'\n[jobs.all]\nretries = 3\n")
    assert (place.plan().job, place.plan().exec.retry.retries) == ("all", 3)
    assert place.plan("--job=one").job == "one"


def test_a_higher_place_replaces_a_list(place: Place) -> None:
    """Needs of the command line come instead of those of the file, not beside them."""
    place.write("[defaults]\nneeds = ['a', 'b']\n")
    assert place.plan().key.needs == ("a", "b")
    assert place.plan("--needs=c").key.needs == ("c",)


def test_an_alias_of_a_higher_place_replaces_what_it_stands_for(place: Place) -> None:
    """--nonblock and --wait, --shared and --exclusive are one setting each."""
    place.write("[defaults]\nlock = 'x'\nwait = '5m'\nshared = true\n")
    plan = place.plan("-n", "-x")
    assert plan.wait == 0.0
    assert plan.lock is not None
    assert plan.lock.shared is False


def test_an_empty_variable_is_unset(place: Place) -> None:
    """A variable that is set but empty counts as unset."""
    for name in ("GUARDRUN_LOG_TO", "GUARDRUN_LOG_LEVEL", "GUARDRUN_LEDGER_URL"):
        place.env[name] = ""
    plain = place.plan()
    assert plain.report.to == "stdout"
    assert plain.ledger.url == "sqlite:///state/ledger.sqlite3"


def test_the_last_of_an_option_given_twice_counts(place: Place) -> None:
    """Options that are no lists replace themselves."""
    assert place.plan("-w5", "--wait=6").wait == 6.0


def test_a_flag_is_turned_off_in_a_file(place: Place) -> None:
    """``quiet = false`` for one job undoes ``quiet = true`` for all."""
    place.write("[defaults]\nquiet = true\n[jobs.true]\nquiet = false\n")
    assert place.plan().report.quiet is False
    assert place.plan("--job=other").report.quiet is True


def test_a_lease_store_of_the_environment_implies_no_lease(place: Place) -> None:
    """Only --lease-url on the command line makes a lock distributed."""
    place.env["GUARDRUN_LEASE_URL"] = "redis://u:secret@db"
    lock = place.plan("--lock=x").lock
    assert lock is not None
    assert lock.scope == "host"


# ---------------------------------------------------------------- natural types of a file


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("retries = 3", ["--retries=3"]),
        ("conflict_exit_code = 0", ["-E0"]),
        ("timeout = 90", ["-t90"]),
        ("timeout = 0.5", ["-t500ms"]),
        ("wait = 'forever'", ["--wait=forever"]),
        ("success_codes = 3", ["--success-codes=3"]),
        ("success_codes = [0, 3]", ["--success-codes=0,3"]),
        ("retry_on = [75, 'timeout', '5-9']", ["--retry-on=75,timeout,5-9"]),
        ("capture = 1024", ["--capture=1K"]),
        ("needs = 'a'", ["--needs=a"]),
        ("needs = ['a', 'b']", ["--needs=a", "--needs=b"]),
        ("quiet = true", ["-q"]),
        ("quiet = false", []),
        ("nonblock = true", ["-n"]),
        ("nonblock = false", []),
        ("enqueued_at = 1764000000", ["--enqueued-at=1764000000"]),
    ],
)
def test_numbers_booleans_and_arrays(place: Place, line: str, words: list[str]) -> None:
    """A file may use TOML's own types where they say what the text would."""
    from_line = place.plan(*words)
    place.write(f"[defaults]\n{line}\n")
    assert place.plan() == from_line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[defaults]\nretires = 3", "no such key; did you mean retries?"),
        ("[defaults]\nkill-after = 3", "no such key; did you mean kill_after?"),
        ("[defaults]\nxyzzy = 3", "xyzzy in [defaults] of"),
        ("[jobs.other]\nxyzzy = 3", "xyzzy in [jobs.other] of"),
        ("[jobs.other]\nretries = -3", "retries in [jobs.other] of"),
        ("retries = 3", "write it under [defaults]"),
        ("[default]\nretries = 3", "'default' is not a table of this file"),
        ("defaults = 3", "defaults is not a table: write [defaults]"),
        ("jobs = 3", "jobs is not a table"),
        ("[jobs]\nnightly = 3", "jobs.nightly is not a table"),
        ("[defaults]\nretries = 'many'", "is not a whole number"),
        ("[defaults]\nretries = true", "true is not a string or a whole number"),
        ("[defaults]\nretries = 1.5", "a fraction is not"),
        ("[defaults]\nretries = [1]", "an array is not"),
        ("[defaults]\nlock = 3", "a number is not a string (TEMPLATE)"),
        ("[defaults]\nlock = {a = 1}", "a table is not a string"),
        ("[defaults]\nenqueued_at = 2026-11-24", "a date or time is not a string"),
        ("[defaults]\nquiet = 'yes'", "a string is not true or false"),
        ("[defaults]\nneeds = ['a', 3]", "a number is not a string"),
        ("[defaults]\ntimeout = inf", "is not a duration"),
        ("[defaults]\nlock = '{nope}'", "{nope} is not a variable"),
        ("[defaults]\nredact = '('", "is not a regular expression"),
        ("[defaults]\nkeep = '1h'", "less than a day"),
        ('[defaults]\nlock_file = "a\\u0000b"', "NUL byte"),
        ("[defaults]\ncommand = 'x'", "only the command line can say that"),
        ("[defaults]\nconfig = 'x'", "only the command line can say that"),
        ("[defaults]\ndry_run = true", "only the command line can say that"),
        ("[defaults]\nhelp = true", "only the command line can say that"),
        ("[defaults]\nversion = true", "only the command line can say that"),
        ("[jobs.true]\njob = 'x'", "a table is chosen by the job's name"),
        ("[defaults]\nwait = 1\nnonblock = true", "contradict each other"),
        ("[defaults]\nshared = true\nexclusive = true", "contradict each other"),
        ("[defaults]\nlock = 'a'\nlock_file = '/b'", "a run holds one lock"),
        ("[defaults\n", "not TOML: "),
        ("[defaults]\nretries = 1\nretries = 2\n", "(at line 3, column "),
    ],
)
def test_mistakes_of_a_file(place: Place, text: str, said: str) -> None:
    """A file that is wrong is refused as a whole, by the name of the key that is."""
    place.write(text)
    message = place.refused(by=ConfigError)
    assert said in message
    assert str(place.file) in message


def test_a_file_that_is_not_utf8_names_the_line(place: Place) -> None:
    """Bytes that are not text are found by their line."""
    place.file.write_bytes(b"[defaults]\n# ok\nlock = '\xff'\n")
    assert "not UTF-8 (at line 3)" in place.refused(by=ConfigError)


@pytest.mark.parametrize("name", ["nope.toml", "", "a/b"])
def test_a_file_that_was_named_has_to_be_there(place: Place, name: str) -> None:
    """--config and $GUARDRUN_CONFIG name a file that exists and can be read."""
    path = str(place.root / name)
    assert "cannot read the configuration file" in place.refused(f"--config={path}", by=ConfigError)
    place.env["GUARDRUN_CONFIG"] = path
    assert "cannot read the configuration file" in place.refused(by=ConfigError)


def test_an_endless_file_is_not_read_to_its_end(place: Place) -> None:
    """A device or a huge file is not a configuration file."""
    assert "larger than 1 MiB" in place.refused("--config=/dev/zero", by=ConfigError)


def test_the_file_that_is_used_is_told(place: Place) -> None:
    """--dry-run can say which file counted."""
    other = place.root / "other.toml"
    other.write_text("[defaults]\nretries = 7\n")
    settled = place.settle(f"--config={other}", "--dry-run")
    assert settled.config_file == str(other)
    assert settled.dry_run
    assert settled.plan.exec.retry.retries == 7


def test_the_file_is_found_where_the_user_keeps_it(place: Place) -> None:
    """Without a name the file in $XDG_CONFIG_HOME is read."""
    del place.env["GUARDRUN_CONFIG"]
    place.env["XDG_CONFIG_HOME"] = str(place.root)
    (place.root / "guardrun").mkdir()
    (place.root / "guardrun" / "config.toml").write_text("[defaults]\nretries = 5\n")
    assert place.plan().exec.retry.retries == 5


# ---------------------------------------------------------------- what does not go together


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lock=a", "--lock-file=/b"], "--lock cannot go with --lock-file"),
        (["--lock-file=/b", "-j2"], "--slots cannot go with --lock-file"),
        (["--lock=a", "-j2", "-s"], "--slots cannot go with --shared"),
        (["--lock=a", "-s", "-x"], "--shared and --exclusive contradict each other"),
        (["-n", "-w5"], "--nonblock and --wait contradict each other"),
        (["-w5", "-n"], "--wait and --nonblock contradict each other"),
        (["--lock-file=/b", "--min-hold=1m"], "--min-hold cannot go with --lock-file"),
        (["-j2"], "--slots is about a lock"),
        (["-s"], "--shared is about a lock"),
        (["-x"], "--exclusive is about a lock"),
        (["--min-hold=1m"], "--min-hold is about a lock"),
        (["--scope=distributed"], "--scope is about a lock"),
        (["--lease-url=redis://h"], "--lease-url is about a lock"),
        (["--key-ttl=1d"], "--key-ttl is about a key"),
        (["--on-duplicate=fail"], "--on-duplicate is about a key"),
        (["--on-interrupted=stop"], "--on-interrupted is about a key"),
        (["--on-mismatch=ignore"], "--on-mismatch is about a key"),
        (["--key=a", "--ledger-url=none:"], "--key cannot go with --ledger-url"),
        (["--needs=a", "--ledger-url=none:"], "--needs cannot go with --ledger-url"),
        (["--retry-budget=1/1h", "--ledger-url=none:"], "--retry-budget cannot go with"),
        (["--lock=a", "--scope=distributed"], "--scope needs a lease store"),
        (["--lock=a", "--scope=host", "--lease-url=redis://h"], "--scope cannot go with"),
        (["--lock-file=/b", "--lease-url=redis://h"], "--lease-url cannot go with --lock-file"),
        (["--lock=a", "-s", "--lease-url=redis://h"], "--lease-url cannot go with --shared"),
    ],
)
def test_options_that_exclude_each_other(place: Place, words: list[str], said: str) -> None:
    """A combination that cannot hold is refused by the names of both options."""
    assert said in place.refused(*words)


def test_places_that_disagree_are_named(place: Place) -> None:
    """A flag that does not go with a key of the file is a usage error that names the file."""
    place.write("[defaults]\nslots = 3\n")
    message = place.refused("--lock-file=/b")
    assert f"slots in [defaults] of {place.file} cannot go with --lock-file" in message
    lock = place.plan("--lock-file=/b", "-j1").lock
    assert lock is not None
    assert lock.slots == 1


def test_what_has_no_effect_is_no_mistake(place: Place) -> None:
    """Repeating a default, or a setting of the file that this run does not need, is fine."""
    place.plan("--lock-file=/b", "-j1", "--min-hold=0")
    place.plan("-n", "-w0")
    place.write("[defaults]\nslots = 3\non_duplicate = 'fail'\nscope = 'distributed'\n")
    place.plan()


@pytest.mark.parametrize("url", ["etcd://h:1,h:2", "etcds://h", "consul://h:1,h:2", "consuls://h"])
def test_min_hold_is_bounded_in_some_stores(place: Place, url: str) -> None:
    """In etcd and Consul it is at most the ttl, that of the option or its default."""
    store = ("--lock=a", f"--lease-url={url}")
    assert "at most the --ttl, 60s" in place.refused(*store, "--min-hold=61s")
    assert "--min-hold" in place.refused(*store, "--ttl=10s", "--min-hold=1m")
    place.plan(*store, "--min-hold=1m")
    place.plan(*store, "--ttl=1h", "--min-hold=1h")


@pytest.mark.parametrize(
    ("words", "url"),
    [
        (["--lease-url=redis://h"], "redis://h"),
        (["--lease-url=etcd://h:1,h:2"], "etcd://h:1,h:2"),
        (["--lease-url=etcds://h?cacert=/c"], "etcds://h?cacert=/c"),
        (["--lease-url=consul://h?datacenter=d"], "consul://h?datacenter=d"),
        (["--scope=distributed", "--lease-url=unix:///run/redis.sock"], "unix:///run/redis.sock"),
        (["--scope=distributed", "--ledger-url=postgresql://h/db"], "postgresql://h/db"),
        (["--lease-url=redis://h", "--ledger-url=postgresql://h/db"], "redis://h"),
    ],
)
def test_a_lease_is_kept_where_it_is_said_else_in_the_ledger(
    place: Place, words: list[str], url: str
) -> None:
    """--lease-url names the lease store; without it that is the ledger, where it is Postgres."""
    lock = place.plan("--lock=a", *words).lock
    assert lock is not None
    assert (lock.scope, lock.lease_url) == ("distributed", url)


def test_an_advisory_lock_has_no_not_before_time(place: Place) -> None:
    """--min-hold with +advisory is a usage error that says why."""
    said = place.refused("--lock=a", "--lease-url=postgresql+advisory://h/db", "--min-hold=1s")
    assert "cannot outlive its session" in said


def test_options_of_leases_are_checked_and_have_no_effect_on_host_locks(place: Place) -> None:
    """--ttl and --on-lease-loss are read, and change no host lock."""
    plain = place.plan("--lock=a")
    assert place.plan("--lock=a", "--ttl=10s", "--on-lease-loss=warn") == plain
    assert "is outside 10s to 24h" in place.refused("--ttl=9s")
    assert "is outside 10s to 24h" in place.refused("--claim-ttl=25h")
    assert "is not one of stop, warn" in place.refused("--on-lease-loss=run")


# ---------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret@h/db",
        "postgresql://u:secret@/db?host=/run",
        "postgresql://h/db?user=u&password=secret",
        "postgresql://h/db?%70assword=secret",
        "postgresql://h/db?sslpassword=secret",
        "redis://:secret@h",
        "redis://u:se/cret@h",
        "redis://u:se@cret@h",
        "consul://h?token=secret",
        "consul://secret@h",
        "consuls://secret@h:1,h:2",
    ],
)
def test_a_password_in_an_option_is_refused_and_not_repeated(place: Place, url: str) -> None:
    """ps shows command lines; a message must not show the password again."""
    for option in ("--ledger-url", "--lease-url"):
        message = place.refused(f"{option}={url}", "--lock=x")
        assert "a password in an option can be seen in ps" in message
        assert "cret" not in message


@pytest.mark.parametrize(
    "url",
    ["redis://h", "redis://u@h/0", "redis://:@h", "postgresql://h/db?sslmode=require", "none:"],
)
def test_a_url_without_password_is_none(url: str) -> None:
    """User names, empty passwords and harmless parameters pass."""
    assert not has_password(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgres://u:secret@h/db", "a ledger cannot be at 'postgres:'"),
        ("mysql://u:secret@h/db", "write postgresql://"),
        ("u:secret@h", "a ledger cannot be at 'u:'"),
        ("secret", "is not a URL"),
        ("postgresql:secret", "a ledger cannot be at"),
        ("postgresql://u:secret@h/d b", "contains a space"),
        ("postgresql://u:secret@h/d\nb", "a control character"),
        ("sqlite:secret", "needs an absolute path"),
        ("sqlite://secret", "needs an absolute path"),
        ("sqlite:///", "needs an absolute path"),
        ("none", "is not a URL"),
    ],
)
def test_a_wrong_url_is_not_repeated(place: Place, url: str, said: str) -> None:
    """A URL from the environment may hold a password: the message shows its scheme only."""
    place.env["GUARDRUN_LEDGER_URL"] = url
    message = place.refused()
    assert message.startswith("$GUARDRUN_LEDGER_URL: ")
    assert said in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memcached://h", "a lease store cannot be at 'memcached:'"),
        ("redis:h", "a lease store cannot be at 'redis:'"),
        ("redis://", "names no host"),
        ("etcd:///x", "names no host"),
        ("unix://run/x", "needs an absolute path"),
    ],
)
def test_a_wrong_lease_store(place: Place, url: str, said: str) -> None:
    """A lease store has one of the schemes of the contract, and a place."""
    assert said in place.refused(f"--lease-url={url}", "--lock=x")


@pytest.mark.parametrize("url", ["sqlite:///a/b c.db", "sqlite:////a/b c.db"])
def test_a_sqlite_path_is_absolute(place: Place, url: str) -> None:
    """What follows ``sqlite://`` is the path."""
    assert place.plan(f"--ledger-url={url}").ledger.url == "sqlite:///a/b c.db"


# ---------------------------------------------------------------- paths


def test_directories_depend_on_the_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """$HOME and the XDG variables do not move state and locks."""
    environ = {
        "HOME": "/elsewhere",
        "XDG_STATE_HOME": "/elsewhere",
        "XDG_RUNTIME_DIR": "/elsewhere",
    }
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert paths.state_dir(environ) == "/var/lib/guardrun"
    assert paths.lock_dir(environ, "/s") == "/run/lock/guardrun"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(paths, "home", lambda: "/home/jo")
    assert paths.state_dir(environ) == "/home/jo/.local/state/guardrun"
    assert paths.lock_dir(environ, "/s") == "/s/locks"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uid that is not in the password database needs $GUARDRUN_STATE_DIR."""
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_000)
    with pytest.raises(UnsafePath, match="set GUARDRUN_STATE_DIR"):
        paths.state_dir({})
    assert paths.state_dir({"GUARDRUN_STATE_DIR": "/s/"}) == "/s"


def test_the_files_of_other_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative $XDG_CONFIG_HOME is ignored, as its specification has it."""
    seen: list[str] = []

    def nothing_there(path: str) -> os.stat_result:
        seen.append(path)
        raise FileNotFoundError

    monkeypatch.setattr(os, "stat", nothing_there)
    monkeypatch.setattr(paths, "home", lambda: "/home/jo")
    assert paths.config_file({"XDG_CONFIG_HOME": "relative"}) is None
    assert seen == ["/home/jo/.config/guardrun/config.toml", "/etc/guardrun/config.toml"]


@pytest.mark.parametrize("name", ["GUARDRUN_STATE_DIR", "GUARDRUN_LOCK_DIR"])
def test_directories_are_absolute(place: Place, name: str) -> None:
    """A relative directory would be another one for every caller."""
    place.env[name] = "relative"
    assert f"${name}: 'relative' is not an absolute path" in place.refused()


# ---------------------------------------------------------------- subcommands


def test_a_subcommand_finds_the_same_ledger(place: Place) -> None:
    """Its own options, the environment and [defaults] decide, in this order."""
    place.write("[defaults]\nledger_url = 'sqlite:///file'\nkeep = '7d'\n")
    assert ledger_spec(None, None, place.env).url == "sqlite:///file"
    assert ledger_spec(None, None, place.env).keep == 7 * 86400
    place.env["GUARDRUN_LEDGER_URL"] = "sqlite:///environment"
    assert ledger_spec(None, None, place.env).url == "sqlite:///environment"
    assert ledger_spec("sqlite:///line", None, place.env).url == "sqlite:///line"
    with pytest.raises(ConfigError):
        ledger_spec(None, str(place.root / "nope"), place.env)


def test_line_only_options_are_those_that_make_no_sense_in_a_file() -> None:
    """Everything else may stand in a file."""
    assert {name for name, o in OPTIONS.items() if o.where == LINE_ONLY} == _NO_SETTING


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@ss@h/db",
        "postgresql://u:p/ss@h/db",
        "postgresql://u:p?ss@h/db",
    ],
)
def test_a_login_that_could_be_misread_is_refused(place: Place, url: str) -> None:
    """What follows an unescaped @, / or ? would be taken for a host or a database, and shown."""
    place.env["GUARDRUN_LEDGER_URL"] = url
    said = place.refused()
    assert "%40" in said
    assert "ss" not in said.replace("password", "")
