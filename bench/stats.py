"""Samples, ratios and budgets; pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

TIMES = "\N{MULTIPLICATION SIGN}"


def quantile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least ``share`` (0 < share ≤ 1) of all do not exceed.

    Nearest rank, no interpolation: the answer is a sample that was measured.
    """
    if not samples or not 0 < share <= 1:
        raise ValueError(f"no quantile {share} of {len(samples)} samples")
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


@dataclass(frozen=True)
class Budget:
    """The most that a median may be, in the unit of its section or as a multiple of its base."""

    limit: float
    relative: bool = False
    aim: float | None = None

    def __str__(self) -> str:
        times = f" {TIMES}" if self.relative else ""
        aim = "" if self.aim is None else f", aim {self.aim:g}{times}"
        return f"≤ {self.limit:g}{times}{aim}"


@dataclass(frozen=True)
class Row:
    """What was measured of one subject; without samples ``remark`` says why."""

    subject: str
    samples: tuple[float, ...] = ()
    budget: Budget | None = None
    remark: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None


@dataclass(frozen=True)
class Section:
    """One quantity, measured of several subjects in turn.

    ``base`` is what the ratios are over, ``base_name`` what it is called.
    """

    title: str
    unit: str
    rows: tuple[Row, ...]
    base: float | None = None
    base_name: str = ""

    def ratio(self, row: Row) -> float | None:
        """The row's median as a multiple of the base."""
        return row.median / self.base if row.median is not None and self.base else None

    def verdict(self, row: Row) -> str:
        """``OK`` or ``OVER`` where there is a budget, and the row's own remark."""
        value = self.ratio(row) if row.budget and row.budget.relative else row.median
        judged = ""
        if row.budget and value is not None:
            judged = "OK" if value <= row.budget.limit else "OVER"
        return "; ".join(word for word in (judged, row.remark) if word)
