"""Lines with flock, timeout and chronic become lines of guardrun, or stay as they are."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guardrun.adopt import crontab, file, shell, state, unit
from guardrun.adopt.crontab import CHANGED, HINT, LEFT, Choice, Result
from guardrun.adopt.words import Unclear
from guardrun.config import settle
from guardrun.errors import UsageError
from guardrun.options import parse

CHOICE = Choice("G", names=False, unreachable=lambda _: None, stateless=lambda _: None)
WHEN = "*/5 * * * * "


def adopted(command: str, **choice: object) -> Result:
    """What becomes of a command in a crontab, and what is said about it."""
    result = crontab.adopt(f"{WHEN}{command}", CHOICE._replace(**choice), system=False)  # type: ignore[arg-type]
    return result._replace(text=result.text.removeprefix(WHEN))


def said(result: Result, kind: str) -> str:
    """All that is said of one kind."""
    return "\n".join(remark.says for remark in result.remarks if remark.kind == kind)


NONE = "G --log-to none "
BUSY = NONE + "--lock-file /l -E 1 "
NEVER = "-k 36500d "


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("flock -n /l job -n", BUSY + "-- job -n"),
        ("/usr/bin/flock -xn /l job", BUSY + "-- job"),
        ("flock --nonb -E3 /l job", NONE + "--lock-file /l -E 3 -- job"),
        ("flock --conflict-exit-code=0 -n /l job", NONE + "--lock-file /l -E 0 -- job"),
        ("flock /l job", NONE + "--lock-file /l --wait forever -- job"),
        ("flock -w 2.5 /l job", NONE + "--lock-file /l --wait 2.5 -E 1 -- job"),
        ("flock -w 0 /l job", BUSY + "-- job"),
        ("flock -n -w 5 /l job", BUSY + "-- job"),
        ("flock -sn /l job", NONE + "--lock-file /l -s -E 1 -- job"),
        ("flock -sxn /l job", BUSY + "-- job"),
        ("flock -n -o /l sh -c 'a & b'", BUSY + "-- sh -c 'a & b'"),
        ("flock -n '/l' -c 'a | b > c'", NONE + "--lock-file '/l' -E 1 -c 'a | b > c'"),
        ('flock -n /l -c "cd $D && b"', BUSY + '-c "cd $D && b"'),
        ("nice flock -n /l nice -5 job", "nice " + BUSY + "-- nice -5 job"),
        ("flock -n /l nice flock -n /m job", BUSY + "-- nice flock -n /m job"),
        ("flock -n /l nice -n 5 timeout 9 j", BUSY + f"-t 9 {NEVER}-- nice -n 5 j"),
        ("timeout 9 nice flock -n /l -c 'j'", BUSY + f"-t 9 {NEVER}-- nice /bin/sh -c 'j'"),
        ("env A=1 flock -n /l env B=2 job", "env A=1 " + BUSY + "-- env B=2 job"),
        ("exec flock -n /l job", "exec " + BUSY + "-- job"),
        ('A=1 flock -n "$L" job', 'A=1 G --log-to none --lock-file "$L" -E 1 -- job'),
        ("setlock /l job", NONE + "--lock-file /l --wait forever -- job"),
        ("setlock -n /l job", NONE + "--lock-file /l -E 111 -- job"),
        ("setlock -nx /l job", NONE + "--lock-file /l -E 0 -- job"),
        ("timeout 1.5m job", NONE + f"-t 1.5m {NEVER}-- job"),
        ("timeout .5 job", NONE + f"-t 500ms {NEVER}-- job"),
        ("timeout -s INT -k 5 9 job", NONE + "-t 9 --signal INT -k 5 -- job"),
        ("timeout --signal=2 9 job", NONE + f"-t 9 --signal INT {NEVER}-- job"),
        ("timeout -k 0 9 job", NONE + f"-t 9 {NEVER}-- job"),
        ("timeout 0 job", NONE + "-- job"),
        ("timeout 9 timeout 5 job", NONE + f"-t 9 {NEVER}-- timeout 5 job"),
        ("timeout 9 flock -n /l job", BUSY + f"-t 9 {NEVER}-- job"),
        ("flock /l timeout 9 job", NONE + f"--lock-file /l --wait forever -t 9 {NEVER}-- job"),
        ("flock -n /l timeout 9 chronic j", BUSY + f"-t 9 {NEVER}--output on-failure -- j"),
        ("chronic job", NONE + "--output on-failure -- job"),
        ("chronic chronic job", NONE + "--output on-failure -- chronic job"),
        ("flock -n /l timeout --foreground 9 job", BUSY + "-- timeout --foreground 9 job"),
        ("flock -n /l timeout -v 9 job", BUSY + "-- timeout -v 9 job"),
        ("flock -n /l chronic -e job", BUSY + "-- chronic -e job"),
        ("flock -n /l timeout --preserve-status 9 j", BUSY + "-- timeout --preserve-status 9 j"),
        ("test -x /j && flock -n /l /j || true", f"test -x /j && {BUSY}-- /j || true"),
        ("flock -n /l j >>/log 2>&1 | logger", BUSY + "-- j >>/log 2>&1 | logger"),
        (">/log flock -n /l j </in", f">/log {BUSY}-- j </in"),
        ("flock -n /l a; flock -n /l b &", f"{BUSY}-- a; {BUSY}-- b &"),
        ("(flock -n /l a)", f"({BUSY}-- a)"),
        ("if ! flock -n /l a; then b; fi", f"if ! {BUSY}-- a; then b; fi"),
        ("flock -n /l a %b % c", f"{BUSY}-- a %b % c"),
        (r'flock -n /l a "$(date +\%F)"', BUSY + r'-- a "$(date +\%F)"'),
        ("flock -n /l a # why", f"{BUSY}-- a # why"),
        ("flock -n /l\tjob  'two  blanks'", BUSY + "-- job  'two  blanks'"),
    ],
)
def test_a_prefix_becomes_options(old: str, new: str) -> None:
    """Each prefix has its equal; what is behind it stays byte for byte."""
    result = adopted(old)
    assert result.text == new
    assert said(result, LEFT) == ""


def test_a_limit_before_the_lock_is_for_the_wait() -> None:
    """Where a lock is waited for behind a limit, that limit is for the whole run."""
    wanted = NONE + f"--lock-file /l --wait forever --deadline 9 {NEVER}-- job"
    assert adopted("timeout 9 flock /l job").text == wanted


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("(flock -n 9 || exit; job) 9>/l", "a descriptor of the shell's"),
        ("flock -u 9 job", "something else"),
        ("flock --verbose -n /l job", "something else"),
        ("flock -n", "a descriptor"),
        ("flock -n /l -c", "one string"),
        ('flock -n /l -c "$JOB"', "not a variable"),
        ("SHELL=/bin/bash flock -n /l -c 'a b'", "a SHELL that is not known"),
        ("export SHELL=/bin/bash; flock -n /l -c 'a b'", "a SHELL that is not known"),
        ("env -i flock -n /l -c 'a b'", "a SHELL that is not known"),
        ("flock $OPTIONS /l job", "known only when it is executed"),
        ('flock "-$O" /l job', "known only when it is executed"),
        ("flock -q /l job", "-q is not known"),
        ("flock -n /l -c 'a & b'", "in the background"),
        ("flock -n /l sh -c 'a & b'", "in the background"),
        ("chronic sh -c 'a &'", "in the background"),
        ("timeout 9 setsid job", "setsid"),
        ("timeout $T job", "known only when it is executed"),
        ("timeout 1e3 job", "not a duration"),
        ("timeout -s RTMIN+1 9 job", "not a signal"),
        ("timeout --preserve-status 9 job", "--preserve-status"),
        ("timeout -k 1 9 job; echo $?", "is read"),
        ("chronic job; test $? = 1", "is read"),
        ("flock -n >/log /l job", "a redirection"),
        ("for i in a b; do flock -n /l $i; done", "compound command (for)"),
        ("f() { flock -n /l job; }; f", "a function"),
        ("flock -n /l 'job", "quote is not closed"),
        ("flock -n /l cat <(job)", "process substitution"),
        ("sudo -u www flock -n /l job", "behind sudo"),
        ("bash -c 'flock -n /l job'", "behind bash"),
        ("PYTHONPATH=/x flock -n /l job", "PYTHONPATH"),
        ("cronlock flock", "Redis"),
        ("run-one job", "--names"),
        ("flock -n /l job\r", "carriage return"),
        ("flock -n /l " + "x" * 970, "998 bytes"),
    ],
)
def test_what_is_not_equal_stays_with_the_reason(line: str, why: str) -> None:
    """A line that cannot be translated safely is not touched, and it is said why."""
    result = adopted(line)
    assert result.text == line
    assert why in said(result, LEFT)
    assert said(result, CHANGED) == ""


@pytest.mark.parametrize(
    "line",
    [
        "man flock",
        "curl --connect-timeout 5 x",
        "guardrun --lock-file /l -- timeout --preserve-status 5 job",
        "/opt/own/flock -n /l job",
        "echo 'flock -n /l job'",
    ],
)
def test_what_is_no_prefix_is_not_spoken_of(line: str) -> None:
    """A word that only looks like one of the programs is nobody's prefix."""
    assert adopted(line) == Result(line, ())


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        ("timeout 9 job", CHANGED, "-k 36500d: timeout waits for a command that ignores SIGTERM"),
        ("timeout -k 5 9 job", CHANGED, "differs: after SIGKILL timeout ends by 137"),
        ("timeout 9 chronic job", CHANGED, "differs: when the time is up"),
        ("chronic job", CHANGED, "differs: where a signal ended the command"),
        ("setlock -n /l job", CHANGED, "differs: setlock writes a line to stderr"),
        ("flock -n /l timeout --preserve-status 9 j", CHANGED, "timeout stays: guardrun has no"),
        ("sleep $((RANDOM \\% 60)); flock -n /l job", HINT, "RANDOM is bash's"),
        ("sleep $(shuf -i 1-60 -n 1) && flock -n /l job", HINT, "--splay 5m"),
        ("perl -e 'sleep int(rand(9))'; flock -n /l job", HINT, "--splay 5m"),
    ],
)
def test_what_changes_is_explained(line: str, kind: str, text: str) -> None:
    """What is not wholly equal, or could be better, is said."""
    assert text in said(adopted(line), kind)


def test_a_lock_file_stays_in_its_directory() -> None:
    """env -C before guardrun moves it along; behind guardrun a lock that follows stays there."""
    assert adopted("env -C /d flock -n l job").text == f"env -C /d {NONE}--lock-file l -E 1 -- job"
    inner = "timeout 5 env -C /d flock -n l job"
    assert adopted(inner).text == inner.replace("timeout 5", f"{NONE}-t 5 {NEVER}--")
    assert "another directory" in said(adopted(inner), CHANGED)


def test_names_take_the_place_of_files() -> None:
    """With --names the path is the lock's name, where it is one by itself."""
    assert adopted("flock -n /run/l job", names=True).text == NONE + "--lock /run/l -E 1 -- job"
    assert (
        adopted("run-one job", names=True).text
        == NONE + "--lock 'run-one-{argv.sha256}' -E 1 -- job"
    )
    for path in ("/var/lock/l", "/run//lock/l", "/run/x/../lock/l"):
        assert "/run/lock/l is another" in said(adopted(f"flock {path} job", names=True), CHANGED)
        assert "another lock" not in said(adopted(f"flock {path} job"), CHANGED)
    for path in ("l", "~/l", "'/a{b}'"):
        assert "only an absolute path" in said(adopted(f"flock -n {path} job", names=True), LEFT)


def test_the_lines_around_it_count() -> None:
    """A crontab's variables say by what its lines are read, and what would reach guardrun."""

    def below(variable: str, line: str) -> Result:
        return crontab.adopt(f"{variable}\n* * * * * {line}", CHOICE, system=False)

    bash = below("SHELL=/bin/bash", "flock -n /l -c 'a <(b)'")  # what is not understood may be a &
    assert "in the background" in said(bash, LEFT)
    assert below("SHELL=/bin/bash", "flock -n /l -c 'a b'").text.endswith(
        BUSY + "-- /bin/bash -c 'a b'"
    )
    assert "SHELL is /usr/bin/fish" in said(below("SHELL = '/usr/bin/fish'", "flock -n /l j"), LEFT)
    assert "PYTHONHOME" in said(below("PYTHONHOME=/x", "flock -n /l j"), LEFT)


def test_a_user_without_a_state_directory() -> None:
    """Where guardrun could not keep its state the line stays, unless somebody says where."""
    choice = CHOICE._replace(stateless=lambda user: f"{user} cannot")
    text = "* * * * * www flock -n /l job"
    result = crontab.adopt(text, choice, system=True)
    assert (result.text, "www cannot" in said(result, LEFT)) == (text, True)
    text = f"GUARDRUN_STATE_DIR=/var/lib/g\n{text}"
    assert crontab.adopt(text, choice, system=True).text.endswith(f"www {BUSY}-- job")


TAB = b"""\
# m h  dom mon dow   command \x0b\xff
SHELL=/bin/sh
  # flock -n /l job
X = "flock -n /l job"

@daily\tflock -n /l job
0 0 * jan,feb mon-fri flock -n /l job
not a line with flock -n /l job
* * * * * nobody\t
* * * * * a %flock -n /l job
* * * * * last""".decode(errors="surrogateescape")


def test_other_lines_stay_byte_for_byte() -> None:
    """Comments, variables, stdin, and what is no line at all are not touched."""
    result = crontab.adopt(TAB, CHOICE, system=False)
    changed = [
        (number, new)
        for number, (old, new) in enumerate(
            zip(TAB.split("\n"), result.text.split("\n"), strict=True), start=1
        )
        if old != new
    ]
    assert changed == [
        (6, f"@daily\t{BUSY}-- job"),
        (7, f"0 0 * jan,feb mon-fri {BUSY}-- job"),
    ]


# ---------------------------------------------------------------- properties

_PLAIN = st.text(st.characters(codec="ascii", exclude_characters="\n\0"), max_size=30)
_PREFIX = st.sampled_from(
    [
        "flock -n /l ",
        "flock -w 3 '/a b' ",
        "timeout 5m ",
        "timeout -s INT 5 ",
        "chronic ",
        "nice -n 3 ",
        "env A=1 ",
        "setlock -nx /l ",
        "ionice -c3 ",
    ]
)
_LINES = st.builds(
    lambda prefixes, job, rest: "".join(prefixes) + job + rest,
    st.lists(_PREFIX, max_size=5),
    st.sampled_from(["job", "job a 'b  c'", '/bin/job --x="$Y"']),
    st.one_of(st.just(""), _PLAIN.map(lambda text: f" {text}")),
)


@given(st.lists(st.one_of(_PLAIN, _LINES.map(lambda line: WHEN + line)), max_size=6))
@example(["* * * * * flock -n /l j \\\\%x", "* * * * * flock -n /l j \\\\\\%x"])
def test_a_second_time_changes_nothing(lines: list[str]) -> None:
    """What was adopted is adopted: again, it is the same, and nothing is said to be changed."""
    once = crontab.adopt("\n".join(lines), CHOICE, system=False)
    twice = crontab.adopt(once.text, CHOICE, system=False)
    assert twice.text == once.text
    assert said(twice, CHANGED) == ""
    assert len(once.text.split("\n")) == len("\n".join(lines).split("\n"))


@given(st.lists(st.one_of(_PLAIN, _LINES.map(lambda line: WHEN + line)), max_size=6))
def test_only_lines_that_are_spoken_of_change(lines: list[str]) -> None:
    """Every line without a remark that it was changed is byte for byte the same."""
    text = "\n".join(lines)
    result = crontab.adopt(text, CHOICE, system=False)
    spoken_of = {remark.line for remark in result.remarks if remark.kind == CHANGED}
    old, new = text.split("\n"), result.text.split("\n")
    differing = {at for at, (a, b) in enumerate(zip(old, new, strict=True), start=1) if a != b}
    assert differing <= spoken_of


@given(st.lists(_PREFIX, min_size=1, max_size=5))
def test_guardrun_takes_what_is_written(prefixes: list[str]) -> None:
    """The options are those of guardrun, and COMMAND's words are what they were."""
    line = adopted("".join(prefixes) + "job 'a b' --x").text
    words = shlex.split(line)
    if "G" not in words:
        return
    given_options = parse(words[words.index("G") + 1 :])
    assert given_options.command[-3:] == ("job", "a b", "--x")
    settle(given_options, {"GUARDRUN_CONFIG": "/dev/null", "GUARDRUN_STATE_DIR": "/nowhere"})


@given(_PLAIN)
@example("a 'b'\"c\"\\ d $(e 'f)' \"g)\") `h` ${i:-}} #j")
def test_words_cover_the_line(text: str) -> None:
    """Between words and operators there is nothing but blanks and a comment."""
    try:
        found = shell.tokens(text)
    except Unclear:
        return
    at = 0
    for word, _ in found:
        assert text[at : word.start].strip(" \t") == ""
        assert text[word.start : word.end] == word.raw
        at = word.end
    assert text[at:].strip(" \t")[:1] in ("", "#")


_PIECES = st.sampled_from("a2é '\"\\$`#{},~*?[()=%!@\t") | st.sampled_from(
    ["..", "''", '"b c"', "'d e'", "$x", "$(echo)", "$((1+1))", "-n"]
)


@given(st.lists(_PIECES, max_size=9).map("".join))
def test_words_mean_what_the_shell_makes_of_them(text: str) -> None:
    """Where a word is said to be known, sh makes the same of it."""
    try:
        found = shell.tokens(text)
    except Unclear:
        return
    values = [word.value for word, kind in found if kind == "word"]
    if len(values) < len(found) or None in values:
        return
    words = ["/bin/sh", "-c", f"printf '%s\\0' x {text}"]
    said = subprocess.run(words, capture_output=True, text=True, check=True)
    assert said.stdout.split("\0")[1:-1] == values


# ---------------------------------------------------------------- units

UNIT = """\
[Unit]
Description=flock
[Service]
{more}
# ExecStart=/usr/bin/flock -n /l job
ExecStartPre=-/usr/bin/flock -w 5 /l /bin/prepare
ExecStart=/usr/bin/flock -n /l \\
    /usr/bin/timeout 5m \\
    /bin/job --unit %n $WORDS
[Install]
ExecStart=/usr/bin/flock -n /l job
"""


def test_a_unit_is_adopted() -> None:
    """Exec lines of [Service] are, continued ones as well; specifiers and variables stay."""
    result = unit.adopt(UNIT.format(more="Type=oneshot"), CHOICE)
    wanted = UNIT.format(more="Type=oneshot").replace(
        "-/usr/bin/flock -w 5 /l ", f"-{NONE}--lock-file /l --wait 5 -E 1 {NEVER}-- "
    )
    old = "/usr/bin/flock -n /l \\\n    /usr/bin/timeout 5m \\\n    /bin"
    assert result.text == wanted.replace(old, f"{BUSY}-t 5m {NEVER}-- /bin")
    assert {remark.line for remark in result.remarks} == {6, 7}
    again = unit.adopt(result.text, CHOICE)
    assert again == Result(result.text, ())


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("Type=notify", "Type=notify"),
        ("Type=forking", "Type=forking"),
        ("KillMode=process", "KillMode"),
        ("ProtectSystem=strict", "ProtectSystem"),
        ("DynamicUser=yes", "DynamicUser"),
        ("Environment=A=1 PYTHONPATH=/x", "Environment="),
        ("User=x", "x cannot"),
    ],
)
def test_a_unit_that_rules_guardrun_out(more: str, why: str) -> None:
    """A unit whose other settings do not go with guardrun stays as it is."""
    choice = CHOICE._replace(stateless=lambda user: None if user == "root" else "x cannot")
    result = unit.adopt(UNIT.format(more=more), choice)
    assert result.text == UNIT.format(more=more)
    assert why in said(result, LEFT)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("@/usr/bin/flock flock -n /l job", "another name"),
        ("/usr/bin/flock -n /l a ; /bin/b", "several commands"),
        ("/usr/bin/flock -n /l \\\n# no\njob", "a comment"),
        ("/usr/bin/flock -n '/l job", "quotes"),
        ("/usr/bin/flock -n /l\\x20 job", "backslashes"),
        ("/usr/bin/flock -n 9", "a descriptor"),
    ],
)
def test_an_exec_line_that_is_not_understood(line: str, why: str) -> None:
    """A line that is not understood, or not equal, stays as it is."""
    text = f"[Service]\nExecStart={line}\n"
    result = unit.adopt(text, CHOICE)
    assert (result.text, why in said(result, LEFT)) == (text, True)


def test_marks_before_a_program_stay() -> None:
    """What a unit says in front of a program, of failures and rights, is said of guardrun then."""
    result = unit.adopt("[Service]\nExecStart=+-/usr/bin/flock -n /l /bin/job\n", CHOICE)
    assert result.text == f"[Service]\nExecStart=+-{BUSY}{NEVER}-- /bin/job\n"


def test_codes_that_a_unit_reads() -> None:
    """Where settings tell codes apart, only what has the same code is adopted."""
    text = "[Service]\n{}ExecStart=/usr/bin/timeout -k 1 5 /bin/job\n"
    assert unit.adopt(text.format(""), CHOICE).text != text.format("")
    read = text.format("SuccessExitStatus=137\n")
    assert "is read" in said(unit.adopt(read, CHOICE), LEFT)


def test_a_signal_is_no_code_to_systemd() -> None:
    """flock makes a code of the signal that ended COMMAND, and with -F it does not."""
    text = "[Service]\n{}ExecStart=/usr/bin/flock {} /l /bin/job\n"
    assert "success to systemd" in said(unit.adopt(text.format("", "-n"), CHOICE), CHANGED)
    for more in ("SuccessExitStatus=137\n", "Restart=on-abnormal\n"):
        assert "is read" in said(unit.adopt(text.format(more, "-n"), CHOICE), LEFT)
        result = unit.adopt(text.format(more, "-nF"), CHOICE)
        assert result.text == text.format(more, "").replace(
            "/usr/bin/flock  /l", f"{BUSY}{NEVER}--"
        )
        assert "128+N" not in said(result, CHANGED)


def test_an_ignored_sigpipe_is_spoken_of() -> None:
    """systemd has services ignore it unless they say no, and guardrun cannot hand that on."""
    text = "[Service]\n{}ExecStart=/usr/bin/timeout 5 /bin/job\n"
    for more, is_said in (("", True), ("IgnoreSIGPIPE=yes\n", True), ("IgnoreSIGPIPE=no\n", False)):
        result = unit.adopt(text.format(more), CHOICE)
        assert ("SIGPIPE" in said(result, CHANGED)) is is_said


@pytest.mark.parametrize(
    ("more", "line", "is_said"),
    [
        ("", "flock -n /l", True),
        ("KillMode=control-group\n", "chronic", True),
        ("KillMode=mixed\n", "flock -n /l", False),
        ("", "flock -n /l timeout 5", False),
        ("", "timeout 5 flock -w 2 /l", False),
    ],
)
def test_a_second_sigterm_is_spoken_of(more: str, line: str, is_said: bool) -> None:
    """systemd stops a whole group, and guardrun, as timeout does, passes on what it was sent."""
    result = unit.adopt(f"[Service]\n{more}ExecStart=/usr/bin/{line} /bin/job\n", CHOICE)
    assert ("twice" in said(result, CHANGED)) is is_said


def test_a_string_goes_by_the_users_shell() -> None:
    """flock -c in a unit is /bin/sh's for root, and for a user it depends."""
    text = "[Service]\n{}ExecStart=/usr/bin/flock -n /l -c 'a b'\n"
    assert f"{NEVER}-c 'a b'" in unit.adopt(text.format(""), CHOICE).text
    for is_unknown in (
        text.format("User=x\n"),
        text.format("").replace("=/", "=/bin/env SHELL=x /"),
    ):
        assert "SHELL" in said(unit.adopt(is_unknown, CHOICE), LEFT)


# ---------------------------------------------------------------- files and users


def test_a_file_that_was_changed_meanwhile_is_left(tmp_path: Path) -> None:
    """What somebody else has written since it was read is not overwritten, nor is a draft left."""
    path = tmp_path / "tab"
    path.write_text("old")
    original = file.read(str(path))
    path.write_text("new")
    with pytest.raises(file.Changed):
        file.replace(original, b"adopted")
    assert path.read_text() == "new"
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_a_file_that_was_replaced_meanwhile_is_left(tmp_path: Path) -> None:
    """Another file of the same text under the name is another's work as well."""
    path, other = tmp_path / "tab", tmp_path / "other"
    path.write_text("old")
    original = file.read(str(path))
    other.write_text("old")
    os.utime(other, ns=(original.status.st_atime_ns, original.status.st_mtime_ns))
    other.rename(path)
    with pytest.raises(file.Changed):
        file.replace(original, b"adopted")


def test_no_cron_takes_a_backup_for_a_crontab(tmp_path: Path) -> None:
    """Debian's cron passes over a name with a dot, Fedora's over one that ends in a tilde."""
    path = tmp_path / "shop"
    path.write_text("old")
    backups = [file.replace(file.read(str(path)), text) for text in (b"new", b"newer")]
    for name in (os.path.basename(backup) for backup in backups):
        assert re.fullmatch(r"shop\..*~", name)


def test_what_crontab_owns_is_left_to_crontab(tmp_path: Path) -> None:
    """A file in cron's spool is not replaced, and it is said what to do."""
    path = tmp_path / "tab"
    path.write_text("old")
    original = file.read(str(path))._replace(path="/var/spool/cron/crontabs/root")
    with pytest.raises(UsageError, match="crontab -l"):
        file.replace(original, b"adopted")


def entry(uid: int, home: str) -> pwd.struct_passwd:
    """The user x in the password database."""
    return pwd.struct_passwd(("x", "x", uid, uid, "", home, "/bin/sh"))


def test_users_that_can_have_a_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root can, and who has a home of his own; not who has none, or is not known."""
    assert state.stateless("root") is None
    assert state.stateless("no-such-user") == "the user no-such-user is not known here"
    uid = os.getuid() or 12345
    if os.getuid() == 0:
        os.chown(tmp_path, uid, uid)
    monkeypatch.setattr(pwd, "getpwnam", lambda _: entry(uid, f"{tmp_path}/not/yet"))
    assert state.stateless("x") is None
    monkeypatch.setattr(pwd, "getpwnam", lambda _: entry(uid, "/nonexistent"))
    assert state.stateless("x") == "x cannot make the state directory in /"


def test_users_that_can_get_at_guardrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guardrun below a directory that is closed is none for others, nor is a link to it."""
    (tmp_path / "closed").mkdir(0o700)
    program, link = tmp_path / "closed" / "guardrun", tmp_path / "link"
    program.touch(0o755)
    link.symlink_to(program)
    monkeypatch.setattr(pwd, "getpwnam", lambda _: entry(os.getuid() + 12345, "/nonexistent"))
    # Whoever runs the tests may have closed the directories above as well.
    for path in (program, link):
        assert "x cannot get at" in (state.unreachable(str(path), "x") or "")
    assert state.unreachable("/bin/sh", "x") is None
    monkeypatch.setattr(pwd, "getpwnam", lambda _: entry(0, "/root"))
    assert state.unreachable(str(program), "root") is None
    choice = CHOICE._replace(unreachable=lambda user: f"{user} cannot")
    assert "www cannot" in said(crontab.adopt("* * * * * www chronic j", choice, system=True), LEFT)
    text = "[Service]\nUser=x\nExecStart=/usr/bin/flock -n /l /bin/job\n"
    assert "x cannot" in said(unit.adopt(text, choice), LEFT)


def test_the_page_shows_what_is_said() -> None:
    """The example of docs/adopt.md is what comes of such lines."""
    page = (Path(__file__).parents[2] / "docs" / "adopt.md").read_text()
    shown = re.findall(r"^crontab:\d+: (.*)$", page, re.M)
    lines = ("flock -n /run/lock/sync timeout 4m sync-orders", "( flock -n 9 && x ) 9>/run/lock/x")
    made = [adopted(line, program="/usr/local/bin/guardrun") for line in lines]
    assert shown == [
        *(remark.says for remark in made[0].remarks),
        f"left as it is: {said(made[1], LEFT)}",
    ]
