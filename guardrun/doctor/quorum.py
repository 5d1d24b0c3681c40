"""How many of a cluster's servers may be lost."""

from __future__ import annotations

from guardrun.doctor.finding import NOTE


def wrong(servers: int, what: str) -> list[tuple[str, str, str]]:
    """(level, what, remedy) of everything that is about their number; ``what``: they, in plural."""
    if servers < 3:
        says = f"{servers} of its {what} make a majority: the loss of one stops every renewal"
        return [(NOTE, says, f"run three {what}")]
    if servers % 2 == 0:
        says = f"{servers} {what} bear the loss of no more than {servers - 1} do"
        return [(NOTE, says, f"run an odd number of {what}")]
    return []
