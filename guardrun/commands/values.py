"""What the values of subcommands' options look like: callbacks for click."""

from __future__ import annotations

import time

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


def instant(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """Read a moment, DURATION ago or RFC 3339, in seconds since 1970."""
    if text is None:
        return None
    try:
        return time.time() - units.duration(text)
    except ValueError:
        pass
    try:
        return units.instant(text)
    except ValueError:
        raise click.BadParameter(
            f"{units.shown(text)} is neither a duration ago (90m, 2d) "
            "nor a time (2026-11-24T08:15:00Z)"
        ) from None
