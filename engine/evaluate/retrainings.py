"""Which retrainings an evaluation makes, and what they did to the queries.

Shapes: Q queries, N rows, M subsets, R seeds, V directions, K random draws, L queries whose top rows are left out.

Subsets come from their number alone: an evaluation that asks for more of them keeps those that were made. The audited
run's own seed is asked about this run; other seeds, far from what people choose, about other compositions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.causal.audited import audited_seeds
from engine.causal.variant import Variant
from engine.config import Training
from engine.evaluate.scorecard import EvaluationConfig

_SMALL_STEP = 0.5  # of a row's weight: two steps remove it (engine/evaluate/metasmooth.py)
_HALF, _DROP, _DIRECTION, _RANDOM = range(4)


@dataclass(frozen=True)
class Retrainings:
    """The random part of an evaluation: everything but the rows that methods name."""

    rows: int
    training: Training
    config: EvaluationConfig

    @property
    def audited_seed(self) -> int:
        return self.training.seed

    @property
    def other_seeds(self) -> tuple[int, ...]:
        """Of the half regime; no replica of an index has one of these."""
        return audited_seeds(self.training, 1 + self.config.half_seeds)[1:]

    @property
    def leave_out_seeds(self) -> tuple[int, ...]:
        return (self.audited_seed, *self.other_seeds)[: self.config.leave_out_seeds]

    @property
    def half_kept_MN(self) -> np.ndarray:
        """bool: True where a row is kept."""
        return self._subsets(self.config.half_subsets, self.rows - self.rows // 2, _HALF)

    @property
    def drop_kept_MN(self) -> np.ndarray:
        removed = max(1, round(self.rows * self.config.drop_share))
        return self._subsets(self.config.drop_subsets, removed, _DROP)

    @property
    def random_rows_KL(self) -> np.ndarray:
        """int64 [K, rows left out]: the draws that the top rows are compared with."""
        kept_KN = self._subsets(self.config.leave_out_draws, self.config.leave_out_rows, _RANDOM)
        return np.stack([np.flatnonzero(~kept_N) for kept_N in kept_KN])

    def variants(self) -> list[Variant]:
        """The audited run's own seed first: where time runs out, this run is what is known."""
        seeds = dict.fromkeys((self.audited_seed, *self.leave_out_seeds))
        return [
            *(Variant(full(seed), seed) for seed in seeds),
            *self._without("drop", self.drop_kept_MN, (self.audited_seed,)),
            *self._without("half", self.half_kept_MN, self.other_seeds),
            *self._random(),
            *self._directions(),
        ]

    def without_rows(self, name: str, query: int, positions: Sequence[int]) -> list[Variant]:
        """A method's top rows for one query left out, at every seed of the leave-out."""
        return [Variant.without(left_out(name, query, seed), seed, positions) for seed in self.leave_out_seeds]

    def _subsets(self, count: int, removed: int, purpose: int) -> np.ndarray:
        kept_MN = np.ones((count, self.rows), bool)
        for m in range(count):
            generator = np.random.default_rng((self.config.seed, purpose, m))
            kept_MN[m, generator.choice(self.rows, min(removed, self.rows), replace=False)] = False
        return kept_MN

    def _without(self, regime: str, kept_MN: np.ndarray, seeds: Sequence[int]) -> list[Variant]:
        return [
            Variant.without(subset(regime, m, seed), seed, np.flatnonzero(~kept_N).tolist())
            for seed in seeds
            for m, kept_N in enumerate(kept_MN)
        ]

    def _random(self) -> Iterator[Variant]:
        if not self.config.leave_out_queries:
            return
        for k, positions_L in enumerate(self.random_rows_KL):
            for seed in self.leave_out_seeds:
                yield Variant.without(subset("random", k, seed), seed, positions_L.tolist())

    def _directions(self) -> Iterator[Variant]:
        removed = max(1, round(self.rows * self.config.drop_share))
        for v, kept_N in enumerate(self._subsets(self.config.directions, removed, _DIRECTION)):
            rows = np.flatnonzero(~kept_N).tolist()
            for step in (1, 2):
                weights = tuple((row, 1 - step * _SMALL_STEP) for row in rows)
                yield Variant(direction(v, step), self.audited_seed, weights)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """f in nats after the random retrainings. full: by seed. random_QKR: without the random draws."""

    half_QMR: np.ndarray
    drop_QM: np.ndarray
    full_Q: dict[int, np.ndarray]
    random_QKR: np.ndarray
    step_1_QV: np.ndarray
    step_2_QV: np.ndarray

    @classmethod
    def of(cls, plan: Retrainings, found: Mapping[str, np.ndarray], queries: int) -> Outcomes:
        config, seeds, tops = plan.config, plan.other_seeds, plan.leave_out_seeds
        draws = range(config.leave_out_draws if config.leave_out_queries else 0)

        def stacked(names: Sequence[str]) -> np.ndarray:
            return np.stack([found[name] for name in names], axis=1) if names else np.zeros((queries, 0))

        def by_seed(regime: str, count: int, over: Sequence[int]) -> np.ndarray:
            parts = [stacked([subset(regime, m, seed) for m in range(count)]) for seed in over]
            return np.stack(parts, axis=2) if parts else np.zeros((queries, count, 0))

        directions = range(config.directions)
        return cls(
            half_QMR=by_seed("half", config.half_subsets, seeds),
            drop_QM=by_seed("drop", config.drop_subsets, (plan.audited_seed,))[:, :, 0],
            full_Q={seed: found[full(seed)] for seed in dict.fromkeys((plan.audited_seed, *tops))},
            random_QKR=by_seed("random", len(draws), tops),
            step_1_QV=stacked([direction(v, 1) for v in directions]),
            step_2_QV=stacked([direction(v, 2) for v in directions]),
        )


def full(seed: int) -> str:
    return f"full seed {seed}"


def subset(regime: str, number: int, seed: int) -> str:
    return f"{regime} {number} seed {seed}"


def direction(number: int, step: int) -> str:
    return f"direction {number} step {step}"


def left_out(method: str, query: int, seed: int) -> str:
    return f"without top of {method} for query {query} seed {seed}"
