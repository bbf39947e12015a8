"""What taking a set of rows out of the training set would do to f: the sum of their scores (DESIGN §2.2, §2.5).

Shapes: N rows, M rows of the set, C checkpoints, D numbers of a row over all checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine import search
from engine.errors import InvalidOption, InvalidQuery
from engine.opened import OpenIndex
from engine.types import Removal, RemovalSet

if TYPE_CHECKING:
    from engine.answer import Ask
    from engine.explain import QueryVector


def check_removal(ask: Ask) -> None:
    """Raises InvalidOption where scores do not add up over rows."""
    if ask.options.removal is None:
        return
    remedy = "Ask with an additive method (`whence methods` lists them) and normalize: none, or leave removal out."
    if not ask.method.additive:
        cause = f"Scores of {ask.method.name} do not add up, so a set of rows has none."
        raise InvalidOption(cause, remedy=remedy, pointer="/removal")
    if ask.options.normalize == "cosine":
        raise InvalidOption("Cosines do not add up, so a set of rows has none.", remedy=remedy, pointer="/removal")


def removed_rows(index: OpenIndex, wanted: RemovalSet) -> np.ndarray:
    """int64 [M], ascending, each once. Raises InvalidQuery for an id that no row has, and when no row is meant."""
    chosen = set(index.dataset.select(wanted.tags)) if wanted.tags else set()
    for number, example_id in enumerate(wanted.ids):
        position = index.dataset.position_of(example_id)
        if position is None:
            raise InvalidQuery(f"No row has the id {example_id!r}.", pointer=f"/removal/ids/{number}")
        chosen.add(position)
    if not chosen:
        raise InvalidQuery(
            "No row is in the set to remove.", remedy="Give ids, or tags that rows have.", pointer="/removal"
        )
    return np.array(sorted(chosen), np.int64)


def removal(index: OpenIndex, ask: Ask, scores_N: np.ndarray) -> Removal | None:
    """scores_N: the raw scores of every row."""
    if ask.options.removal is None:
        return None
    rows_M = removed_rows(index, ask.options.removal)
    return Removal(len(rows_M), _sum(scores_N, rows_M), _predicted_change(index, ask, scores_N, rows_M))


def _predicted_change(index: OpenIndex, ask: Ask, scores_N: np.ndarray, rows_M: np.ndarray) -> float | None:
    method = ask.method
    if not method.in_units_of_f(index.plan.method_options):
        return None
    if ask.vector is not None and len(ask.vector.factors_C) > 1:
        query_1D = unscaled(index, ask.vector)[None].astype(np.float32)
        scores_N = search.score_all(index.store, query_1D)[0]
    return -_sum(scores_N, rows_M) / index.store.manifest.rows


def unscaled(index: OpenIndex, vector: QueryVector) -> np.ndarray:
    """float64 [D]: the query with the ensemble's factors undone, so that a score is the mean over checkpoints of each
    one's own ⟨∇f, ∇log p⟩ in its metric; a zero gradient stays zero."""
    factors_C = vector.factors_C * len(vector.factors_C)
    inverse_C = np.divide(1.0, factors_C, out=np.zeros_like(factors_C), where=factors_C > 0)
    return vector.vector_D * np.repeat(inverse_C, [features.width for features in index.features])


def _sum(scores_N: np.ndarray, rows_M: np.ndarray) -> float:
    return float(scores_N[rows_M].astype(np.float64).sum())
