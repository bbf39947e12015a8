"""Scores → nats: what leaving rows out does to f(q), with intervals that hold for queries that were never fitted on.

Scores order rows, but their unit is lost on the way (preconditioning, an ensemble's scale). So the unit is measured:
for retrainings without some rows, predicted = −Σ score/N of the removed rows (DESIGN §2.2) is compared with the
measured change of f, at the same seed. With p = exp(f), where f is a log-probability (else c = 0), the model is

    measured / (1−p)^c = slope · predicted + e,   scale of e = noise + spread·|slope · predicted|

c ≥ 0: an output of which the model is nearly sure hardly moves, whatever the scores say (∂ log p/∂ logit = 1 − p).
noise is what any removal does to a run that is not smooth, spread the queries' own slopes. c and noise come from rows
picked at random. slope and spread come from the rows that the method named for a query ("hits"), where enough such were
left out, because random rows tell another slope: their predictions are mostly the errors of many small scores, which
draws the slope towards 0 (attenuation), and a method's best rows are not random rows. The slope is Huber's (1964)
estimate in units of the scale; its interval is a jackknife over queries (Tukey 1958), refitting everything. A slope
below 0 is put at 0: then the scores tell nothing about effects.

The interval is conformal: residuals in scales come from models that were fitted without the query's group. Cells of
one group are alike, so it is groups that are exchangeable: of one random cell a group, the 0.9·(G+1)-th smallest
|residual| covers a new group's cell with probability 0.9 (Dunn, Wasserman and Ramdas 2023, "Distribution-free
prediction sets for two-layer hierarchical models", arXiv:1809.07441, repeated subsampling). Of the draws the median is
taken, and between two ranks the straight line; both are approximations, and refits on fewer groups err on the wide
side. Below 9 groups there is no such rank, and nothing can be promised.

Shapes: Q queries, V retrainings without random rows, C cells: a query and a retraining without rows named for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

from engine.errors import InvalidOption
from engine.evaluate.effect_model import LEVEL, Effect, EffectModel, room

__all__ = ["MINIMUM_GROUPS", "Effect", "EffectModel", "Named", "fit_effects"]

MINIMUM_GROUPS = 9  # G/(G + 1) ≥ LEVEL
_FOLDS = 10
_HUBER = 1.345  # 95 % of least squares' efficiency where errors are normal
_STEPS = 50
_DRAWS = 400  # of one cell a group
_ROUNDS = 5  # slope and scale are fitted in turn
_LARGEST_EXPONENT = 0.5  # on the quality benchmark 1 gives wider intervals; theory's 1 holds for small steps alone
_LEAST_EFFECT = 1e-4  # nats; smaller ones are rounding
_WINSOR = 0.95  # a few wild queries must not set everyone's scale; the quantile counts them in full


@dataclass(frozen=True, eq=False)
class Named:
    """Retrainings without rows that the method named for a query (its hits), as flat cells; every seed is one.

    query_C: which query; predicted_C, measured_C: as in `fit_effects`, of that query.
    """

    query_C: np.ndarray
    predicted_C: np.ndarray
    measured_C: np.ndarray


@dataclass(frozen=True, eq=False)
class _Cells:
    """Flat: x predicted, y measured, room 1 − p, group 0, 1, …."""

    x: np.ndarray
    y: np.ndarray
    room: np.ndarray
    group: np.ndarray

    def where(self, chosen: np.ndarray) -> _Cells:
        return _Cells(self.x[chosen], self.y[chosen], self.room[chosen], self.group[chosen])


@dataclass(frozen=True)
class _Fit:
    exponent: float
    slope: float
    noise: float
    spread: float

    def scaled(self, cells: _Cells) -> np.ndarray:
        return cells.y / cells.room**self.exponent

    def scale(self, cells: _Cells) -> np.ndarray:
        return self.noise + self.spread * np.abs(self.slope * cells.x)

    def ratios(self, cells: _Cells) -> np.ndarray:
        """|residual| in scales."""
        return np.abs(self.scaled(cells) - self.slope * cells.x) / self.scale(cells)


def fit_effects(
    predicted_QV: np.ndarray,
    measured_QV: np.ndarray,
    groups: Sequence[object],
    *,
    rows: int,
    named: Named | None = None,
    log_prob_Q: np.ndarray | None = None,
) -> EffectModel | None:
    """The model of one run and one method; None where too few groups, or no outcome that varies, allow a promise.

    predicted_QV: −Σ score/N over the random rows each retraining lacks; measured_QV: f after it minus f of the
    undisturbed run with the same seed, nats. groups: of each query; queries of one group are never on both sides of a
    split. rows: N. named: where it covers fewer than MINIMUM_GROUPS groups it is left aside, and the model says so in
    `for_hits`. log_prob_Q: f of the undisturbed run, where f is a log-probability or a mean of such; without it effects
    are taken to be as large for every query.
    Raises InvalidOption for shapes that do not fit and values that are not finite.
    """
    random, hits = _checked(predicted_QV, measured_QV, groups, named, log_prob_Q)
    if len(np.unique(random.group)) < MINIMUM_GROUPS or not random.y.any():
        return None
    if len(np.unique(hits.group)) < MINIMUM_GROUPS:
        hits = None
    fit, judged, folds = _fit(random, hits), random if hits is None else hits, _folds(random, hits)
    refits = [_refit(random, hits, held) for held in folds]
    low, high = _slope_interval(fit.slope, refits)
    return EffectModel(
        rows=rows,
        slope=fit.slope,
        slope_low=low,
        slope_high=high,
        exponent=fit.exponent,
        noise=fit.noise,
        spread=fit.spread,
        quantile=_group_quantile(_held_out_ratios(judged, folds, refits), judged.group),
        typical_size=float(np.median(random.room) ** fit.exponent),
        log_prob=log_prob_Q is not None,
        for_hits=hits is not None,
        queries=len(groups),
        retrainings=random.y.size // len(groups) + (0 if hits is None else hits.y.size),
    )


# --- the model ---


def _fit(random: _Cells, hits: _Cells | None) -> _Fit:
    fit = _alternating(_Fit(_exponent(random), 0.0, 1.0, 0.0), random, known_noise=None)
    return fit if hits is None else _alternating(replace(fit, spread=0.0), hits, known_noise=fit.noise)


def _alternating(fit: _Fit, cells: _Cells, known_noise: float | None) -> _Fit:
    for _ in range(_ROUNDS):
        scale, scaled = fit.scale(cells), fit.scaled(cells)
        slope = max(0.0, _huber_slope(cells.x / scale, scaled / scale))
        least = max(1e-6 * float(np.abs(scaled).max()), np.finfo(float).tiny)
        noise, spread = _noise_and_spread(np.abs(scaled - slope * cells.x), np.abs(slope * cells.x), known_noise, least)
        fit = replace(fit, slope=slope, noise=noise, spread=spread)
    return fit


def _exponent(cells: _Cells) -> float:
    """c of effects ∝ (1−p)^c: Theil and Sen's slope over queries, robust to the few that learned nothing."""
    rooms, query = np.unique(cells.room, return_inverse=True)
    if len(rooms) < 2:
        return 0.0
    size = np.bincount(query, np.abs(cells.y)) / np.bincount(query)
    slope = float(np.asarray(stats.theilslopes(np.log(size + _LEAST_EFFECT), np.log(rooms)))[0])
    return min(max(0.0, slope), _LARGEST_EXPONENT)


def _huber_slope(x: np.ndarray, y: np.ndarray) -> float:
    """Through 0, by iteratively reweighted least squares; 0 where nothing was predicted."""
    if not x.any():
        return 0.0
    slope = float((x * y).sum() / (x * x).sum())
    for _ in range(_STEPS):
        weight = _huber_weights(y - slope * x)
        slope, before = float((weight * x * y).sum() / (weight * x * x).sum()), slope
        if abs(slope - before) <= 1e-9 * abs(slope):
            break
    return slope


def _huber_weights(residual: np.ndarray) -> np.ndarray:
    spread = _HUBER * 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
    if spread <= 0:
        return np.ones_like(residual)
    return np.minimum(1.0, spread / np.maximum(np.abs(residual), spread * 1e-9))


def _noise_and_spread(
    residual: np.ndarray, expected: np.ndarray, known_noise: float | None, least: float
) -> tuple[float, float]:
    """Of the mean |residual| = noise + spread·|expected|, noise ≥ least, spread ≥ 0; by least squares, or about a known
    noise."""
    target = np.minimum(residual, np.quantile(residual, _WINSOR))
    unit = float(expected.max())
    if unit <= 0:
        return max(float(target.mean()), known_noise or least), 0.0
    if known_noise is not None:
        return known_noise, max(0.0, float((target - known_noise).sum() / expected.sum()))
    parts = np.stack([np.ones(len(target)), expected / unit], axis=1)
    noise, spread = optimize.nnls(parts, target)[0]
    return max(float(noise), least), float(spread) / unit


# --- the interval ---


def _folds(random: _Cells, hits: _Cells | None) -> list[np.ndarray]:
    """The groups that each refit leaves out; those with hits are dealt out first, so that every fold has its share."""
    generator = np.random.default_rng(0)
    first = generator.permutation(np.unique(random.group if hits is None else hits.group))
    rest = generator.permutation(np.setdiff1d(random.group, first))
    dealt = np.concatenate([first, rest])
    return [dealt[fold::_FOLDS] for fold in range(min(_FOLDS, len(dealt)))]


def _refit(random: _Cells, hits: _Cells | None, without: np.ndarray) -> _Fit:
    others = None if hits is None else hits.where(~np.isin(hits.group, without))
    return _fit(random.where(~np.isin(random.group, without)), others)


def _held_out_ratios(judged: _Cells, folds: Sequence[np.ndarray], refits: Sequence[_Fit]) -> np.ndarray:
    """|residual| in scales, each by the refit that never saw its group."""
    ratios = np.empty(len(judged.y))
    for held, refit in zip(folds, refits, strict=True):
        inside = np.isin(judged.group, held)
        ratios[inside] = refit.ratios(judged.where(inside))
    return ratios


def _slope_interval(slope: float, refits: Sequence[_Fit]) -> tuple[float, float]:
    """LEVEL interval by the grouped jackknife (F−1)/F Σ(slope without fold f − their mean)², Student with F−1 degrees:
    it counts what the exponent and the scale leave uncertain too."""
    slopes_F = np.array([refit.slope for refit in refits])
    count = len(slopes_F)
    error = ((count - 1) / count * float(((slopes_F - slopes_F.mean()) ** 2).sum())) ** 0.5
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
    return slope - half, slope + half


def _group_quantile(ratios: np.ndarray, group: np.ndarray) -> float:
    """The LEVEL·(G+1)-th smallest of one random cell a group, in the median over draws; finite from 9 groups on."""
    _, group, count_G = np.unique(group, return_inverse=True, return_counts=True)
    by_group, first_G = ratios[np.argsort(group, kind="stable")], np.cumsum(count_G) - count_G
    drawn_DG = np.random.default_rng(0).random((_DRAWS, len(count_G)))
    ordered_DG = np.sort(by_group[first_G + (drawn_DG * count_G).astype(np.int64)], axis=1)
    place = min(LEVEL * (len(count_G) + 1), len(count_G)) - 1  # whole numbers are ranks from 0
    below, share = int(place), place - int(place)
    above = min(below + 1, len(count_G) - 1)
    return float(np.median((1 - share) * ordered_DG[:, below] + share * ordered_DG[:, above]))


# --- what was given ---


def _checked(
    predicted_QV: np.ndarray,
    measured_QV: np.ndarray,
    groups: Sequence[object],
    named: Named | None,
    log_prob_Q: np.ndarray | None,
) -> tuple[_Cells, _Cells]:
    predicted_QV, measured_QV = np.asarray(predicted_QV, np.float64), np.asarray(measured_QV, np.float64)
    log_prob_Q = np.full(len(groups), -np.inf) if log_prob_Q is None else np.asarray(log_prob_Q, np.float64)
    named = named or Named(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    query_C = np.asarray(named.query_C, np.int64)
    x_C, y_C = np.asarray(named.predicted_C, np.float64), np.asarray(named.measured_C, np.float64)
    if (
        measured_QV.ndim != 2
        or predicted_QV.shape != measured_QV.shape
        or not (len(groups) == len(log_prob_Q) == len(measured_QV) and query_C.shape == x_C.shape == y_C.shape)
    ):
        raise InvalidOption(
            f"Shapes do not fit: {predicted_QV.shape}, {measured_QV.shape}, {len(groups)} groups, "
            f"f {log_prob_Q.shape}, named {query_C.shape}, {x_C.shape}, {y_C.shape}.",
            remedy="Give twice [queries, retrainings], a group and an f for each query, named cells of one length.",
        )
    if not all(np.isfinite(each).all() for each in (predicted_QV, measured_QV, x_C, y_C)) or np.isnan(log_prob_Q).any():
        raise InvalidOption("A prediction or an outcome is NaN or infinite.", remedy="Leave diverged retrainings out.")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    group_Q = np.array([numbers[group] for group in groups], np.int64)
    room_Q = np.array([room(log_prob) for log_prob in log_prob_Q])
    wide = np.repeat(np.arange(len(groups)), measured_QV.shape[1])
    random = _Cells(predicted_QV.ravel(), measured_QV.ravel(), room_Q[wide], group_Q[wide])
    return random, _Cells(x_C, y_C, room_Q[query_C], group_Q[query_C])
