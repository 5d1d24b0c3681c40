"""The lock's rules in Redis are Lua scripts, one a verb, in commented files; this reads them."""

from __future__ import annotations

import os

_HERE = os.path.dirname(__file__)


def script(verb: str) -> str:
    """The whole text of one verb's script, with what all of them share before it."""
    return _read("common") + _read(verb)


def _read(name: str) -> str:
    with open(os.path.join(_HERE, name + ".lua"), encoding="utf-8") as file:
        return file.read()
