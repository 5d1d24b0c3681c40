"""The man pages, and what a subcommand takes, for tests that compare the two."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

import click

from guardrun.cli import SUBCOMMANDS
from guardrun.commands import launch

MAN = Path(__file__).parents[1] / "man"
PREFIX = "guardrun-"


def manual(built: Collection[str] | None = None) -> list[Path]:
    """The pages that are written; with ``built`` without those of other subcommands."""
    texts = {path: path.read_text() for path in sorted(MAN.glob("man?/*.?"))}
    pages = {path: text for path, text in texts.items() if not text.startswith(".so ")}
    return [path for path, text in pages.items() if built is None or _tells_of(text) <= set(built)]


def _tells_of(page: str) -> set[str]:
    return set(" ".join(re.findall(r'^\.\\" BEGIN subcommands (.*)', page, re.M)).split())


def options_of(names: Iterable[str]) -> set[str]:
    """Every option of these subcommands, and of what is below them."""
    known = set()
    for name in names:
        command = launch.load(SUBCOMMANDS[name])
        below = command.commands if isinstance(command, click.Group) else {}
        for words in ([], *([child] for child in below)):
            _, found, _ = launch.find(name, SUBCOMMANDS[name], words)
            known |= {word for option in found.params for word in option.opts}
    return known
