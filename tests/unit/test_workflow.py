"""The project's own workflow: what it names exists, and nothing in it can be changed by others."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from servers import CONSUL, ETCD, POSTGRES, REDIS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / ".github/workflows/ci.yml").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_JOB = r"^  (\w+):\n(?=    name:)"


def jobs() -> dict[str, str]:
    """The text of each job, by name."""
    parts = re.split(_JOB, TEXT, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_actions_are_pinned() -> None:
    """Every action is a commit, with the version that it is beside it: a tag can be moved."""
    used = re.findall(r"uses: *(.*)", TEXT)
    assert len(used) >= 5
    for one in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one), one


def test_a_job_may_only_what_it_says() -> None:
    """Nothing is allowed to all jobs, and only what releases may write."""
    assert re.search(r"^permissions: \{\}$", TEXT, re.M)
    allowed = {}
    for name, text in jobs().items():
        found = re.search(r"^    permissions:\n((?:      .*\n)+)", text, re.M)
        assert found is not None, name
        allowed[name] = re.findall(r"([\w-]+): (\w+)", found[1])
        assert ("uses: actions/checkout" in text) == ("persist-credentials: false" in text)
    released = {name for name, text in jobs().items() if "github.ref_type == 'tag'" in text}
    assert {name for name, pairs in allowed.items() if "write" in dict(pairs).values()} == released
    assert {name for name in allowed if name not in released} == {"lint", "test", "package"}


def test_every_python_that_is_promised_is_tested() -> None:
    """The oldest is the one that pyproject.toml asks for, and every one that it names is tested."""
    found = re.search(r"python: \[(.*)\]", TEXT)
    assert found is not None
    tested = re.findall(r'"(3\.\d+)"', found[1])
    assert f">={tested[0]}" == PROJECT["requires-python"]
    named = [one.rpartition(" :: ")[2] for one in PROJECT["classifiers"] if ":: 3." in one]
    assert set(named) <= set(tested)


def test_servers_are_those_that_tests_look_for() -> None:
    """Each service is given to the tests by the variable, and is the image, that they know."""
    test = jobs()["test"]
    for program in (POSTGRES, REDIS, ETCD, CONSUL):
        assert f"image: {program.image}\n" in test
        assert re.search(rf"^      {program.variable}: \w+://", test, re.M)


def test_targets_that_are_called_exist() -> None:
    """Every make target and every file that a step calls is there."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    for words in re.findall(r"run: make (.*)", TEXT):
        assert set(words.split()) <= set(targets), words
    for path in re.findall(r"(?:tests/[\w/]+\.py|\.ci/\w+)", TEXT):
        assert (ROOT / path).exists(), path
