"""How far an answer's checkpoints agree with each other, and its scores with the words.

In an ensemble every checkpoint scores the rows by itself, and the answer is their sum. Where they contradict each other
the sum is the accident of which checkpoints were kept. No retraining is needed to see that.

Reading every row again would cost as much as the search did. A large index is therefore read in part: the rows with the
largest |score|, which decide a correlation of scores, and as many others by chance, which count for all the rest.

Shapes: N rows of the index, K rows that are read, C checkpoints, W stored numbers a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import faiss
import numpy as np

from engine.opened import OpenIndex
from engine.scores import Scores
from engine.shard import Shard
from engine.store import IndexStore

READ_NUMBERS = 20 << 20  # what is read of the index again for one query
LEAST_ROWS = 32  # and at least so many rows, however wide
NO_ROWS = np.zeros(0, np.int64)
BM25_ROWS = 20_000  # of more, cutting all texts into words would hold up the first answer for a second or longer


@dataclass(frozen=True)
class Apart:
    """What every checkpoint alone says of the rows that were read. positions_M: ascending; counts_M: how many rows of
    the index each stands for."""

    positions_M: np.ndarray
    counts_M: np.ndarray
    scores_CM: np.ndarray


def scores_apart(
    store: IndexStore,
    query_D: np.ndarray,
    scores: Scores,
    allowed_N: np.ndarray | None = None,
    weights_NC: np.ndarray | None = None,
    hits_K: np.ndarray = NO_ROWS,
) -> Apart | None:
    """The rows searched, or of more than READ_NUMBERS numbers some of them, always those in hits_K (ascending).

    query_D: as `search.score_all` takes it; scores: what the search found. weights_NC: what every checkpoint's score of
    a row is multiplied by (a mean of cosines). None for a single checkpoint, and for a learned sketch, whose numbers
    mix the checkpoints.
    """
    if len(store.manifest.checkpoints) < 2 or store.manifest.compression is not None:
        return None
    limit = max(LEAST_ROWS, READ_NUMBERS // store.manifest.width)
    positions_M, counts_M = rows_compared(hits_K, scores, allowed_N, limit)
    scores_CM = scores_by_checkpoint(store, query_D, positions_M)
    return Apart(positions_M, counts_M, scores_CM if weights_NC is None else scores_CM * weights_NC[positions_M].T)


def checkpoint_agreement(apart: Apart | None) -> float | None:
    """Mean over pairs of checkpoints of Pearson's correlation, over the rows searched, of the scores each gives alone.

    None where the checkpoints cannot be told apart, and where no two have a correlation.
    """
    return None if apart is None else mean_correlation(apart.scores_CM, apart.counts_M)


def bm25_agreement(index: OpenIndex, text: str, scores: Scores, allowed_N: np.ndarray | None = None) -> float | None:
    """Pearson's correlation of the scores with BM25's of `text`, over the rows searched.

    None above BM25_ROWS rows, of an approximate search, and where either is the same for every row.
    """
    if scores.rows > BM25_ROWS or scores.positions_M is not None:
        return None
    both_2N = np.stack([scores.scores_M, index.corpus.bm25.scores(text)]).astype(np.float64)
    both_2N = both_2N if allowed_N is None else both_2N[:, allowed_N]
    return mean_correlation(both_2N, np.ones(both_2N.shape[1]))


def chosen_rows(scores_N: np.ndarray, allowed_N: np.ndarray | None, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """(positions int64 [K], ascending; how many rows each stands for [K]). All that may be ranked, up to `limit`."""
    searched = np.arange(len(scores_N)) if allowed_N is None else np.flatnonzero(allowed_N)
    if len(searched) <= limit:
        return searched, np.ones(len(searched))
    first = limit // 2
    counts = np.zeros(len(searched))
    counts[np.argpartition(-np.abs(scores_N[searched]), first)[:first]] = 1
    others = np.flatnonzero(counts == 0)
    drawn = np.random.default_rng(0).choice(others, limit - first, replace=False)
    counts[drawn] = len(others) / len(drawn)
    return searched[counts > 0], counts[counts > 0]


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


def rows_compared(
    hits_K: np.ndarray, scores: Scores, allowed_N: np.ndarray | None, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `rows_around`. Of an approximate search half are rows that it read, which stand for all that it read, and half
    are rows of the sample that it did not, which stand for all others."""
    if scores.positions_M is None:
        return rows_around(hits_K, scores.scores_M, allowed_N, limit)
    read_M = scores.rankable(allowed_N)
    assert read_M is not None
    allowed_M = np.ones(len(read_M), bool) if allowed_N is None else scores.among(allowed_N)
    inside_M, counts_M = rows_around(scores.places(hits_K), scores.scores_M, read_M, limit // 2)
    others_M = np.flatnonzero(allowed_M & ~read_M)
    if len(others_M) > limit // 2:
        others_M = np.random.default_rng(0).choice(others_M, limit // 2, replace=False)
    unread = (scores.rows if allowed_N is None else np.count_nonzero(allowed_N)) - np.count_nonzero(read_M)
    chosen_M = np.concatenate([inside_M, others_M])
    order_M = np.argsort(chosen_M)
    counts_M = np.concatenate([counts_M, np.full(len(others_M), unread / max(1, len(others_M)))])
    return scores.positions_M[chosen_M[order_M]], counts_M[order_M]


def mean_correlation(scores_CK: np.ndarray, counts_K: np.ndarray) -> float | None:
    """Pearson's of each pair of rows of scores_CK, averaged; column k counts counts_K[k] times. None: of no pair."""
    if scores_CK.shape[1] < 3:  # two rows always correlate perfectly
        return None
    centred_CK = scores_CK - (scores_CK @ counts_K / counts_K.sum())[:, None]
    products_CC = (centred_CK * counts_K) @ centred_CK.T
    spread_C = np.sqrt(np.diag(products_CC))
    varies_C = spread_C > 1e-9 * np.abs(scores_CK).max(axis=1, initial=0)
    pairs = [(a, b) for a, b in combinations(range(len(scores_CK)), 2) if varies_C[a] and varies_C[b]]
    found = [products_CC[a, b] / (spread_C[a] * spread_C[b]) for a, b in pairs]
    return float(np.clip(np.mean(found), -1, 1)) if found else None


def scores_by_checkpoint(store: IndexStore, query_D: np.ndarray, positions_K: np.ndarray) -> np.ndarray:
    """float64 [C, K]"""
    columns_C = store.manifest.checkpoint_columns()
    query_CW = np.zeros((len(columns_C), store.manifest.width), np.float32)
    for c, columns in enumerate(columns_C):
        query_CW[c, columns] = query_D[columns] / store.manifest.scales()[columns]
    found_CK = []
    for shard in store.shards():
        inside_K = (shard.record.start <= positions_K) & (positions_K < shard.record.stop)
        found_CK.append(_scores_of_shard(shard, query_CW, positions_K[inside_K] - shard.record.start))
    return np.concatenate(found_CK, axis=1)


def _scores_of_shard(shard: Shard, query_CW: np.ndarray, offsets_K: np.ndarray) -> np.ndarray:
    """float64 [C, K] of these rows of the shard, ascending. FAISS multiplies float16 in a third of the time that
    decoding takes, even where it multiplies by zeros as well."""
    scores_CK = np.zeros((len(query_CW), len(offsets_K)))
    if not len(offsets_K):
        return scores_CK
    parameters: Any = faiss.SearchParameters  # its stub knows no arguments
    only = parameters(sel=faiss.IDSelectorBatch(offsets_K))
    values_CK, found_CK = shard.index.search(query_CW, len(offsets_K), params=only)
    np.put_along_axis(scores_CK, np.searchsorted(offsets_K, found_CK), values_CK, axis=1)
    return scores_CK if shard.row_scales_N is None else scores_CK * shard.row_scales_N[offsets_K]
