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
from engine.methods import GradientMethod, Method, ReplayMethod
from engine.opened import OpenIndex
from engine.scores import Scores
from engine.types import Hit

if TYPE_CHECKING:
    from engine.answer import Ask


Ranked = tuple[np.ndarray, np.ndarray]


def describe(
    index: OpenIndex, ask: Ask, scores: Scores, best: Ranked, worst: Ranked, sample: np.ndarray | None
) -> tuple[tuple[Hit, ...], tuple[Hit, ...]]:
    """(proponents, opponents) from their (positions, scores); what costs passes is computed for both at once."""
    plain = [*_plain(index, scores, *best, sample), *_plain(index, scores, *worst, sample)]
    if plain and index.features and ask.vector is not None:
        plain = _explained(index, ask, ask.vector, plain)
    return tuple(plain[: len(best[0])]), tuple(plain[len(best[0]) :])


def _plain(
    index: OpenIndex, scores: Scores, positions_K: np.ndarray, scores_K: np.ndarray, sample: np.ndarray | None
) -> list[Hit]:
    # percentiles are of the scan's own score: the exact one differs from it in the last digits
    scanned_K = scores.of(positions_K).tolist()
    return [
        Hit(
            rank=rank,
            position=int(position),
            example_id=index.dataset[int(position)].id,
            score=float(score),
            normalized_score=None,
            percentile=percentile(scores.scores_M, scanned, sample),
        )
        for rank, (position, score, scanned) in enumerate(zip(positions_K, scores_K, scanned_K, strict=True), start=1)
    ]


def _explained(index: OpenIndex, ask: Ask, query: QueryVector, hits: list[Hit]) -> list[Hit]:
    positions_K = np.array([hit.position for hit in hits])
    rows_KD = index.store.rows(positions_K)
    if has_self_scores(ask.method):
        cosines_K = _normalized(index, query, rows_KD, positions_K)
        hits = [replace(hit, normalized_score=float(cosine)) for hit, cosine in zip(hits, cosines_K, strict=True)]
    if ask.options.modules:
        modules = explain.module_scores(index, query, rows_KD)
        hits = [replace(hit, module_scores=parts) for hit, parts in zip(hits, modules, strict=True)]
    return _with_tokens(index, ask, query, hits, rows_KD) if ask.options.tokens else hits


def has_self_scores(method: Method) -> bool:
    return method.self_scores if isinstance(method, GradientMethod) else not isinstance(method, ReplayMethod)


def _normalized(index: OpenIndex, query: QueryVector, rows_KD: np.ndarray, positions_K: np.ndarray) -> np.ndarray:
    """float64 [K]: mean over checkpoints of the cosine with the query, from the stored rows."""
    cosines_K = np.zeros(len(rows_KD))
    offset = 0
    for c, features in enumerate(index.features):
        columns = slice(offset, offset + features.width)
        dots_K = rows_KD[:, columns].astype(np.float64) @ query.vector_D[columns]
        norm = query.factors_C[c] * np.sqrt(query.self_C[c])
        norms_K = norm * np.sqrt(index.self_scores_NC[positions_K, c].astype(np.float64))
        norms_K *= index.row_factors_NC[positions_K, c]
        cosines_K += np.divide(dots_K, norms_K, out=np.zeros_like(dots_K), where=norms_K > 0)
        offset += features.width
    return cosines_K / len(index.features)


def _with_tokens(index: OpenIndex, ask: Ask, query: QueryVector, hits: list[Hit], rows_KD: np.ndarray) -> list[Hit]:
    """Shares along the query's positions, its output tokens, and each hit's own positions.

    Of a set, those of every member in order, each with its weight in the mean. Of a contrast, those of the completion
    asked about, not of its contrast.
    """
    question = ask.question
    assert question is not None
    along_query, by_token = [], []
    for s in question.explained:
        encoded, weight = question.sequences[s], question.weights[s]
        shares_KT = explain.query_position_shares(index, encoded, query, rows_KD, odds=question.odds)
        tokens_KT = explain.token_scores(index, encoded, query, rows_KD, odds=question.odds)
        along_query.append(weight * shares_KT)
        by_token.append(weight * tokens_KT)
    along_query_KT, by_token_KT = np.concatenate(along_query, 1), np.concatenate(by_token, 1)
    described = [
        replace(hit, position_shares=tuple(positions_T.tolist()), query_token_scores=tuple(tokens_T.tolist()))
        for hit, positions_T, tokens_T in zip(hits, along_query_KT, by_token_KT, strict=True)
    ]
    return _with_train_tokens(index, query, described)


def _with_train_tokens(index: OpenIndex, query: QueryVector, hits: list[Hit]) -> list[Hit]:
    encoder = index.model.encoder(index.plan.options.max_length)
    rows = [encoder.encode(index.dataset[hit.position]) for hit in hits]
    hits = [replace(hit, train_tokens=tuple(encoder.token_texts(r))) for hit, r in zip(hits, rows, strict=True)]
    if index.features[0].unit_norm:
        return hits  # a cosine is not a sum over the row's positions
    shares = explain.train_position_shares(index, rows, np.array([hit.position for hit in hits]), query)
    return [replace(hit, train_position_shares=tuple(s.tolist())) for hit, s in zip(hits, shares, strict=True)]
