"""Leave-top-k-out: what happens to an answer when the rows a method names are really removed, and random ones instead.

Shapes: Q questions asked, R seeds, K draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.table import MethodScores
from benchmarks.quality.world import Question
from engine.causal.retrain import Study, Variant, retrain
from engine.evaluate.leave_out import leave_out
from engine.types import CheckpointFn

TOP = 4  # as many rows as teach a fact
DRAWS = 8
SEEDS = (7, 8)


@dataclass(frozen=True)
class Asked:
    """positions: of the questions, every fifth fact."""

    positions: tuple[int, ...]
    study: Study

    @classmethod
    def facts(cls, study: Study, questions: Sequence[Question]) -> Asked:
        return cls(tuple(q for q, question in enumerate(questions) if question.kind == "fact")[::5], study)


def leave_out_rows(
    asked: Asked, methods: Sequence[MethodScores], out: Path, on_progress: CheckpointFn | None = None
) -> list[dict[str, Any]]:
    """One dict a method: the mean fall of log p (nats) without its top rows, and without random ones."""
    variants = [*_undisturbed(), *_random(len(asked.study.examples))]
    variants += [variant for method in methods for variant in _without_top(asked, method)]
    outcome_VQ = retrain(asked.study, variants, out, on_progress)
    found = {variant.name: outcome_Q for variant, outcome_Q in zip(variants, outcome_VQ, strict=True)}
    random_QRK = np.array(
        [[[_fall(found, f"random {k}", q, s) for k in range(DRAWS)] for s in SEEDS] for q in asked.positions]
    )
    return [_row(method, asked, found, random_QRK) for method in methods]


def _row(method: MethodScores, asked: Asked, found: dict[str, np.ndarray], random_QRK: np.ndarray) -> dict[str, Any]:
    top_QR = np.array([[_fall(found, f"leave {method.name} {q}", q, s) for s in SEEDS] for q in asked.positions])
    measured = leave_out(top_QR, random_QRK)
    return {"method": method.name, "source": method.source, "rows removed": TOP} | vars(measured)


def _fall(found: dict[str, np.ndarray], name: str, question: int, seed: int) -> float:
    return float(found[f"full seed {seed}"][question] - found[f"{name} seed {seed}"][question])


def _undisturbed() -> list[Variant]:
    return [Variant(f"full seed {seed}", seed) for seed in SEEDS]


def _random(rows: int) -> list[Variant]:
    removed = [np.random.default_rng((4, k)).choice(rows, TOP, replace=False).tolist() for k in range(DRAWS)]
    return [Variant.without(f"random {k} seed {seed}", seed, some) for k, some in enumerate(removed) for seed in SEEDS]


def _without_top(asked: Asked, method: MethodScores) -> list[Variant]:
    top_QK = np.argsort(-method.scores_QN, axis=1, kind="stable")[:, :TOP]
    return [
        Variant.without(f"leave {method.name} {q} seed {seed}", seed, top_QK[q].tolist())
        for q in asked.positions
        for seed in SEEDS
    ]
