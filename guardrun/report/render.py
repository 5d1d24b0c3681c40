"""Events as text, by structlog. Imported late: after COMMAND has started, or while we wait anyway.

The chain is structlog's usual one: processors that each do one thing to the event's dict, and a
renderer at its end. What comes out is returned rather than printed, for the sink to write.
"""

from __future__ import annotations

import json
import math
import time

from guardrun.core.redact import redact_text
from guardrun.report.lean_structlog import structlog
from guardrun.units import rfc3339

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence
    from typing import Any

    from guardrun.model import Event

    EventDict = MutableMapping[str, Any]

LINE_MAX = 4096
"""Bytes of a JSON line, its newline included: what a pipe takes whole, also from twenty writers."""

_FIRST = ("timestamp", "level", "event", "job_id", "job")

_CONSTANT = ("job_id", "idempotency_key", "lock", "lock_owner", "fencing_token")
_RESET, _BOLD, _DIM, _CYAN = "\033[0m", "\033[1m", "\033[2m", "\033[36m"
_COLOURS = {"debug": _DIM, "info": "\033[32m", "warning": "\033[33m", "error": "\033[31m"}


class JsonLines:
    """Renders events as JSON, one object a line, none longer than ``LINE_MAX``.

    An ``output`` line that is longer is split: the same fields, with ``part`` from 1 to ``parts``;
    their ``line``s joined are the whole. Of other events the longest fields are cut and end in an
    ellipsis; ``timestamp``, ``level``, ``event`` and ``job_id`` never are, ``job`` only to fit.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._log = _logger(
            _json_values,
            _Redact(patterns),
            structlog.processors.add_log_level,
            _timestamp,
            _in_order,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        )

    def __call__(self, event: Event, fields: Mapping[str, object]) -> list[bytes]:
        """The lines for ``event``; ``fields`` are the run's constant ones and its own."""
        text: str = getattr(self._log, event.level)(event.name, at=event.at, **fields)
        line = text.encode() + b"\n"
        if len(line) <= LINE_MAX:
            return [line]
        from guardrun.report import fit

        whole = json.loads(text)
        if event.name == "output":
            pieces = fit.split(whole, "line", LINE_MAX - 1)
        else:
            pieces = iter((fit.shorten(whole, LINE_MAX - 1),))
        return [json.dumps(piece, ensure_ascii=False).encode() + b"\n" for piece in pieces]


class ConsoleLines:
    """Renders events for people: local time, level, what happened, and the fields as key=value.

    What is constant during a run (its id, lock, key) is shown once, not on every line.
    Nothing that a field contains can move the cursor: control characters are escaped.
    """

    def __init__(self, patterns: Sequence[str] = (), *, colours: bool) -> None:
        self._shown: dict[str, object] = {}
        bold, dim, cyan, reset = (_BOLD, _DIM, _CYAN, _RESET) if colours else ("",) * 4
        dev = structlog.dev

        def column(key: str, style: str, width: int = 0) -> structlog.dev.Column:
            formatter = dev.KeyValueColumnFormatter(
                key_style=None, value_style=style, reset_style=reset, value_repr=str, width=width
            )
            return dev.Column(key, formatter)

        def level(key: str, value: object) -> str:  # noqa: ARG001
            return f"{_COLOURS.get(str(value), '') if colours else ''}{value:<7}{reset}"

        others = dev.KeyValueColumnFormatter(
            key_style=cyan, value_style="", reset_style=reset, value_repr=_words
        )
        columns = [
            column("timestamp", dim),
            dev.Column("level", level),
            column("event", bold, 16),
            column("job", dim),
            column("line", ""),
            dev.Column("", others),
        ]
        self._log = _logger(
            _json_values,
            _Redact(patterns),
            structlog.processors.add_log_level,
            _clock_time,
            self._once,
            _in_words,
            dev.ConsoleRenderer(columns=columns, sort_keys=False),
        )

    def __call__(self, event: Event, fields: Mapping[str, object]) -> list[bytes]:
        """The line for ``event``; ``fields`` are the run's constant ones and its own."""
        text: str = getattr(self._log, event.level)(event.name, at=event.at, **fields)
        return [text.encode() + b"\n"]

    def _once(self, _logger: object, _method: str, event_dict: EventDict) -> EventDict:
        for key in _CONSTANT:
            value = event_dict.get(key)
            if value is not None and self._shown.get(key) == value:
                del event_dict[key]
            elif value is not None:
                self._shown[key] = value
        return event_dict


def _logger(*processors: Any) -> structlog.BoundLogger:
    # structlog's own level filter comes too late: what is filtered must not even import it.
    proxy = structlog.wrap_logger(
        structlog.ReturnLogger(),
        processors=processors,
        wrapper_class=structlog.BoundLogger,
        context_class=dict,
    )
    logger: structlog.BoundLogger = proxy.bind()
    return logger


def _json_values(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    """Leave out what does not apply, and make the rest what strict JSON and UTF-8 can hold."""
    values = {key: _value(value) for key, value in event_dict.items()}
    return {key: value for key, value in values.items() if value is not None}


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if hasattr(value, "_asdict"):
        value = {key: item for key, item in value._asdict().items() if item is not None}
    if isinstance(value, dict):
        return {_text(str(key)): _value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_value(item) for item in value]
    return _text(str(value))


def _text(text: str) -> str:
    """``text`` with bytes that were no UTF-8 (surrogates, to Python) written as ``\\xff``."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        pass
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


class _Redact:
    """The last gate before the log: secrets are taken out where a message quotes what it got.

    COMMAND's own output is COMMAND's own affair.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = patterns

    def __call__(self, _logger: object, _method: str, event_dict: EventDict) -> EventDict:
        if event_dict["event"] == "output":
            return event_dict
        for key, value in event_dict.items():
            if isinstance(value, str) and (key == "reason" or "://" in value):
                event_dict[key] = redact_text(value, self._patterns)
        return event_dict


def _timestamp(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    event_dict["timestamp"] = rfc3339(event_dict.pop("at"))
    return event_dict


def _clock_time(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    event_dict["timestamp"] = time.strftime("%H:%M:%S", time.localtime(event_dict.pop("at")))
    return event_dict


def _in_order(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    first = {key: event_dict[key] for key in _FIRST if key in event_dict}
    return first | dict(event_dict)


def _in_words(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    event_dict["event"] = str(event_dict["event"]).replace("_", " ")
    if "line" in event_dict:
        event_dict["event"] = event_dict.pop("stream", "output")
        event_dict["line"] = "| " + _printable(event_dict["line"])
    event_dict["job"] = _printable(str(event_dict.get("job", "")))
    return event_dict


def _words(value: object) -> str:
    """One word as it is, everything else in quotes."""
    if not isinstance(value, str):
        return _printable(json.dumps(value, ensure_ascii=False))
    plain = value and value.isprintable() and not set(value) & set(" =\"'")
    return value if plain else repr(value)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character == "\t"
        else character.encode("unicode_escape").decode()
        for character in text
    )
