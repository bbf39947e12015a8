"""The share of queries that a method predicts better than chance, with false discoveries held down.

Each query's Spearman is tested one-sidedly (positive = proponent, so only agreement counts) by Student's t,
t = r·√((M−2)/(1−r²)), as `scipy.stats.spearmanr` does; Benjamini and Hochberg (1995) then adjust for the number of
queries, so that at most `level` of those counted are expected to be there by chance.

Shapes: Q queries; M subsets.
"""

from __future__ import annotations

import numpy as np
from scipy import stats


def spearman_p_values(spearman_Q: np.ndarray, subsets: int) -> np.ndarray:
    """One-sided p-values [Q] of r_s > 0 over `subsets` ≥ 3 points; NaN stays NaN."""
    with np.errstate(divide="ignore"):  # r = ±1: t = ±∞, p = 0 or 1
        t_Q = spearman_Q * np.sqrt((subsets - 2) / (1 - spearman_Q**2))
    return stats.t.sf(t_Q, subsets - 2)


def significant_share(p_values_Q: np.ndarray, level: float = 0.05) -> float | None:
    """Share of the defined queries (p-value not NaN) significant after Benjamini-Hochberg; None if none is defined."""
    defined = np.asarray(p_values_Q, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if not len(defined):
        return None
    return float((stats.false_discovery_control(defined, method="bh") <= level).mean())
