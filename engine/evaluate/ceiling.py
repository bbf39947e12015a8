"""The best LDS that a perfect method could reach, given how much retraining itself varies from seed to seed.

With r the correlation over subsets between two seeds' outcomes, the mean of R seeds correlates √(R·r/(1+(R−1)·r))
with the outcome that infinitely many seeds would give (Spearman 1910, Brown 1910: reliability R·r/(1+(R−1)·r);
its root is the ceiling of a noiseless prediction). For R = 2 that is √(2r/(1+r)).

The formula is exact for Pearson's correlation; with Spearman's it differs by less than 0.01 for normal outcomes.
r is averaged over queries first: the root is concave, so the ceiling is rather too high than too low, and an LDS
divided by it rather too low.

Shapes: Q queries, M subsets, R seeds.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from engine.errors import InvalidOption
from engine.evaluate.correlation import spearman


def seed_reliability(outcome_QMR: np.ndarray) -> float | None:
    """Mean over queries and pairs of seeds of Spearman's correlation over subsets; None if no pair defines one."""
    outcome_QMR = np.asarray(outcome_QMR, dtype=np.float64)
    if outcome_QMR.ndim != 3:
        raise InvalidOption(
            f"Outcomes have {outcome_QMR.ndim} axes; reliability needs [queries, subsets, seeds].",
            remedy="Keep the seeds apart: their agreement is what is measured.",
        )
    pairs = combinations(range(outcome_QMR.shape[2]), 2)
    found = [spearman(outcome_QMR[:, :, a], outcome_QMR[:, :, b]) for a, b in pairs]
    defined = np.concatenate(found) if found else np.empty(0)
    defined = defined[np.isfinite(defined)]
    return float(defined.mean()) if len(defined) else None


def noise_ceiling(reliability: float | None, seeds: int = 2) -> float | None:
    """√(R·r/(1+(R−1)·r)) for outcomes averaged over `seeds`; None where r ≤ 0: then nothing is reproducible."""
    if reliability is None or reliability <= 0:
        return None
    return (seeds * reliability / (1 + (seeds - 1) * reliability)) ** 0.5


def corrected_lds(value: float | None, ceiling: float | None) -> float | None:
    """LDS / ceiling: the share of what can be predicted. Not cut at 1: above it, the ceiling's own error shows."""
    return None if value is None or not ceiling else value / ceiling
