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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.causal.audited import audited_seeds, audited_study
from engine.causal.check_intervals import interval_of_difference, interval_of_mean, interval_over_draws
from engine.causal.check_requirements import positions_of, training_of
from engine.causal.check_trainings import FOLDER, Trainings, repeated_note, without
from engine.causal.checks import CheckConfig, CheckCost, CheckResult, RankedRow, SetEffect
from engine.causal.measuring import measure_questions
from engine.causal.retrain import Variant
from engine.config import ModelConfig
from engine.dataset import Dataset, example_text
from engine.lexical import Bm25Index
from engine.model import load_model
from engine.question import prepare
from engine.types import CheckpointFn, Query

_RANDOM = 1  # of the draws' seed: no other check draws the same


def run_leave_out(
    model: ModelConfig,
    dataset: Dataset,
    index_dir: Path,
    query: Query,
    ranked: Sequence[RankedRow],
    config: CheckConfig,
    work_dir: Path,
    checkpoint: CheckpointFn,
    *,
    device: str = "cpu",
) -> CheckResult:
    """Raises what `retrain` raises, MissingNeed without a recipe, NonFiniteGradient where a training diverged."""
    started = time.perf_counter()
    plan = _Plan.of(model, dataset, query, ranked, config, work_dir, device)
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
        after, ids = before + float(change_S.mean()), tuple(dataset[p].id for p in positions)
        return SetEffect(name, config.rows, before, after, float(change_S.mean()), low, high, change_S.size, ids=ids)

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
        details=_details(plan, ranked, full_S, top_S, random_SD, bm25_S),
        warnings=(*repeated_note(value, float(full_S[0])), *plan.warnings),
    )


def estimate_leave_out(
    model: ModelConfig,
    dataset: Dataset,
    index_dir: Path,
    query: Query,
    ranked: Sequence[RankedRow],
    config: CheckConfig,
    work_dir: Path,
    *,
    device: str = "cpu",
) -> CheckCost:
    """A few steps are timed. Raises what `run_leave_out` raises."""
    plan = _Plan.of(model, dataset, query, ranked, config, work_dir, device)
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
    def of(
        cls,
        model: ModelConfig,
        dataset: Dataset,
        query: Query,
        ranked: Sequence[RankedRow],
        config: CheckConfig,
        work_dir: Path,
        device: str,
    ) -> _Plan:
        training = training_of(model, len(dataset))
        study = audited_study(model, dataset, training, [query], device)
        top = positions_of([row.id for row in ranked[: config.rows]], dataset.position_of, "/ranked")
        tuned = load_model(replace(model, quantization=None), device)
        question = prepare(tuned, None, query)
        value = float(measure_questions(tuned, [question])[0, 0])
        bm25, matching = lexically_nearest(dataset, question.text, config.rows)
        notes = _notes(model, top, bm25, matching, config)
        seeds = audited_seeds(training, config.seeds)
        random = random_sets(len(dataset), top, config.draws, config.seed)
        return cls(Trainings(study, work_dir / FOLDER), value, seeds, top, bm25, random, notes)

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
    plan: _Plan,
    ranked: Sequence[RankedRow],
    full_S: np.ndarray,
    top_S: np.ndarray,
    random_SD: np.ndarray,
    bm25_S: np.ndarray,
) -> dict[str, Any]:
    rows, first = len(plan.trainings.study.examples), ranked[: len(plan.top)]
    difference, low, high = interval_of_difference(top_S, random_SD)
    lexical, lexical_low, lexical_high = interval_of_difference(top_S, bm25_S[:, None])
    in_nats = all(row.in_nats for row in first)
    return {
        "seeds": list(plan.seeds),
        "draws": len(plan.random),
        "predicted": {"top": -sum(row.score for row in first) / rows if in_nats else None},
        "difference": {"value": difference, "low": low, "high": high},
        "difference_to_bm25": {"value": lexical, "low": lexical_low, "high": lexical_high},
        "by_seed": {
            "none": full_S.tolist(),
            "top": top_S.tolist(),
            "random": random_SD.tolist(),
            "bm25": bm25_S.tolist(),
        },
    }
