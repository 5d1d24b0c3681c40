"""How subcommands write things for programs: JSON objects, under the names of the log lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from guardrun import units
from guardrun.model import Holder


def write_lines(objects: Iterable[dict[str, object]]) -> None:
    """One object a line, to stdout, each as soon as there is enough of them."""
    # In bytes: what the locale of a cron job cannot encode is no reason to fail.
    out = sys.stdout.buffer
    for fields in objects:
        out.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")
    out.flush()


def rfc3339(instant: int | None) -> str | None:
    """Microseconds since 1970 as a time in UTC."""
    return None if instant is None else units.rfc3339(instant / 1e6)


def milliseconds(duration: int | None) -> float | None:
    """Microseconds in milliseconds."""
    return None if duration is None else duration / 1000


def signal(number: int | None) -> str | None:
    """A signal's name."""
    return None if number is None else units.signal_name(number)


def holder(holder: Holder | None) -> dict[str, object] | None:
    """A holder as contract section 5 has it."""
    if holder is None:
        return None
    since = None if holder.since is None else units.rfc3339(holder.since)
    return {"owner": unicode(holder.owner), "job_id": holder.job_id, "since": since}


def unicode(word: str) -> str:
    r"""A word with bytes that were no UTF-8 written as ``\xff``."""
    return word.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
