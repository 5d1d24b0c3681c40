"""Fields are cut or shared out so that a line fits, and stays JSON."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from guardrun.report.fit import ELLIPSIS, KEPT, shorten, size, split

LIMIT = 4095

unhurried = settings(deadline=None)

texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.builds(
        lambda piece, count: piece * count,
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
        st.integers(1, 5000),
    ),
)
values = st.one_of(texts, st.integers(), st.booleans(), st.lists(texts, max_size=3))
constant = {
    "timestamp": "2026-11-24T08:15:00.000000Z",
    "level": "info",
    "event": "run_finished",
    "job_id": "0192e4a0-0000-7000-8000-000000000000",
}


@unhurried
@given(texts, st.dictionaries(st.text("abc_", min_size=1, max_size=9), values, max_size=40))
def test_whatever_the_fields_the_line_fits(job: str, others: dict[str, object]) -> None:
    """Short enough, every field still there, and the constant ones untouched."""
    fields = {**constant, "job": job, **others}
    short = shorten(fields, LIMIT)
    assert size(short) <= LIMIT
    assert list(short) == list(fields)
    assert all(short[key] == fields[key] for key in KEPT)


@unhurried
@given(texts, st.dictionaries(st.text("abc_", min_size=1, max_size=9), values, max_size=40))
def test_only_what_is_longest_is_cut(job: str, others: dict[str, object]) -> None:
    """A field that was cut begins as the original and is no shorter than one left whole."""
    fields = {**constant, "job": job, **others}
    short = shorten(fields, LIMIT)
    cut = [key for key in fields if short[key] != fields[key]]
    whole = [key for key in fields if key not in cut and key not in KEPT]
    for key in cut:
        text = fields[key]
        original = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
        head = str(short[key])
        assert head.endswith(ELLIPSIS)
        assert original.startswith(head.removesuffix(ELLIPSIS))
    least = min((size(fields[key]) for key in cut), default=LIMIT)
    assert all(size(fields[key]) <= least for key in whole)


def test_what_fits_is_left_alone() -> None:
    """A line within the limit keeps every field as it is."""
    fields = {**constant, "job": "backup", "reason": "x" * 3000}
    assert shorten(fields, LIMIT) == fields


def test_more_fields_than_a_line_can_name() -> None:
    """When even the names don't fit, the constant fields remain, and say that there was more."""
    fields = {**constant, "job": "backup", **{f"field_{number}": "x" for number in range(1000)}}
    assert shorten(fields, LIMIT) == {**constant, "job": "backup", "truncated": True}


@unhurried
@given(texts, texts.filter(bool))
def test_parts_fit_and_joined_are_the_whole(job: str, text: str) -> None:
    """Every part is a line, numbered from 1 to their count; nothing of the text is lost."""
    fields = {**constant, "job": job, "stream": "stdout", "line": text}
    parts = list(split(fields, "line", LIMIT))
    assert all(size(part) <= LIMIT for part in parts)
    assert "".join(str(part["line"]) for part in parts) == text
    assert [(part["part"], part["parts"]) for part in parts] == [
        (number, len(parts)) for number in range(1, len(parts) + 1)
    ]
    assert all(part[key] == fields[key] for part in parts for key in (*KEPT, "stream"))
