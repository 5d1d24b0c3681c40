"""What an examination comes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

OK, NOTE, BROKEN = "ok", "note", "broken"
"""nothing to do; could be better; breaks a promise, or keeps jobs from running at all"""


class Finding(NamedTuple):
    """One thing that was looked at."""

    subject: str
    """``config``, ``ledger``, ``leases``, ``state``, ``locks``, ``spool`` or ``cron``"""
    level: str
    says: str
    remedy: str | None = None
    """what to do; there is one for everything that is not ``ok``"""
    facts: Mapping[str, object] = {}
    """for programs: what was measured or read"""


def told(subject: str, error: Exception) -> Finding:
    """What an error that is written for people means: its last clause is the remedy."""
    text = str(error)
    cut = max(text.rfind("; "), text.rfind(": "))
    if cut < 0:
        return Finding(subject, BROKEN, text, "see docs/runbook.md")
    return Finding(subject, BROKEN, text[:cut], text[cut + 2 :])
