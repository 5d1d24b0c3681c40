"""A process of guardrun dies at its n-th I/O step: some of all the points of ``make crashpoints``.

GUARDRUN_TEST_SEED repeats the points of a failure.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import servers
from crash_scenes import TRACER, Point, Scene, far_scenes, lease_scenes, local_scenes
from crash_truth import Facts, goes_on, is_complete, is_true, keeps
from fleet import fleet_host
from support import Result

SEED = int(os.environ.get("GUARDRUN_TEST_SEED") or random.SystemRandom().getrandbits(32))
OVER = ("spooled", "recorded")
"""how far a run gets that nobody disturbs"""


@pytest.fixture(scope="module", autouse=True)
def tracing(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where nobody may trace, which some containers forbid; fail where CI is set."""
    report = tmp_path_factory.mktemp("tracing") / "report"
    words = [sys.executable, str(TRACER), str(report), "supervisor", "0", "true"]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return
    why = f"a process cannot be traced here: {tried.stderr.splitlines()[-1:]}"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def test_the_step_is_not_taken(tmp_path: Path) -> None:
    """Whoever is killed at a step has made none of it; all steps before are made."""
    for at, made in ((1, []), (2, ["a"]), (3, ["a", "b"]), (0, ["a", "b"])):
        place = tmp_path / str(at)
        place.mkdir()
        words = [sys.executable, "-ISc", "import os; os.mkdir('a'); os.mkdir('b')"]
        tracer = [sys.executable, str(TRACER), str(place / "report"), "supervisor", str(at)]
        subprocess.run([*tracer, *words], cwd=place, check=True)
        told = json.loads((place / "report").read_text())
        assert sorted(path.name for path in place.iterdir() if path.is_dir()) == made
        struck = {0: None, 1: "mkdir", 2: "mkdir", 3: "exit_group"}[at]
        assert (told["struck"], told["code"]) == (struck, -9 if at else 0)
        assert told["steps"]["supervisor"][:2] == ["mkdir", "mkdir"][: at or 2]


def named(name: str, scenes: Iterable[Scene]) -> Scene:
    """The scene of that name."""
    return next(scene for scene in scenes if scene.name == name)


def undisturbed(scene: Scene, root: Path) -> Point:
    """The same run to its own end."""
    (root / "whole").mkdir()
    whole = scene.play(root / "whole", "supervisor", 0)
    assert whole.stage in OVER, whole
    assert not whole.problems, whole
    return whole


def true_point(scene: Scene, root: Path, role: str, at: int) -> Point:
    """One point, which has to come out well."""
    place = root / f"{role}-{at}"
    place.mkdir()
    point = scene.play(place, role, at)
    assert not point.problems, f"GUARDRUN_TEST_SEED={SEED}: {scene.name}: {point}"
    return point


def true_points(scene: Scene, root: Path, wanted: Mapping[str, int]) -> None:
    """Play so many points of each role.

    One out of each part of all the steps that a run takes which nobody disturbs, but for the last:
    not every run takes equally many.
    """
    steps = undisturbed(scene, root).steps
    for role, number in wanted.items():
        rng = random.Random(f"{SEED}-{scene.name}-{role}")
        last = len(steps[role]) * 9 // 10
        for part in range(number):
            at = rng.randint(part * last // number + 1, (part + 1) * last // number)
            point = true_point(scene, root, role, at)
            assert point.step is not None, f"{scene.name} has no {at}th step of the {role}"


def test_the_end_of_a_run(tmp_path: Path) -> None:
    """Before whichever of its last words the supervisor dies, the lease is free when all is over.

    One is for the lock, one for the keeper, one for the warden.
    """
    (scene,) = lease_scenes(servers.redis_url())
    taken = undisturbed(scene, tmp_path).steps["supervisor"]
    words = [at for at, step in enumerate(taken, 1) if step == "sendmsg"]
    for at in words[-3:]:
        true_point(scene, tmp_path, "supervisor", at)


def test_with_the_embedded_ledger(tmp_path: Path) -> None:
    """Whoever dies, and when: the next run ends with a ledger that is true and complete."""
    scene = named("sqlite, host lock", local_scenes(tmp_path / "hog"))
    true_points(scene, tmp_path, {"supervisor": 4, "backstop": 1, "warden": 1})


@pytest.mark.parametrize("name", ["sqlite, into the spool", "sqlite, from the spool"])
def test_with_the_spool(tmp_path: Path, name: str) -> None:
    """A success that is on its way into the spool, or out of it, is never recorded by halves."""
    true_points(named(name, local_scenes(tmp_path / "hog")), tmp_path, {"supervisor": 2})


def test_far_away(tmp_path: Path, database_url: str) -> None:
    """The same with ledger and lease in Postgres, where the keeper has its own ways to die."""
    fleet_host(tmp_path / "migrate", database_url).close()
    scene = named("postgres, lease there", far_scenes(database_url, servers.redis_url()))
    true_points(scene, tmp_path, {"supervisor": 2, "keeper": 2})


# ---------------------------------------------------------------- the verdict itself


def facts(**changes: Any) -> Facts:
    """What there is to know after one run that has succeeded."""
    row: dict[str, Any] = {"job_id": "j", "result": "success", "exit_code": 0, "finished_at": 1}
    row |= {"token": "t", "stale": 0, "attempts": 1}
    attempt = {"job_id": "j", "number": 1, "result": "success", "exit_code": 0}
    key = {"state": "succeeded", "job_id": "j"}
    return Facts(["j"], ["j"], {"j": row}, [attempt], key, [])._replace(**changes)


def ended(result: str, job_id: str = "k") -> Result:
    """A run that ended well."""
    line = {"event": "run_finished", "result": result, "job_id": job_id}
    return Result(0, json.dumps(line).encode(), b"")


def test_what_is_true_passes() -> None:
    """A success, and a duplicate that is skipped, are as they should be."""
    assert [*is_true(facts()), *is_complete(facts())] == []
    assert list(goes_on(facts(), ended("skipped_duplicate"), facts())) == []


@pytest.mark.parametrize(
    "lie",
    [
        facts(runs={}),
        facts(runs={"j": {**facts().runs["j"], "token": None}}),
        facts(ended=[]),
        facts(spooled=["other"], ended=["j", "other"]),
    ],
    ids=["no row", "no claim", "no success", "two successes"],
)
def test_a_lie_is_noticed(lie: Facts) -> None:
    """Executed without a claim, or a success that was none, or that is not the only one."""
    assert list(is_true(lie))


@pytest.mark.parametrize(
    "lack",
    [
        facts(spooled=["j"]),
        facts(runs={"j": {**facts().runs["j"], "result": "running"}}),
        facts(executed=["i", "j"]),
        facts(key=None),
        facts(key={"state": "running", "job_id": "j"}),
        facts(attempts=[]),
    ],
    ids=["spooled", "running", "lost", "no key", "held key", "no attempt"],
)
def test_a_lack_is_noticed(lack: Facts) -> None:
    """What waits, seems to run, or is missing."""
    assert list(is_complete(lack))


def test_a_loss_is_noticed() -> None:
    """An outcome that leaves the spool has to be in the ledger by then."""
    waits = facts(spooled=["j"], runs={}, key=None, attempts=[])
    assert list(keeps(waits, waits)) == list(keeps(waits, facts())) == []
    assert list(keeps(waits, waits._replace(spooled=[])))


def test_what_goes_on_wrongly_is_noticed() -> None:
    """A success that is executed again, a row that is written over, a run that is forgotten."""
    before = facts()
    again = facts(executed=["j", "k"])
    assert list(goes_on(before, ended("success"), again))
    changed = facts(runs={"j": {**before.runs["j"], "exit_code": 1}})
    assert list(goes_on(before, ended("skipped_duplicate"), changed))
    cut_off = facts(
        runs={"j": {**before.runs["j"], "result": "running", "finished_at": None}},
        key={"state": "running", "job_id": "j"},
    )
    assert list(goes_on(cut_off, ended("success"), cut_off._replace(executed=["j", "k"])))
    assert list(goes_on(before, Result(75, b"", b""), before))
