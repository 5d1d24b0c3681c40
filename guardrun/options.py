"""Every run option, once, and the parser of the run's own words.

Parser, configuration file, help, man page and completions all read this table. The parser is our
own because click alone takes longer to import than everything else a short run does.

Rules of the parser: options stand before COMMAND only; ``--name=value``, ``--name value``, and
short flags, which may be bundled and may have their value attached (``-nq``, ``-w5``). Names are
exact, never abbreviated: a script must not change its meaning when an option is added. ``--`` ends
the options; so does the first word that is none. Of an option given twice, the last one counts.
"""

from __future__ import annotations

from guardrun import kinds
from guardrun.errors import UsageError
from guardrun.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from guardrun.kinds import Kind

ANYWHERE = "anywhere"
LINE_ONLY = "line"
FILE_ONLY = "file"

USAGE = "guardrun [OPTIONS] [--] COMMAND [ARG]..."


class Option(NamedTuple):
    """One option: how it is written, and which setting it makes."""

    name: str
    """the long one, without dashes"""
    kind: Kind | None = None
    """``None``: a flag"""
    short: str = ""
    default: str = ""
    """as on the command line, for people; the model's fields hold the real ones"""
    sets: tuple[str, object] = ("", None)
    """a flag's setting, and the value it gives it"""
    repeatable: bool = False
    where: str = ANYWHERE
    environment: str = ""
    credential: str = ""
    """name of the file in ``$CREDENTIALS_DIRECTORY``"""


SECTIONS: tuple[tuple[str, tuple[Option, ...]], ...] = (
    (
        "Command",
        (
            Option("job", kinds.JOB, default="base name of COMMAND"),
            Option("command", kinds.SHELL_STRING, "c", where=LINE_ONLY),
        ),
    ),
    (
        "Lock",
        (
            Option("lock", kinds.TEMPLATE),
            Option("lock-file", kinds.PATH),
            Option("scope", kinds.one_of("host", "distributed"), default="host"),
            Option(
                "lease-url",
                kinds.LEASE_URL,
                environment="GUARDRUN_LEASE_URL",
                credential="guardrun.lease-url",
            ),
            Option("slots", kinds.SLOTS, "j", default="1"),
            Option("shared", short="s", sets=("shared", True)),
            Option("exclusive", short="x", sets=("shared", False)),
            Option("wait", kinds.DURATION_OR_FOREVER, "w", default="0"),
            Option("nonblock", short="n", sets=("wait", 0.0)),
            Option("conflict-exit-code", kinds.EXIT_CODE, "E", default="75"),
            Option("min-hold", kinds.DURATION, default="0"),
            Option("ttl", kinds.TIME_TO_LIVE, default="60s"),
            Option("claim-ttl", kinds.TIME_TO_LIVE, default="15m"),
            Option("on-lease-loss", kinds.one_of("stop", "warn"), default="stop"),
            Option("store-wait", kinds.DURATION, default="15s"),
        ),
    ),
    (
        "Idempotency key",
        (
            Option("key", kinds.TEMPLATE),
            Option("key-ttl", kinds.LIMIT, default="forever"),
            Option("on-duplicate", kinds.one_of("skip", "fail", "replay"), default="skip"),
            Option("on-interrupted", kinds.one_of("rerun", "stop"), default="rerun"),
            Option("on-mismatch", kinds.one_of("fail", "ignore"), default="fail"),
            Option("needs", kinds.TEMPLATE, repeatable=True),
        ),
    ),
    (
        "Attempts",
        (
            Option("retries", kinds.RETRIES, default="0"),
            Option("backoff", kinds.BACKOFF, default="1s..1m"),
            Option("jitter", kinds.one_of("full", "equal", "decorrelated"), default="full"),
            Option("retry-on", kinds.CODES, default="every failure but 126 and 127"),
            Option("retry-budget", kinds.BUDGET),
            Option("success-codes", kinds.CODE_SET, default="0"),
            Option("timeout", kinds.LIMIT, "t", default="forever"),
            Option("deadline", kinds.LIMIT, default="forever"),
            Option("signal", kinds.SIGNAL, default="TERM"),
            Option("kill-after", kinds.DURATION, "k", default="10s"),
            Option("splay", kinds.DURATION, default="0"),
        ),
    ),
    (
        "Input and output",
        (
            Option("stdin", kinds.one_of("inherit", "replay", "null"), default="inherit"),
            Option("stdin-max", kinds.SIZE, default="64M"),
            Option(
                "output",
                kinds.one_of("inherit", "json", "on-failure", "discard"),
                default="inherit",
            ),
            Option("capture", kinds.SIZE, default="0"),
        ),
    ),
    (
        "Ledger",
        (
            Option(
                "ledger-url",
                kinds.LEDGER_URL,
                default="SQLite in the state directory",
                environment="GUARDRUN_LEDGER_URL",
                credential="guardrun.ledger-url",
            ),
            Option("record-wait", kinds.DURATION, default="30s"),
            Option(
                "on-ledger-down",
                kinds.one_of("stop", "run"),
                default="stop with --key, --needs or --retry-budget, else run",
            ),
            Option("enqueued-at", kinds.INSTANT),
            Option("keep", kinds.KEEP, default="90d", where=FILE_ONLY),
        ),
    ),
    (
        "Log and reports",
        (
            Option(
                "log-to",
                kinds.LOG_DESTINATION,
                default="stdout",
                environment="GUARDRUN_LOG_TO",
            ),
            Option("log-format", kinds.one_of("auto", "json", "console"), default="auto"),
            Option(
                "log-level",
                kinds.one_of("debug", "info", "warning", "error"),
                default="info",
                environment="GUARDRUN_LOG_LEVEL",
            ),
            Option("quiet", short="q", sets=("quiet", True)),
            Option("redact", kinds.PATTERN, repeatable=True, where=FILE_ONLY),
            Option("metrics-textfile", kinds.DIRECTORY),
            Option("ping-url", kinds.PING_URL),
        ),
    ),
    (
        "General",
        (
            Option("config", kinds.FILE, where=LINE_ONLY, environment="GUARDRUN_CONFIG"),
            Option("dry-run", sets=("dry-run", True), where=LINE_ONLY),
            Option("help", short="h", where=LINE_ONLY),
            Option("version", where=LINE_ONLY),
        ),
    ),
)

EACH: tuple[Option, ...] = (
    Option("parallel", kinds.PARALLEL, "P", default="1", where=LINE_ONLY),
    Option("null", short="0", sets=("items", "null"), where=LINE_ONLY),
    Option("jsonl", sets=("items", "jsonl"), where=LINE_ONLY),
    Option("halt-after", kinds.HALT_AFTER, where=LINE_ONLY),
    Option("keep-order", sets=("keep-order", True), where=LINE_ONLY),
    Option("tag", sets=("tag", True), where=LINE_ONLY),
)
"""What ``guardrun each`` takes beside the run options."""

OPTIONS = {option.name: option for _, section in SECTIONS for option in section}
_LONG = {name: option for name, option in OPTIONS.items() if option.where != FILE_ONLY}
_ANSWERED_AT_ONCE = ("help", "version")


class Given(NamedTuple):
    """What stood on the command line, unread."""

    options: tuple[tuple[Option, str], ...]
    """in their order; the text of a flag is empty"""
    command: tuple[str, ...]
    question: str = ""
    """``help`` or ``version``, when one was asked for: then nothing else matters"""


def parse(words: Sequence[str], more: Sequence[Option] = ()) -> Given:
    """Divide the words after ``guardrun`` into options and COMMAND.

    ``more`` are a subcommand's own options. Raises ``UsageError`` for an unknown option and for a
    value that is missing or not wanted.
    """
    known = {**_LONG, **{option.name: option for option in more}}
    found: list[tuple[Option, str]] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            return Given(tuple(found), tuple(words[at + 1 :]))
        if not word.startswith("-") or word == "-":
            break
        at += 1
        if word.startswith("--"):
            option, text = _long(word, known)
        else:
            flags, option, text = _bundle(word, known)
            found += [(flag, "") for flag in flags]
        if text is None:
            text = _value(option, words[at : at + 1])
            at += 1
        found.append((option, text))
        for asked, _ in found:
            if asked.name in _ANSWERED_AT_ONCE:
                return Given((), (), asked.name)
    return Given(tuple(found), tuple(words[at:]))


def _long(word: str, known: Mapping[str, Option]) -> tuple[Option, str | None]:
    """Read ``--name`` or ``--name=text``; ``None`` when the text must be the next word."""
    name, equals, text = word[2:].partition("=")
    option = known.get(name)
    if option is None:
        raise UsageError(f"--{name[:80]} is not an option{_did_you_mean(name, known)}")
    if option.kind is not None:
        return option, text if equals else None
    if equals:
        raise UsageError(f"--{name} takes no value")
    return option, ""


def _bundle(word: str, known: Mapping[str, Option]) -> tuple[list[Option], Option, str | None]:
    """Read ``-nq``, ``-w5`` or ``-w``: flags, and the last option, which may have a value."""
    flags: list[Option] = []
    short = {option.short: option for option in known.values() if option.short}
    for at, letter in enumerate(word[1:], start=2):
        option = short.get(letter)
        if option is None:
            bundle = _HINT
            if len(word) > 2:
                bundle = f" (in {word[:80]}){_did_you_mean(word[1:], known)}"
            raise UsageError(f"-{letter} is not an option{bundle}")
        if option.kind is not None:
            return flags, option, word[at:] or None
        flags.append(option)
    return flags[:-1], flags[-1], ""


def _value(option: Option, following: Sequence[str]) -> str:
    """Take the next word as the option's value, unless it is plainly another option."""
    assert option.kind is not None
    if not following or following[0].startswith("--"):
        way = f" (or --{option.name}=VALUE, where that starts with --)" if following else ""
        raise UsageError(f"--{option.name} needs a value: {option.kind.metavar}{way}")
    return following[0]


_HINT = "; options of COMMAND stand after it (see guardrun --help)"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"; did you mean --{close[0]}?" if close else _HINT
