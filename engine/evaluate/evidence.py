"""What an evaluation found, as arrays; its scorecard; and the file both can be checked from.

evidence.npz: scores/<method> float32 [Q, N], half_kept_MN, half_outcome_QMR, drop_kept_MN, drop_outcome_QM,
full_outcome_Q (the audited run's seed), step_1_QV, step_2_QV; asked_L: the queries whose top rows were left out;
fall_LR/<method>: how far f fell without them, random_QKR: f without the random draws. Where canaries were planted also
canary_scores/<method>, canary_relevant_QN, canary_gain_Q, of their own queries and rows. Outcomes and gains are nats.

Shapes: Q queries, N rows, M subsets, R seeds, V directions, K draws, L queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np

from engine.durable import write_durably
from engine.evaluate.assemble import Bench, Measured, lds_evidence, leave_out_evidence, minus_twins, tuned
from engine.evaluate.canaries import CanaryScores
from engine.evaluate.metasmooth import metasmoothness
from engine.evaluate.retrainings import Outcomes, Retrainings
from engine.evaluate.scorecard import (
    QUESTIONS,
    Compared,
    EvaluationConfig,
    EvaluationQuery,
    LdsEvidence,
    LeaveOutEvidence,
    MethodEvidence,
    Question,
    Tuned,
    Verdict,
)
from engine.evaluate.scored import Scored
from engine.evaluate.splits import split_queries
from engine.evaluate.verdict import verdict

EVIDENCE_FILE = "evidence.npz"


@dataclass(frozen=True, eq=False)
class Scores:
    """Everything that is judged."""

    own: Scored
    candidates: Sequence[Scored]
    controls: Sequence[Scored]
    twins: Sequence[Scored]

    @property
    def all(self) -> list[Scored]:
        return [self.own, *self.candidates, *self.controls, *self.twins]

    @property
    def left_out(self) -> list[Scored]:
        """Whose top rows are left out: what may be trusted, and the words of the rows as a yardstick."""
        return [self.own, *self.candidates, *(c for c in self.controls if c.name == "bm25")]


@dataclass(frozen=True, eq=False)
class Evidence:
    """falls: method's name → [L, R], how far f fell without a query's top rows, in nats. asked: the L queries.

    canaries: None where none were planted.
    """

    config: EvaluationConfig
    queries: Sequence[EvaluationQuery]
    plan: Retrainings
    scores: Scores
    outcomes: Outcomes
    asked: Sequence[int]
    falls: Mapping[str, np.ndarray]
    canaries: CanaryScores | None = None

    @cached_property
    def bench(self) -> Bench:
        share = self.config.tuning_share if self.scores.candidates else 0.0
        queries = split_queries([asked.group for asked in self.queries], share, self.config.seed)
        half = Measured(self.plan.half_kept_MN, self.outcomes.half_QMR)
        drop = Measured(self.plan.drop_kept_MN, self.outcomes.drop_QM[:, :, None])
        return Bench({"composition": half, "this_run": drop}, queries, share)

    def methods(self) -> tuple[MethodEvidence, ...]:
        return tuple(self._method(scored) for scored in self.scores.all)

    def tuned(self) -> dict[Question, Tuned]:
        own, candidates = self.scores.own, self.scores.candidates
        found: dict[Question, Tuned | None] = {q: tuned(own, candidates, self.bench, q) for q in QUESTIONS}
        return {question: choice for question, choice in found.items() if choice is not None}

    @cached_property
    def metasmoothness(self) -> float | None:
        if not self.config.directions:
            return None
        steps = (self.outcomes.step_1_QV.T, self.outcomes.step_2_QV.T)
        return metasmoothness(self.outcomes.full_Q[self.plan.audited_seed], *steps).value

    def save(self, work: Path) -> None:
        content = BytesIO()
        arrays = {f"scores/{scored.name}": scored.scores_QN.astype(np.float32) for scored in self.scores.all}
        arrays |= {
            "half_kept_MN": self.plan.half_kept_MN,
            "half_outcome_QMR": self.outcomes.half_QMR,
            "drop_kept_MN": self.plan.drop_kept_MN,
            "drop_outcome_QM": self.outcomes.drop_QM,
            "full_outcome_Q": self.outcomes.full_Q[self.plan.audited_seed],
            "step_1_QV": self.outcomes.step_1_QV,
            "step_2_QV": self.outcomes.step_2_QV,
            "asked_L": np.array(self.asked, np.int64),
            "random_QKR": self.outcomes.random_QKR,
        }
        arrays |= {f"fall_LR/{name}": fall_LR for name, fall_LR in self.falls.items()}
        if self.canaries is not None:
            arrays |= {f"canary_scores/{name}": scores_QN for name, scores_QN in self.canaries.scores.items()}
            arrays |= {"canary_relevant_QN": self.canaries.relevant_QN, "canary_gain_Q": self.canaries.gain_Q}
        np.savez(content, **arrays)  # type: ignore[arg-type]
        write_durably(work / EVIDENCE_FILE, lambda sink: sink.write(content.getvalue()))

    # --- one method ---

    def _method(self, scored: Scored) -> MethodEvidence:
        lds = lds_evidence(scored, self.scores.controls, self.bench)
        left_out = self._leave_out(scored)
        verdicts: dict[Question, Verdict] = {q: self._verdict(scored, q, lds[q], left_out) for q in QUESTIONS}
        return MethodEvidence(scored.name, scored.role, scored.method, scored.options, lds, verdicts, left_out)

    def _leave_out(self, scored: Scored) -> LeaveOutEvidence | None:
        if scored.name not in self.falls:
            return None
        seeds = self.plan.leave_out_seeds
        full_QR = np.stack([self.outcomes.full_Q[seed] for seed in seeds], axis=1)
        random_QRK = (full_QR[:, None, :] - self.outcomes.random_QKR).transpose(0, 2, 1)
        return leave_out_evidence(self.falls[scored.name], random_QRK[list(self.asked)], self.config)

    def _verdict(
        self, scored: Scored, question: Question, lds: LdsEvidence, left_out: LeaveOutEvidence | None
    ) -> Verdict:
        bound = self.metasmoothness if question == "this_run" else None
        return verdict(question, lds, left_out, self._sanity(scored, question), name=scored.name, metasmoothness=bound)

    def _sanity(self, scored: Scored, question: Question) -> dict[str, Compared]:
        """Candidates share the index's twins: one randomised model stands for all. A twin is not above itself."""
        if scored.role == "sanity":
            return {scored.name: Compared(0.0, 0.0, 0.0, 1.0)}
        if scored.role == "control":
            return {}
        return minus_twins(scored, self.scores.twins, self.bench, question)
