"""What people write for durations, sizes, signals, codes, budgets and instants."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrun import units
from guardrun.model import FOREVER, Budget, Codes

# A shared machine can make any one example slow.
unhurried = settings(deadline=None)

READERS: tuple[Callable[[str], object], ...] = (
    units.duration,
    units.size,
    units.signal_number,
    units.codes,
    units.code_set,
    units.budget,
    units.backoff,
    units.instant,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("90", 90.0),
        ("0", 0.0),
        ("0.5", 0.5),
        ("0.5s", 0.5),
        ("90s", 90.0),
        ("5m", 300.0),
        ("5min", 300.0),
        ("1h30m", 5400.0),
        ("1h30min", 5400.0),
        ("1h5s", 3605.0),
        ("1.5h", 5400.0),
        ("1m0.1s", 60.1),
        ("1s500ms", 1.5),
        ("1d", 86400.0),
        ("1d2h3m4s5ms", 93784.005),
        ("36525d", 3155760000.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is a number of seconds, or numbers with units from the largest down."""
    assert units.duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5x",
        "5M",
        "5S",
        "1w",
        "1y",
        "-1",
        "-1s",
        "+1s",
        "s",
        "ms",
        ".5s",
        "5.s",
        "1.2.3s",
        "1e3",
        "0x10",
        "1_000",
        "1,5s",
        "nan",
        "inf",
        "forever",
        " 5s",
        "5s ",
        "5 s",
        "5s\n",
        "1h30",
        "30m1h",
        "1m1min",
        "1s1s",
        "1.5h30m",
        "٣s",
        "\uff15s",
        "5\uff53",
        "²",
        "9" * 10_000,
    ],
)
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused with a clause that says what to write."""
    with pytest.raises(ValueError, match=r"is not a duration \(write 500ms, 90, 90s, "):
        units.duration(text)


@pytest.mark.parametrize("text", ["36526d", "3155760001", "9" * 30 + "h"])
def test_a_duration_has_an_end(text: str) -> None:
    """A duration of more than a hundred years is a slip of the finger."""
    with pytest.raises(ValueError, match="is too long for a duration"):
        units.duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.02, "20ms"),
        (0.0005, "0.5ms"),
        (0.000_000_1, "0s"),
        (0.999_999_9, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (1.234_567, "1.235s"),
        (59.999_9, "1m"),
        (90, "1m30s"),
        (5400, "1h30m"),
        (3605, "1h5s"),
        (86400, "1d"),
        (90061.25, "1d1h1m1.25s"),
        (-1.5, "-1.5s"),
        (FOREVER, "forever"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    """A duration is shown in the units people use, without empty ones."""
    assert units.format_duration(seconds) == text


@unhurried
@given(st.integers(0, units.LONGEST * 1000))
def test_a_shown_duration_reads_back(milliseconds: int) -> None:
    """What is shown for whole milliseconds is read back as the very same number."""
    seconds = milliseconds / 1000
    assert units.duration(units.format_duration(seconds)) == seconds


_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
"""in milliseconds, from the largest down"""


@unhurried
@given(st.dictionaries(st.sampled_from(list(_UNITS)), st.integers(0, 9999), min_size=1))
def test_a_duration_is_the_sum_of_its_parts(counts: dict[str, int]) -> None:
    """Whatever units there are, from the largest down, each counts so many times; else refused."""
    parts = [f"{counts[unit]}{unit}" for unit in _UNITS if unit in counts]
    expected = sum(count * _UNITS[unit] for unit, count in counts.items()) / 1000
    assert units.duration("".join(parts)) == expected
    if len(parts) > 1:
        with pytest.raises(ValueError, match="is not a duration"):
            units.duration("".join(reversed(parts)))


@unhurried
@given(st.floats(0, units.LONGEST))
def test_a_shown_duration_is_close(seconds: float) -> None:
    """Any duration is shown to the millisecond at least, and in words that can be read back."""
    shown = units.duration(units.format_duration(seconds))
    assert shown == pytest.approx(seconds, abs=0.000_501 if seconds >= 1 else 0.000_000_501)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64K", 65536),
        ("1M", 1 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_sizes(text: str, count: int) -> None:
    """A size is a number of bytes, or of powers of 1024."""
    assert units.size(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        "K",
        "-1",
        "1.5M",
        "64k",
        "64KB",
        "64KiB",
        "1 K",
        " 1",
        "1\n",
        "1X",
        "٣",
        "1e3",
        "9" * 9999,
    ],
)
def test_what_is_no_size(text: str) -> None:
    """Anything else is refused with a clause that says what to write."""
    with pytest.raises(ValueError, match=r"is not a size \(write 65536, 64K, "):
        units.size(text)


@unhurried
@given(count=st.integers(0, 1 << 66), power=st.integers(0, 4))
def test_a_size_counts_powers_of_1024(count: int, power: int) -> None:
    """A number and a unit are so many bytes, up to what the ledger's integers hold."""
    text, expected = f"{count}{' KMGT'[power].strip()}", count * 1024**power
    if expected < 2**63:
        assert units.size(text) == expected
    else:
        with pytest.raises(ValueError, match="is too large for a size"):
            units.size(text)


@pytest.mark.parametrize("text", [str(2**63), "8388608T"])
def test_a_size_has_an_end(text: str) -> None:
    """A size fits the ledger's integers."""
    with pytest.raises(ValueError, match="is too large for a size"):
        units.size(text)


@pytest.mark.parametrize("text", ["TERM", "SIGTERM", "term", "SigTerm"])
def test_signals_by_name(text: str) -> None:
    """A signal is its name in any case, with or without SIG."""
    assert units.signal_number(text) == signal.SIGTERM


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SIG",
        "15",
        "SIGSIGTERM",
        "SIG_DFL",
        "DFL",
        "FOO",
        " TERM",
        "\u017figterm",
        "\u017fIGTERM",
    ],
)
def test_what_is_no_signal(text: str) -> None:
    """A number, or a name that is none, is refused with a clause that says what to write."""
    with pytest.raises(ValueError, match="is not a signal"):
        units.signal_number(text)


@unhurried
@given(st.sampled_from(sorted(signal.Signals)))
def test_signal_names_read_back(number: signal.Signals) -> None:
    """Every signal's name is read back as the same signal."""
    assert units.signal_number(units.signal_name(number)) == number


def test_signals_without_a_name() -> None:
    """Real-time signals and numbers that are no signal can be shown all the same."""
    assert units.signal_name(15) == "SIGTERM"
    assert units.signal_name(signal.SIGRTMIN + 1) == "SIGRTMIN+1"
    assert units.signal_name(999) == "signal 999"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("75", Codes(frozenset({75}))),
        ("0,255", Codes(frozenset({0, 255}))),
        ("1,5-9", Codes(frozenset({1, 5, 6, 7, 8, 9}))),
        ("7-7,7", Codes(frozenset({7}))),
        ("timeout", Codes(frozenset(), timeout=True)),
        ("signal,3", Codes(frozenset({3}), signal=True)),
        ("timeout,signal,1-2", Codes(frozenset({1, 2}), timeout=True, signal=True)),
    ],
)
def test_codes(text: str, expected: Codes) -> None:
    """What is worth a retry is a list of codes, ranges, ``timeout`` and ``signal``."""
    assert units.codes(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "1,",
        ",1",
        "1,,2",
        "256",
        "9-5",
        "1-",
        "-1",
        "1-2-3",
        "1 ",
        "1, 2",
        "x",
        "Timeout",
        "0-256",
        "٣",
        "0001",
        "timeout-signal",
    ],
)
def test_what_are_no_codes(text: str) -> None:
    """Anything else is refused with a clause that says what to write."""
    with pytest.raises(ValueError, match="is not a list of exit codes, 0 to 255"):
        units.codes(text)
    with pytest.raises(ValueError, match="is not a list of exit codes, 0 to 255"):
        units.code_set(text)


@st.composite
def written_codes(draw: st.DrawFn) -> tuple[str, Codes]:
    """A list of exit codes as somebody may write it, ranges overlapping, and what it means."""
    ranges = draw(
        st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)).map(sorted), max_size=5)
    )
    words = draw(st.lists(st.sampled_from(["timeout", "signal"]), max_size=2))
    texts = [
        str(low) if low == high and draw(st.booleans()) else f"{low}-{high}" for low, high in ranges
    ]
    text = ",".join(draw(st.permutations([*texts, *words])))
    codes = frozenset(code for low, high in ranges for code in range(low, high + 1))
    return text, Codes(codes, timeout="timeout" in words, signal="signal" in words)


@unhurried
@given(written_codes().filter(lambda given: given[0] != ""))
def test_codes_are_a_set(given: tuple[str, Codes]) -> None:
    """In whatever order, however often a code is named: it is in the set, and nothing else is."""
    text, expected = given
    assert units.codes(text) == expected
    if not expected.timeout and not expected.signal:
        assert units.code_set(text) == expected.codes


def test_success_codes() -> None:
    """Codes that count as success are codes only: a timeout never is one."""
    assert units.code_set("0,5-7") == {0, 5, 6, 7}
    for text in ("timeout", "0,signal"):
        with pytest.raises(ValueError, match="is not a list of exit codes"):
            units.code_set(text)


def test_budgets() -> None:
    """A retry budget is a number of retries in a window."""
    assert units.budget("20/1h") == Budget(20, 3600.0)
    assert units.budget("0/90") == Budget(0, 90.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20",
        "/1h",
        "20/",
        "x/1h",
        "-1/1h",
        "1.5/1h",
        "20/1h/2",
        "20/0",
        "20/x",
        "9" * 10 + "/1h",
    ],
)
def test_what_is_no_budget(text: str) -> None:
    """A budget without a number, a window or a unit is refused."""
    with pytest.raises(ValueError, match=r"\(write "):
        units.budget(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1s..1m", (1.0, 60.0)),
        ("0.5..2.5", (0.5, 2.5)),
        ("2s..2s", (2.0, 2.0)),
        ("5s", (5.0, 60.0)),
        ("5m", (300.0, 300.0)),
    ],
)
def test_backoffs(text: str, expected: tuple[float, float]) -> None:
    """A backoff is BASE..MAX; MAX is a minute, or BASE where that is more."""
    assert units.backoff(text) == expected


@unhurried
@given(retries=st.integers(0, 10**9 - 1), base=st.integers(1, 10**9), cap=st.integers(1, 10**9))
def test_budgets_and_backoffs_read_back(retries: int, base: int, cap: int) -> None:
    """Both are made of durations (here in ms): each half is read as it would be alone."""
    assert units.budget(f"{retries}/{base}ms") == Budget(retries, base / 1000)
    if base <= cap:
        assert units.backoff(f"{base}ms..{cap}ms") == (base / 1000, cap / 1000)
    else:
        with pytest.raises(ValueError, match="ends below its start"):
            units.backoff(f"{base}ms..{cap}ms")


@pytest.mark.parametrize(
    "text", ["", "..", "1s..", "..1m", "1m..1s", "1...2", "1s..2s..3s", "1s-1m"]
)
def test_what_is_no_backoff(text: str) -> None:
    """A range that is open or upside down is refused."""
    with pytest.raises(ValueError, match=r"\(write "):
        units.backoff(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("1795508100", 1795508100.0),
        ("1795508100.25", 1795508100.25),
        ("2026-11-24T08:15:00Z", 1795508100.0),
        ("2026-11-24t08:15:00z", 1795508100.0),
        ("2026-11-24T08:15:00.25Z", 1795508100.25),
        ("2026-11-24T09:15:00+01:00", 1795508100.0),
        ("2026-11-24 02:45:00-05:30", 1795508100.0),
        ("2026-11-24T08:15:00.123456789-00:00", 1795508100.123456),
    ],
)
def test_instants(text: str, seconds: float) -> None:
    """An instant is seconds since 1970, or RFC 3339 with an offset."""
    assert units.instant(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "-1",
        "1e9",
        "1.",
        ".5",
        "nan",
        "inf",
        " 1795508100",
        "2026-11-24",
        "2026-11-24T08:15:00",
        "2026-11-24T08:15Z",
        "20261124T081500Z",
        "2026-W48-2T08:15:00Z",
        "2026-13-24T08:15:00Z",
        "2026-02-30T08:15:00Z",
        "2026-11-24T24:15:00Z",
        "2026-11-24T08:15:00,5Z",
        "2026-11-24T08:15:00.Z",
        "2026-11-24T08:15:00+0100",
        "2026-11-24T08:15:00+01:00:30",
        "2026-11-24T08:15:00+24:00",
        "2026-11-24T08:15:00 Z",
        "2026-11-24T08:15:00Z\n",
        "\uff12026-11-24T08:15:00Z",
    ],
)
def test_what_is_no_instant(text: str) -> None:
    """A time without an offset, and other spellings of ISO 8601, are refused."""
    with pytest.raises(ValueError, match="is not a time"):
        units.instant(text)


@pytest.mark.parametrize("text", ["1795508100000", "1969-12-31T23:59:59Z", "9" * 20])
def test_an_instant_in_milliseconds(text: str) -> None:
    """Milliseconds since 1970 are seen to be no seconds, and times before it no queue's."""
    with pytest.raises(ValueError, match="is not between the years 1970 and 9999"):
        units.instant(text)


@unhurried
@given(
    st.datetimes(
        min_value=datetime(1970, 1, 2),
        max_value=datetime(9999, 1, 1),
        timezones=st.integers(-1439, 1439).map(lambda n: timezone(timedelta(minutes=n))),
    )
)
def test_instants_read_back(moment: datetime) -> None:
    """Whatever Python writes as RFC 3339 is read as the same moment."""
    assert units.instant(moment.isoformat()) == moment.timestamp()


@pytest.mark.parametrize("reader", READERS)
@unhurried
@given(text=st.text())
def test_no_reader_stumbles(reader: Callable[[str], object], text: str) -> None:
    """Whatever is written is either read or refused in one printable line."""
    try:
        reader(text)
    except ValueError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 400
