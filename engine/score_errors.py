"""The error of an answer's scores, as far as the index knows it, and what it leaves of the ranks.

From three checkpoints on (runs and replicas alike) the error is what other checkpoints would have done to a score; with
fewer, or in a learned sketch, whose numbers mix the checkpoints, only the rounding of stored numbers. Scores made from
the rows' text have none. The rows' parts are those that engine/agreement.py has read: all of a small index, of a large
one the hits, the rows with the largest |score| and a sample of the others (`rank_estimated`).

Shapes: N rows of the index, M rows that are compared, K hits, C checkpoints, W stored numbers a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from engine.agreement import Apart, rows_compared
from engine.opened import OpenIndex
from engine.rank_intervals import MIN_CHECKPOINTS, Terms, rank_intervals
from engine.scores import Scores
from engine.search import ROUNDING
from engine.store import IndexStore
from engine.types import Hit, RankError

if TYPE_CHECKING:
    from engine.answer import Ask

Hits = tuple[tuple[Hit, ...], tuple[Hit, ...]]
COMPARED_ROWS = 1 << 15  # of whole scores: more would take longer than the search


@dataclass(frozen=True)
class Compared:
    """The rows that hits are compared with, the hits among them. counts_M: rows of the index each stands for."""

    positions_M: np.ndarray
    counts_M: np.ndarray
    terms: Terms
    error: RankError

    def ranked(self, hits: Sequence[Hit], *, largest: bool) -> tuple[Hit, ...]:
        """The hits with their rank intervals, which always hold the rank itself."""
        columns_K = np.searchsorted(self.positions_M, [hit.position for hit in hits])
        best_K, worst_K = rank_intervals(self.terms, self.counts_M, columns_K, largest=largest)
        estimated = bool((self.counts_M > 1).any())
        return tuple(
            replace(
                hit,
                rank_low=min(int(best), hit.rank),
                rank_high=max(int(worst), hit.rank),
                tied=bool(min(best, hit.rank) < max(worst, hit.rank)),
                rank_error=self.error,
                rank_estimated=estimated,
            )
            for hit, best, worst in zip(hits, best_K, worst_K, strict=True)
        )


def with_rank_intervals(
    index: OpenIndex,
    ask: Ask,
    scores: Scores,
    allowed_N: np.ndarray | None,
    weights_NC: np.ndarray | None,
    apart: Apart | None,
    hits: Hits,
) -> Hits:
    """(proponents, opponents). weights_NC: what every checkpoint's score of a row is multiplied by (a mean of cosines);
    None = 1. apart: what the checkpoints say each, the hits among its rows."""
    if not any(hits):
        return hits
    compared = compare(index, ask, scores, allowed_N, weights_NC, apart, positions_of(hits))
    return compared.ranked(hits[0], largest=True), compared.ranked(hits[1], largest=False)


def positions_of(hits: Hits) -> np.ndarray:
    """int64 [K], ascending."""
    return np.unique(np.array([hit.position for side in hits for hit in side], np.int64))


def compare(
    index: OpenIndex,
    ask: Ask,
    scores: Scores,
    allowed_N: np.ndarray | None,
    weights_NC: np.ndarray | None,
    apart: Apart | None,
    hits_K: np.ndarray,
) -> Compared:
    """hits_K: positions that have to be among the rows compared, ascending."""
    if apart is not None and len(apart.scores_CM) >= MIN_CHECKPOINTS:
        terms, _ = _rounded(index, ask, apart.scores_CM, apart.positions_M, weights_NC)
        return Compared(apart.positions_M, apart.counts_M, terms, "checkpoints")
    positions_M, counts_M = rows_compared(hits_K, scores, allowed_N, COMPARED_ROWS)
    terms_CM = scores.of(positions_M)[None].astype(np.float64)
    return Compared(positions_M, counts_M, *_rounded(index, ask, terms_CM, positions_M, weights_NC))


def _rounded(
    index: OpenIndex, ask: Ask, terms_CM: np.ndarray, positions_M: np.ndarray, weights_NC: np.ndarray | None
) -> tuple[Terms, RankError]:
    """The terms with what storing and adding up may have done to them; nothing where no vector was stored."""
    if ask.vector is None:
        nothing_M = np.zeros(len(positions_M))
        return Terms(terms_CM, nothing_M, nothing_M), "none"
    query_D, store = ask.vector.vector_D, index.store
    reach_M = 1.0 if weights_NC is None else np.abs(weights_NC[positions_M]).max(1)
    query_W = query_D if store.basis is None else store.basis.project(query_D)
    deviations_M = reach_M * storage_deviations(store, query_W, positions_M)
    slack = ROUNDING * np.sqrt(store.manifest.width) * np.linalg.norm(query_W)
    return Terms(terms_CM, deviations_M, reach_M * slack * store.norms()[positions_M]), "storage"


def storage_deviations(store: IndexStore, query_W: np.ndarray, positions_M: np.ndarray) -> np.ndarray:
    """float64 [M]: at most so large is the standard deviation of a score's error by the rounding of stored numbers.

    A number rounded to steps of Δ errs by Δ/√12. int8: Δ is the row's own scale. Floating point: Δ is at most 2⁻¹⁰
    (2⁻²³) of the number, so that Σ q²z² ≤ max q² · ‖z‖² bounds the sum; float16's smallest numbers have Δ = 2⁻²⁴.
    """
    stored_norm = np.linalg.norm(query_W / store.manifest.scales())
    if (scales_N := store.row_scales()) is not None:
        return scales_N[positions_M].astype(np.float64) * stored_norm / np.sqrt(12)
    half = store.manifest.dtype == "float16"
    relative_M = (2.0**-10 if half else 2.0**-23) * np.abs(query_W).max() * store.norms()[positions_M]
    return np.hypot(relative_M, (2.0**-24 if half else 0.0) * stored_norm) / np.sqrt(12)
