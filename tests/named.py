"""Whether a test exists that is referred to by its name: ``tests/FILE.py[::CLASS][::TEST]``."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]


@functools.cache
def _tests(path: Path) -> frozenset[str]:
    """What a file defines: tests, and tests of classes as ``CLASS::TEST``."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            methods = (one for one in node.body if isinstance(one, ast.FunctionDef))
            found.update(f"{node.name}::{one.name}" for one in methods)
    return frozenset(found)


def exists(name: str) -> bool:
    """Whether there is such a file, and in it such a test."""
    file, _, test = name.partition("::")
    path = ROOT / file
    return path.is_file() and (not test or test in _tests(path))
