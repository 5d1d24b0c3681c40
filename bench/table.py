"""The one table, as text and as Markdown; pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.stats import TIMES, Row, Section, quantile

HEADER = ("", "n", "p50", "p99", "ratio", "budget", "")
_LEFT = frozenset({0, 5, 6})
"""columns of words; the others are numbers"""


def number(value: float | None) -> str:
    """Three digits that mean something; nothing for nothing."""
    if value is None:
        return ""
    if value == 0 or abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def title(section: Section) -> str:
    """What was measured, its unit, and what the ratios are over."""
    over = f" (ratio: {TIMES} {section.base_name})" if section.base_name else ""
    unit = f", {section.unit}" if section.unit else ""
    return f"{section.title}{unit}{over}"


def cells(section: Section, row: Row) -> tuple[str, ...]:
    """One row, as words."""
    return (
        row.subject,
        str(len(row.samples)) if row.samples else "",
        number(row.median),
        number(quantile(row.samples, 0.99)) if row.samples else "",
        number(section.ratio(row)),
        str(row.budget) if row.budget else "",
        section.verdict(row),
    )


def text(sections: Sequence[Section]) -> str:
    """Aligned columns for a terminal."""
    rows = [[cells(section, row) for row in section.rows] for section in sections]
    every = [HEADER, *(row for block in rows for row in block)]
    widths = [max(len(row[column]) for row in every) for column in range(len(HEADER))]
    lines = [_aligned(HEADER, widths)]
    for section, block in zip(sections, rows, strict=True):
        lines += ["", title(section), *(_aligned(row, widths) for row in block)]
    return "\n".join(lines) + "\n"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    words = [
        word.ljust(width) if column in _LEFT else word.rjust(width)
        for column, (word, width) in enumerate(zip(row, widths, strict=True))
    ]
    return ("  " + "  ".join(words)).rstrip()


def markdown(sections: Sequence[Section]) -> str:
    """The same table for a page."""
    rule = [":--" if column in _LEFT else "--:" for column in range(len(HEADER))]
    lines = [_piped(HEADER), _piped(rule)]
    for section in sections:
        lines.append(_piped([f"**{_escaped(title(section))}**", *[""] * (len(HEADER) - 1)]))
        lines += [_piped([_escaped(word) for word in cells(section, row)]) for row in section.rows]
    return "\n".join(lines) + "\n"


def _escaped(word: str) -> str:
    return word.replace("|", "\\|")


def _piped(row: Sequence[str]) -> str:
    return "| " + " | ".join(row) + " |"
