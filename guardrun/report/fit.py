"""Making fields fit on a line, by cutting what is longest; pure.

Sizes are bytes of JSON in UTF-8. Both functions work on fields that JSON can hold.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEPT = ("timestamp", "level", "event", "job_id")
"""Short by construction, and never cut."""
ELLIPSIS = "…"
_LEAST = 24
"""Below this, a field that was cut says nothing; then only the constant ones stay."""
_ROOM = 2048
"""What the text of a line in parts gets at least."""
_NUMBERS = {"part": 99999999, "parts": 99999999}


def size(value: object) -> int:
    """How long ``value`` is as JSON."""
    return len(json.dumps(value, ensure_ascii=False).encode())


def shorten(fields: Mapping[str, object], limit: int) -> dict[str, object]:
    """``fields`` cut to ``limit`` bytes: as few as possible, and those as little as possible.

    What is longer than the common cap ends in an ellipsis; lists and objects become text then.
    """
    costs = {key: size(value) for key, value in fields.items()}
    spare = limit - size(dict.fromkeys(fields, 0)) + len(fields)
    spare -= sum(costs[key] for key in KEPT if key in costs)
    cuttable = [key for key in fields if key not in KEPT]
    cap = _cap([costs[key] for key in cuttable], spare)
    if cap < _LEAST:
        names = [key for key in fields if key in KEPT or key == "job"]
        return shorten({key: fields[key] for key in names} | {"truncated": True}, limit)
    return {
        key: value if key in KEPT or costs[key] <= cap else _cut(value, cap)
        for key, value in fields.items()
    }


def split(fields: Mapping[str, object], key: str, limit: int) -> Iterator[dict[str, object]]:
    """``fields`` as several, each within ``limit``, that share out the text under ``key``.

    ``part`` counts from 1 to ``parts``. Joined in that order, the texts are the whole again.
    """
    text = str(fields[key])
    frame = shorten({**fields, key: "", **_NUMBERS}, limit - _ROOM)
    room = limit - size(frame) + size("")
    texts = []
    while text:
        head = _head(text, room)
        texts.append(head)
        text = text[len(head) :]
    for number, part in enumerate(texts, 1):
        yield {**frame, key: part, "part": number, "parts": len(texts)}


def _cap(costs: list[int], total: int) -> float:
    """The largest cap with which ``costs`` add up to at most ``total``."""
    for position, cost in enumerate(sorted(costs)):
        share = total // (len(costs) - position)
        if cost > share:
            return share
        total -= cost
    return float("inf")


def _cut(value: object, limit: float) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _head(text, int(limit) - len(ELLIPSIS.encode())) + ELLIPSIS


def _head(text: str, limit: int) -> str:
    """The longest beginning of ``text`` whose JSON has at most ``limit`` bytes, by bisection."""
    fits, too_long = 0, min(len(text), limit) + 1
    probe = too_long - 1
    while fits + 1 < too_long:
        if size(text[:probe]) <= limit:
            fits = probe
        else:
            too_long = probe
        probe = (fits + too_long) // 2
    return text[:fits]
