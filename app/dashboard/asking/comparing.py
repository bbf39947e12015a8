"""Two answers to one question, side by side: which rows both name, and whether they rank them alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.dashboard.asking.hits import HitView, hit_view
from app.dashboard.asking.views import TrustView, trust_view

FEWEST = 3  # common rows that an order can be compared on
_BY_CHANCE = 1.96  # times 1/√(rows − 1), the spread of a rank correlation of unrelated orders
SIDES = {"proponents": "for", "opponents": "against"}


@dataclass(frozen=True)
class Compared:
    """One row of one answer. mark: the number it shares with the same row of the other answer, 0: not there.

    other: its rank there.
    """

    hit: HitView
    mark: int = 0
    other: int | None = None


@dataclass(frozen=True)
class Column:
    """One of the two answers."""

    id: str
    method: str
    model: str
    index: str
    completion: str
    trust: TrustView
    signed: bool
    proponents: tuple[Compared, ...]
    opponents: tuple[Compared, ...]


@dataclass(frozen=True)
class ComparisonView:
    """rows: how many of each list are compared. overlap: those both name. spearman: over those, None: too few."""

    prompt: str
    same_question: bool
    columns: tuple[Column, Column]
    rows: int
    overlap: int
    overlap_words: str
    spearman: float | None
    spearman_words: str


def comparison_view(first: dict[str, Any], second: dict[str, Any]) -> ComparisonView:
    """Both: attributions as the API gives them. The lists compared are the proponents'."""
    bodies = (first, second)
    ranks = [{hit["example_id"]: hit["rank"] for hit in body["proponents"]} for body in bodies]
    rows = min(len(ranks[0]), len(ranks[1]))
    both = [{name for name, rank in found.items() if rank <= rows} for found in ranks]
    overlap = len(both[0] & both[1])
    spearman = _of_common(*ranks)
    queries = [(body["query"]["prompt"], body["query"]["completion"]) for body in bodies]
    return ComparisonView(
        prompt=first["query"]["prompt"],
        same_question=queries[0] == queries[1],
        columns=(_column(first, second), _column(second, first)),
        rows=rows,
        overlap=overlap,
        overlap_words=_overlap_words(overlap, rows),
        spearman=spearman,
        spearman_words=_spearman_words(spearman, len(ranks[0].keys() & ranks[1].keys())),
    )


def spearman_of(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The correlation of the two orders, equal values sharing their mean rank; None where one of them says nothing."""
    ranks = [_mean_ranks(values) for values in (first, second)]
    mean = (len(first) + 1) / 2
    left, right = ([rank - mean for rank in ranking] for ranking in ranks)
    spread = (sum(a * a for a in left) * sum(b * b for b in right)) ** 0.5
    return sum(a * b for a, b in zip(left, right, strict=True)) / spread if spread else None


def _of_common(first: Mapping[str, int], second: Mapping[str, int]) -> float | None:
    common = [name for name in first if name in second]
    if len(common) < FEWEST:
        return None
    return spearman_of([first[name] for name in common], [second[name] for name in common])


def _mean_ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda place: values[place])
    ranks, start = [0.0] * len(values), 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for place in order[start:stop]:
            ranks[place] = (start + 1 + stop) / 2
        start = stop
    return ranks


def _column(body: dict[str, Any], other: dict[str, Any]) -> Column:
    return Column(
        id=body["id"],
        method=body["method"],
        model=body["model"],
        index=body["index"],
        completion=body["query"]["completion"],
        trust=trust_view(body["trust"]),
        signed=body["signed"],
        proponents=_compared(body, other, "proponents"),
        opponents=_compared(body, other, "opponents"),
    )


def _compared(body: dict[str, Any], other: dict[str, Any], side: str) -> tuple[Compared, ...]:
    """Marks are numbered in the order of whichever answer was made first, so both columns agree on them."""
    older, newer = sorted((body, other), key=lambda answer: (answer["created_at"], answer["id"]))
    shared = {hit["example_id"] for hit in newer[side]}
    names = [hit["example_id"] for hit in older[side] if hit["example_id"] in shared]
    marks = {name: number for number, name in enumerate(names, start=1)}
    there = {hit["example_id"]: hit["rank"] for hit in other[side]}
    longest = max((abs(hit["score"] or 0.0) for hit in body["proponents"] + body["opponents"]), default=0.0)
    return tuple(
        Compared(
            hit_view(hit, SIDES[side], longest),
            marks.get(hit["example_id"], 0),
            there.get(hit["example_id"]),
        )
        for hit in body[side]
    )


def _overlap_words(overlap: int, rows: int) -> str:
    if not rows:
        return "One of the two names no row, so there is nothing to compare."
    return f"{overlap} of the first {rows} rows are the same (overlap@{rows} = {overlap / rows:.0%})."


def _spearman_words(value: float | None, common: int) -> str:
    if common < FEWEST:
        return f"With {common} common rows, fewer than {FEWEST}, it cannot be said whether they are ranked alike."
    if value is None:
        return f"The ranks of the {common} common rows do not differ, so their order says nothing."
    if value >= 0.7:
        said = "both rank them much alike"
    elif value >= 0.3:
        said = "both rank them alike in part"
    elif value > -0.3:
        said = "their orders have little to do with each other"
    else:
        said = "they rank them the other way round"
    chance = " So few rows can come out so by chance." if abs(value) < _BY_CHANCE / (common - 1) ** 0.5 else ""
    return f"Of the {common} rows that both name, {said} (Spearman {value:+.2f}).{chance}"
