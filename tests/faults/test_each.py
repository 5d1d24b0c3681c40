"""Many items through ``guardrun each`` while its processes are killed, again and again until done.

The long form is ``make each``. GUARDRUN_TEST_ITEMS is the number of items, GUARDRUN_TEST_SEED
repeats the kills of a failure.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from each_campaign import EVERY, Arena, Terms
from fleet import fleet_host
from support import Host

ITEMS = int(os.environ.get("GUARDRUN_TEST_ITEMS", "300"))
SEED = int(os.environ.get("GUARDRUN_TEST_SEED") or random.SystemRandom().getrandbits(32))


def survive(root: Path, hosts: list[Host], parallel: int, items: int) -> None:
    """Work off so many items, kill what can be killed meanwhile, and see that all holds."""
    terms = Terms(parallel, budget=items // EVERY, longest=0.01, pause=max(items // 5, 20))
    arena = Arena.lay(root, hosts, terms, random.Random(SEED))
    try:
        arena.work_off(1, items)
        tally = arena.judge()
    except BaseException as error:
        error.add_note(f"GUARDRUN_TEST_SEED={SEED}, in {root}")
        raise
    assert not tally.failures, f"GUARDRUN_TEST_SEED={SEED}, in {root}: {tally}"
    assert tally.executed >= items


def test_random_kills(host: Host, tmp_path: Path) -> None:
    """Each item succeeds once, never twice at a time, with never too many at once or too often."""
    survive(tmp_path, [host], 20, ITEMS)


@pytest.mark.parametrize("pools", [1, 2])
def test_random_kills_over_postgres(database_url: str, tmp_path: Path, pools: int) -> None:
    """The same with the ledger in Postgres, and with two pools over the same items at a time."""
    hosts = [fleet_host(tmp_path / f"host-{number}", database_url) for number in range(pools)]
    try:
        survive(tmp_path, [*hosts], 4, ITEMS // 5)
    finally:
        for host in hosts:
            host.close()
