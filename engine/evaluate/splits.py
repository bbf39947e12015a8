"""Which queries and subsets tune, and which measure: disjoint, and no fact on both sides.

Shapes: Q queries, M subsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST = 2  # groups and subsets a side needs to measure anything


@dataclass(frozen=True)
class Split:
    """Positions, ascending. Nothing tunes where nothing is to be chosen."""

    tuning: tuple[int, ...]
    test: tuple[int, ...]


def split_queries(groups: Sequence[str | None], share: float, seed: int) -> Split:
    """Whole groups to one side: `share` of them tune. A query without a group is a group of its own."""
    names = [f"query {position}" if group is None else f"group {group}" for position, group in enumerate(groups)]
    distinct = list(dict.fromkeys(names))
    chosen = _chosen(len(distinct), share, (seed, 11))
    tuning = {distinct[i] for i in chosen}
    return Split(
        tuple(i for i, name in enumerate(names) if name in tuning),
        tuple(i for i, name in enumerate(names) if name not in tuning),
    )


def split_subsets(count: int, share: float) -> Split:
    """The last `share` of them tune."""
    tuning = _count(count, share)
    return Split(tuple(range(count - tuning, count)), tuple(range(count - tuning)))


def _chosen(count: int, share: float, seed: tuple[int, ...]) -> list[int]:
    return sorted(np.random.default_rng(seed).permutation(count)[: _count(count, share)].tolist())


def _count(count: int, share: float) -> int:
    """0 where either side would be left with too little."""
    wanted = round(count * share)
    return wanted if share > 0 and wanted >= _LEAST and count - wanted >= _LEAST else 0
