"""The last step of an evaluation: evidence → scorecard, with what tells of single queries and single rows.

Shapes: Q queries, N rows, V retrainings of the audited run's seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.evaluate.assemble import Measured
from engine.evaluate.detection import detection
from engine.evaluate.effects import Named, fit_effects
from engine.evaluate.evidence import Evidence
from engine.evaluate.reliability import fit_reliability, query_features
from engine.evaluate.retrieval import overlap_at
from engine.evaluate.scorecard import Question, Scope, Scorecard
from engine.evaluate.scored import Scorer, top_rows
from engine.evaluate.trust import scope_features, scope_ranges
from engine.types import Attribution

_OVERLAP_AT = (1, 10)


def scorecard_of(evidence: Evidence, scorer: Scorer, retrainings: int, seconds: float) -> Scorecard:
    answers = scorer.answers()
    bench = evidence.bench
    return Scorecard(
        index_revision=scorer.revision,
        config=evidence.config,
        scope=_scope(answers),
        rows=evidence.plan.rows,
        test_queries=bench.queries.test,
        tuning_queries=bench.queries.tuning,
        methods=detection(evidence.methods(), evidence, scorer.dataset),
        metasmoothness=evidence.metasmoothness,
        retrainings=retrainings,
        seconds=round(seconds, 1),
        tuned=evidence.tuned(),
        reliability=_reliability(evidence, answers),
        effects=_effects(evidence, answers),
        sketch_overlap=_overlap(scorer, evidence.scores.own.scores_QN),
        warnings=_warnings(evidence),
    )


def _warnings(evidence: Evidence) -> tuple[str, ...]:
    """What was asked for and could not be had, or says nothing."""
    found = []
    if evidence.scores.candidates and not evidence.bench.tunes:
        found.append(
            "too few groups of queries to choose a method on some and measure it on others: nothing was chosen"
        )
    if not evidence.outcomes.drop_QM.size:
        found.append("no retraining of this run: what single rows did in it, and their effects, stay unmeasured")
    if evidence.canaries is not None and (warning := evidence.canaries.warning):
        found.append(warning)
    return tuple(found)


def _scope(answers: Sequence[Attribution]) -> Scope:
    kinds = sorted({answer.measurement.kind for answer in answers})
    ranges = scope_ranges([scope_features(answer) for answer in answers])
    return Scope(", ".join(kinds), f"{len(answers)} queries given with the evaluation", ranges)


def _reliability(evidence: Evidence, answers: Sequence[Attribution]) -> dict[str, Any] | None:
    """From all queries: nothing was chosen by them that this could flatter but `auto`, and that by their mean alone."""
    measured = evidence.bench.measured["composition"]
    if not measured.outcome_QMR.size:
        return None
    lds_Q = measured.lds(evidence.scores.own.scores_QN).per_query_Q
    features = [query_features(answer) for answer in answers]
    return fit_reliability(features, lds_Q, _groups(evidence), floor=_best_control(evidence, measured))


def _best_control(evidence: Evidence, measured: Measured) -> tuple[float, str]:
    """(LDS, name): a ranking no better than that has told nobody anything."""
    found = [(measured.lds(control.scores_QN).value or 0.0, control.name) for control in evidence.scores.controls]
    return max([(0.0, "chance"), *found])


def _effects(evidence: Evidence, answers: Sequence[Attribution]) -> dict[Question, dict[str, Any]]:
    """Of the index's own method and the audited run's seed."""
    predicted_QV, measured_QV = effect_pairs(evidence)
    if not predicted_QV.size:
        return {}
    plain = all(answer.measurement.kind in ("log_prob", "mean_log_prob") for answer in answers)
    model = fit_effects(
        predicted_QV,
        measured_QV,
        _groups(evidence),
        rows=evidence.plan.rows,
        named=_named(evidence),
        log_prob_Q=evidence.outcomes.full_Q[evidence.plan.audited_seed] if plain else None,
    )
    return {} if model is None else {"this_run": model.to_json()}


def effect_pairs(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """(−Σ score/N of the randomly removed rows, the measured change of f in nats), both [Q, V]."""
    plan, outcomes = evidence.plan, evidence.outcomes
    removed_VN = ~plan.drop_kept_MN
    predicted_QV = -(evidence.scores.own.scores_QN.astype(np.float64) @ removed_VN.T) / plan.rows
    return predicted_QV, outcomes.drop_QM - outcomes.full_Q[plan.audited_seed][:, None]


def _named(evidence: Evidence) -> Named | None:
    """The retrainings without a query's top rows."""
    own, plan = evidence.scores.own, evidence.plan
    if own.name not in evidence.falls:
        return None
    fall_LR = evidence.falls[own.name]
    tops = [top_rows(own.scores_QN[q], plan.config.leave_out_rows) for q in evidence.asked]
    predicted_L = [
        -own.scores_QN[q, rows].astype(np.float64).sum() / plan.rows
        for q, rows in zip(evidence.asked, tops, strict=True)
    ]
    seeds = fall_LR.shape[1]
    return Named(np.repeat(evidence.asked, seeds), np.repeat(predicted_L, seeds), -fall_LR.ravel())


def _groups(evidence: Evidence) -> list[str]:
    return [f"query {q}" if asked.group is None else asked.group for q, asked in enumerate(evidence.queries)]


def _overlap(scorer: Scorer, scores_QN: np.ndarray) -> dict[str, float | None]:
    """Share of the exact ranking's top rows that the sketch keeps; empty where the index is exact."""
    exact = scorer.exact()
    if exact is None:
        return {}
    return {f"overlap@{k}": overlap_at(scores_QN, exact.scores_QN, k) for k in _OVERLAP_AT}
