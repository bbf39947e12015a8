"""The error of an answer's scores, as far as the index knows it, and what it leaves of the ranks.

From three checkpoints on (runs and replicas alike) the error is what other checkpoints would have done to a score; with
fewer, or in a learned sketch, whose numbers mix the checkpoints, only the rounding of stored numbers. Scores made from
the rows' text have none. The rows' parts are read again as engine/agreement.py reads them: all of a small index, of a
large one the hits, the rows with the largest |score| and a sample of the others (`rank_estimated`).

Shapes: N rows of the index, M rows that are compared, K hits, C checkpoints, W stored numbers a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from engine.agreement import LEAST_ROWS, READ_NUMBERS, chosen_rows, scores_by_checkpoint
from engine.methods import GradientMethod
from engine.opened import OpenIndex
from engine.rank_intervals import MIN_CHECKPOINTS, Terms, rank_intervals
from engine.search import ROUNDING
from engine.store import IndexStore
from engine.types import Hit, RankError

if TYPE_CHECKING:
    from engine.answer import Ask

COMPARED_ROWS = 1 << 17  # of whole scores: more would take longer than the search


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
    scores_N: np.ndarray,
    allowed_N: np.ndarray | None,
    weights_NC: np.ndarray | None,
    proponents: tuple[Hit, ...],
    opponents: tuple[Hit, ...],
) -> tuple[tuple[Hit, ...], tuple[Hit, ...]]:
    """weights_NC: what every checkpoint's score of a row is multiplied by (a mean of cosines); None = 1."""
    if not (proponents or opponents):
        return proponents, opponents
    positions_K = np.unique([hit.position for hit in (*proponents, *opponents)])
    compared = compare(index, ask, scores_N, allowed_N, weights_NC, positions_K)
    return compared.ranked(proponents, largest=True), compared.ranked(opponents, largest=False)


def compare(
    index: OpenIndex,
    ask: Ask,
    scores_N: np.ndarray,
    allowed_N: np.ndarray | None,
    weights_NC: np.ndarray | None,
    hits_K: np.ndarray,
) -> Compared:
    """hits_K: positions that have to be among the rows compared, ascending."""
    store = index.store
    separable = isinstance(ask.method, GradientMethod) and store.manifest.compression is None
    if not separable or len(store.manifest.checkpoints) < MIN_CHECKPOINTS:
        positions_M, counts_M = rows_around(hits_K, scores_N, allowed_N, COMPARED_ROWS)
        terms_CM = scores_N[positions_M][None].astype(np.float64)
        return Compared(positions_M, counts_M, *_rounded(index, ask, terms_CM, positions_M, weights_NC))
    assert ask.vector is not None
    limit = max(LEAST_ROWS, READ_NUMBERS // store.manifest.width)
    positions_M, counts_M = rows_around(hits_K, scores_N, allowed_N, limit)
    terms_CM = scores_by_checkpoint(store, ask.vector.vector_D, positions_M)
    terms_CM = terms_CM if weights_NC is None else terms_CM * weights_NC[positions_M].T
    terms, _ = _rounded(index, ask, terms_CM, positions_M, weights_NC)
    return Compared(positions_M, counts_M, terms, "checkpoints")


def rows_around(
    hits_K: np.ndarray, scores_N: np.ndarray, allowed_N: np.ndarray | None, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `chosen_rows`, the hits always among them: (positions int64 [M], ascending; counts [M])."""
    others_N = np.ones(len(scores_N), bool) if allowed_N is None else allowed_N.copy()
    others_N[hits_K] = False
    others_M, counts_M = chosen_rows(scores_N, others_N, max(LEAST_ROWS, limit - len(hits_K)))
    positions_M = np.concatenate([hits_K, others_M])
    order_M = np.argsort(positions_M)
    return positions_M[order_M], np.concatenate([np.ones(len(hits_K)), counts_M])[order_M]


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
    deviations_M = reach_M * storage_deviations(store, query_W)[positions_M]
    slack_N = ROUNDING * np.sqrt(store.manifest.width) * np.linalg.norm(query_W) * store.norms()
    return Terms(terms_CM, deviations_M, reach_M * slack_N[positions_M]), "storage"


def storage_deviations(store: IndexStore, query_W: np.ndarray) -> np.ndarray:
    """float64 [N]: at most so large is the standard deviation of a score's error by the rounding of stored numbers.

    A number rounded to steps of Δ errs by Δ/√12. int8: Δ is the row's own scale. Floating point: Δ is at most 2⁻¹⁰
    (2⁻²³) of the number, so that Σ q²z² ≤ max q² · ‖z‖² bounds the sum; float16's smallest numbers have Δ = 2⁻²⁴.
    """
    stored_norm = np.linalg.norm(query_W / store.manifest.scales())
    if store.manifest.dtype == "int8":
        scales = [shard.row_scales_N for shard in store.shards() if shard.row_scales_N is not None]
        return np.concatenate(scales).astype(np.float64) * stored_norm / np.sqrt(12)
    half = store.manifest.dtype == "float16"
    relative_N = (2.0**-10 if half else 2.0**-23) * np.abs(query_W).max() * store.norms()
    return np.hypot(relative_N, (2.0**-24 if half else 0.0) * stored_norm) / np.sqrt(12)
