"""How reliable a ranking is for one query: the model, and what it says of an answer. Plain Python, no NumPy.

reliability.py fits the model on a scorecard's queries. It holds, as JSON:

    values        feature → its sorted values among the evaluation's queries: a feature counts by its rank alone
    weights       feature → what a rank from −1 to 1 adds to `centre`
    mean, slope   the prediction is drawn towards the mean: mean + slope · (centre + Σ weight · rank − mean)
    calibration   [predicted, measured] LDS of every query, predicted without its group, ascending
    skill         whether those predictions told queries apart; without skill every query is given the mean
    low_to, high_from   the predictions' terciles
    floor         [LDS, in words]: what a ranking has to be better than to be acted on
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.types import Attribution

Level = Literal["high", "usual", "low"]
COVERAGE = 0.8
NEIGHBOURS = 20  # fewer have no second smallest and second largest that mean anything
_DIAGNOSTICS = (
    "positive_share_top_1pct",
    "top1_concentration",
    "length_correlation",
    "null_z",
    "score_spread",
    "effective_rows",
    "query_norm",
    "checkpoint_agreement",
    "bm25_agreement",
)


@dataclass(frozen=True)
class Reliability:
    """value: the predicted LDS of this very query, as measured on as many retrainings as the scorecard's.

    low, high: 80 % of queries that looked like this one lay between them. level: low = abstain. words: one sentence.
    """

    value: float
    low: float
    high: float
    level: Level
    words: str


def query_features(attribution: Attribution) -> dict[str, float]:
    """What is known of an answer without any retraining; what the method cannot give is left out."""
    measured = attribution.measurement
    tokens = max(1, measured.tokens)
    found: dict[str, float | None] = {name: getattr(attribution.diagnostics, name) for name in _DIAGNOSTICS}
    found |= {"explained_tokens": float(measured.tokens), "measurement_per_token": measured.value / tokens}
    if attribution.tuned_minus_base is not None:
        found["gain_per_token"] = attribution.tuned_minus_base / tokens
    if attribution.proponents:
        found["best_cosine"] = attribution.proponents[0].normalized_score
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def rank(value: float | None, values: Sequence[float]) -> float:
    """Where a value lies among sorted ones, −1 (below all) to 1 (above all); 0 for a missing one."""
    if value is None or not math.isfinite(value):
        return 0.0
    return (bisect_left(values, value) + bisect_right(values, value)) / len(values) - 1


def predict(model: Mapping[str, Any], features: Mapping[str, float]) -> Reliability:
    """What the model that `fit_reliability` gave says of a query with these features."""
    value = model["mean"]
    if model["skill"]:
        parts = (weight * rank(features.get(name), model["values"][name]) for name, weight in model["weights"].items())
        value += model["slope"] * (model["centre"] + math.fsum(parts) - model["mean"])
    value = min(1.0, max(-1.0, value))
    low, high = interval(model["calibration"], value, everywhere=not model["skill"])
    level = _level(model, value, low)
    return Reliability(value, low, high, level, _words(model, value, low, high, level))


def interval(calibration: Sequence[Sequence[float]], value: float, *, everywhere: bool = False) -> tuple[float, float]:
    """value + the residuals' 10 % and 90 % quantiles among the queries with the most similar predictions (a quarter of
    them, at least NEIGHBOURS; `everywhere`: all), split-conformal: ranks ⌊(n+1)·0.1⌋ and ⌈(n+1)·0.9⌉ of n (Vovk et al.
    2005; local: Lei and Wasserman 2014, arXiv:1203.5422)."""
    count = len(calibration) if everywhere else max(NEIGHBOURS, len(calibration) // 4)
    near = sorted(calibration, key=lambda pair: (abs(pair[0] - value), pair[0], pair[1]))[:count]
    residuals = sorted(measured - predicted for predicted, measured in near)
    tail = (1 - COVERAGE) / 2
    first = max(1, math.floor((len(near) + 1) * tail + 1e-9))
    low, high = residuals[first - 1], residuals[-first]
    return min(value, max(-1.0, value + low)), max(value, min(1.0, value + high))


def _level(model: Mapping[str, Any], value: float, low: float) -> Level:
    floor = model["floor"][0]
    if not model["skill"]:
        return "low" if model["mean_low"] <= floor else "usual"
    if low <= floor:
        return "low"
    return "high" if value >= model["high_from"] else "usual"


def _words(model: Mapping[str, Any], value: float, low: float, high: float, level: Level) -> str:
    floor, name = model["floor"]
    about = f"{value:.2f}, 80 % of such queries between {low:.2f} and {high:.2f}"
    than = name if floor == 0 else f"{name} ({floor:.2f})"
    if not model["skill"]:
        alike = f"On this index reliability cannot be told apart from query to query; its rank correlation is {about}"
        return f"{alike}: on average no better than {than}; do not act on it." if level == "low" else f"{alike}."
    if level == "low":
        return (
            f"For outputs like this one the ranking was too often no better than {than} (rank correlation about "
            f"{about}); do not act on it."
        )
    usual = "less reliable than for most" if value <= model["low_to"] else "about as reliable as usual"
    was = "more reliable than for most" if level == "high" else usual
    return f"For outputs like this one the ranking was {was}: rank correlation about {about}."
