"""From scores and outcomes to the evidence on a scorecard.

Shapes: Q queries (t of them test), N rows, M subsets, R seeds, K random draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.evaluate.ceiling import noise_ceiling, seed_reliability
from engine.evaluate.lds import Lds, compare_lds, predict, score_lds
from engine.evaluate.leave_out import leave_out
from engine.evaluate.scorecard import (
    QUESTIONS,
    Compared,
    EvaluationConfig,
    LdsEvidence,
    LeaveOutEvidence,
    Question,
    Tuned,
)
from engine.evaluate.scored import Scored
from engine.evaluate.splits import Split, split_subsets


@dataclass(frozen=True, eq=False)
class Measured:
    """What retraining did to all queries, of one question. outcome [Q, M, R]: nats; kept: True where a row is kept."""

    kept_MN: np.ndarray
    outcome_QMR: np.ndarray

    def part(self, queries: Sequence[int], subsets: Sequence[int]) -> Measured:
        return Measured(self.kept_MN[list(subsets)], self.outcome_QMR[np.ix_(queries, subsets)])

    @property
    def subsets(self) -> int:
        return self.outcome_QMR.shape[1]

    @property
    def ceiling(self) -> float | None:
        """What a perfect method could reach. One seed tells nothing of how far seeds agree."""
        seeds = self.outcome_QMR.shape[2]
        return noise_ceiling(seed_reliability(self.outcome_QMR), seeds) if seeds > 1 else None

    def lds(self, scores_QN: np.ndarray) -> Lds:
        return score_lds(predict(scores_QN, self.kept_MN), self.outcome_QMR)

    def minus(self, one_QN: np.ndarray, other_QN: np.ndarray) -> Compared:
        found = compare_lds(predict(one_QN, self.kept_MN), predict(other_QN, self.kept_MN), self.outcome_QMR)
        return Compared(found.difference, found.low, found.high, found.p_value)


@dataclass(frozen=True, eq=False)
class Bench:
    """Both questions' outcomes, and which queries tune; where some do, so does `share` of the subsets."""

    measured: Mapping[Question, Measured]
    queries: Split
    share: float

    @property
    def tunes(self) -> bool:
        return bool(self.queries.tuning)

    def subsets(self, question: Question) -> Split:
        count = len(self.measured[question].kept_MN)
        return split_subsets(count, self.share if self.tunes else 0.0)

    def test(self, question: Question) -> Measured:
        return self.measured[question].part(self.queries.test, self.subsets(question).test)

    def tuning(self, question: Question) -> Measured:
        return self.measured[question].part(self.queries.tuning, self.subsets(question).tuning)


def lds_evidence(scored: Scored, controls: Sequence[Scored], bench: Bench) -> dict[Question, LdsEvidence]:
    """Of one method, for both questions, on the test queries and subsets alone."""
    return {question: _one(scored, controls, bench, question) for question in QUESTIONS}


def _one(scored: Scored, controls: Sequence[Scored], bench: Bench, question: Question) -> LdsEvidence:
    measured, test = bench.test(question), list(bench.queries.test)
    if not measured.outcome_QMR.size:
        return LdsEvidence(None, None, None, None, None, 0, measured.outcome_QMR.shape[2])
    own_QN = scored.scores_QN[test]
    found = measured.lds(own_QN)
    per_query = tuple(None if np.isnan(value) else float(value) for value in found.per_query_Q)
    against = {c.name: measured.minus(own_QN, c.scores_QN[test]) for c in controls if c.name != scored.name}
    return LdsEvidence(
        found.value,
        found.low,
        found.high,
        measured.ceiling,
        found.significant_share,
        found.subsets,
        measured.outcome_QMR.shape[2],
        against,
        per_query,
    )


def minus_twins(own: Scored, twins: Sequence[Scored], bench: Bench, question: Question) -> dict[str, Compared]:
    """LDS of the method minus that of its twins, paired: what is left of it is what the model learned."""
    measured, test = bench.test(question), list(bench.queries.test)
    if not measured.outcome_QMR.size:
        return {}
    return {twin.name: measured.minus(own.scores_QN[test], twin.scores_QN[test]) for twin in twins}


def tuned(own: Scored, candidates: Sequence[Scored], bench: Bench, question: Question) -> Tuned | None:
    """What `auto` takes, judged on the tuning queries and subsets: the best candidate if it is better than the index's
    own beyond what chance explains (the paired interval lies above 0), else the index's own. None where nothing tunes.
    """
    measured, chosen = bench.tuning(question), list(bench.queries.tuning)
    if not candidates or not measured.outcome_QMR.size:
        return None
    found = {method.name: measured.lds(method.scores_QN[chosen]).value for method in (own, *candidates)}
    known = {name: value for name, value in found.items() if value is not None}
    if not known:
        return None
    over_own = {c.name: measured.minus(c.scores_QN[chosen], own.scores_QN[chosen]) for c in candidates}
    best = max(known, key=lambda name: known[name])
    kept = own.name in known and not _beyond_chance(over_own.get(best))
    return Tuned(own.name if kept else best, found, len(chosen), measured.subsets, over_own)


def _beyond_chance(over_own: Compared | None) -> bool:
    return over_own is not None and over_own.low is not None and over_own.low > 0


def leave_out_evidence(top_QR: np.ndarray, random_QRK: np.ndarray, config: EvaluationConfig) -> LeaveOutEvidence | None:
    """Both in nats: how far f fell. None without queries, draws or seeds."""
    if not top_QR.size or not random_QRK.size:
        return None
    found = leave_out(top_QR, random_QRK)
    return LeaveOutEvidence(
        found.top,
        found.random,
        found.difference,
        found.low,
        found.high,
        found.p_value,
        config.leave_out_rows,
        found.queries,
        found.seeds,
        found.draws,
    )
