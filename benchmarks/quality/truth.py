"""What retraining really does to the questions: every retraining of the quality benchmark, cached and resumable.

Shapes: Q questions, N rows, M subsets, R seeds, V directions.

The subsets come from their number alone, so a quick run's are the first of the full run's, and its retrainings count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.causal.retrain import Cost, Study, Variant, estimate, retrain
from engine.types import CheckpointFn

DRAW = 10  # the second: subsets and seeds of the first (0) were looked at while Whence's default was chosen
DROPPED_SHARE = 0.02
SMALL_STEP = 0.5  # of a row's weight: two steps remove it


@dataclass(frozen=True)
class Plan:
    """half: subsets of half the rows. drop: subsets without 2 % of them. directions: of the metasmoothness."""

    half: int = 60
    half_seeds: tuple[int, ...] = (8, 9)
    drop: int = 60
    drop_seeds: tuple[int, ...] = (7, 8, 9)
    directions: int = 8


FULL = Plan()
ROUGH = Plan(drop_seeds=(7,))  # other seeds tell nothing of single rows where the run itself is chaos
QUICK = Plan(half=25, half_seeds=(8,), drop=25, drop_seeds=(7,), directions=4)


@dataclass(frozen=True)
class Truth:
    """outcome: f in nats. The first of the drop seeds is the audited run's own."""

    half_kept_MN: np.ndarray
    half_outcome_QMR: np.ndarray
    drop_kept_MN: np.ndarray
    drop_outcome_QMR: np.ndarray
    full_outcome_QR: np.ndarray  # undisturbed, with the drop seeds
    step_1_QV: np.ndarray
    step_2_QV: np.ndarray


def measure(study: Study, plan: Plan, out: Path, on_progress: CheckpointFn | None = None) -> Truth:
    rows = len(study.examples)
    outcome_VQ = retrain(study, variants(rows, plan), out, on_progress)
    found = dict(zip((variant.name for variant in variants(rows, plan)), outcome_VQ, strict=True))
    half_MN, drop_MN = half_subsets(rows, plan.half), drop_subsets(rows, plan.drop)
    return Truth(
        half_kept_MN=half_MN,
        half_outcome_QMR=_stack(found, "half", plan.half, plan.half_seeds),
        drop_kept_MN=drop_MN,
        drop_outcome_QMR=_stack(found, "drop", plan.drop, plan.drop_seeds),
        full_outcome_QR=np.stack([found[f"full seed {seed}"] for seed in plan.drop_seeds], axis=1),
        step_1_QV=np.stack([found[f"direction {v} step 1"] for v in range(plan.directions)], axis=1),
        step_2_QV=np.stack([found[f"direction {v} step 2"] for v in range(plan.directions)], axis=1),
    )


def cost(study: Study, plan: Plan, out: Path) -> Cost:
    return estimate(study, variants(len(study.examples), plan), out)


def variants(rows: int, plan: Plan) -> list[Variant]:
    """Every retraining of the plan. Those of the audited run's own seed come first."""
    audited = plan.drop_seeds[0]
    return [
        *(Variant(f"full seed {seed}", seed) for seed in plan.drop_seeds),
        *_removals("drop", drop_subsets(rows, plan.drop), plan.drop_seeds),
        *_removals("half", half_subsets(rows, plan.half), plan.half_seeds),
        *_directions(drop_subsets(rows, plan.directions, salt=DRAW + 1), audited),
    ]


def half_subsets(rows: int, count: int) -> np.ndarray:
    """bool [M, N]: True where a row is kept."""
    return _subsets(rows, count, rows - rows // 2, DRAW + 2)


def drop_subsets(rows: int, count: int, salt: int = DRAW + 3) -> np.ndarray:
    """bool [M, N]: True where a row is kept."""
    return _subsets(rows, count, max(1, round(rows * DROPPED_SHARE)), salt)


def _subsets(rows: int, count: int, removed: int, salt: int) -> np.ndarray:
    kept_MN = np.ones((count, rows), bool)
    for m in range(count):
        kept_MN[m, np.random.default_rng((salt, m)).choice(rows, removed, replace=False)] = False
    return kept_MN


def _removals(name: str, kept_MN: np.ndarray, seeds: Sequence[int]) -> list[Variant]:
    return [
        Variant.without(f"{name} {m} seed {seed}", seed, np.flatnonzero(~kept_N).tolist())
        for seed in seeds
        for m, kept_N in enumerate(kept_MN)
    ]


def _directions(kept_VN: np.ndarray, seed: int) -> list[Variant]:
    """Two successive steps that take SMALL_STEP of the weight from the direction's rows each."""
    return [
        Variant(
            f"direction {v} step {step}",
            seed,
            tuple((row, 1 - step * SMALL_STEP) for row in np.flatnonzero(~kept_N).tolist()),
        )
        for v, kept_N in enumerate(kept_VN)
        for step in (1, 2)
    ]


def _stack(found: dict[str, np.ndarray], name: str, count: int, seeds: Sequence[int]) -> np.ndarray:
    """float64 [Q, M, R]"""
    return np.stack(
        [np.stack([found[f"{name} {m} seed {seed}"] for m in range(count)], axis=1) for seed in seeds], axis=2
    )
