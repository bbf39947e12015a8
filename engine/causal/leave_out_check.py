"""Leave-out: the training repeated without the ranking's first rows, beside what other rows of as many would do.

    none     every row kept: what another seed alone does to f
    top      without the ranking's first k rows
    random   without k other rows, drawn at random, several times
    bm25     without the k rows that are lexically nearest to the query

Every set is left out at the same seeds, the audited run's own first, and its effect is f without it less f with every
row at the same seed: the seed's own accidents cancel.

Shapes: S seeds, D random draws.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.causal.audited import audited_seeds
from engine.causal.check_intervals import interval_of_difference, interval_of_mean, interval_over_draws
from engine.causal.check_trainings import FOLDER, Trainings, repeated_note, without
from engine.causal.check_work import CheckWork
from engine.causal.checks import CheckConfig, CheckCost, CheckResult, SetEffect
from engine.causal.measuring import measure_questions
from engine.causal.retrain import Variant
from engine.config import ModelConfig
from engine.dataset import Dataset, example_text
from engine.lexical import Bm25Index
from engine.question import prepare
from engine.types import CheckpointFn

_RANDOM = 1  # of the draws' seed: no other check draws the same


def run_leave_out(work: CheckWork, checkpoint: CheckpointFn) -> CheckResult:
    """Raises what `retrain` raises, MissingNeed without a recipe, NonFiniteGradient where a training diverged."""
    started = time.perf_counter()
    plan = _Plan.of(work)
    variants = plan.variants
    found = plan.trainings.measure(variants, checkpoint, "retrain")
    value = plan.value
    full_S = plan.values(found, [])
    top_S = plan.values(found, plan.top) - full_S
    random_SD = np.stack([plan.values(found, drawn) - full_S for drawn in plan.random], axis=1)
    bm25_S = plan.values(found, plan.bm25) - full_S
    before = float(full_S.mean())

    def effect(name: str, positions: Sequence[int], change_S: np.ndarray) -> SetEffect:
        low, high = interval_over_draws(change_S) if change_S.ndim > 1 else interval_of_mean(change_S)
        change, ids = float(change_S.mean()), tuple(work.dataset[p].id for p in positions)
        return SetEffect(name, work.config.rows, before, before + change, change, low, high, change_S.size, ids=ids)

    low, high = interval_of_mean(full_S - value)
    return CheckResult(
        kind="leave_out",
        sets=(
            SetEffect("none", 0, value, before, before - value, low, high, len(full_S)),
            effect("top", plan.top, top_S),
            effect("random", [], random_SD),
            effect("bm25", plan.bm25, bm25_S),
        ),
        retrainings=len({variant.name for variant in variants}),
        seconds=time.perf_counter() - started,
        details=_details(work, plan, full_S, top_S, random_SD, bm25_S),
        warnings=(*repeated_note(value, float(full_S[0])), *plan.warnings),
    )


def estimate_leave_out(work: CheckWork) -> CheckCost:
    """A few steps are timed. Raises what `run_leave_out` raises."""
    plan = _Plan.of(work)
    return plan.trainings.cost(plan.variants)


@dataclass(frozen=True)
class _Plan:
    """value: f under the tuned model. top, bm25, random: positions of the sets."""

    trainings: Trainings
    value: float
    seeds: tuple[int, ...]
    top: list[int]
    bm25: list[int]
    random: list[list[int]]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, work: CheckWork) -> _Plan:
        config, top, tuned = work.config, work.top, work.tuned()
        question = prepare(tuned, None, work.query)
        value = float(measure_questions(tuned, [question])[0, 0])
        bm25, matching = lexically_nearest(work.dataset, question.text, config.rows)
        notes = _notes(work.model, top, bm25, matching, config)
        seeds = audited_seeds(work.training, config.seeds)
        random = random_sets(len(work.dataset), top, config.draws, config.seed)
        return cls(Trainings(work.study(), work.directory / FOLDER), value, seeds, top, bm25, random, notes)

    @property
    def variants(self) -> list[Variant]:
        """The runs with every row first: the others are compared with them."""
        return [without(rows, seed) for rows in ([], self.top, self.bm25, *self.random) for seed in self.seeds]

    def values(self, found: Mapping[str, np.ndarray], rows: Sequence[int]) -> np.ndarray:
        """float64 [S]"""
        return np.array([found[without(rows, seed).name][0] for seed in self.seeds])


def random_sets(rows: int, top: Sequence[int], draws: int, seed: int) -> list[list[int]]:
    """`draws` sets of as many rows as `top`, of the other rows where there are enough of them."""
    others = sorted(set(range(rows)) - set(top))
    pool = others if len(others) >= len(top) else list(range(rows))
    generators = [np.random.default_rng((seed, _RANDOM, number)) for number in range(draws)]
    return [sorted(generator.choice(pool, len(top), replace=False).tolist()) for generator in generators]


def lexically_nearest(dataset: Dataset, text: str, count: int) -> tuple[list[int], int]:
    """(positions of BM25's first rows, ties by position; how many of them share a word with the text)."""
    scores_N = Bm25Index([example_text(example) for example in dataset]).scores(text)
    order = np.argsort(-scores_N.astype(np.float64), kind="stable")[:count]
    return order.tolist(), int((scores_N[order] > 0).sum())


def _notes(
    model: ModelConfig, top: Sequence[int], bm25: Sequence[int], matching: int, config: CheckConfig
) -> tuple[str, ...]:
    found: list[str] = []
    if sorted(top) == sorted(bm25):
        found.append("BM25's first rows are the ranking's own: the two sets are one")
    if matching < config.rows:
        found.append(f"only {matching} of BM25's {config.rows} rows share a word with the query")
    if config.draws < 2:
        found.append("one random set alone: its interval holds for that set")
    if model.quantization:
        found.append("retrained on the base as it is stored, not quantised")
    return tuple(found)


def _details(
    work: CheckWork,
    plan: _Plan,
    full_S: np.ndarray,
    top_S: np.ndarray,
    random_SD: np.ndarray,
    bm25_S: np.ndarray,
) -> dict[str, Any]:
    difference, low, high = interval_of_difference(top_S, random_SD)
    lexical, lexical_low, lexical_high = interval_of_difference(top_S, bm25_S[:, None])
    return {
        "seeds": list(plan.seeds),
        "draws": len(plan.random),
        "predicted": {"top": work.predicted([row.id for row in work.named])},
        "difference": {"value": difference, "low": low, "high": high},
        "difference_to_bm25": {"value": lexical, "low": lexical_low, "high": lexical_high},
        "by_seed": {
            "none": full_S.tolist(),
            "top": top_S.tolist(),
            "random": random_SD.tolist(),
            "bm25": bm25_S.tolist(),
        },
    }
