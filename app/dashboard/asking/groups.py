"""Charts of scores by group: those the engine summed over all rows, else those of the rows shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# By which tag the rows shown are grouped when nothing was asked for: the first of these that they have.
PREFERRED = ("source", "label", "task", "kind")
MOST = 12  # bars that can still be read; the rest is told in words


@dataclass(frozen=True)
class Bar:
    label: str
    score: float
    shown: str
    rows: int


@dataclass(frozen=True)
class GroupsView:
    """by: the tag. whole: of all rows searched, not only of those shown. more: groups that are not shown.

    offered: every other tag that the rows shown have, to group by.
    """

    by: str
    whole: bool
    bars: tuple[Bar, ...]
    more: int
    offered: tuple[str, ...]


def groups_view(body: dict[str, Any], asked_by: str) -> GroupsView | None:
    """asked_by: the tag that the question asked to group by, else empty. None: no row has a tag."""
    hits: list[dict[str, Any]] = body["proponents"] + body["opponents"]
    tags = tuple(dict.fromkeys(key for hit in hits for key in _tags(hit)))
    if body.get("groups") is not None and asked_by:
        found = [(group["key"], group["score"] or 0.0, group["count"]) for group in body["groups"]]
        return _view(asked_by, True, found, tags)
    by = next((tag for tag in PREFERRED if tag in tags), None) or _coarsest(hits, tags)
    if by is None:
        return None
    sums: dict[str, list[float]] = {}
    for hit in hits:
        sums.setdefault(_tags(hit).get(by, ""), []).append(hit["score"] or 0.0)
    return _view(by, False, [(key, sum(scores), len(scores)) for key, scores in sums.items()], tags)


def _view(by: str, whole: bool, found: Sequence[tuple[str, float, int]], tags: Sequence[str]) -> GroupsView:
    largest = sorted(found, key=lambda group: (-abs(group[1]), group[0]))[:MOST]
    largest.sort(key=lambda group: (-group[1], group[0]))
    bars = tuple(Bar(key or "(no such tag)", score, f"{score:+.4g}", rows) for key, score, rows in largest)
    offered = tuple(tag for tag in tags if tag != "label" and (tag != by or not whole))
    return GroupsView(by, whole, bars, len(found) - len(bars), offered)


def _tags(hit: dict[str, Any]) -> dict[str, str]:
    return dict(hit["tags"]) | ({"label": hit["label"]} if hit.get("label") else {})


def _coarsest(hits: Sequence[dict[str, Any]], tags: Sequence[str]) -> str | None:
    """The tag with the fewest values."""
    return min(tags, key=lambda tag: len({_tags(hit).get(tag) for hit in hits}), default=None)
