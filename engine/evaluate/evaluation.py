"""evaluate(): from an index, queries and the recipe to a scorecard.

    scored.py        the scores of the index, its candidates, controls and twins
    retrainings.py   which retrainings are made; engine/causal/retrain.py makes them
    canaries.py      rows planted to be found, where no tags say which rows should be
    assemble.py      scores × outcomes → evidence; verdict.py says what it means

Everything costly lies below `work` and is found again: an interrupted evaluation goes on at the last finished
retraining and ends with the same scorecard.

Shapes: Q queries, N rows, V variants, R seeds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.causal.audited import audited_study
from engine.causal.retrain import Study, Variant, estimate, retrain
from engine.config import ModelConfig
from engine.dataset import Dataset
from engine.evaluate.canaries import canaries_wanted, canary_scores
from engine.evaluate.conclude import scorecard_of
from engine.evaluate.evidence import Evidence, Scores
from engine.evaluate.figures import write_figures
from engine.evaluate.requirements import check_config, training_of
from engine.evaluate.retrainings import Outcomes, Retrainings, full, left_out
from engine.evaluate.scorecard import EvaluationConfig, EvaluationCost, EvaluationQuery, Scorecard
from engine.evaluate.scored import Scored, Scorer, top_rows
from engine.types import CheckpointFn


def evaluate(
    model: ModelConfig,
    dataset: Dataset,
    index_dir: Path,
    queries: Sequence[EvaluationQuery],
    config: EvaluationConfig,
    work: Path,
    checkpoint: CheckpointFn,
    *,
    device: str = "cpu",
) -> Scorecard:
    """Measure the index in `index_dir`. `checkpoint` may raise Cancelled: what is finished by then is kept.

    Raises MissingNeed (no recipe), UnsupportedModel, InvalidOption (a setting; another dataset than the recipe's),
    InvalidQuery, FingerprintMismatch, StorageFull, EngineUnavailable (a training process died).
    """
    started = time.perf_counter()
    study = study_of(model, dataset, queries, device)
    check_config(config, len(dataset), queries)
    work.mkdir(parents=True, exist_ok=True)
    scorer = Scorer(model, dataset, index_dir, [asked.query for asked in queries], work, checkpoint, device)
    own = scorer.own()
    scores = Scores(own, scorer.candidates(config.candidates), scorer.controls(), scorer.twins(own, config.seed))
    plan, asked = Retrainings(len(dataset), study.training, config), _asked(config, len(queries))
    variants = [*plan.variants(), *_top_rows_left_out(plan, scores, asked)]
    outcome_VQ = retrain(study, variants, work / "retrainings", checkpoint)
    found = dict(zip((variant.name for variant in variants), outcome_VQ, strict=True))
    outcomes = Outcomes.of(plan, found, len(queries))
    falls = {scored.name: _falls(plan, scored, asked, found) for scored in scores.left_out} if asked else {}
    canaries = canary_scores(scorer, study, config) if canaries_wanted(config, queries) else None
    evidence = Evidence(config, queries, plan, scores, outcomes, asked, falls, canaries)
    evidence.save(work)
    write_figures(evidence, dataset, work)
    return scorecard_of(evidence, scorer, len(variants), time.perf_counter() - started)


def _top_rows_left_out(plan: Retrainings, scores: Scores, asked: Sequence[int]) -> list[Variant]:
    return [
        variant
        for scored in scores.left_out
        for q in asked
        for variant in plan.without_rows(scored.name, q, top_rows(scored.scores_QN[q], plan.config.leave_out_rows))
    ]


def _falls(plan: Retrainings, scored: Scored, asked: Sequence[int], found: dict[str, np.ndarray]) -> np.ndarray:
    """[L, R]: how far f of a query fell without its top rows, nats."""
    return np.array(
        [
            [found[full(seed)][q] - found[left_out(scored.name, q, seed)][q] for seed in plan.leave_out_seeds]
            for q in asked
        ]
    )


def estimate_evaluation(
    model: ModelConfig,
    dataset: Dataset,
    index_dir: Path,
    queries: Sequence[EvaluationQuery],
    config: EvaluationConfig,
    work: Path,
    *,
    device: str = "cpu",
) -> EvaluationCost:
    """What the retrainings would cost; they are nearly all of an evaluation. Raises what `evaluate` raises."""
    study = study_of(model, dataset, queries, device)
    check_config(config, len(dataset), queries)
    plan = Retrainings(len(dataset), study.training, config)
    variants = [*plan.variants(), *_any_rows_left_out(plan, len(queries))]
    cost = estimate(study, variants, work / "retrainings")
    steps = len(study.steps_of(study.training.seed))
    basis = f"{cost.retrainings} retrainings of {steps} steps, timed on a few steps on this machine"
    return EvaluationCost(cost.retrainings, cost.processes, round(cost.seconds, 1), basis)


def study_of(model: ModelConfig, dataset: Dataset, queries: Sequence[EvaluationQuery], device: str) -> Study:
    """The audited run, ready to be repeated. Raises MissingNeed, InvalidOption, UnsupportedModel."""
    training = training_of(model, len(dataset))
    return audited_study(model, dataset, training, [asked.query for asked in queries], device)


def _asked(config: EvaluationConfig, queries: int) -> list[int]:
    """The queries whose top rows are left out: spread evenly over the list, and among them those of any smaller count,
    so that a larger evaluation takes over what a smaller one retrained (van der Corput's sequence)."""
    bits = max(1, (queries - 1).bit_length())
    places = (int(f"{number:0{bits}b}"[::-1], 2) * queries >> bits for number in range(2**bits))
    return sorted(list(dict.fromkeys(places))[: config.leave_out_queries])


def _any_rows_left_out(plan: Retrainings, queries: int) -> list[Variant]:
    """As many variants as top rows will be left out of, before it is known which rows those are."""
    methods = ["bm25", *(f"method {number}" for number in range(1 + len(plan.config.candidates)))]
    some = [[(place + q) % plan.rows for place in range(plan.config.leave_out_rows)] for q in range(queries)]
    asked = _asked(plan.config, queries)
    return [variant for name in methods for q in asked for variant in plan.without_rows(name, q, some[q])]
