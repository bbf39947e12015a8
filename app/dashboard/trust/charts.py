"""A chart as its table: what templates/_chart.html writes and static/charts.js draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["bars", "points", "lines"]


@dataclass(frozen=True)
class Column:
    """low_of, high_of: the column whose interval it bounds. skip: for readers, not drawn."""

    name: str
    low_of: str = ""
    high_of: str = ""
    skip: bool = False


@dataclass(frozen=True)
class Cell:
    """value: the exact number behind the text; None where there is none."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Row:
    """control: in another colour. group: of points of one colour. label: what a point is called."""

    cells: tuple[Cell, ...]
    control: bool = False
    group: str = ""
    label: str = ""


@dataclass(frozen=True)
class Chart:
    """mark: a dashed line at (x of bars, y of the others), with its name. diagonal: where prediction = measurement.
    log: x is drawn by its logarithm."""

    kind: Kind
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    x_title: str = ""
    y_title: str = ""
    mark: float | None = None
    mark_name: str = ""
    diagonal: bool = False
    log: bool = False


def number(value: float | None, signed: bool = False) -> Cell:
    """Two significant digits; a dash for what is not known."""
    if value is None:
        return Cell("–")
    text = f"{value:{'+' if signed else 'z'}.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"
    return Cell(text, value)


def whole(value: int) -> Cell:
    return Cell(f"{value:,}", value)


def text(value: str) -> Cell:
    return Cell(value)


def with_interval(name: str, low: str = "from", high: str = "to") -> tuple[Column, Column, Column]:
    """A series and the columns of its 95 % interval."""
    return Column(name), Column(low, low_of=name), Column(high, high_of=name)


def evenly(count: int, most: int) -> list[int]:
    """At most `most` places of so many, spread over them: a table for people has an end."""
    return list(range(count)) if count <= most else [place * count // most for place in range(most)]


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
