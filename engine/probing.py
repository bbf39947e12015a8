"""When a query reads lists instead of every row, and what it then knows.

Shapes: N rows of the index, M rows whose scores are known, W stored numbers a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.diagnostics import fixed_sample
from engine.explain import QueryVector
from engine.ivf import LEAST_LEFT, LIST_TOP_K
from engine.methods import GradientMethod, RepresentationMethod
from engine.opened import OpenIndex
from engine.scores import Scores
from engine.search import in_stored_units, scan_rows

if TYPE_CHECKING:
    from engine.answer import Ask


def may_probe(index: OpenIndex, ask: Ask) -> bool:
    """Not where sums, cosines or a joint score need every row, for more rows than lists were chosen for, or for scores
    that are no product with what is stored."""
    options = ask.options
    every_row = options.search == "flat" or options.normalize == "cosine" or options.top_k > LIST_TOP_K
    every_row = every_row or options.group_by is not None or options.removal is not None
    return not every_row and isinstance(ask.method, GradientMethod | RepresentationMethod) and index.lists is not None


def enough_left(allowed_N: np.ndarray | None) -> bool:
    """Whether a filter leaves so many rows that the best of them lie where the best of all do."""
    return allowed_N is None or bool(allowed_N.mean() >= LEAST_LEFT)


def probe(index: OpenIndex, vector: QueryVector, signed: bool) -> Scores:
    """The rows of the most promising lists, and the sample for figures. Raises NonFiniteGradient, CorruptIndex."""
    lists, store = index.lists, index.store
    record = store.manifest.search
    assert lists is not None and record is not None
    stored_W = in_stored_units(store, vector.vector_D.astype(np.float32), None)
    chosen = lists.centroids.chosen(stored_W * store.manifest.scales(), record.probes, both=signed)
    read, sample = lists.rows(chosen), fixed_sample(store.manifest.rows)
    counted = np.arange(store.manifest.rows) if sample is None else sample
    positions_M = np.union1d(read, counted)
    read_M = np.zeros(len(positions_M), bool)
    read_M[np.searchsorted(positions_M, read)] = True
    return Scores(
        rows=store.manifest.rows,
        scores_M=scan_rows(store, stored_W[None], positions_M)[0],
        positions_M=positions_M,
        read_M=read_M,
        sample_M=None if sample is None else np.searchsorted(positions_M, sample),
        recall_at_10=record.recall_at_10,
    )
