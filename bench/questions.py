"""What an operator asks of a large ledger, as whole commands: from their start to their end."""

from __future__ import annotations

import itertools
import subprocess
import time

from bench import subjects
from bench.fill import Filled
from bench.mark import Stuck
from bench.scene import Scene
from bench.stats import Row, Section
from guardrun.ledger.records import Filter


def whole(scene: Scene, ledger: Filled, rounds: int) -> Section:
    """Call each subcommand once per round, in turn. Raises Stuck when one fails."""
    records = ledger.records()
    try:
        some = next(one for one in records.runs(Filter(result="failed")) if one.key is not None)
    finally:
        records.close()
    assert some.key is not None
    questions = {
        "history --job --result": ("history", "--job", some.job, "--result", "failed"),
        "show": ("show", some.job_id[-8:]),
        "why": ("why", some.job),
        "dead": ("dead",),
        "stats": ("stats",),
        "stats --job": ("stats", "--job", some.job),
        "keys": ("keys",),
        "keys --state": ("keys", "--state", "interrupted"),
        "keys show": ("keys", "show", some.key),
    }
    samples: dict[str, list[float]] = {name: [] for name in questions}
    env = scene.env | {"GUARDRUN_LEDGER_URL": ledger.url}
    for _, name in itertools.product(range(rounds), questions):
        words = questions[name]
        begun = time.perf_counter()
        said = subprocess.run(
            (scene.guardrun, *words), env=env, capture_output=True, text=True, check=False
        )
        samples[name].append((time.perf_counter() - begun) * 1000)
        if said.returncode or not said.stdout:
            raise Stuck(f"guardrun {' '.join(words)}: {said.stderr.strip()}")
    return Section(
        f"questions to the {ledger.store} ledger with {ledger.runs:,} runs: whole commands",
        "ms",
        tuple(
            Row(f"guardrun {name}", tuple(found), subjects.QUERY) for name, found in samples.items()
        ),
    )
