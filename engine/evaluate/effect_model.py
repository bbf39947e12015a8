"""What leaving a row, or a few, out of this very run would do to f(q), in nats, with a 90 % interval.

Fitted by engine/evaluate/effects.py, where the model is explained. Plain floats, so an answer is given without NumPy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEVEL = 0.9
FLOOR = 1e-3  # of 1 − p: below it the output is as good as certain


@dataclass(frozen=True)
class Effect:
    """value: the expected change of f in nats when the rows are left out, negative for proponents. low, high: a
    measurement of it lies between them in `level` of the cases."""

    value: float
    low: float
    high: float
    level: float = LEVEL


@dataclass(frozen=True)
class EffectModel:
    """rows: N of the training set. slope (slope_low to slope_high, a 90 % interval over queries): nats for each unit of
    −Σ score/N, of an output with p near 0. exponent: effects grow like (1 − p)^exponent. noise, spread: the residual's
    scale is noise + spread·|expected|, in the same units. quantile: half an interval, in scales. typical_size:
    (1 − p)^exponent of the median query. log_prob: f is a log-probability, which cannot exceed 0; of other measurements
    exponent is 0. for_hits: slope and interval are those of rows that the method itself names; else of rows picked at
    random, and a hit's effect may lie outside. queries, retrainings: how many were fitted on.
    """

    rows: int
    slope: float
    slope_low: float
    slope_high: float
    exponent: float
    noise: float
    spread: float
    quantile: float
    typical_size: float
    log_prob: bool
    for_hits: bool
    queries: int
    retrainings: int

    def predict(self, score: float, measured: float | None = None) -> Effect:
        """score: of the row, or the sum over a few. measured: f(q) of the query asked about; None stands for a query of
        median size, whose interval may be too narrow for this one."""
        log_prob = measured if self.log_prob else None
        size = self.typical_size if log_prob is None else room(log_prob) ** self.exponent
        expected = self.slope * -score / self.rows
        value, half = size * expected, size * (self.noise + self.spread * abs(expected)) * self.quantile
        most = math.inf if log_prob is None else max(0.0, -log_prob)
        return Effect(min(value, most), value - half, min(value + half, most))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> EffectModel:
        return cls(**given)


def room(log_prob: float) -> float:
    """1 − p, at least FLOOR: how much probability the model leaves to other outputs."""
    return max(-math.expm1(min(log_prob, 0.0)), FLOOR)
