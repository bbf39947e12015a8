"""Intervals for a mean over queries of a statistic over subsets, counting both as samples.

Queries share the subsets, so neither a bootstrap of queries nor one of subsets alone covers what it claims.
Each query's statistic is split into jackknife pseudo-values over subsets (Tukey 1958):
ψ_qm = M·θ_q − (M−1)·θ_q without m. Their two-way variance (Cameron, Gelbach and Miller 2011, "Robust inference
with multiway clustering", applied to a mean) is V = V_q + V_s − V_qs, and at least V_q and at least V_s.
Student's t has at most min(Q, M) − 1 degrees of freedom, the fewer of the two samples.

Two corrections for what 40 queries rarely are: normal. Scores of queries are skewed (many good, a few hopeless), so
V and the mean err together and the interval misses mostly on one side; Hall 1992 ("On the removal of skewness by
transformation", JRSS B 54) straightens t with the mean's own skewness. And V is itself uncertain, the more
so the heavier the tails: the degrees of freedom are also at most 2V²/Var(V), from the fourth moments. On a strongly
skewed population (`strong`, M = 25, in tests/engine/evaluate/test_coverage.py) Student's t alone misses 7 % above and
0 % below, with both corrections 3 % and 1 %; on the others they change little. A difference of two like methods has
no skewness but its sample's, so the paired test leaves the first correction out.

Shapes: Q queries, M subsets (or any second sample: seeds).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Spread:
    """How a mean would scatter: its variance, its skewness, and the degrees of freedom behind the variance."""

    variance: float
    degrees: float
    skewness: float = 0.0

    def interval(self, centre: float, confidence: float = 0.95) -> tuple[float, float]:
        """(low, high) around the centre."""
        quantile, error = float(stats.t.ppf((1 + confidence) / 2, self.degrees)), self.variance**0.5
        return centre - self._bent(quantile) * error, centre - self._bent(-quantile) * error

    def p_value(self, centre: float) -> float:
        """Two-sided p-value of "the true value is 0"; without any spread 1 where the centre is 0, else 0."""
        if self.variance <= 0:
            return 1.0 if centre == 0 else 0.0
        return float(2 * stats.t.sf(abs(self._straight(centre / self.variance**0.5)), self.degrees))

    def _straight(self, t: float) -> float:
        """Hall's cubic: ((1 + s·t/3)³ − 1)/s + s/6, which skewness has been taken out of; s → 0: t itself."""
        s = self.skewness
        return t + s * t**2 / 3 + s**2 * t**3 / 27 + s / 6

    def _bent(self, quantile: float) -> float:
        """The inverse of `_straight`."""
        s = self.skewness
        return quantile if abs(s) < 1e-6 else 3 / s * (float(np.cbrt(1 + s * (quantile - s / 6))) - 1)


def pseudo_values(statistic_Q: np.ndarray, left_out_QM: np.ndarray) -> np.ndarray:
    """ψ_QM of a statistic and its leave-one-out values."""
    subsets = left_out_QM.shape[1]
    return subsets * statistic_Q[:, None] - (subsets - 1) * left_out_QM


def two_way(psi_QM: np.ndarray, skewed: bool = True) -> Spread:
    """Of the mean of ψ over both axes; needs Q ≥ 2 and M ≥ 2. skewed: correct for skewness (not for differences)."""
    axes, cap = (psi_QM.mean(axis=1), psi_QM.mean(axis=0)), min(psi_QM.shape) - 1
    variance = two_way_variance(psi_QM)
    if variance <= 0:
        return Spread(0.0, cap)
    third = sum(_third_cumulant(sample) / len(sample) ** 2 for sample in axes) if skewed else 0.0
    uncertainty = sum(_variance_of_variance(sample) / len(sample) ** 2 for sample in axes)
    degrees = min(cap, 2 * variance**2 / uncertainty) if uncertainty > 0 else cap
    return Spread(variance, max(1.0, degrees), float(third / variance**1.5))


def two_way_variance(psi_QM: np.ndarray) -> float:
    """V = V_q + V_s − V_qs, at least V_q and V_s.

    V_qs is of what queries and subsets leave unexplained, which V_q and V_s both hold: with the whole spread of ψ in
    its place, as clustered errors have it, V would be too small by (σ_q² + σ_s²)/QM.
    """
    queries, subsets = psi_QM.shape
    by_query_Q1, by_subset_M = psi_QM.mean(axis=1, keepdims=True), psi_QM.mean(axis=0)
    of_queries, of_subsets = by_query_Q1.var(ddof=1) / queries, by_subset_M.var(ddof=1) / subsets
    rest_QM = psi_QM - by_query_Q1 - by_subset_M + psi_QM.mean()
    of_rest = (rest_QM**2).sum() / ((queries - 1) * (subsets - 1) * queries * subsets)
    return float(max(of_queries, of_subsets, of_queries + of_subsets - of_rest))


def _third_cumulant(sample: np.ndarray) -> float:
    """Fisher's unbiased k₃; 0 below three values."""
    count = len(sample)
    if count < 3:
        return 0.0
    return float(count / ((count - 1) * (count - 2)) * ((sample - sample.mean()) ** 3).sum())


def _variance_of_variance(sample: np.ndarray) -> float:
    """(m₄ − s⁴(n−3)/(n−1))/n, the sampling variance of s²; never below 0."""
    count, variance = len(sample), sample.var(ddof=1)
    fourth = ((sample - sample.mean()) ** 4).mean()
    return float(max(0.0, fourth - variance**2 * (count - 3) / (count - 1)) / count)
