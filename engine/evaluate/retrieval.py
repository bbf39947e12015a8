"""Does a ranking find the rows it should: poison, mislabelled rows, the facts behind an answer?

Higher score = ranked earlier. A constant score ranks nothing, and rows that are all relevant or all irrelevant leave
nothing to find: both give None ("undefined"). Equal scores are never broken by the row's position, which would reward
a file with its poison at the top: cut-off metrics take the expectation over the order of tied rows (McSherry and
Najork 2008, "Computing information retrieval performance measures efficiently in the presence of tied scores").

Shapes: N rows, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from engine.errors import InvalidOption
from engine.evaluate.correlation import spearman


@dataclass(frozen=True)
class QueryMean:
    """value: the mean over the queries where the metric is defined; None if it is for none."""

    value: float | None
    defined: int
    undefined: int


def over_queries(
    metric: Callable[[np.ndarray, np.ndarray], float | None], scores_QN: np.ndarray, relevant_QN: np.ndarray
) -> QueryMean:
    """Mean of a (scores_N, relevant_N) metric; relevant may be one row [N] for all queries."""
    relevant_QN = np.broadcast_to(relevant_QN, np.shape(scores_QN))
    values = [metric(scores, relevant) for scores, relevant in zip(scores_QN, relevant_QN, strict=True)]
    defined = [value for value in values if value is not None]
    return QueryMean(float(np.mean(defined)) if defined else None, len(defined), len(values) - len(defined))


def precision_at(scores_N: np.ndarray, relevant_N: np.ndarray, k: int) -> float | None:
    """Expected share of relevant rows among the top k; of all rows when there are fewer than k."""
    scores_N, relevant_N = _checked(scores_N, relevant_N)
    if k < 1:
        raise InvalidOption(f"k is {k}; it must be at least 1.", remedy="Give k ≥ 1.")
    if not _defined(scores_N, relevant_N):
        return None
    k = min(k, len(scores_N))
    return _expected_hits(scores_N, relevant_N, k) / k


def recall_at_class_size(scores_N: np.ndarray, relevant_N: np.ndarray) -> float | None:
    """Expected share of the relevant rows among as many top rows as there are relevant ones (R-precision).

    With poisoned rows as the relevant ones this is the poison recall.
    """
    return precision_at(scores_N, relevant_N, max(1, int(np.sum(relevant_N))))


def recall_at(scores_N: np.ndarray, relevant_N: np.ndarray, k: int) -> float | None:
    """Expected share of the relevant rows that are among the top k."""
    precision = precision_at(scores_N, relevant_N, k)
    return None if precision is None else min(1.0, precision * min(k, len(scores_N)) / int(np.sum(relevant_N)))


def reciprocal_rank(scores_N: np.ndarray, relevant_N: np.ndarray) -> float | None:
    """1 / rank of the first relevant row, expected over the order of tied rows."""
    scores_N, relevant_N = _checked(scores_N, relevant_N)
    if not _defined(scores_N, relevant_N):
        return None
    best = scores_N[relevant_N].max()
    above, tied = int((scores_N > best).sum()), int((scores_N == best).sum())
    sought = int((relevant_N & (scores_N == best)).sum())
    left_X = np.arange(tied, sought - 1, -1.0)  # tied rows not yet passed, at each place the first one can have
    missed_X = np.concatenate([[1.0], np.cumprod(1 - sought / left_X)[:-1]])
    return float((missed_X * sought / left_X / (above + 1 + np.arange(len(left_X)))).sum())


def auc(scores_N: np.ndarray, relevant_N: np.ndarray) -> float | None:
    """Area under the ROC curve: how often a relevant row outranks another, ties counting half (scikit-learn)."""
    scores_N, relevant_N = _checked(scores_N, relevant_N)
    return float(roc_auc_score(relevant_N, scores_N)) if _defined(scores_N, relevant_N) else None


def auprc(scores_N: np.ndarray, relevant_N: np.ndarray) -> float | None:
    """Average precision, the area under the precision-recall curve without interpolation (scikit-learn).

    Chance is the share of relevant rows. With poisoned rows as the relevant ones this is the poison AUPRC.
    """
    scores_N, relevant_N = _checked(scores_N, relevant_N)
    return float(average_precision_score(relevant_N, scores_N)) if _defined(scores_N, relevant_N) else None


def mislabelled_auroc(self_influence_N: np.ndarray, mislabelled_N: np.ndarray) -> float | None:
    """AUC of finding mislabelled rows by their self-influence: a row only it itself supports stands out."""
    return auc(self_influence_N, mislabelled_N)


def top1_concentration(scores_QN: np.ndarray) -> float | None:
    """The largest share of queries that have one and the same row on top: 1/Q at best, 1 for a hub.

    Rows tied for the top share it. Queries with constant scores have no top and are left out; None if all are.
    """
    scores_QN = _scores(scores_QN, 2)
    scores_QN = scores_QN[~_constant(scores_QN)]
    if not len(scores_QN):
        return None
    top_QN = scores_QN == scores_QN.max(axis=1, keepdims=True)
    return float((top_QN / top_QN.sum(axis=1, keepdims=True)).mean(axis=0).max())


def length_correlation(scores_QN: np.ndarray, lengths_N: np.ndarray) -> float | None:
    """Mean over queries of Spearman's correlation between score and row length; None if no query defines one."""
    scores_QN = _scores(scores_QN, 2)
    lengths_N = _scores(lengths_N, 1)
    if lengths_N.shape != scores_QN.shape[1:]:
        raise _bad_shape(scores_QN.shape, lengths_N.shape)
    found_Q = spearman(scores_QN, np.broadcast_to(lengths_N, scores_QN.shape))
    defined = found_Q[np.isfinite(found_Q)]
    return float(defined.mean()) if len(defined) else None


def overlap_at(approximate_QN: np.ndarray, exact_QN: np.ndarray, k: int) -> float | None:
    """Mean over queries of |top k of one ∩ top k of the other| / k: what a sketch keeps of the exact ranking.

    These are the lists an index answers with, so ties go by position, as there. Queries with constant scores on either
    side are left out; None if all are. k is cut to the number of rows.
    """
    approximate_QN, exact_QN = _scores(approximate_QN, 2), _scores(exact_QN, 2)
    if approximate_QN.shape != exact_QN.shape or k < 1:
        raise _bad_shape(approximate_QN.shape, exact_QN.shape, f", k = {k}")
    kept_Q = ~(_constant(approximate_QN) | _constant(exact_QN))
    k = min(k, exact_QN.shape[1])
    pairs = zip(_top(approximate_QN[kept_Q], k), _top(exact_QN[kept_Q], k), strict=True)
    shares = [len(np.intersect1d(ours, theirs)) / k for ours, theirs in pairs]
    return float(np.mean(shares)) if shares else None


def _expected_hits(scores_N: np.ndarray, relevant_N: np.ndarray, k: int) -> float:
    """Relevant rows among the top k, expected over the order of the rows tied at the cut."""
    cut = np.partition(scores_N, -k)[-k]
    above_N, tied_N = scores_N > cut, scores_N == cut
    share = (k - above_N.sum()) / tied_N.sum()
    return float(relevant_N[above_N].sum() + share * relevant_N[tied_N].sum())


def _top(scores_QN: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores_QN, axis=1, kind="stable")[:, :k]


def _constant(scores_QN: np.ndarray) -> np.ndarray:
    return (scores_QN == scores_QN[:, :1]).all(axis=1)


def _defined(scores_N: np.ndarray, relevant_N: np.ndarray) -> bool:
    return bool(relevant_N.any() and not relevant_N.all() and not _constant(scores_N[None])[0])


def _checked(scores_N: np.ndarray, relevant_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores_N, relevant_N = _scores(scores_N, 1), np.asarray(relevant_N)
    if relevant_N.dtype != np.bool_ or relevant_N.shape != scores_N.shape:
        raise _bad_shape(scores_N.shape, relevant_N.shape, f" {relevant_N.dtype}; relevant must be bool")
    return scores_N, relevant_N


def _scores(values: np.ndarray, axes: int) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != axes or not np.isfinite(values).all():
        raise InvalidOption(
            f"Values of shape {values.shape}; {axes} axes of finite numbers are needed.",
            remedy="Give each query's scores of all rows, without NaN or infinity.",
        )
    return values


def _bad_shape(one: tuple[int, ...], other: tuple[int, ...], more: str = "") -> InvalidOption:
    return InvalidOption(f"Shapes do not fit: {one}, {other}{more}.", remedy="Give both for the same rows, k ≥ 1.")
