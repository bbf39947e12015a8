"""95 % intervals of a check's means: few trainings, so Student's t.

Shapes: S seeds (or any sample), D random draws.
"""

from __future__ import annotations

import numpy as np

from engine.errors import NonFiniteGradient
from engine.evaluate.jackknife import Spread

Interval = tuple[float | None, float | None]


def interval_of_mean(value_S: np.ndarray) -> Interval:
    """Student's, S − 1 degrees of freedom. (None, None) for one value: nothing tells how it would scatter."""
    if len(value_S) < 2:
        return None, None
    return _around(value_S.mean(), Spread(float(value_S.var(ddof=1)) / len(value_S), len(value_S) - 1))


def interval_over_draws(value_SD: np.ndarray) -> Interval:
    """Of the mean over seeds and random draws, both of them samples.

    V = V_s + V_d, from the means over draws and over seeds; degrees of freedom by Satterthwaite (1946), as in
    engine/evaluate/leave_out.py. Each part holds a share of what neither explains: V errs on the wide side.
    """
    parts = [_variance(value_SD.mean(axis)) for axis in (0, 1) if value_SD.shape[1 - axis] > 1]
    if not parts:
        return None, None
    uncertainty = sum(variance**2 / degrees for variance, degrees in parts)
    variance = sum(variance for variance, _ in parts)
    degrees = variance**2 / uncertainty if uncertainty > 0 else min(degrees for _, degrees in parts)
    return _around(value_SD.mean(), Spread(variance, degrees))


def interval_of_difference(value_S: np.ndarray, random_SD: np.ndarray) -> tuple[float, float | None, float | None]:
    """(mean, low, high) of a set's effect less that of random sets, paired by seed; the draws are a sample too."""
    difference_SD = value_S[:, None] - random_SD
    return float(difference_SD.mean()), *interval_over_draws(difference_SD)


def check_finite(value: np.ndarray, what: str) -> None:
    """Raises NonFiniteGradient."""
    if not np.isfinite(value).all():
        raise NonFiniteGradient(
            f"{what} gave NaN or infinity: a training diverged.",
            remedy="Lower the recipe's learning rate, or clip its gradient.",
        )


def _variance(mean_S: np.ndarray) -> tuple[float, int]:
    """(of the mean of a sample, degrees of freedom)"""
    return float(mean_S.var(ddof=1)) / len(mean_S), len(mean_S) - 1


def _around(centre: float, spread: Spread) -> Interval:
    low, high = spread.interval(float(centre))
    return low, high
