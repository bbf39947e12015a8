"""Search: every row's score (engine/scan.py), shard by shard, or some rows', and the k best in an order that never
varies.

A scan adds in float32, in an order of its own, so equal rows may come out unequal in the last digits.
The order of an answer is therefore decided anew: every row that rounding could have kept out of the
first k is scored again from its stored numbers in float64, one fixed summation for each row, and
sorted by (−score, position). Identical rows then have identical scores wherever they lie.

Of a learned sketch the stored numbers are those of the sketch: the query is projected by the same basis first.

Dimensions: Q queries, N rows, C checkpoints, D numbers a row, W stored numbers a row (D, or fewer of a learned
sketch), K rows returned, M candidates.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from engine.cores import on_every_core
from engine.errors import NonFiniteGradient
from engine.scan import Queries, parts, scan, scan_codes
from engine.shard import Shard, chunk_rows
from engine.store import IndexStore

# A scan's error against float64 stays below this times √D·‖q‖·‖z‖: four units in the last place of
# float32 for a sum whose rounding errors are independent (at most 1.2 measured, D from 1 to 1,000,000).
ROUNDING = 4 * 2.0**-24


def score_all(store: IndexStore, query_QD: np.ndarray, *, checkpoints: Collection[int] | None = None) -> np.ndarray:
    """float32 [Q, N]: ⟨query, row⟩ for every row of the index.

    query_QD: float32, unscaled, laid out as the manifest's blocks. checkpoints: count only these
    (None = all). Each query is searched alone, so its scores do not depend on who else asks.
    Raises NonFiniteGradient for a NaN or infinity in a query, CorruptIndex.
    """
    return scan_all(store, np.stack([in_stored_units(store, query_D, checkpoints) for query_D in query_QD]))


def scan_all(store: IndexStore, stored_QW: np.ndarray) -> np.ndarray:
    """As `score_all`, of queries that `in_stored_units` has made."""
    queries = Queries(stored_QW)
    scores_QN = np.empty((len(queries), store.manifest.rows), np.float32)
    if store.device_rows is not None:
        for shard in store.shards():
            scores_QN[:, shard.record.start : shard.record.stop] = store.device_rows.scan(shard, queries)
        return scores_QN

    def scanned(part: tuple[Shard, slice]) -> None:
        shard, rows = part
        start = shard.record.start
        scores_QN[:, start + rows.start : start + rows.stop] = scan(shard, queries, rows)

    on_every_core(scanned, [(shard, rows) for shard in store.shards() for rows in parts(shard)])
    return scores_QN


def scan_rows(store: IndexStore, stored_QW: np.ndarray, positions_M: np.ndarray) -> np.ndarray:
    """float32 [Q, M]: as `scan_all`, of these rows alone (ascending); only their bytes are read."""
    queries = Queries(stored_QW)
    scores_QM = np.empty((len(queries), len(positions_M)), np.float32)
    for part, codes_KW, row_scales_K in store.gathered(positions_M):
        scores_QM[:, part] = scan_codes(codes_KW, row_scales_K, queries, f"rows {positions_M[part.start]} and on")
    return scores_QM


def in_stored_units(store: IndexStore, query_D: np.ndarray, checkpoints: Collection[int] | None) -> np.ndarray:
    """float64 [W]: the query, zero in the checkpoints that do not count, as what is stored is to be multiplied by."""
    manifest = store.manifest
    if query_D.shape != (manifest.dims,):
        raise ValueError(f"the query has shape {query_D.shape}, the index {manifest.dims} numbers a row")
    counted_D = query_D.astype(np.float64)
    for block in manifest.blocks:
        if checkpoints is not None and block.checkpoint not in checkpoints:
            counted_D[block.offset : block.stop] = 0
    with np.errstate(over="ignore"):
        projected_W = counted_D if store.basis is None else store.basis.project(counted_D)
        stored_W = projected_W / manifest.scales()
        if not (np.isfinite(stored_W.astype(np.float32)).all() and np.isfinite(query_D).all()):
            raise NonFiniteGradient("NaN or infinity in the query's gradient.")
    return stored_W


@dataclass(frozen=True)
class _Part:
    """A summand of an exact score: the row's stored numbers in `columns` times query_W. norm: query_W's, unscaled."""

    columns: slice
    query_W: np.ndarray
    norm: float


def _parts(store: IndexStore, query_D: np.ndarray, checkpoints: Collection[int] | None, each: bool) -> list[_Part]:
    """The whole score, or with `each` one part a checkpoint: its own columns, or of a learned sketch, which mixes the
    checkpoints, all columns and that checkpoint's query."""
    scales_W = store.manifest.scales()
    stored_W = in_stored_units(store, query_D, checkpoints)
    if not each:
        return [_Part(slice(None), stored_W, float(np.linalg.norm(stored_W * scales_W)))]
    if store.basis is None:
        columns_C = store.manifest.checkpoint_columns()
        return [_Part(c, stored_W[c], float(np.linalg.norm((stored_W * scales_W)[c]))) for c in columns_C]
    counted = range(len(store.manifest.checkpoints))
    singles = [[c] if checkpoints is None or c in checkpoints else [] for c in counted]
    stored_CW = [in_stored_units(store, query_D, single) for single in singles]
    return [_Part(slice(None), query_W, float(np.linalg.norm(query_W * scales_W))) for query_W in stored_CW]


def top_k(
    store: IndexStore,
    query_D: np.ndarray,
    scores_N: np.ndarray,
    k: int,
    *,
    largest: bool = True,
    allowed_N: np.ndarray | None = None,
    checkpoints: Collection[int] | None = None,
    weights_NC: np.ndarray | None = None,
    positions_M: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(positions int64 [K], scores float64 [K]) of the k best rows, K ≤ k; ties go to the lower position.

    scores_N: this query's row of `score_all`; where weights_NC [N, C] are given (a mean of cosines
    divides by each checkpoint's norms), Σ_c weights[:, c] · `score_all` of checkpoint c alone.
    largest=False ranks the lowest scores first. allowed_N: which rows may be ranked (bool).
    checkpoints: as in `score_all`. positions_M: scores_N and allowed_N are of these rows alone (ascending); without
    weights_NC.
    """
    parts = _parts(store, query_D, checkpoints, each=weights_NC is not None)
    norms_N = store.norms() if positions_M is None else store.norms()[positions_M]
    margins_N = _rounding_margins(store, parts, norms_N, weights_NC)
    sign = 1.0 if largest else -1.0
    candidates_M = _candidates(scores_N if largest else -scores_N, margins_N, k, allowed_N)
    zero_M = margins_N[candidates_M] == 0
    candidates_M = candidates_M if positions_M is None else positions_M[candidates_M]
    exact_M = _score_exactly(store, parts, candidates_M, zero_M, weights_NC)
    order_K = np.lexsort((candidates_M, -sign * exact_M))[: max(k, 0)]
    return candidates_M[order_K], exact_M[order_K]


def rank(
    scores_N: np.ndarray, k: int, *, largest: bool = True, allowed_N: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `top_k`, for scores that are exact already (methods that work on the rows' text)."""
    exact_N = scores_N.astype(np.float64)
    positions_M = np.arange(len(exact_N)) if allowed_N is None else np.flatnonzero(allowed_N)
    sign = 1.0 if largest else -1.0
    order_K = np.lexsort((positions_M, -sign * exact_N[positions_M]))[: max(k, 0)]
    return positions_M[order_K], exact_N[positions_M[order_K]]


def _rounding_margins(
    store: IndexStore, parts: list[_Part], norms_N: np.ndarray, weights_NC: np.ndarray | None
) -> np.ndarray:
    """float64 [N]: how far a scan's score may lie from the exact one; 0 only where both are exactly 0."""
    if weights_NC is None:
        return (parts[0].norm * ROUNDING * np.sqrt(store.manifest.width)) * norms_N
    rounding_N = ROUNDING * np.sqrt(store.manifest.width) * norms_N
    return np.abs(weights_NC) @ np.array([part.norm for part in parts]) * rounding_N


def _candidates(signed_N: np.ndarray, margins_N: np.ndarray, k: int, allowed_N: np.ndarray | None) -> np.ndarray:
    """int64 [M], ascending: every row that may be among the k highest once rounding is undone."""
    positions_M = np.arange(len(signed_N)) if allowed_N is None else np.flatnonzero(allowed_N)
    if k >= len(positions_M):
        return positions_M
    if k <= 0:
        return positions_M[:0]
    near_M = signed_N if allowed_N is None else signed_N[positions_M]
    # Whoever is further below the k-th score than two of the widest margins cannot come in: a few rows are left.
    lowest = np.partition(near_M, -k)[-k].astype(np.float64) - 2 * margins_N.max()
    positions_M = positions_M[near_M >= np.nextafter(lowest.astype(np.float32), np.float32(-np.inf))]
    signed_M, margins_M = signed_N[positions_M].astype(np.float64), margins_N[positions_M]
    threshold = np.partition(signed_M - margins_M, -k)[-k]
    return positions_M[signed_M + margins_M >= threshold]


def _score_exactly(
    store: IndexStore,
    parts: list[_Part],
    candidates_M: np.ndarray,
    zero_M: np.ndarray,
    weights_NC: np.ndarray | None,
) -> np.ndarray:
    """float64 [M]: a function of the query, each row's stored numbers and its weights, and of nothing else."""
    exact_M = np.zeros(len(candidates_M))
    nonzero = np.flatnonzero(~zero_M)
    step = chunk_rows(store.manifest.width)
    for start in range(0, len(nonzero), step):
        chosen = nonzero[start : start + step]
        for i, row_W in zip(chosen, store.stored(candidates_M[chosen]), strict=True):
            # One row at a time: numpy's order of summation depends on the array's shape.
            sums_C = [np.add.reduce(row_W[part.columns] * part.query_W) for part in parts]
            exact_M[i] = sums_C[0] if weights_NC is None else sum(weights_NC[candidates_M[i]] * sums_C)
    return exact_M
