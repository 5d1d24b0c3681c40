"""What many schedules came to: violations, and whether enough has happened to mean anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

ENOUGH: Mapping[str, float] = {
    "COMMAND started": 1.0,
    "leases in etcd": 0.08,
    "leases in Consul": 0.08,
    "event lock_busy": 0.3,
    "event lease_lost": 0.05,
    "event lease_renewed": 0.8,
    "event outcome_spooled": 0.05,
    "event retry_scheduled": 0.1,
    "event duplicate_skipped": 0.2,
    "event orphans_left": 0.1,
    "keeper replaced": 0.1,
    "claim given up by a keeper": 0.03,
    "key taken over": 0.03,
    "row left to lapse": 0.005,
    "stale fence rejected": 0.005,
    "answer lost": 0.03,
    "request late": 0.01,
    "request doubled": 0.005,
    "fault: supervisor killed": 0.01,
    "fault: supervisor stopped": 0.01,
    "fault: keeper killed": 0.01,
    "fault: keeper stopped": 0.01,
    "fault: warden killed": 0.01,
    "fault: warden stopped": 0.01,
    "fault: backstop killed": 0.01,
    "fault: backstop stopped": 0.01,
    "fault: supervisor killed at a system call": 0.02,
    "fault: keeper killed at a system call": 0.02,
    "fault: warden killed at a system call": 0.02,
    "fault: two processes killed at once": 0.02,
    "fault: host crashed": 0.02,
    "fault: host suspended": 0.02,
    "fault: network cut, dropped": 0.05,
    "fault: network fades": 0.05,
    "fault: store crashed": 0.02,
    "fault: store frozen": 0.05,
    "fault: store forgot everything": 0.001,
    "fault: told to stop": 0.02,
}
"""What must happen how often, on average over the schedules: a simulator in which nothing happens
proves nothing. Far below what does happen, so that chance cannot fail it."""

FEW = 200
"""Schedules below which nothing is asked of how often things happen."""


def missing(counts: Counter[str], schedules: int) -> list[str]:
    """What has not happened often enough; each a line for people."""
    if schedules < FEW:
        return []
    return [
        f"{what}: {counts[what]} times in {schedules} schedules, {least * schedules:g} wanted"
        for what, least in ENOUGH.items()
        if counts[what] < int(least * schedules)
    ]


def table(counts: Counter[str]) -> str:
    """What happened, and how often."""
    faults = {what: often for what, often in counts.items() if what.startswith("fault: ")}
    events = {what: often for what, often in counts.items() if what.startswith("event ")}
    others = {what: often for what, often in counts.items() if what not in faults | events}
    parts = (("injected", faults, "fault: "), ("logged", events, "event "), ("seen", others, ""))
    lines = []
    for title, part, prefix in parts:
        lines.append(f"{title}:")
        lines += [
            f"  {often:9d}  {what.removeprefix(prefix)}" for what, often in sorted(part.items())
        ]
    return "\n".join(lines)
