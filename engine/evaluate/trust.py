"""Everything an answer says about trust, from its index's scorecard: plain data, told without NumPy.

The headline is the verdict for `composition`, what most people mean by "which rows caused this". Beyond what was
evaluated (engine/evaluate/scope.py) the verdict stands, and its reason says that it is extrapolated.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from engine.evaluate import reliability_model
from engine.evaluate.effect_model import Effect, EffectModel
from engine.evaluate.scope import beyond, same_measurement, same_normalization, scope_features, scope_ranges
from engine.evaluate.scorecard import QUESTIONS, MethodEvidence, Question, Scorecard, Verdict, VerdictName
from engine.types import Attribution

__all__ = ["QuestionTrust", "Trust", "TrustScope", "scope_features", "scope_ranges", "trust_of"]

HEADLINE: Question = "composition"


@dataclass(frozen=True)
class QuestionTrust:
    """The verdict for one question, with the rank correlation it rests on (None: not measured)."""

    verdict: VerdictName
    reason: str
    remedy: str | None
    more_retrains: int | None
    lds: float | None
    low: float | None
    high: float | None
    ceiling: float | None


@dataclass(frozen=True)
class TrustScope:
    """What the evidence is about. extrapolated: this answer lies beyond it; reasons: why, in words."""

    extrapolated: bool
    reasons: tuple[str, ...]
    measurement: str | None
    queries: str | None


@dataclass(frozen=True)
class Trust:
    """effects: a hit's position (as text, for JSON) → what leaving that row out of this run would do to f, in nats;
    None where no model holds for these hits. reliability: of this query (reliability_model.py), or None.
    """

    verdict: VerdictName
    reason: str
    remedy: str | None
    questions: dict[Question, QuestionTrust]
    scope: TrustScope
    reliability: dict[str, Any] | None = None
    effects: dict[str, Effect] | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"scope": dataclasses.asdict(self.scope) | {"reasons": [*self.scope.reasons]}}


def trust_of(scorecard: Scorecard | None, attribution: Attribution, *, remedy_command: str) -> Trust:
    """remedy_command: what makes a scorecard of this index."""
    if scorecard is None:
        return _unmeasured(
            "This index has not been evaluated, so nobody knows how far its rankings can be believed.",
            None,
            remedy_command,
        )
    evidence = scorecard.of(attribution.method)
    if evidence is None:
        reason = f"The index was evaluated, but not its method {attribution.method}."
        return _unmeasured(reason, scorecard, remedy_command)
    reasons = beyond(scorecard, evidence, attribution)
    questions: dict[Question, QuestionTrust] = {q: _question(evidence, q, remedy_command) for q in QUESTIONS}
    headline = questions[HEADLINE]
    holds = _same_scores(scorecard, evidence, attribution)
    return Trust(
        headline.verdict,
        _reason(headline, reasons),
        _remedy(headline, reasons, remedy_command),
        questions,
        TrustScope(bool(reasons), tuple(reasons), scorecard.scope.measurement, scorecard.scope.queries),
        _reliability(scorecard, attribution) if holds else None,
        _effects(scorecard, attribution) if holds else None,
    )


def _question(evidence: MethodEvidence, question: Question, command: str) -> QuestionTrust:
    lds = evidence.lds.get(question)
    verdict = evidence.verdicts.get(question) or Verdict("unmeasured", "This question was not evaluated.", None)
    figures = (None,) * 4 if lds is None else (lds.value, lds.low, lds.high, lds.ceiling)
    remedy = verdict.remedy
    if verdict.verdict == "unmeasured":
        remedy = f"{remedy} {command}" if remedy else command
    return QuestionTrust(verdict.verdict, verdict.reason, remedy, verdict.more_retrains, *figures)


def _reason(headline: QuestionTrust, reasons: list[str]) -> str:
    return f"This is extrapolated: {'; '.join(reasons)}. {headline.reason}" if reasons else headline.reason


def _remedy(headline: QuestionTrust, reasons: list[str], command: str) -> str | None:
    if not reasons or headline.verdict in ("untrusted", "unmeasured"):
        return headline.remedy
    return f"Evaluate this index with queries like this one: {command}"


def _same_scores(scorecard: Scorecard, evidence: MethodEvidence, attribution: Attribution) -> bool:
    """Whether these scores are the ones that models of reliability and effects were fitted on."""
    same = attribution.revision == scorecard.index_revision and same_measurement(scorecard, attribution)
    return same and evidence.role == "index" and same_normalization(evidence, attribution)


def _reliability(scorecard: Scorecard, attribution: Attribution) -> dict[str, Any] | None:
    if scorecard.reliability is None:
        return None
    found = reliability_model.predict(scorecard.reliability, reliability_model.query_features(attribution))
    return dataclasses.asdict(found)


def _effects(scorecard: Scorecard, attribution: Attribution) -> dict[str, Effect] | None:
    stored = scorecard.effects.get("this_run")
    if stored is None:
        return None
    model = EffectModel.from_json(stored)
    if not model.for_hits:
        return None
    hits = (*attribution.proponents, *attribution.opponents)
    return {str(hit.position): model.predict(hit.score, attribution.measurement.value) for hit in hits}


def _unmeasured(reason: str, scorecard: Scorecard | None, command: str) -> Trust:
    each = QuestionTrust("unmeasured", reason, command, None, None, None, None, None)
    scope = None if scorecard is None else scorecard.scope
    about = TrustScope(False, (), scope and scope.measurement, scope and scope.queries)
    return Trust("unmeasured", reason, command, dict.fromkeys(QUESTIONS, each), about)
