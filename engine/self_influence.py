"""Rows in the order of their score on themselves: odd and mislabelled ones first, or last."""

from __future__ import annotations

from typing import Literal

import numpy as np

from engine.dataset import Dataset
from engine.dataset.filtering import RowFilter
from engine.types import SelfInfluence

Order = Literal["desc", "asc"]


def ranked(
    scores_N: np.ndarray, dataset: Dataset, order: Order, limit: int, start: int, wanted: RowFilter | None = None
) -> list[SelfInfluence]:
    """`limit` rows after the first `start` of those that `wanted` lets through; ranks count all rows. Ties: by
    position."""
    keys_N = -scores_N if order == "desc" else scores_N
    if wanted:
        positions = _all_ranked(keys_N)
        allowed_N = np.zeros(len(keys_N), bool)
        allowed_N[dataset.select(wanted.tags, wanted.query, label=wanted.label)] = True
        ranks = np.flatnonzero(allowed_N[positions])[start : start + limit]
        positions = positions[ranks]
    else:
        positions = _first_ranked(keys_N, start + limit)[start:]
        ranks = np.arange(start, start + len(positions))
    return [
        SelfInfluence(int(p), dataset[int(p)].id, float(scores_N[p]), int(rank) + 1)
        for p, rank in zip(positions, ranks, strict=True)
    ]


def placed(scores_N: np.ndarray, dataset: Dataset, position: int) -> SelfInfluence:
    """One row, with its rank when the highest come first."""
    score = scores_N[position]
    before = np.count_nonzero(scores_N > score) + np.count_nonzero(scores_N[:position] == score)
    return SelfInfluence(position, dataset[position].id, float(score), int(before) + 1)


def _all_ranked(keys_N: np.ndarray) -> np.ndarray:
    return np.lexsort((np.arange(len(keys_N)), keys_N))


def _first_ranked(keys_N: np.ndarray, count: int) -> np.ndarray:
    """The first `count`, without sorting the others: a page of a large index is asked for again and again."""
    if count >= len(keys_N):
        return _all_ranked(keys_N)
    near = np.flatnonzero(keys_N <= np.partition(keys_N, count - 1)[count - 1])
    return near[_all_ranked(keys_N[near])][:count]
