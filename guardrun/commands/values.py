"""What the values of subcommands' options look like: callbacks for click."""

from __future__ import annotations

import click

from guardrun import units


def duration(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """Read a duration as run options have it, in seconds; ``None`` where none was given."""
    if text is None:
        return None
    try:
        return units.duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
