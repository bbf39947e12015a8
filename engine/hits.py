"""What is said of each ranked row: score, percentile, and on request its shares.

Shapes: N rows, K hits, C checkpoints, T positions, D numbers of a row over all checkpoints.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from engine import explain
from engine.diagnostics import percentile
from engine.explain import QueryVector
from engine.opened import OpenIndex
from engine.types import Hit

if TYPE_CHECKING:
    from engine.answer import Ask


def describe(
    index: OpenIndex,
    ask: Ask,
    scores_N: np.ndarray,
    positions_K: np.ndarray,
    scores_K: np.ndarray,
    sample: np.ndarray | None,
) -> tuple[Hit, ...]:
    hits = [
        Hit(
            rank=rank,
            position=int(position),
            example_id=index.example_ids[position],
            score=float(score),
            normalized_score=None,
            percentile=percentile(scores_N, float(score), sample),
        )
        for rank, (position, score) in enumerate(zip(positions_K, scores_K, strict=True), start=1)
    ]
    if not hits or not index.features or ask.vector is None:
        return tuple(hits)
    rows_KD = index.store.rows(positions_K)
    cosines_K = _normalized(index, ask.vector, rows_KD, positions_K)
    hits = [replace(hit, normalized_score=float(cosine)) for hit, cosine in zip(hits, cosines_K, strict=True)]
    if ask.options.modules:
        modules = explain.module_scores(index, ask.vector, rows_KD)
        hits = [replace(hit, module_scores=parts) for hit, parts in zip(hits, modules, strict=True)]
    return tuple(_with_tokens(index, ask, hits, rows_KD) if ask.options.tokens else hits)


def _normalized(index: OpenIndex, query: QueryVector, rows_KD: np.ndarray, positions_K: np.ndarray) -> np.ndarray:
    """float64 [K]: mean over checkpoints of the cosine with the query, from the stored rows."""
    cosines_K = np.zeros(len(rows_KD))
    offset = 0
    for c, features in enumerate(index.features):
        columns = slice(offset, offset + features.width)
        dots_K = rows_KD[:, columns].astype(np.float64) @ query.vector_D[columns]
        norm = query.factors_C[c] * np.sqrt(query.self_C[c])
        norms_K = norm * np.sqrt(index.self_scores_NC[positions_K, c].astype(np.float64))
        cosines_K += np.divide(dots_K, norms_K, out=np.zeros_like(dots_K), where=norms_K > 0)
        offset += features.width
    return cosines_K / len(index.features)


def _with_tokens(index: OpenIndex, ask: Ask, hits: list[Hit], rows_KD: np.ndarray) -> list[Hit]:
    """Shares along the query's positions, its output tokens, and each hit's own positions.

    Of a contrast, the shares are those of the completion asked about, not of its contrast.
    """
    assert ask.question is not None and ask.vector is not None
    encoded = ask.question.sequences[0]
    along_query_KT = explain.query_position_shares(index, encoded, 1.0, ask.vector, rows_KD)
    by_token_KT = explain.token_scores(index, encoded, 1.0, ask.vector, rows_KD)
    described = []
    for hit, positions_T, tokens_T in zip(hits, along_query_KT, by_token_KT, strict=True):
        shares, tokens = _along_row(index, ask.vector, hit.position)
        described.append(
            replace(
                hit,
                position_shares=tuple(positions_T.tolist()),
                query_token_scores=tuple(tokens_T.tolist()),
                train_position_shares=shares,
                train_tokens=tokens,
            )
        )
    return described


def _along_row(index: OpenIndex, query: QueryVector, position: int) -> tuple[tuple[float, ...] | None, tuple[str, ...]]:
    encoder = index.model.encoder(index.plan.options.max_length)
    encoded = encoder.encode(index.dataset[position])
    tokens = tuple(encoder.token_texts(encoded))
    if index.features[0].unit_norm:
        return None, tokens  # a cosine is not a sum over the row's positions
    weight = float(index.weights_N[position])
    return tuple(explain.train_position_shares(index, encoded, weight, query).tolist()), tokens
