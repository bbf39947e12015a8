"""One scorecard, whole: every part that was measured, in the order that it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.dashboard.trust.charts import Cell, Chart, number
from app.dashboard.trust.views_figures import (
    PairsView,
    ReliabilityView,
    curve_chart,
    falls_chart,
    pairs_view,
    reliability_view,
)
from app.dashboard.trust.views_scorecard import (
    ASKED,
    DETECTED,
    TunedView,
    VerdictView,
    ahead_chart,
    detection_table,
    effect_words,
    lds_chart,
    leave_out_chart,
    own_of,
    sanity_words,
    smoothness_words,
    tuned_views,
    verdict_views,
)
from app.evaluations.schemas import EvaluationFiguresOut
from engine.evaluate.scorecard import QUESTIONS, Scorecard

FEATURES = {
    "completion_tokens": "tokens of the output",
    "prompt_tokens": "tokens of the prompt",
    "measurement_per_token": "log-probability a token",
    "tuned_minus_base": "what fine-tuning added (nats)",
}


@dataclass(frozen=True)
class PartView:
    """One of the two questions: its charts."""

    name: str
    asked: str
    lds: Chart | None
    ahead: Chart | None
    pairs: PairsView | None
    ceiling: str


@dataclass(frozen=True)
class ScorecardView:
    verdicts: list[VerdictView]
    parts: list[PartView]
    sanity: str
    leave_out: Chart | None
    falls: Chart | None
    metrics: list[tuple[str, str]]
    detection: list[tuple[str, list[Cell]]]
    curves: list[Chart]
    reliability: ReliabilityView
    smoothness: str
    effects: str
    tuned: list[TunedView]
    overlap: list[tuple[str, Cell]]
    ranges: list[tuple[str, Cell, Cell]]
    warnings: tuple[str, ...]
    rows: int
    tested: int


def scorecard_view(
    card: Scorecard, figures: EvaluationFiguresOut | None, chosen: Mapping[str, int | None]
) -> ScorecardView:
    """`chosen`: by question, which query's retrainings are drawn."""
    metrics, detection = detection_table(card)
    curves = [curve_chart(curve, figures.method) for curve in figures.curves] if figures else []
    return ScorecardView(
        verdicts=verdict_views(card),
        parts=_parts(card, figures, chosen),
        sanity=sanity_words(card),
        leave_out=leave_out_chart(card),
        falls=falls_chart(figures) if figures else None,
        metrics=[(name, DETECTED.get(name, "")) for name in metrics],
        detection=detection,
        curves=[curve for curve in curves if curve is not None],
        reliability=reliability_view(card.reliability),
        smoothness=smoothness_words(card.metasmoothness),
        effects=effect_words(card),
        tuned=tuned_views(card),
        overlap=[(name, number(value)) for name, value in card.sketch_overlap.items()],
        ranges=[
            (FEATURES.get(name, name), number(low), number(high)) for name, (low, high) in card.scope.ranges.items()
        ],
        warnings=card.warnings,
        rows=card.rows,
        tested=len(card.test_queries),
    )


def _parts(card: Scorecard, figures: EvaluationFiguresOut | None, chosen: Mapping[str, int | None]) -> list[PartView]:
    own, found = own_of(card), []
    for question in QUESTIONS:
        pairs = getattr(figures, question) if figures else []
        ceiling = own.lds[question].ceiling if own else None
        found.append(
            PartView(
                question,
                ASKED[question],
                lds_chart(card, question),
                ahead_chart(card, question),
                pairs_view(pairs, chosen.get(question)),
                "" if ceiling is None else f"{ceiling:z.2f}",
            )
        )
    return found
