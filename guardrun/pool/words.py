"""Putting an item into COMMAND's words; pure."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from guardrun import template
from guardrun.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from guardrun.template import Item

_PLACE = re.compile(r"\{item(?:\.([^{}]+))?\}")


def fill(words: Sequence[str], item: Item) -> tuple[str, ...]:
    """COMMAND's words for one item: ``{item}`` replaced, or the item as one word more.

    Other braces are left alone. Raises ConfigError for a field that the item does not have,
    or whose value cannot stand in a word.
    """
    if not any(_PLACE.search(word) for word in words):
        return (*words, item.text)
    return tuple(_PLACE.sub(lambda place: _value(place, item), word) for word in words)


def _value(place: re.Match[str], item: Item) -> str:
    path = place.group(1)
    if path is None:
        return item.text
    try:
        value = template.pick(item.fields, path)
        os.fsencode(value)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can escape
        raise ConfigError(f"{place.group()} in COMMAND is not Unicode text") from None
    except ValueError as error:
        raise ConfigError(f"{place.group()} in COMMAND {error}") from None
    if "\0" in value:
        raise ConfigError(f"{place.group()} in COMMAND has a NUL byte, which no word can hold")
    return value


def check(words: Sequence[str], objects: bool) -> None:
    """See that the places in words or names fit the kind of items. Raises UsageError."""
    for word in words:
        for place in _PLACE.finditer(word):
            if place.group(1) is not None and not objects:
                raise UsageError(f"{place.group()} needs items that are objects: give --jsonl")


def has_place(text: str) -> bool:
    """Whether ``{item}`` or a field of it stands in a text."""
    return _PLACE.search(text) is not None
