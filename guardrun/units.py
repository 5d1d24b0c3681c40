"""What people write for durations, sizes, signals, exit codes and instants; and durations back.

Every reader takes ASCII without blanks, guesses nothing, and raises ``ValueError`` with a clause
that completes ``--option: ``.
"""

from __future__ import annotations

import signal

from guardrun.model import FOREVER, Budget, Codes

LONGEST = 36_525 * 86_400
"""A hundred years, in seconds: no duration is longer."""

_DIGITS = frozenset("0123456789")
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "min": 60_000, "m": 60_000, "s": 1_000, "ms": 1}
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_LARGEST = (1 << 63) - 1
# A day before the last second datetime knows, so that no time zone can push a date past it.
_LAST_INSTANT = 253_402_300_799 - 86_400
_LONGEST_WORD = 40


def shown(text: str, limit: int = 80) -> str:
    """Quote what somebody wrote for a one-line message, cut to about ``limit`` characters."""
    return repr(text if len(text) <= limit else f"{text[:limit]}…")


def duration(text: str) -> float:
    """Read a duration such as ``500ms``, ``90``, ``0.5s``, ``5m``, ``5min``, ``1h30m`` or ``1d``.

    Seconds, correctly rounded. Only the last of several units may have a fraction.
    Raises ValueError.
    """
    milliseconds, scale, smallest, at = 0, 1, FOREVER, 0
    wrong = ValueError(
        f"{shown(text)} is not a duration (write 500ms, 90, 90s, 5m, 1h30m or 1d)",
    )
    if not 0 < len(text) <= _LONGEST_WORD:
        raise wrong
    while at < len(text):
        whole_end = _span(text, at, _DIGITS)
        whole, fraction = text[at:whole_end], ""
        number_end = whole_end
        if text.startswith(".", whole_end):
            number_end = _span(text, whole_end + 1, _DIGITS)
            fraction = text[whole_end + 1 : number_end]
            if not fraction:
                raise wrong
        unit_end = _span(text, number_end, _LETTERS)
        unit = text[number_end:unit_end]
        if at == 0 and number_end == len(text):
            unit = "s"
        at = unit_end
        one = _MILLISECONDS.get(unit, FOREVER)
        if not whole or one >= smallest or (fraction and at < len(text)):
            raise wrong
        smallest = one
        scale = 10 ** len(fraction)
        milliseconds = milliseconds * scale + int(whole + fraction) * _MILLISECONDS[unit]
    seconds = milliseconds / (1000 * scale)
    if seconds > LONGEST:
        raise ValueError(f"{shown(text)} is too long for a duration (at most 100 years)")
    return seconds


def format_duration(seconds: float) -> str:
    """Write a duration for people: ``1h30m``, ``1.5s``, ``20ms``, ``forever``.

    To the millisecond from 1 s on, to the microsecond below. What it writes for 0 to 100 years,
    ``duration`` reads back as the same value, rounded like that.
    """
    if seconds == FOREVER:
        return "forever"
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    microseconds = round(seconds * 1_000_000)
    if 0 < microseconds < 1_000_000:
        return _decimal(microseconds, 1_000) + "ms"
    left = round(seconds * 1_000)
    words = []
    for unit in ("d", "h", "m"):
        count, left = divmod(left, _MILLISECONDS[unit])
        if count:
            words.append(f"{count}{unit}")
    if left or not words:
        words.append(_decimal(left, 1_000) + "s")
    return "".join(words)


def size(text: str) -> int:
    """Read a size in bytes such as ``65536``, ``64K`` (1K = 1024), ``1M``, ``1G``, ``1T``.

    Raises ValueError.
    """
    digits_end = _span(text, 0, _DIGITS)
    factor = _BYTES.get(text[digits_end:])
    if factor is None or not 0 < digits_end <= _LONGEST_WORD:
        raise ValueError(f"{shown(text)} is not a size (write 65536, 64K, 1M or 1G)")
    count = int(text[:digits_end]) * factor
    if count > _LARGEST:
        raise ValueError(f"{shown(text)} is too large for a size (at most 2^63 - 1 bytes)")
    return count


def signal_number(text: str) -> int:
    """Read a signal's name, ``TERM`` or ``SIGTERM``, in any case; raises ValueError."""
    name = text.upper() if text.isascii() else ""
    found = signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}")
    if found is None:
        raise ValueError(f"{shown(text)} is not a signal (write a name such as TERM or SIGTERM)")
    return int(found)


def signal_name(number: int) -> str:
    """Name a signal: ``SIGTERM``, ``SIGRTMIN+1``, or ``signal 99`` where it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        if signal.SIGRTMIN < number < signal.SIGRTMAX:
            return f"SIGRTMIN+{number - signal.SIGRTMIN}"
        return f"signal {number}"


def codes(text: str) -> Codes:
    """Read what is worth a retry: ``75``, ``1,5-9``, ``timeout``, ``signal``, joined by commas.

    Raises ValueError.
    """
    found: set[int] = set()
    words = text.split(",")
    for word in words:
        if word not in ("timeout", "signal"):
            span = _code_range(word)
            if span is None:
                raise ValueError(
                    f"{shown(text)} is not a list of exit codes, 0 to 255"
                    " (write 75 or 1,5-9, also timeout or signal)"
                )
            found.update(span)
    return Codes(frozenset(found), timeout="timeout" in words, signal="signal" in words)


def code_set(text: str) -> frozenset[int]:
    """Read exit codes, 0 to 255, such as ``0`` or ``0,5-9``; raises ValueError."""
    found: set[int] = set()
    for word in text.split(","):
        span = _code_range(word)
        if span is None:
            raise ValueError(
                f"{shown(text)} is not a list of exit codes, 0 to 255 (write 0 or 0,5-9)"
            )
        found.update(span)
    return frozenset(found)


def budget(text: str) -> Budget:
    """Read a retry budget, ``N/DURATION``; raises ValueError."""
    count, slash, window = text.partition("/")
    if not slash or not _is_number(count, 9):
        raise ValueError(f"{shown(text)} is not a retry budget (write N/DURATION, such as 20/1h)")
    seconds = duration(window)
    if not seconds:
        raise ValueError(f"{shown(text)} has an empty window (write N/DURATION, such as 20/1h)")
    return Budget(int(count), seconds)


def backoff(text: str) -> tuple[float, float]:
    """Read ``BASE[..MAX]``, both in seconds; MAX is 60 s, or BASE where that is more.

    Raises ValueError.
    """
    first, dots, last = text.partition("..")
    base = duration(first)
    cap = duration(last) if dots else max(60.0, base)
    if cap < base:
        raise ValueError(f"{shown(text)} ends below its start (write BASE..MAX, such as 1s..1m)")
    return base, cap


def instant(text: str) -> float:
    """Read an RFC 3339 time or seconds since 1970, as seconds since 1970; raises ValueError.

    The date may be set off by a blank, as ``date --rfc-3339`` does. A time without an offset
    from UTC is refused: it would mean something else on every host.
    """
    whole, dot, fraction = text.partition(".")
    if _is_number(whole, 20) and (_is_number(fraction, 20) or not dot):
        seconds = float(text)
    else:
        seconds = _rfc3339(text)
    if not 0 <= seconds <= _LAST_INSTANT:
        raise ValueError(
            f"{shown(text)} is not between the years 1970 and 9999"
            " (write seconds, not milliseconds, since 1970)"
        )
    return seconds


def _rfc3339(text: str) -> float:
    import datetime

    # datetime.fromisoformat reads much more than RFC 3339: week dates, missing minutes, commas.
    wrong = ValueError(
        f"{shown(text)} is not a time (write RFC 3339 with an offset,"
        " such as 2026-11-24T08:15:00Z, or seconds since 1970)"
    )
    shape = "".join("9" if char in _DIGITS else char for char in text[:19].upper())
    offset_at = 19
    if text.startswith(".", 19):
        offset_at = _span(text, 20, _DIGITS)
        if offset_at == 20:
            raise wrong
    offset = "".join("9" if char in _DIGITS else char for char in text[offset_at:].upper())
    if shape not in ("9999-99-99T99:99:99", "9999-99-99 99:99:99"):
        raise wrong
    if offset not in ("Z", "+99:99", "-99:99"):
        raise wrong
    try:
        return datetime.datetime.fromisoformat(text.upper()).timestamp()
    except ValueError:
        raise wrong from None


def _span(text: str, start: int, alphabet: frozenset[str]) -> int:
    """Where the run of ``alphabet`` that begins at ``start`` ends."""
    end = start
    while end < len(text) and text[end] in alphabet:
        end += 1
    return end


def _is_number(text: str, longest: int) -> bool:
    return 0 < len(text) <= longest and _span(text, 0, _DIGITS) == len(text)


def _code_range(word: str) -> range | None:
    first, dash, last = word.partition("-")
    last = last if dash else first
    if not (_is_number(first, 3) and _is_number(last, 3)):
        return None
    if not int(first) <= int(last) <= 255:
        return None
    return range(int(first), int(last) + 1)


def _decimal(count: int, one: int) -> str:
    """``count`` / ``one`` (a power of ten) without trailing zeros."""
    whole, part = divmod(count, one)
    fraction = f"{part:0{len(str(one)) - 1}}".rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)


def rfc3339(seconds: float) -> str:
    """Write seconds since 1970 as UTC with microseconds: ``2026-11-24T08:15:00.000000Z``."""
    import time

    whole, microseconds = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{microseconds:06d}Z"
