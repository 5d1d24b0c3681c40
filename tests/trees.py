"""The source tree for tests that build it: copies that may be changed, tagged, and built in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
EPOCH = 1_700_000_000
"""what SOURCE_DATE_EPOCH says in builds: s since 1970, in November 2023"""
_NOT_OURS = (".git", ".venv", "dist", "build", "_version.py", "*.pyc", "__pycache__", ".*_cache")


def copy_tree(to: Path) -> Path:
    """The tree as it stands, without its history and without what was made in it."""
    shutil.copytree(ROOT, to, ignore=shutil.ignore_patterns(*_NOT_OURS, ".hypothesis"))
    return to


def call(*words: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Execute a program, which has to succeed; its stdout."""
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def git(tree: Path, *words: str) -> str:
    """Call git there, as somebody without a configuration."""
    somebody = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.com")
    alone = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    return call("git", *somebody, *words, cwd=tree, env=alone)


def repository(to: Path) -> Path:
    """A copy of the tree in a repository with one commit and no tag."""
    copy_tree(to)
    git(to, "init", "--quiet", "--initial-branch", "main")
    git(to, "add", "--all")
    git(to, "commit", "--quiet", "--message", "first")
    return to


def version(tree: Path) -> str:
    """The version that a build there would have."""
    return call(sys.executable, "-m", "hatchling", "version", cwd=tree).strip()


def build(tree: Path, target: str) -> Path:
    """Build the wheel or the sdist there, without the network; its file."""
    out = tree / "dist" / target
    call(
        *(sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", out),
        cwd=tree,
        env={"SOURCE_DATE_EPOCH": str(EPOCH)},
    )
    (made,) = out.iterdir()
    return made
