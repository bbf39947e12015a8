"""Predicted against measured, question by question: what lies behind a scorecard's figures, as charts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.dashboard.trust.charts import Chart, Column, Row, evenly, mean, number, text, whole
from app.dashboard.trust.views_scorecard import method_name
from app.dashboard.words import count, shorten
from app.evaluations.schemas import CurveOut, EvaluationFiguresOut, PairsOut

SHOWN_QUESTIONS = 200  # rows of a table of questions
DRAWN_LINES = ("bm25", "repsim", "random")  # beside the index's own: more than four lines are no picture


@dataclass(frozen=True)
class PairsView:
    """choices: (number, text) of the questions that can be looked at."""

    chosen: int
    asked: str
    choices: list[tuple[int, str]]
    chart: Chart
    words: str


@dataclass(frozen=True)
class ReliabilityView:
    chart: Chart | None
    words: list[str]


def pairs_view(pairs: list[PairsOut], chosen: int | None) -> PairsView | None:
    """Of the question asked for, else of the one in the middle: neither the best nor the worst."""
    if not pairs:
        return None
    by_lds = sorted(pairs, key=lambda one: -2.0 if one.lds is None else one.lds)
    shown = next((one for one in pairs if one.query == chosen), by_lds[len(by_lds) // 2])
    lds = "not defined" if shown.lds is None else f"{shown.lds:z.2f}"
    words = (
        "Each point is one retraining on some of the rows. To the right: the scores of the rows that were kept "
        "predicted a more likely answer; up: it was more likely. The rank correlation of the two, this question's own "
        f"LDS, is {lds}."
    )
    choices = [(one.query, f"{_lds(one.lds)} · {shorten(one.asked, 90)}") for one in reversed(by_lds)]
    return PairsView(shown.query, shown.asked, choices, _pairs_chart(shown), words)


def reliability_view(model: dict[str, Any] | None) -> ReliabilityView:
    """`model`: a scorecard's `reliability`."""
    if model is None:
        return ReliabilityView(
            None, ["Too few questions (20 are needed) to say which single answers are more reliable."]
        )
    pairs: list[list[float]] = model["calibration"]
    words = [
        f"LDS of the whole ranking is a mean: single answers lie above or below it. Whence predicts each answer's own "
        f"LDS from what it sees in the answer, checked on {count(len(pairs))} questions it had not seen."
    ]
    if not model["skill"]:
        words.append("Here these features do not tell reliable answers from others, so every answer is given the mean.")
        return ReliabilityView(_sorted_chart(pairs), words)
    half = len(pairs) // 2
    bottom, top = mean([lds for _, lds in pairs[:half]]), mean([lds for _, lds in pairs[-half:]])
    if top is not None and bottom is not None:
        words.append(
            f"The half predicted to be more reliable had a mean LDS of {top:z.2f}, the other half {bottom:z.2f}."
        )
    return ReliabilityView(_reliability_chart(pairs), words)


def falls_chart(figures: EvaluationFiguresOut) -> Chart | None:
    """Each question whose top rows were really left out, the hardest hit first."""
    own = figures.method
    falls = sorted(figures.leave_out, key=lambda fall: fall.top.get(own) or 0.0, reverse=True)
    shown = evenly(len(falls), SHOWN_QUESTIONS)
    others = [name for name in (falls[0].top if falls else {}) if name != own][:2]
    rows = tuple(
        Row(
            (
                whole(place + 1),
                number(falls[place].top.get(own)),
                *(number(falls[place].top.get(name)) for name in others),
                number(falls[place].random),
                text(falls[place].asked),
            )
        )
        for place in shown
    )
    named = [Column(f"top rows of {method_name(name)}") for name in (own, *others)]
    columns = (Column("question"), *named, Column("random rows"), Column("asked", skip=True))
    title = "How far each answer fell when rows were really left out"
    x, y = "questions, hardest hit first", "nats"
    return Chart("lines", title, columns, rows, x_title=x, y_title=y) if rows else None


def curve_chart(curve: CurveOut, own: str) -> Chart | None:
    """Share of the rows to be found among the first n."""
    names = [name for name in (own, *DRAWN_LINES) if name in curve.found]
    names += [name for name in curve.found if name not in names][: 4 - len(names)]
    rows = tuple(
        Row((whole(looked), *(number(curve.found[name][place]) for name in names)))
        for place, looked in enumerate(curve.rows)
    )
    columns = (Column("rows looked at"), *(Column(method_name(name)) for name in names))
    title = f"{curve.name.capitalize()}: share found among the first rows of the ranking"
    x, y = "rows looked at", "share found"
    return Chart("lines", title, columns, rows, x_title=x, y_title=y, log=True) if names else None


def _pairs_chart(shown: PairsOut) -> Chart:
    places = evenly(len(shown.predicted), SHOWN_QUESTIONS)
    rows = tuple(Row((number(shown.predicted[at]), number(shown.measured[at]))) for at in places)
    x, y = "predicted (standardised)", "measured (nats)"
    return Chart(
        "points",
        "Predicted against measured, one question",
        (Column("predicted"), Column("measured")),
        rows,
        x_title=x,
        y_title=y,
    )


def _reliability_chart(pairs: list[list[float]]) -> Chart:
    half = len(pairs) // 2
    groups = {True: "predicted to be less reliable", False: "predicted to be more reliable"}
    rows = tuple(
        Row((number(pairs[at][0]), number(pairs[at][1])), group=groups[at < half])
        for at in evenly(len(pairs), SHOWN_QUESTIONS)
    )
    columns = (Column("predicted LDS"), Column("measured LDS"))
    x, y = "predicted LDS", "measured LDS"
    return Chart("points", "Reliability of single answers", columns, rows, diagonal=True, x_title=x, y_title=y)


def _sorted_chart(pairs: list[list[float]]) -> Chart:
    values = sorted((lds for _, lds in pairs), reverse=True)
    rows = tuple(Row((whole(at + 1), number(values[at]))) for at in evenly(len(values), SHOWN_QUESTIONS))
    x, y = "questions, best first", "measured LDS"
    return Chart(
        "lines", "LDS of single questions", (Column("question"), Column("measured LDS")), rows, x_title=x, y_title=y
    )


def _lds(value: float | None) -> str:
    return "LDS –" if value is None else f"LDS {value:z.2f}"
