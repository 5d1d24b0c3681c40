"""The list of planted bugs does not rot: each can still be planted, and its tests are there."""

from __future__ import annotations

import ast
import functools

import pytest
from mutants import ROOT, Mutant, planted
from mutants.catalogue import MUTANTS

EVERY = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


@EVERY
def test_it_can_be_planted(mutant: Mutant) -> None:
    """What it changes stands in its file exactly once, and what comes of it is still a program."""
    text = planted(mutant, (ROOT / mutant.file).read_text())
    assert mutant.old != mutant.new
    if mutant.file.endswith(".py"):
        compile(text, mutant.file, "exec")


@functools.cache
def defined(path: str) -> list[ast.stmt]:
    """What a file of tests defines."""
    return ast.parse((ROOT / path).read_text()).body


@EVERY
def test_its_tests_exist(mutant: Mutant) -> None:
    """Every test that is to notice it is defined in the file that is named."""
    assert mutant.tests
    for test in mutant.tests:
        path, *names = test.partition("[")[0].split("::")
        body = defined(path)
        for name in names:
            (found,) = (one for one in body if getattr(one, "name", None) == name)
            assert isinstance(found, ast.FunctionDef | ast.ClassDef)
            body = found.body


def test_names_and_reasons() -> None:
    """Each has a name of its own and a reason, and there are enough of them."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 15
    assert all(mutant.reason.endswith(".") for mutant in MUTANTS)


def test_what_has_changed_cannot_be_planted() -> None:
    """Text that is gone, or stands there twice, is an error and not a bug that nobody notices."""
    mutant = Mutant("name", "file", "old", "new", "Why.", ())
    assert planted(mutant, "an old line") == "an new line"
    for text in ("a line", "old and old"):
        with pytest.raises(ValueError, match=r"'old' stands \d times in file"):
            planted(mutant, text)
