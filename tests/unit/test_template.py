"""Templates for locks and keys: what they resolve to, and what they refuse."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrun.errors import ConfigError
from guardrun.template import (
    LONGEST,
    Item,
    Lookup,
    Variable,
    load_json,
    needs_stdin,
    parse,
    pick,
    resolve,
)

NOW = 1795508277.9  # 2026-11-24T08:17:57.9Z
FILES = {"/etc/app.conf": hashlib.sha256(b"a = 1\n").hexdigest()}
STDIN = b'{"id": 7, "a": {"b": ["x", 1.10, true, null, {}]}, "s": "", "n": "1\\n2", "": 1}'

# A shared machine can make any one example slow.
unhurried = settings(deadline=None)


def file_sha256(path: str) -> str:
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory", path)
    return FILES[path]


LOOKUP = Lookup(
    job="backup",
    host="web1",
    user="ops",
    env={"REGION": "eu", "EMPTY": "", "LINES": "a\nb", "BYTES": "caf\udce9", "A.B": "dotted"},
    argv=("pg_dump", "--file", "", "mydb"),
    now=NOW,
    file_sha256=file_sha256,
    stdin=STDIN,
)


def refusal(text: str, lookup: Lookup = LOOKUP) -> str:
    """What resolving says no with: one printable line that names the template."""
    with pytest.raises(ConfigError) as caught:
        resolve(text, lookup)
    message = str(caught.value)
    assert caught.value.exit_code == 78
    assert message.isprintable()
    assert message.startswith(("template ", "a template "))
    return message


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("nightly", "nightly"),
        ("{job}", "backup"),
        ("{job}@{host}/{user}", "backup@web1/ops"),
        ("{env.REGION}", "eu"),
        ("{env.A.B}", "dotted"),
        ("{arg.0} {arg.3}", "pg_dump mydb"),
        ("{date}", "2026-11-24"),
        ("{date:iso}", "2026-11-24"),
        ("{date:hour}", "2026-11-24T08"),
        ("{date:month}", "2026-11"),
        ("{date:%Y%m%d}", "20261124"),
        ("{date:%H:%M:%S}", "08:17:57"),
        ("{date:%G-W%V}", "2026-W48"),
        ("{date:%-d.%_m.%Ey%%%Z}", "24.11.26%UTC"),
        ("{date:%d: 100%%}", "24: 100%"),
        ("{date@Europe/Berlin}", "2026-11-24"),
        ("{date@Europe/Berlin:hour}", "2026-11-24T09"),
        ("{date@Asia/Kolkata:%H:%M%z}", "13:47+0530"),
        ("{date:%Y年%m月}", "2026年11月"),
        ("{window:1m}", "2026-11-24T08:17Z"),
        ("{window:15m}", "2026-11-24T08:15Z"),
        ("{window:1h30m}", "2026-11-24T07:30Z"),
        ("{window:1d}", "2026-11-24T00:00Z"),
        ("{file.sha256:/etc/app.conf}", FILES["/etc/app.conf"]),
        ("{stdin.sha256}", hashlib.sha256(STDIN).hexdigest()),
        ("{stdin.json:id}", "7"),
        ("{stdin.json:a.b.0}", "x"),
        ("{stdin.json:a.b.1}", "1.10"),
        ("{stdin.json:a.b.2}", "true"),
        ("{{job}}", "{job}"),
        ("{{{job}}}", "{backup}"),
        ("}}{{", "}{"),
    ],
)
def test_templates(text: str, resolved: str) -> None:
    """Every variable stands for its value; doubled braces are braces."""
    assert resolve(text, LOOKUP) == resolved


def test_argv_hash_is_unambiguous() -> None:
    """COMMAND lines with the same letters in other words have other hashes."""
    lines = [("a", "bc"), ("ab", "c"), ("abc",), ("a b", "c"), ("a", "b", "c"), ("a", "bc", "")]
    hashes = {resolve("{argv.sha256}", LOOKUP._replace(argv=line)) for line in lines}
    assert len(hashes) == len(lines)


def test_argv_hash_is_of_bytes() -> None:
    """The hash is that of the words' bytes joined by NUL, whatever their encoding."""
    words = (b"caf\xe9", b"\xff")
    lookup = LOOKUP._replace(argv=tuple(os.fsdecode(word) for word in words))
    assert resolve("{argv.sha256}", lookup) == hashlib.sha256(b"caf\xe9\0\xff").hexdigest()


def test_a_zone_has_its_own_day() -> None:
    """The date in a zone is that zone's, also where UTC still has another."""
    late = LOOKUP._replace(now=1795559400.0)  # 2026-11-24T22:30Z
    assert resolve("{date} {date@Asia/Tokyo}", late) == "2026-11-24 2026-11-25"


@unhurried
@given(now=st.floats(0, 2.5e11), minutes=st.integers(1, 100_000))
def test_a_window_holds_the_moment(now: float, minutes: int) -> None:
    """A window begins at a multiple of its length since the epoch, and now lies within it."""
    from datetime import datetime

    text = resolve(f"{{window:{minutes}m}}", LOOKUP._replace(now=now))
    start = datetime.fromisoformat(text).timestamp()
    assert start % (minutes * 60) == 0
    assert start <= now < start + minutes * 60


def test_dates_do_not_depend_on_the_locale() -> None:
    """Letters beyond ASCII in a format survive cron's bare C locale."""
    script = (
        "from guardrun.template import Lookup, resolve;"
        "lookup = Lookup('j', 'h', 'u', {}, ('x',), 0.0, str);"
        "print(ascii(resolve('{date:%Y\\u5e74%A}', lookup)))"
    )
    for locale in ("C", "POSIX", "C.UTF-8"):
        done = subprocess.run(
            [sys.executable, "-X", "utf8=0", "-c", script],
            env={"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "'1970\\u5e74Thursday'\n"


# ---------------------------------------------------------------- items of each


LINE = LOOKUP._replace(item=Item("a line"))
OBJECT = LOOKUP._replace(
    item=Item('{"id": 7}', {"id": 7, "price": 1.5, "ok": False, "tags": ["x"], "none": None})
)


def test_items() -> None:
    """An item is its line; an object's fields are reached by their path."""
    assert resolve("{job}-{item}", LINE) == "backup-a line"
    assert resolve("{item}", OBJECT) == '{"id": 7}'
    assert resolve("{item.id} {item.price} {item.ok} {item.tags.0}", OBJECT) == "7 1.5 false x"


def test_items_elsewhere() -> None:
    """Outside of ``each`` there are no items, and the error says whose they are."""
    for text in ("{item}", "{item.id}"):
        assert "belongs to `guardrun each`" in refusal(text)


def test_fields_of_lines() -> None:
    """A plain line has no fields."""
    assert "--jsonl" in refusal("{item.id}", LINE)


@pytest.mark.parametrize("text", ["{item.nope}", "{item.tags}", "{item.none}", "{item.tags.1}"])
def test_fields_without_a_value(text: str) -> None:
    """A field that is missing, null or no scalar is an error."""
    assert text in refusal(text, OBJECT)


def test_an_empty_item() -> None:
    """An empty item is an error, not an empty string."""
    assert "{item} is empty" in refusal("{item}", LOOKUP._replace(item=Item("")))


# ---------------------------------------------------------------- variables without a value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("{env.NOPE}", "{env.NOPE} is not set"),
        ("{env.EMPTY}", "{env.EMPTY} is empty"),
        ("x{env.LINES}", "{env.LINES} has a control character (U+000A)"),
        ("x{env.BYTES}", "{env.BYTES} has bytes that are not UTF-8"),
        ("{arg.2}", "{arg.2} is empty"),
        ("{arg.4}", "COMMAND's last word is {arg.3}"),
        ("{file.sha256:/nope}", "cannot be read (No such file or directory)"),
        ("{stdin.json:nope}", "there is no 'nope' at the top"),
        ("{stdin.json:a.nope}", "there is no 'nope' in 'a'"),
        ("{stdin.json:a.b.9}", "the list in 'a.b' has 5 entries"),
        ("{stdin.json:a.b.-1}", "'-1' is no index"),
        ("{stdin.json:a.b.x}", "'x' is no index"),
        ("{stdin.json:id.x}", "neither an object nor a list in 'id'"),
        ("{stdin.json:a}", "is an object"),
        ("{stdin.json:a.b}", "is a list"),
        ("{stdin.json:a.b.3}", "is null"),
        ("{stdin.json:s}", "is empty"),
        ("{stdin.json:n}", "has a control character (U+000A)"),
        ("{date@Mars/Olympus}", "tzdata"),
        ("{date@../../etc/passwd}", "tzdata"),
        ("{date@/etc/passwd}", "tzdata"),
        ("{date@America}", "tzdata"),
        ("{date:%Y%n}", "has a control character (U+000A)"),
        ("{date:" + "%c" * 50 + "}", "at most 1024"),
    ],
)
def test_variables_without_a_value(text: str, why: str) -> None:
    """What is unset, empty or unfit for a name is an error that says which and why."""
    assert why in refusal(text)


@pytest.mark.parametrize(
    ("text", "lookup"),
    [
        ("x{job}", LOOKUP._replace(job="")),
        ("x{host}", LOOKUP._replace(host="")),
        ("x{user}", LOOKUP._replace(user="")),
    ],
)
def test_empty_identities(text: str, lookup: Lookup) -> None:
    """No variable is ever replaced by an empty string."""
    assert f"{text[1:]} is empty" in refusal(text, lookup)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe\xfa", b'{"id": NaN}', b"[" * 200_000, b'{"id": 1} x']
)
def test_stdin_that_is_no_json(data: bytes) -> None:
    """Stdin that is not JSON is an error, not a traceback."""
    assert "needs JSON" in refusal("{stdin.json:id}", LOOKUP._replace(stdin=data))


def test_stdin_that_is_not_there() -> None:
    """Where no stdin can be read, its variables are errors; an empty stdin has a hash."""
    for text in ("{stdin.sha256}", "{stdin.json:id}"):
        assert "needs stdin" in refusal(text, LOOKUP._replace(stdin=None))
    empty = resolve("{stdin.sha256}", LOOKUP._replace(stdin=b""))
    assert empty == hashlib.sha256(b"").hexdigest()


def test_numbers_stay_as_written() -> None:
    """Two numbers that a float cannot tell apart give two keys."""
    for number in ("9007199254740993.0", "1e2", "0.1", "-0", "1" * 500):
        lookup = LOOKUP._replace(stdin=b'{"id": %s}' % number.encode())
        assert resolve("{stdin.json:id}", lookup) == number


def test_length() -> None:
    """A name has at most 1024 characters."""
    assert resolve("x" * LONGEST, LOOKUP) == "x" * LONGEST
    assert "at most 1024" in refusal("x" * (LONGEST + 1))


def test_values_are_not_templates() -> None:
    """Braces in a value stay what they are: nothing is resolved twice."""
    lookup = LOOKUP._replace(env={"X": "{job}{{"})
    assert resolve("{env.X}", lookup) == "{job}{{"


def test_secrets_are_not_quoted() -> None:
    """An error about a value does not show the value."""
    lookup = LOOKUP._replace(env={"PASSWORD": "hunter2\n"}, stdin=b'{"a": "hunter2" x}')
    assert "hunter2" not in refusal("{env.PASSWORD}", lookup)
    assert "hunter2" not in refusal("{stdin.json:a}", lookup)


# ---------------------------------------------------------------- syntax


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "a { without its partner at character 1"),
        ("x}", "a } without its partner at character 2"),
        ("{job", "a { without its partner at character 1"),
        ("{job}}", "a } without its partner at character 6"),
        ("{{job}", "a } without its partner at character 6"),
        ("{a{job}}", "a { without its partner at character 1"),
        ("{}", "{} is not a variable"),
        ("{ job }", "{ job } is not a variable"),
        ("{JOB}", "{JOB} is not a variable"),
        ("{job:x}", "{job:x} is not a variable"),
        ("{job!r}", "{job!r} is not a variable"),
        ("{host.__class__}", "{host.__class__} is not a variable"),
        ("{argv}", "{argv} is not a variable"),
        ("{stdin}", "{stdin} is not a variable"),
        ("{stdin.json}", "{stdin.json} is not a variable"),
        ("{file.sha256}", "{file.sha256} is not a variable"),
        ("{window}", "{window} is not a variable"),
        ("{env}", "{env} is not a variable"),
        ("{job@x}", "{job@x} is not a variable"),
        ("{env.}", "has no name"),
        ("{env.A=B}", "has no name"),
        ("{arg.}", "has no number"),
        ("{arg.x}", "has no number"),
        ("{arg.-1}", "has no number"),
        ("{arg.²}", "has no number"),
        ("{arg." + "9" * 5000 + "}", "has no number"),
        ("{item.}", "an empty step"),
        ("{item.a..b}", "an empty step"),
        ("{stdin.json:}", "nothing after the colon"),
        ("{stdin.json:a.}", "an empty step"),
        ("{file.sha256:}", "nothing after the colon"),
        ("{date:}", "nothing after the colon"),
        ("{date@}", "has no zone"),
        ("{date@:%Y}", "has no zone"),
        ("{date:daily}", "would always be the same"),
        ("{date@Europe/Berlin:week}", "would always be the same"),
        ("{date:%%Y}", "would always be the same"),
        ("{date:%Z}", "would always be the same"),
        ("{date:%Q}", "a %Q, which is nothing to strftime"),
        ("{date:%Y-%m-%}", "a %, which is nothing to strftime"),
        ("{window:}", "nothing after the colon"),
        ("{window:30s}", "not a whole number of minutes"),
        ("{window:90s}", "not a whole number of minutes"),
        ("{window:0}", "not a whole number of minutes"),
        ("{window:1m0.5s}", "not a whole number of minutes"),
        ("{window:x}", "'x' is not a duration"),
        ("a\nb", "has a control character (U+000A)"),
        ("a\0b", "has a control character (U+0000)"),
        ("a\x85b", "has a control character (U+0085)"),
        ("caf\udce9", "has bytes that are not UTF-8"),
    ],
)
def test_mistakes(text: str, why: str) -> None:
    """A mistake in the text alone is found without any value."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert why in str(caught.value)
    assert str(caught.value).isprintable()
    assert refusal(text) == str(caught.value)


def test_parts() -> None:
    """A template is literal text and variables, in their order."""
    assert parse("a{{{date@UTC:%H:%M}-{env.X:Y}") == (
        "a{",
        Variable("{date@UTC:%H:%M}", "date", "%H:%M", "UTC"),
        "-",
        Variable("{env.X:Y}", "env", "X:Y"),
    )


def test_what_a_template_needs() -> None:
    """Only a variable of stdin takes stdin."""
    assert needs_stdin("{job}-{stdin.sha256}")
    assert needs_stdin("{stdin.json:a}")
    assert not needs_stdin("{job}{{stdin.sha256}}")


# ---------------------------------------------------------------- properties


printable = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=LONGEST // 2
)


@unhurried
@given(printable.filter(lambda text: not set("{}") & set(text)))
def test_text_without_braces(text: str) -> None:
    """A template without braces resolves to itself."""
    assert resolve(text, LOOKUP) == text


@unhurried
@given(printable)
def test_doubled_braces(text: str) -> None:
    """Any text with its braces doubled resolves to that text."""
    assert resolve(text.replace("{", "{{").replace("}", "}}"), LOOKUP) == text


@unhurried
@given(printable)
def test_values_stay_whole(text: str) -> None:
    """A value arrives as it is, between what stands around it."""
    assert resolve("<{env.X}>", LOOKUP._replace(env={"X": text})) == f"<{text}>"


@unhurried
@given(st.text("{}.:@%ejobdatwinmsrgv0159hNAME/\n ", max_size=40) | st.text())
def test_any_text(text: str) -> None:
    """Any text resolves to a name fit to be stored, or is refused in one line."""
    try:
        resolved = resolve(text, LINE)
    except ConfigError as error:
        assert str(error).isprintable()
    else:
        assert 0 < len(resolved) <= LONGEST
        resolved.encode()


PIECES = {
    "{job}": "backup",
    "{host}": "web1",
    "{env.REGION}": "eu",
    "{arg.0}": "pg_dump",
    "{date}": "2026-11-24",
    "{window:15m}": "2026-11-24T08:15Z",
    "{stdin.json:a.b.0}": "x",
    "{{": "{",
    "}}": "}",
    " : ": " : ",
}


@unhurried
@given(st.lists(st.sampled_from(list(PIECES)), min_size=1, max_size=12))
def test_a_template_is_the_sum_of_its_parts(parts: list[str]) -> None:
    """Each part means what it means alone, whatever stands beside it."""
    assert resolve("".join(parts), LOOKUP) == "".join(PIECES[part] for part in parts)


@unhurried
@given(
    before=st.sampled_from(["", "a", "}}"]),
    name=st.sampled_from(["{env.UNSET}", "{env.EMPTY}", "{arg.9}", "{arg.2}", "{nothing}"]),
)
def test_a_value_that_is_missing_is_never_empty(before: str, name: str) -> None:
    """What is unknown, unset or empty refuses the whole template, wherever it stands."""
    assert name.strip("{}") in refusal(f"{before}{name}{{job}}")


scalars = (
    st.text(min_size=1)
    | st.integers()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
)
keys = st.text(st.characters(exclude_characters=".", exclude_categories=["Cs"]), min_size=1)


@unhurried
@given(value=scalars, path=st.lists(keys | st.integers(0, 3), min_size=1, max_size=5))
def test_paths_find_what_was_put_there(
    value: str | int | bool | float, path: list[str | int]
) -> None:
    """A path leads to the string itself, or to the JSON text of a number or boolean."""
    tree: object = value
    for step in reversed(path):
        tree = {step: tree} if isinstance(step, str) else [None] * step + [tree]
    expected = value if isinstance(value, str) else json.dumps(value)
    dotted = ".".join(map(str, path))
    assert pick(tree, dotted) == expected
    assert pick(load_json(json.dumps(tree)), dotted) == expected
