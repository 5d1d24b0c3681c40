"""A fleet over Postgres, and random faults: in its processes, in its network, in the server.

GUARDRUN_TEST_ROUNDS is the number of faults, GUARDRUN_TEST_SEED repeats those of a failure.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from campaign import Campaign, Findings, inspect, work_off
from campaign_faults import FAULTS, LONG, strike

ROUNDS = int(os.environ.get("GUARDRUN_TEST_ROUNDS", "12"))
SEED = int(os.environ.get("GUARDRUN_TEST_SEED") or random.SystemRandom().getrandbits(32))
_MANY = 100
"""rounds from which on there is time for what takes long, and something to print"""


def test_random_faults(tmp_path: Path, mark: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever fails, and when: no overlap, no second success, no lost outcome, no survivor."""
    tmp_path.chmod(0o755)
    begun = time.monotonic()
    longest = 14.0 if ROUNDS >= _MANY else 4.0
    faults = FAULTS | (LONG if ROUNDS >= _MANY else {})
    with Campaign.start(tmp_path, mark, random.Random(f"{SEED}-runs"), longest) as campaign:
        number = 0
        try:
            for number in range(ROUNDS):
                strike(campaign, random.Random(f"{SEED}-{number}"), faults)
            campaign.settle()
            found = inspect(campaign)
            wrong = work_off(campaign)
            last = inspect(campaign)
        except BaseException as error:
            error.add_note(f"round {number} of GUARDRUN_TEST_SEED={SEED}, in {tmp_path}")
            raise
        finally:
            (tmp_path / "story").write_text("\n".join(campaign.story) + "\n")
        survivors = campaign.survivors()
    took = time.monotonic() - begun
    if ROUNDS >= _MANY:
        with capsys.disabled():
            print(table(campaign, found, len(survivors), took))
    where = f"GUARDRUN_TEST_SEED={SEED}, in {tmp_path}"
    assert not found.wrong, f"{where}: {found.wrong}"
    assert not wrong, f"{where}: {wrong}"
    assert not last.wrong, f"{where}: {last.wrong}"
    assert not survivors, where


def table(campaign: Campaign, found: Findings, survivors: int, took: float) -> str:
    """What was tried, and what came of it, for people."""
    lines: list[tuple[str, object]] = [
        *sorted(campaign.faults.items()),
        ("faults in all", campaign.faults.total()),
        *sorted(found.tried.items()),
        ("overlaps", len(found.overlaps)),
        ("double successes", len(found.doubles)),
        ("lost outcomes", len(found.lost)),
        ("disagreements", len(found.disagreements)),
        ("oddities", len(found.oddities)),
        ("survivors", survivors),
        ("seed", SEED),
        ("seconds", round(took)),
    ]
    return "\n" + "\n".join(f"{name:30} {value:>10}" for name, value in lines)
