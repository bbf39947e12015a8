"""Rank intervals: the best and the worst rank that a row's score allows, given the score's error. Pure statistics.

A score is a sum of terms, one a checkpoint. Rows i and j are told apart where the difference of their scores is larger
than what other checkpoints would do to it by chance (paired t over the C terms d_c = s_c(i) − s_c(j)):

    |Σ_c d_c| > t₀.₉₅(C−1) · √(2C) · sd(d) + storage

The 2 is of a prediction (Hahn and Meeker 1991, Statistical Intervals, ch. 4): what has to agree is the same difference
in an index of another run, which has an error of its own. The interval of a row then runs from 1 + the rows surely
above it to all rows − those surely below it (Mogstad, Romano, Shaikh and Wilhelm 2024, "Inference for Ranks", §3;
pair by pair, not simultaneously). How often the rank in another run lies inside is measured by
`python -m benchmarks.rank_intervals`; it is no statement about what retraining without a row does.

With fewer than MIN_CHECKPOINTS only the rounding of stored numbers is known, which says nothing of how another run
would rank.

Shapes: K hits, M rows they are compared with, C checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special  # not stats, whose import takes a third of a second of the first answer

CONFIDENCE = 0.9  # two-sided, of one pair of rows
MIN_CHECKPOINTS = 3
_PAIRS = 1 << 21  # compared at once


@dataclass(frozen=True)
class Terms:
    """What scores are made of. terms_CM: each checkpoint's part of each row's score, or one row of whole scores.

    deviations_M: standard deviation of what storage did to the score. slack_M: what summation may have done at most.
    """

    terms_CM: np.ndarray
    deviations_M: np.ndarray
    slack_M: np.ndarray

    @property
    def by_checkpoint(self) -> bool:
        return len(self.terms_CM) >= MIN_CHECKPOINTS


def rank_intervals(
    terms: Terms, counts_M: np.ndarray, hits_K: np.ndarray, *, largest: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """(best int64 [K], worst int64 [K]) rank of the rows in columns hits_K, 1 = the first.

    counts_M: how many rows of the index each column stands for (1 unless they are a sample); their sum is the rows
    that are ranked. largest=False: the lowest score has rank 1.
    """
    best_K, worst_K = np.empty(len(hits_K), np.int64), np.empty(len(hits_K), np.int64)
    sign, ranked = (1.0 if largest else -1.0), counts_M.sum()
    step = max(1, _PAIRS // max(len(counts_M), 1))
    for start in range(0, len(hits_K), step):
        chosen = slice(start, start + step)
        lead_KM = sign * _differences(terms.terms_CM, hits_K[chosen])
        error_KM = _errors(terms, hits_K[chosen])
        best_K[chosen] = np.rint(1 + (lead_KM < -error_KM) @ counts_M)
        worst_K[chosen] = np.rint(ranked - (lead_KM > error_KM) @ counts_M)
    return best_K, np.maximum(worst_K, best_K)


def _differences(terms_CM: np.ndarray, hits_K: np.ndarray) -> np.ndarray:
    """float64 [K, M]: each hit's score minus each row's."""
    scores_M = terms_CM.sum(0)
    return scores_M[hits_K, None] - scores_M


def _errors(terms: Terms, hits_K: np.ndarray) -> np.ndarray:
    """float64 [K, M]: how large a difference is not yet one."""
    squares_M = np.square(terms.deviations_M)
    error_KM = special.ndtri((1 + CONFIDENCE) / 2) * np.sqrt(squares_M[hits_K, None] + squares_M)
    error_KM += terms.slack_M[hits_K, None] + terms.slack_M
    if terms.by_checkpoint:
        count = len(terms.terms_CM)
        error_KM += special.stdtrit(count - 1, (1 + CONFIDENCE) / 2) * np.sqrt(2 * count * _variances(terms, hits_K))
    return error_KM


def _variances(terms: Terms, hits_K: np.ndarray) -> np.ndarray:
    """float64 [K, M]: variance over checkpoints of the difference of two rows' terms."""
    centred_CM = terms.terms_CM - terms.terms_CM.mean(0)
    own_M = np.square(centred_CM).sum(0)
    sums_KM = own_M[hits_K, None] + own_M - 2 * centred_CM[:, hits_K].T @ centred_CM
    return np.maximum(sums_KM, 0) / (len(terms.terms_CM) - 1)
