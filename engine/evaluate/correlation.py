"""Spearman's correlation of every query, its small-sample bias, and its value with each subset left out.

Ties get average ranks. A query whose x or y is constant has no correlation: NaN.

Bias. r_s over M points is not an unbiased estimate of the correlation ρ_s that infinitely many points would
give: E r_s = ((M−2) ρ_s + 3τ) / (M+1), with τ Kendall's correlation (Hoeffding 1948, "A class of statistics with
asymptotically normal distribution", Annals of Mathematical Statistics 19). As |τ| < |ρ_s| mostly, r_s is too near
zero: by 0.02 at M = 25 and ρ_s = 0.9, more than a standard error of the mean over 40 queries. `unbiased_Q` solves
this for ρ_s; it is exact without ties, and with ties (τ_b) it keeps ±1 and 0 where they are.

Shapes: Q queries, M subsets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

MINIMUM_SUBSETS = 3  # below this nothing is left to correlate once one subset is left out


@dataclass(frozen=True, eq=False)
class Correlations:
    """plain_Q: Spearman's r_s, NaN = undefined. unbiased_Q: corrected for bias. left_out_QM: r_s without subset m.

    Where leaving m out leaves a constant behind, left_out_QM is 0: equal ranks have no covariance, and the large
    pseudo-value this makes says rightly that the query's figure hangs on that one subset.
    """

    plain_Q: np.ndarray
    unbiased_Q: np.ndarray
    left_out_QM: np.ndarray

    @property
    def defined_Q(self) -> np.ndarray:
        return np.isfinite(self.plain_Q)


def spearman(x_QM: np.ndarray, y_QM: np.ndarray) -> np.ndarray:
    """Spearman's r_s of each row with average ranks, float64 [Q]; NaN where x or y is constant."""
    return _pearson(_centred_ranks(x_QM), _centred_ranks(y_QM))


def correlations(x_QM: np.ndarray, y_QM: np.ndarray) -> Correlations:
    """All three for every query, in O(Q·M²) time and O(M²) memory."""
    queries, subsets = x_QM.shape
    x_QM, y_QM = _centred_ranks(x_QM), _centred_ranks(y_QM)
    plain_Q = _pearson(x_QM, y_QM)
    unbiased_Q, left_out_QM = np.full(queries, np.nan), np.full((queries, subsets), np.nan)
    if subsets >= MINIMUM_SUBSETS:
        for q in np.flatnonzero(np.isfinite(plain_Q)):
            left_out_QM[q], tau = _leave_one_out(x_QM[q], y_QM[q])
            unbiased_Q[q] = ((subsets + 1) * plain_Q[q] - 3 * tau) / (subsets - 2)
    return Correlations(plain_Q, unbiased_Q, left_out_QM)


def _leave_one_out(x_M: np.ndarray, y_M: np.ndarray) -> tuple[np.ndarray, float]:
    """(r_s without m for every m [M], Kendall's τ_b) from centred ranks.

    Without m a rank falls by 1 if it was above m's and by ½ if level with it, and the mean falls by ½: the centred
    rank x_i becomes x_i − s_mi/2, s the sign of x_i − x_m. The sums over i ≠ m are multiplied out, so only the signs
    are M × M; all terms are quarters of whole numbers, exact in float64.
    """
    above_x_MM, above_y_MM = _above(x_M), _above(y_M)
    concordant_M = np.einsum("mi,mi->m", above_x_MM, above_y_MM)
    distinct_x_M, distinct_y_M = np.abs(above_x_MM).sum(1), np.abs(above_y_MM).sum(1)
    xy_M = x_M @ y_M - (above_x_MM @ y_M + above_y_MM @ x_M) / 2 + concordant_M / 4 - x_M * y_M
    xx_M = x_M @ x_M - above_x_MM @ x_M + distinct_x_M / 4 - x_M**2
    yy_M = y_M @ y_M - above_y_MM @ y_M + distinct_y_M / 4 - y_M**2
    tau = concordant_M.sum() / np.sqrt(distinct_x_M.sum() * distinct_y_M.sum())
    return _ratio(xy_M, xx_M, yy_M, otherwise=0.0), float(tau)


def _above(rank_M: np.ndarray) -> np.ndarray:
    """[m, i]: the sign of rank i − rank m."""
    above_MM = rank_M[None, :] > rank_M[:, None]
    return above_MM.astype(np.float64) - above_MM.T


def _pearson(x_QM: np.ndarray, y_QM: np.ndarray) -> np.ndarray:
    return _ratio((x_QM * y_QM).sum(1), (x_QM**2).sum(1), (y_QM**2).sum(1), otherwise=np.nan)


def _centred_ranks(x_QM: np.ndarray) -> np.ndarray:
    return rankdata(x_QM, axis=1) - (x_QM.shape[1] + 1) / 2


def _ratio(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray, otherwise: float) -> np.ndarray:
    """xy/√(xx·yy); sums of squared ranks are exact in float64, so a constant's is exactly 0."""
    scale = np.sqrt(xx * yy)
    return np.clip(np.divide(xy, scale, out=np.full(len(xy), otherwise), where=scale > 0), -1.0, 1.0)
