"""SQL lives in commented files, one folder a dialect; this reads them."""

from __future__ import annotations

import os

_HERE = os.path.dirname(__file__)


def statements(dialect: str, name: str) -> dict[str, str]:
    """The statements of one file, by the names their ``-- name:`` lines give them."""
    _, *named = _read(dialect, name + ".sql").split("-- name: ")
    return {label: text for label, _, text in (part.partition("\n") for part in named)}


def migrations(dialect: str) -> list[tuple[int, str]]:
    """Every ``NNNN_what.sql`` of a dialect with its number, oldest first."""
    return [(int(name[:4]), _read(dialect, name + ".sql")) for name in migration_names(dialect)]


def migration_names(dialect: str) -> list[str]:
    """``NNNN_what`` of every migration, oldest first."""
    found = sorted(os.listdir(os.path.join(_HERE, dialect)))
    return [name.removesuffix(".sql") for name in found if name[:4].isdigit()]


def _read(dialect: str, name: str) -> str:
    with open(os.path.join(_HERE, dialect, name), encoding="utf-8") as file:
        return file.read()
