"""Populations of queries and subsets with a known LDS, to draw benchmarks from.

Rows have effects on a query: a few topics that many queries share, and a part of the query's own. A method sees them
through errors, some of them common to queries; an outcome is the sum of the kept rows' effects and retraining noise,
some of it common to queries too. So neither queries nor subsets are independent, as in a real benchmark.

Shapes: Q queries, N rows, M subsets, T topics.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from engine.evaluate.correlation import spearman

ROWS, TOPICS = 200, 12


@dataclass(frozen=True)
class Population:
    """quality: Beta parameters of a query's correlation with the true effects (None = the method knows nothing)."""

    own: float  # the query's own effects beside its topics'
    quality: tuple[float, float] | None
    common_error: float  # share of the method's errors that topics carry
    noise: float  # retraining noise over the deviation of the effects' sum
    common_noise: float  # share of that noise that queries have in common

    def draw(self, rng: np.random.Generator, queries: int, subsets: int, methods: int = 1) -> list[np.ndarray]:
        """[prediction_QM of each method, exchangeable with one another, …, outcome_QM]."""
        shape_QN, shape_QT = (queries, ROWS), (queries, TOPICS)
        effects_QN = rng.standard_normal(shape_QT) @ topics(0) + self.own * rng.standard_normal(shape_QN)
        kept_MN = np.argsort(rng.random((subsets, ROWS)), axis=1) < ROWS // 2
        predictions = []
        for _ in range(methods):
            quality_Q1 = rng.beta(*self.quality, size=(queries, 1)) if self.quality else np.zeros((queries, 1))
            errors_QN = self.common_error**0.5 * rng.standard_normal(shape_QT) @ topics(1)
            errors_QN += (1 - self.common_error) ** 0.5 * 0.8 * rng.standard_normal(shape_QN)
            predictions.append((quality_Q1 * effects_QN + (1 - quality_Q1**2) ** 0.5 * errors_QN) @ kept_MN.T)
        spread_Q1 = np.linalg.norm(effects_QN, axis=1, keepdims=True) / 2
        common_QM = rng.standard_normal((queries, 3)) @ rng.standard_normal((3, subsets)) / 3**0.5
        noise_QM = self.common_noise**0.5 * common_QM
        noise_QM += (1 - self.common_noise) ** 0.5 * rng.standard_normal((queries, subsets))
        return [*predictions, effects_QN @ kept_MN.T + self.noise * spread_Q1 * noise_QM]

    def lds(self) -> float:
        """The score of 3,000 queries over 3,000 subsets in three draws: all but the population's own."""
        rng = np.random.default_rng(99)
        return float(np.mean([spearman(*self.draw(rng, 1000, 3000)).mean() for _ in range(3)]))


@cache
def topics(seed: int) -> np.ndarray:
    """[T, N]: which rows a topic is about, and how much."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((TOPICS, ROWS)) * (rng.random((TOPICS, ROWS)) < 0.3)


POPULATIONS = {
    "mixed": Population(own=0.3, quality=(4, 4), common_error=0.5, noise=0.7, common_noise=0.5),
    "common": Population(own=0.0, quality=(20, 20), common_error=1.0, noise=1.0, common_noise=0.9),
    "strong": Population(own=1.0, quality=(8, 2), common_error=0.0, noise=0.3, common_noise=0.0),
    "random": Population(own=0.5, quality=None, common_error=0.5, noise=0.5, common_noise=0.5),
}
