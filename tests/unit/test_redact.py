"""Secrets are taken out of COMMAND lines, URLs and messages; all else stays as it is."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from guardrun.core import redact
from guardrun.core.redact import redact_argv, redact_text, redact_url
from guardrun.errors import ConfigError

# A shared machine can make any one example slow.
unhurried = settings(deadline=None)


@pytest.mark.parametrize(
    ("argv", "hidden"),
    [
        (["--password", "x"], ["--password", "***"]),
        (["--password=x"], ["--password=***"]),
        (["-password", "x"], ["-password", "***"]),
        (["--db-passwd=a=b c&d"], ["--db-passwd=***"]),
        (["--dbPassword", "-x-"], ["--dbPassword", "***"]),
        (["--token", "t", "--secret", "s"], ["--token", "***", "--secret", "***"]),
        (["--api-key", "k", "--auth-token=t"], ["--api-key", "***", "--auth-token=***"]),
        (["-Ddb.password=x"], ["-Ddb.password=***"]),
        (["env", "PGPASSWORD=a b", "psql"], ["env", "PGPASSWORD=***", "psql"]),
        (["AWS_SECRET_ACCESS_KEY=x/y+z="], ["AWS_SECRET_ACCESS_KEY=***"]),
        (["SECRET_KEY_BASE=x", "MYSQL_PWD=/x"], ["SECRET_KEY_BASE=***", "MYSQL_PWD=***"]),
        (["REDISCLI_AUTH=x", "SSHPASS=x"], ["REDISCLI_AUTH=***", "SSHPASS=***"]),
        (["--header", "Authorization: Bearer x y"], ["--header", "Authorization: ***"]),
        (["--header=Authorization: Bearer x y"], ["--header=Authorization: ***"]),
        (["-H", "PRIVATE-TOKEN:x"], ["-H", "PRIVATE-TOKEN:***"]),
        (["-H", "Cookie: a=b; c=d"], ["-H", "Cookie: ***"]),
        (["postgres://u:p@h/db"], ["postgres://u:***@h/db"]),
        (["redis://:p@h", "b"], ["redis://:***@h", "b"]),
        (["--url=https://u:p@h/x"], ["--url=https://u:***@h/x"]),
        (["a://u:p@h,b://v:q@i"], ["a://u:***@h,b://v:***@i"]),
        (["postgres://u:p@ss@h/db"], ["postgres://u:***@h/db"]),
        (["postgres://u:p/s#s@h/db"], ["postgres://u:***@h/db"]),
        (["redis://:12/3@h/0"], ["redis://:***@h/0"]),
        (["postgres://u:p s@h/db"], ["postgres://u:***@h/db"]),
        (
            ["postgres://u@h/db?password=x&sslpassword=y&sslmode=require"],
            ["postgres://u@h/db?password=***&sslpassword=***&sslmode=require"],
        ),
        (["https://h/cb#access_token=x&a=b"], ["https://h/cb#access_token=***&a=b"]),
        (["host=h password=x dbname=d"], ["host=h password=*** dbname=d"]),
        (["host=h password = 'x y' dbname=d"], ["host=h password = *** dbname=d"]),
        (["host=h password='x\\' y' dbname=d"], ["host=h password=*** dbname=d"]),
        (["--set", "a=b,auth.password=x"], ["--set", "a=b,auth.password=***"]),
        (["-d", "user=u&password=x&z=1"], ["-d", "user=u&password=***&z=1"]),
        (['{"password": "x\\"y", "n": 1}'], ['{"password": "***", "n": 1}']),
        (['{"token":12,"n":1}'], ['{"token":***,"n":1}']),
        (["{'secret': 'it', 'n': 1}"], ["{'secret': '***', 'n': 1}"]),
        (["['psql', '--password', 'x']"], ["['psql', '--password', '***']"]),
        (
            ["sh", "-c", "PGPASSWORD='a b' psql --password c -h h"],
            ["sh", "-c", "PGPASSWORD=*** psql --password *** -h h"],
        ),
        (
            ["/bin/bash", "-euc", "curl -H \"Authorization: Bearer x\" 'https://h/?token=x&a=b'"],
            ["/bin/bash", "-euc", "curl -H \"Authorization: ***\" 'https://h/?token=***&a=b'"],
        ),
        (
            ["sh", "-c", 'curl -d "{\\"password\\": \\"x\\\\\\"y\\", \\"n\\": 1}" h'],
            ["sh", "-c", 'curl -d "{\\"password\\": \\"***\\", \\"n\\": 1}" h'],
        ),
        (["sh", "-c", 'env "PGPASSWORD=a b" psql'], ["sh", "-c", 'env "PGPASSWORD=***" psql']),
        (["sh", "-c", "PGPASSWORD= psql db"], ["sh", "-c", "PGPASSWORD= psql db"]),
    ],
)
def test_secrets_are_hidden(argv: list[str], hidden: list[str]) -> None:
    """A value is hidden whole where its name, or its place in a URL, says that it is a secret."""
    assert redact_argv(argv, ()) == tuple(hidden)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        [""],
        ["true"],
        ["psql", "-h", "db", "-U", "ops", "-pSECRET"],
        ["mysql", "--password", "--host", "db"],
        ["psql", "--no-password", "db"],
        ["sudo", "--ask-pass", "ls"],
        ["--password"],
        ["--password="],
        ["--password", ""],
        ["PGPASSWORD="],
        ["--password-file", "/run/secrets/pw", "--token-ttl=5m", "--secret-name", "db"],
        ["--max-tokens", "5", "--tokenizer", "bert", "--author", "x", "--compass", "north"],
        ["env", "PWD=/srv", "OLDPWD=/", "AWS_ACCESS_KEY_ID=AKIA", "AUTHOR=x", "KEY=x"],
        ["ssh://git@host:22/path", "https://h:8080/@scope/pkg", "http://[::1]:80/a@b"],
        ["https://user:@h/", "https://user@h/a:b", "file:///a:b@c", "etcd://a:1,b:2/x"],
        ["scp", "file", "host:/path", "user@host:x"],
        ["docker", "run", "gcr.io/p/refresh-token:1.2", "cat", "/etc/passwd"],
        ["kubectl", "get", "secret", "tls"],
        ["say", "café \udce9 \N{SNOWMAN} *** **** \0 \n"],
    ],
)
def test_the_rest_stays(argv: list[str]) -> None:
    """Words without a secret stay as they are, to the byte."""
    assert redact_argv(argv, ()) == tuple(argv)


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("postgresql://u:p@h:5432/db", "postgresql://u:***@h:5432/db"),
        ("postgresql+advisory://u:p q@h/db", "postgresql+advisory://u:***@h/db"),
        ("postgresql://h/db?password=a b&user=u", "postgresql://h/db?password=***&user=u"),
        ("rediss://:p@h:6379/0", "rediss://:***@h:6379/0"),
        ("unix://:p@/run/redis.sock", "unix://:***@/run/redis.sock"),
        ("consul://h:8500?token=x", "consul://h:8500?token=***"),
        ("consul://x@a:8500,b:8500", "consul://***@a:8500,b:8500"),
        ("consuls://u:p@h?datacenter=d", "consuls://***@h?datacenter=d"),
        ("consul://a:8500,b:8500", "consul://a:8500,b:8500"),
        ("postgresql://h/db?user=u", "postgresql://h/db?user=u"),
        ("etcds://u:p@a:2379,b:2379", "etcds://u:***@a:2379,b:2379"),
        ("sqlite:///var/lib/guardrun/a:b@c.db", "sqlite:///var/lib/guardrun/a:b@c.db"),
        ("none:", "none:"),
    ],
)
def test_urls(url: str, hidden: str) -> None:
    """A store's URL can be shown: user, host and database stay, the password does not."""
    assert redact_url(url) == hidden


def test_messages() -> None:
    """What a driver says is shown without the connection's password."""
    assert redact_text("cannot reach postgresql://u:p@h/db: refused", ()) == (
        "cannot reach postgresql://u:***@h/db: refused"
    )
    assert redact_text('invalid dsn "host=h password=x": timeout', ()) == (
        'invalid dsn "host=h password=*** timeout'
    )
    assert redact_text('password authentication failed for user "u"', ()) == (
        'password authentication failed for user "u"'
    )


def test_patterns() -> None:
    """What a pattern of the configuration matches is hidden, in argv and in messages."""
    patterns = [r"ghp_\w+", r"(?<=-u )\S+"]
    assert redact_argv(["git", "ghp_abc@h", "a"], patterns) == ("git", "***@h", "a")
    assert redact_argv(["git", "-pSECRET"], ["(?<=^-p).*"]) == ("git", "-p***")
    assert redact_text("curl -u me:x, ghp_abc!", patterns) == "curl -u *** ***!"


def test_patterns_that_match_nothing_long() -> None:
    """A pattern that can match the empty string adds nothing."""
    assert redact_argv(["ab", ""], ["x*"]) == ("ab", "")


def test_a_bad_pattern() -> None:
    """A pattern that is no regular expression is an error of the configuration, on one line."""
    with pytest.raises(ConfigError) as caught:
        redact_argv(["a"], ["("])
    assert str(caught.value).startswith("redact: '(' is not a regular expression")
    assert str(caught.value).isprintable()


def test_every_name_has_a_hint() -> None:
    """The quick look for hints passes over no name that counts as secret."""
    for name in (*redact._ENDINGS, *redact._LAST_WORDS):
        assert redact._has_hint(name), name


@pytest.mark.parametrize(
    "piece", ["a://", "password=", "--token ", '"', "://u:p", "password='", "x-token: ", "token "]
)
def test_endless_words(piece: str) -> None:
    """What stands before a secret, however long and odd, neither hides it from us nor stops us."""
    assert "Ж" not in redact_text(piece * 10_000 + " --secret Ж", ())


# ---------------------------------------------------------------- properties

# A planted secret is made of letters that stand in none of the text around it.
secret_letters = st.text("ÄÖÜßéñ0 '\"\\/?#&:;,=@%+$-.*(){}[]<>|!~^`", min_size=1, max_size=20)
marked = secret_letters.map(lambda text: f"Ж{text}Ж")
url_letters = "abcXYZ019-._~%!$'()*+,;=:"
# A bare @ or a bare / can be told from the rest of the URL; where both are in a password, no
# client could connect.
url_passwords = st.one_of(
    st.text(url_letters + "@", max_size=12), st.text(url_letters + "/?#", max_size=12)
).map(lambda text: f"Ж{text}Ж")
names = st.sampled_from(
    [
        "password",
        "db-passwd",
        "token",
        "secret",
        "api-key",
        "auth-token",
        "client_secret",
        "PGPASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "sslpassword",
        "dbPassword",
    ]
)


@unhurried
@given(name=names, secret=marked, dashes=st.sampled_from(["-", "--"]))
def test_options_never_leak(name: str, secret: str, dashes: str) -> None:
    """Whatever the secret is made of, an option's value is hidden to its last letter."""
    assert redact_argv(["cmd", f"{dashes}{name}", secret, "end"], ()) == (
        "cmd",
        f"{dashes}{name}",
        "***",
        "end",
    )
    assert redact_argv(["cmd", f"{dashes}{name}={secret}"], ()) == ("cmd", f"{dashes}{name}=***")
    assert redact_argv(["env", f"{name}={secret}", "cmd"], ()) == ("env", f"{name}=***", "cmd")


@unhurried
@given(secret=marked)
def test_headers_never_leak(secret: str) -> None:
    """A header that is a word of its own is hidden whole."""
    for header in ("Authorization: Bearer ", "X-Auth-Token: ", "x-api-key:"):
        assert "Ж" not in "".join(redact_argv(["curl", "-H", header + secret], ()))


@unhurried
@given(
    user=st.text("abc019._%", max_size=5),
    secret=url_passwords,
    before=st.sampled_from(["", "--u="]),
)
def test_url_passwords_never_leak(user: str, secret: str, before: str) -> None:
    """A URL's password is hidden even where it is badly written."""
    url = f"postgresql://{user}:{secret}@db.example:5432/app?sslmode=require"
    shown = f"postgresql://{user}:***@db.example:5432/app?sslmode=require"
    assert redact_argv([before + url], ()) == (before + shown,)
    assert redact_url(url) == shown
    assert redact_text(f"cannot reach {url} now", ()) == f"cannot reach {shown} now"


@unhurried
@given(name=names, secret=st.text("abcXYZ019-._~%!*+,:@/", max_size=12))
def test_url_parameters_never_leak(name: str, secret: str) -> None:
    """A URL's secret parameter is hidden, and those around it are not."""
    url = f"https://h/p?user=u&{name}=Ж{secret}Ж&mode=x"
    assert redact_url(url) == f"https://h/p?user=u&{name}=***&mode=x"


@unhurried
@given(name=names, secret=marked)
def test_shell_words_never_leak(name: str, secret: str) -> None:
    """A secret that is quoted for the shell is hidden in a command string, and only it."""
    for command in (
        f"{name}={shlex.quote(secret)} psql db",
        f"psql --{name} {shlex.quote(secret)} db",
        f"psql --{name}={shlex.quote(secret)} db",
    ):
        hidden = redact_argv(["sh", "-c", command], ())[2]
        assert "Ж" not in hidden
        assert hidden.endswith("*** psql db" if command.startswith(name) else "*** db")


@unhurried
@given(name=names, secret=marked)
def test_json_never_leaks(name: str, secret: str) -> None:
    """A secret in JSON, or in JSON quoted for the shell, is hidden, and only it."""
    body = json.dumps({"a": 1, name: secret, "z": [name]}, ensure_ascii=False)
    shown = json.dumps({"a": 1, name: "***", "z": [name]})
    assert redact_argv(["curl", "-d", body], ()) == ("curl", "-d", shown)
    assert "Ж" not in redact_argv(["sh", "-c", f"curl -d {shlex.quote(body)}"], ())[2]
    assert "Ж" not in redact_text(json.dumps({"body": body}, ensure_ascii=False), ())


@unhurried
@given(name=names, secret=marked)
def test_connection_strings_never_leak(name: str, secret: str) -> None:
    """A secret in a connection string, quoted as libpq wants it, is hidden."""
    assume("-" not in name)
    quoted = "'" + secret.replace("\\", "\\\\").replace("'", "\\'") + "'"
    text = f"host=h {name}={quoted} dbname=d"
    assert redact_argv(["psql", text], ()) == ("psql", f"host=h {name}=*** dbname=d")


SIGNS = [*"@:=&?'\"\\,*/{}-_. \n", "://", "--"]
names_and_flags = ["--password", "--token", "token", "PGPASSWORD", "X-Token", "PWD", "cookie"]
other_words = ["-c", "sh", "--x", "a://b:", "x", "1", "é", "***"]
scraps = st.sampled_from(names_and_flags) | st.sampled_from(other_words) | st.sampled_from(SIGNS)
words = st.lists(scraps, max_size=12).map("".join) | st.text()
patterns = st.lists(st.sampled_from(["x", "x*", r"\*", "to", r"\w+", "=.*", "sh", "(?<=1)."]))


@settings(unhurried, max_examples=500)
@given(argv=st.lists(words, max_size=6), patterns=patterns)
@example(argv=["for-auth=1"], patterns=["for-"])
@example(argv=["sh", "-c", "PGPASSWORD=x psql"], patterns=["sh"])
def test_redaction_is_idempotent(argv: list[str], patterns: list[str]) -> None:
    """What has been redacted once is not changed by doing it again."""
    once = redact_argv(argv, patterns)
    assert redact_argv(once, patterns) == once
    assert len(once) == len(argv)
    for word in argv:
        text = redact_text(word, patterns)
        assert redact_text(text, patterns) == text
        url = redact_url(word)
        assert redact_url(url) == url


innocent = st.text(
    st.characters(exclude_categories=["Cs"]).filter(lambda char: char not in "kKpPsStTaAcC:")
)


@unhurried
@given(st.lists(innocent, max_size=8))
def test_innocent_words_stay(argv: list[str]) -> None:
    """Words that name nothing secret and hold no URL stay as they are, to the byte."""
    assert redact_argv(argv, ()) == tuple(argv)
    assert all(redact_text(word, ()) == word for word in argv)
