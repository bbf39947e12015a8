"""Predicting a query's own LDS from what its answer shows: fitted, and calibrated, on a scorecard's queries.

The model is a sum of ranks. Every feature is replaced by its rank among the evaluation's queries, so that no unit and
no outlier matters; weights are found by ridge regression, the strength by cross-validation over groups. A feature whose
direction is known beforehand may only count in that direction, and others are held down FREE_PENALTY times as strongly:
with 40 to 200 queries there is no evidence for more. Predictions of queries whose group was left out, strength and all,
say how far the model may be believed; where they do not tell queries apart, it predicts the mean and says so.

The directions: checkpoints that contradict each other, scores spread over all rows, and a best row that hardly stands
out are what noise looks like.

Shapes: Q queries, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import nnls

from engine.errors import InvalidOption
from engine.evaluate.correlation import spearman
from engine.evaluate.reliability_model import Reliability, predict, query_features, rank

__all__ = [
    "Halves",
    "Reliability",
    "cross_fitted",
    "fit_reliability",
    "halves",
    "predict",
    "query_features",
]

LEAST_QUERIES, LEAST_GROUPS = 20, 8
FOLDS = 10
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
FREE_PENALTY = 10.0
DIRECTIONS = {
    "checkpoint_agreement": 1,
    "positive_share_top_1pct": 1,
    "null_z": 1,
    "score_spread": 1,
    "best_cosine": 1,
    "effective_rows": -1,
}
_ONE_SIDED = 1.6449


@dataclass(frozen=True)
class Halves:
    """Mean LDS of the half with the higher predictions, and of the other; difference = top − bottom, its 95 % interval
    (Welch). All None where predictions do not differ or fewer than 4 queries are defined."""

    top: float | None
    bottom: float | None
    difference: float | None
    low: float | None
    high: float | None
    queries: int


@dataclass(frozen=True, eq=False)
class _Fit:
    """centre + Σ weight · rank."""

    values: dict[str, list[float]]
    weights: dict[str, float]
    centre: float

    def __call__(self, features: Sequence[Mapping[str, float]]) -> np.ndarray:
        return self.centre + _ranks(features, self.values) @ np.array(list(self.weights.values()))


def fit_reliability(
    features: Sequence[Mapping[str, float]],
    lds_Q: np.ndarray,
    groups: Sequence[str],
    *,
    floor: tuple[float, str] = (0.0, "chance"),
) -> dict[str, Any] | None:
    """The model (see reliability_model), JSON-able. lds_Q: NaN where undefined; groups: never on both sides of a split.

    floor: the LDS a ranking has to be better than, and what has that LDS. None below 20 defined queries or 8 groups.
    Raises InvalidOption when lengths differ.
    """
    features, lds_Q, groups = _defined(features, lds_Q, groups)
    if len(lds_Q) < LEAST_QUERIES or len(set(groups)) < LEAST_GROUPS:
        return None
    predicted_Q = cross_fitted(features, lds_Q, groups)
    correlation, lowest = _skill(predicted_Q, lds_Q, len(set(groups)))
    fit = _fit_tuned(features, lds_Q, groups)
    mean, skill = float(lds_Q.mean()), lowest > 0
    slope = _slope(predicted_Q, lds_Q) if skill else 0.0
    calibrated_Q = mean + slope * (predicted_Q - mean)
    return {
        "version": 1,
        "skill": skill,
        "correlation": correlation,
        "correlation_low": lowest,
        "queries": len(lds_Q),
        "groups": len(set(groups)),
        "mean": mean,
        "mean_low": mean - _ONE_SIDED * float(lds_Q.std(ddof=1)) / len(set(groups)) ** 0.5,
        "slope": slope,
        "centre": fit.centre,
        "values": fit.values,
        "weights": fit.weights,
        "calibration": np.stack([calibrated_Q, lds_Q], 1)[np.lexsort((lds_Q, calibrated_Q))].tolist(),
        "low_to": float(np.quantile(calibrated_Q, 1 / 3)),
        "high_from": float(np.quantile(calibrated_Q, 2 / 3)),
        "floor": list(floor),
    }


def cross_fitted(features: Sequence[Mapping[str, float]], lds_Q: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """float64 [Q]: every query predicted by a model, its strength included, that saw no query of its group. lds_Q is
    defined for all."""
    predicted_Q = np.empty(len(lds_Q))
    for held_Q in _folds(groups):
        fit = _fit_tuned(*_taken(features, lds_Q, groups, ~held_Q))
        predicted_Q[held_Q] = fit([features[q] for q in np.flatnonzero(held_Q).tolist()])
    return predicted_Q


def halves(predicted_Q: np.ndarray, lds_Q: np.ndarray) -> Halves:
    """Queries without an LDS do not count; of an odd number the middle one. Ties: by position."""
    predicted_Q, lds_Q = np.asarray(predicted_Q, np.float64), np.asarray(lds_Q, np.float64)
    defined_Q = np.isfinite(lds_Q) & np.isfinite(predicted_Q)
    predicted_Q, lds_Q = predicted_Q[defined_Q], lds_Q[defined_Q]
    half = len(lds_Q) // 2
    if half < 2 or np.ptp(predicted_Q) == 0:
        return Halves(None, None, None, None, None, len(lds_Q))
    order = np.argsort(predicted_Q, kind="stable")
    bottom, top = lds_Q[order[:half]], lds_Q[order[-half:]]
    difference = float(top.mean() - bottom.mean())
    if np.ptp(top) == 0 and np.ptp(bottom) == 0:
        low, high = difference, difference
    else:
        low, high = _welch(difference, top, bottom)
    return Halves(float(top.mean()), float(bottom.mean()), difference, low, high, len(lds_Q))


def _welch(difference: float, top: np.ndarray, bottom: np.ndarray) -> tuple[float, float]:
    """95 % interval of the difference of two means of equally many (Welch 1947)."""
    variances = np.array([top.var(ddof=1), bottom.var(ddof=1)]) / len(top)
    freedom = (len(top) - 1) * variances.sum() ** 2 / np.square(variances).sum()
    margin = float(stats.t.ppf(0.975, freedom) * np.sqrt(variances.sum()))
    return difference - margin, difference + margin


def _fit_tuned(features: Sequence[Mapping[str, float]], lds_Q: np.ndarray, groups: Sequence[str]) -> _Fit:
    """The strength with the least squared error on groups left out; of equal ones the strongest."""
    errors = np.zeros(len(STRENGTHS))
    for held_Q in _folds(groups):
        kept, kept_lds_Q, _ = _taken(features, lds_Q, groups, ~held_Q)
        held = [features[q] for q in np.flatnonzero(held_Q).tolist()]
        for i, fit in enumerate(_fits(kept, kept_lds_Q, STRENGTHS)):
            errors[i] += np.square(fit(held) - lds_Q[held_Q]).sum()
    best = max(i for i, error in enumerate(errors) if error <= errors.min())
    return _fits(features, lds_Q, STRENGTHS[best : best + 1])[0]


def _fits(features: Sequence[Mapping[str, float]], lds_Q: np.ndarray, strengths: Sequence[float]) -> list[_Fit]:
    """min Σ (lds − mean − Σ w·(rank − its mean))² + strength·Q·Σ penalty·w², w ≥ 0 in each known direction.

    By non-negative least squares (Lawson and Hanson 1974) on rows stacked below the data; a free weight is the
    difference of two non-negative ones.
    """
    values = _values(features)
    signs_F = np.array([DIRECTIONS.get(name, 0) for name in values])
    ranks_QF = _ranks(features, values)
    centred_QF, mean = ranks_QF - ranks_QF.mean(0), float(lds_Q.mean())
    free_F = np.flatnonzero(signs_F == 0)
    columns = np.concatenate([np.arange(len(signs_F)), free_F])
    direction = np.concatenate([np.where(signs_F == 0, 1, signs_F), -np.ones(len(free_F))])
    penalty = np.where(signs_F[columns] == 0, FREE_PENALTY, 1.0) * len(lds_Q)
    target = np.concatenate([lds_Q - mean, np.zeros(len(columns))])
    found = []
    for strength in strengths:
        below = np.diag(np.sqrt(strength * penalty))
        parts = nnls(np.vstack([centred_QF[:, columns] * direction, below]), target)[0] if len(columns) else []
        weights_F = np.bincount(columns, parts * direction, len(signs_F)) if len(columns) else np.zeros(0)
        centre = mean - float(ranks_QF.mean(0) @ weights_F)
        found.append(_Fit(values, dict(zip(values, weights_F.tolist(), strict=True)), centre))
    return found


def _values(features: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Every feature that at least half of the queries have and that is not the same for all: its sorted values."""
    names = sorted({name for each in features for name in each})
    values = {name: sorted(float(f[name]) for f in features if np.isfinite(f.get(name, np.nan))) for name in names}
    return {name: v for name, v in values.items() if 2 * len(v) >= len(features) and v[0] < v[-1]}


def _ranks(features: Sequence[Mapping[str, float]], values: Mapping[str, list[float]]) -> np.ndarray:
    """float64 [Q, F]"""
    ranks = [[rank(each.get(name), known) for name, known in values.items()] for each in features]
    return np.array(ranks, np.float64).reshape(len(features), len(values))


def _folds(groups: Sequence[str]) -> list[np.ndarray]:
    """bool [Q] each: whole groups, dealt out in an order that depends on their names alone."""
    distinct = sorted(set(groups))
    count = min(FOLDS, len(distinct))
    dealt = np.random.default_rng(len(distinct)).permutation(len(distinct)) % count
    fold_of = dict(zip(distinct, dealt.tolist(), strict=True))
    of_query = np.array([fold_of[group] for group in groups])
    return [of_query == fold for fold in range(count)]


def _taken(
    features: Sequence[Mapping[str, float]], lds_Q: np.ndarray, groups: Sequence[str], kept_Q: np.ndarray
) -> tuple[list[Mapping[str, float]], np.ndarray, list[str]]:
    chosen = np.flatnonzero(kept_Q).tolist()
    return [features[q] for q in chosen], lds_Q[kept_Q], [groups[q] for q in chosen]


def _defined(
    features: Sequence[Mapping[str, float]], lds_Q: np.ndarray, groups: Sequence[str]
) -> tuple[list[Mapping[str, float]], np.ndarray, list[str]]:
    lds_Q = np.asarray(lds_Q, np.float64)
    if not len(features) == len(lds_Q) == len(groups):
        raise InvalidOption(
            f"{len(features)} queries have features, {len(lds_Q)} an LDS and {len(groups)} a group.",
            remedy="Give all three for the same queries, in the same order.",
        )
    return _taken(features, lds_Q, groups, np.isfinite(lds_Q))


def _skill(predicted_Q: np.ndarray, lds_Q: np.ndarray, groups: int) -> tuple[float, float]:
    """Spearman's correlation of predicted and measured, and its one-sided 95 % bound (Fisher's z, groups counted as
    the sample: queries of one group are not independent)."""
    if np.ptp(predicted_Q) == 0 or np.ptp(lds_Q) == 0:
        return 0.0, -1.0
    correlation = float(spearman(predicted_Q[None], lds_Q[None])[0])
    z = np.arctanh(np.clip(correlation, -0.999999, 0.999999))
    return correlation, float(np.tanh(z - _ONE_SIDED / (groups - 3) ** 0.5))


def _slope(predicted_Q: np.ndarray, lds_Q: np.ndarray) -> float:
    """Of the measured on the predicted, between 0 and 1: predictions are drawn towards the mean, never spread out."""
    centred_Q = predicted_Q - predicted_Q.mean()
    spread = float(centred_Q @ centred_Q)
    return float(np.clip(centred_Q @ lds_Q / spread, 0, 1)) if spread > 0 else 0.0
