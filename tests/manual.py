"""The man pages, and what a subcommand takes, for tests that compare the two."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import click

from guardrun.cli import SUBCOMMANDS
from guardrun.commands import launch

MAN = Path(__file__).parents[1] / "man"
PREFIX = "guardrun-"


def manual(only: Collection[str]) -> list[Path]:
    """The pages that are written, without those of subcommands that are not in ``only``."""
    left_out = {f"{PREFIX}{name}.1" for name in SUBCOMMANDS if name not in only}
    found = (path for path in sorted(MAN.glob("man?/*.?")) if path.name not in left_out)
    return [path for path in found if not path.read_text().startswith(".so ")]


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
