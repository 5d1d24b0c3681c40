"""Items out of bytes, and into COMMAND's words: property tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrun.errors import ConfigError, UsageError
from guardrun.pool.items import Splitter
from guardrun.pool.words import check, fill, has_place
from guardrun.template import Item

SEPARATORS = st.sampled_from([b"\n", b"\0"])
BYTES = st.lists(st.sampled_from([b"\n", b"\0", b"a", b"\xff", b" ", b"bc"])).map(b"".join)
WORDS = st.lists(st.text(alphabet="a{}item.$ \n"), max_size=5)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The same bytes in pieces, none of them empty."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(ends)]


def drained(splitter: Splitter) -> list[bytes]:
    """All that can be taken now."""
    found = []
    while (item := splitter.take()) is not None:
        found.append(item)
    return found


@given(BYTES, st.lists(st.integers(0, 200)), SEPARATORS)
def test_items_do_not_depend_on_how_they_come(
    data: bytes, places: list[int], separator: bytes
) -> None:
    """Whatever the pieces, the items are what stands between separators, empty ones left out."""
    splitter = Splitter(separator, 1000)
    found = []
    for piece in [*cut(data, places), b""]:
        splitter.put(piece)
        found += drained(splitter)
    assert found == [item for item in data.split(separator) if item]
    assert splitter.empty
    assert splitter.left == 0


@given(BYTES, st.lists(st.integers(0, 200)), st.integers(1, 4))
def test_an_item_that_is_too_long_is_noticed(data: bytes, places: list[int], longest: int) -> None:
    """What comes before it is taken; no more than it and one piece is ever kept."""
    splitter = Splitter(b"\n", longest)
    expected: list[bytes] = []
    too_long = False
    for item in filter(None, data.split(b"\n")):
        too_long = len(item) > longest
        if too_long:
            break
        expected.append(item)
    found: list[bytes] = []
    seen = False
    for piece in [*cut(data, places), b""]:
        splitter.put(piece)
        try:
            while (one := splitter.take()) is not None:
                found.append(one)
        except UsageError:
            seen = True
            break
        assert splitter.left <= longest
    assert (found, seen) == (expected, too_long)


@given(st.integers(1, 5))
def test_nothing_is_taken_before_its_end_has_come(length: int) -> None:
    """The beginning of an item is not an item."""
    splitter = Splitter(b"\n", 100)
    splitter.put(b"x" * length)
    assert splitter.take() is None
    assert not splitter.empty
    splitter.put(b"\n")
    assert splitter.take() == b"x" * length


@given(WORDS, st.text())
def test_an_item_is_put_into_words_once(words: list[str], text: str) -> None:
    """Every place becomes the item, whose own braces are left alone; else it is the last word."""
    filled = fill(words, Item(text))
    if any(has_place(word) for word in words if "{item." in word):
        return  # fields have a test of their own
    if any("{item}" in word for word in words):
        assert filled == tuple(word.replace("{item}", text) for word in words)
    else:
        assert filled == (*words, text)
    assert len(filled) - len(words) in (0, 1)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("{item.a}", "1"),
        ("{item.b.0}", "x"),
        ("<{item.c.d}>{item.a}", "<é>1"),
        ("{item.a}{other}{}{{item.a}}", "1{other}{}{1}"),
    ],
)
def test_fields_of_an_item(word: str, expected: str) -> None:
    """A path leads through objects and lists, and other braces stay as they are."""
    fields = {"a": 1, "b": ["x"], "c": {"d": "é"}}
    assert fill([word], Item("text", fields)) == (expected,)


@pytest.mark.parametrize("word", ["{item.none}", "{item.b.1}", "{item.a.b}"])
def test_a_field_that_is_not_there(word: str) -> None:
    """It is an error that names the place, never an empty word."""
    with pytest.raises(ConfigError, match=r"\{item\."):
        fill([word], Item("text", {"a": 1, "b": ["x"]}))


def test_fields_need_objects() -> None:
    """A place for a field is refused before the first item, where items have none."""
    check(["{item}", "{item.a}"], objects=True)
    with pytest.raises(UsageError, match="--jsonl"):
        check(["{item}", "{item.a}"], objects=False)
