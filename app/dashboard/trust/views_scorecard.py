"""A scorecard in words for people who have never heard of LDS, and its figures as charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.dashboard.trust.charts import Cell, Chart, Column, Row, number, text, with_interval
from app.dashboard.words import count
from engine.evaluate.scorecard import QUESTIONS, RANDOMISED, SHUFFLED, MethodEvidence, Question, Scorecard, Tuned

ASKED = {
    "composition": "What would a differently composed training set do?",
    "this_run": "What did these rows do in this very run?",
}
MEANT = {
    "composition": "The model was trained again on random halves of the rows. Did the scores foresee each outcome?",
    "this_run": "The model was trained again without a few random rows. Did the scores foresee what changed?",
}
SHORT = {"composition": "on other rows", "this_run": "in this run"}
VERDICTS = {
    "trusted": "Trusted",
    "weak": "Weak evidence",
    "untrusted": "Not to be trusted",
    "unmeasured": "Not measured",
}
NAMES = {
    "bm25": "BM25 (shared words)",
    "repsim": "RepSim (hidden states)",
    "length": "the rows' length",
    "random": "random scores",
    RANDOMISED: "randomised weights",
    SHUFFLED: "shuffled ids",
}
ROLES = {"index": "this index", "candidate": "candidate", "control": "control", "sanity": "sanity test"}
DETECTED = {
    "P@3": "of the three highest rows, how many really teach the answer",
    "R-precision": "share of the teaching rows among as many highest rows",
    "AUC": "a teaching row stands above another one so often (0.5: chance)",
    "AUPRC": "average precision",
    "mislabelled AUROC": "a wrong row has the higher self-influence so often (0.5: chance)",
    "canary recall@10": "share of the planted rows among the ten highest",
    "canary MRR": "mean of 1 / rank of the first planted row",
}


@dataclass(frozen=True)
class VerdictView:
    """finish: how many subsets (of halves, or of removals) would finish it; None where nothing is missing."""

    question: str
    asked: str
    meant: str
    verdict: str
    title: str
    reason: str
    remedy: str
    more: int | None
    finish: dict[str, int] | None


@dataclass(frozen=True)
class TunedView:
    question: str
    chosen: str
    queries: int
    subsets: int
    chart: Chart


def method_name(name: str) -> str:
    return NAMES.get(name, name)


def own_of(scorecard: Scorecard) -> MethodEvidence | None:
    return next((method for method in scorecard.methods if method.role == "index"), None)


def verdict_views(scorecard: Scorecard) -> list[VerdictView]:
    own = own_of(scorecard)
    return [] if own is None else [_verdict(own, question, scorecard) for question in QUESTIONS]


def lds_chart(scorecard: Scorecard, question: Question) -> Chart | None:
    """Every method's LDS with its interval, controls in another colour; None where nothing was retrained for it."""
    rows = [_lds_row(method, question) for method in scorecard.methods if method.lds[question].value is not None]
    own = own_of(scorecard)
    ceiling = own.lds[question].ceiling if own else None
    columns = (Column("method"), *with_interval("LDS"), Column("role", skip=True), Column("verdict", skip=True))
    if not rows:
        return None
    return Chart(
        "bars",
        f"How well each ranking predicted retraining, {SHORT[question]}",
        columns,
        tuple(rows),
        x_title="LDS: 1 predicts perfectly, 0 says nothing",
        mark=ceiling,
        mark_name="noise ceiling",
    )


def ahead_chart(scorecard: Scorecard, question: Question) -> Chart | None:
    """The index's method minus each control, paired by question and subset."""
    own = own_of(scorecard)
    against = own.lds[question].against if own else {}
    rows = [
        Row(
            (text(method_name(name)), number(found.difference, True), number(found.low, True), number(found.high, True))
        )
        for name, found in against.items()
        if found.difference is not None
    ]
    columns = (Column("compared with"), *with_interval("difference"))
    title = f"How much better than each control, {SHORT[question]}"
    return Chart("bars", title, columns, tuple(rows), x_title="difference of LDS (above 0: better)") if rows else None


def leave_out_chart(scorecard: Scorecard) -> Chart | None:
    rows = [
        Row(
            (
                text(method_name(method.name)),
                number(found.difference),
                number(found.low),
                number(found.high),
                number(found.top),
                number(found.random),
            ),
            control=method.role == "control",
        )
        for method in scorecard.methods
        if (found := method.leave_out) is not None
    ]
    named = (Column("without its top rows", skip=True), Column("without random rows", skip=True))
    columns = (Column("ranking by"), *with_interval("more than random rows"), *named)
    title = "How much further answers fall without their top rows than without random rows"
    return Chart("bars", title, columns, tuple(rows), x_title="nats (0.69 nats halve a probability)") if rows else None


def detection_table(scorecard: Scorecard) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """(metrics, [(method, values)])."""
    metrics = list(dict.fromkeys(metric for method in scorecard.methods for metric in method.detection))
    rows = [
        (method_name(method.name), [number(method.detection.get(metric)) for metric in metrics])
        for method in scorecard.methods
        if method.detection
    ]
    return metrics, rows


def tuned_views(scorecard: Scorecard) -> list[TunedView]:
    return [_tuned(ASKED[question], tuned) for question, tuned in scorecard.tuned.items()]


def sanity_words(scorecard: Scorecard) -> str:
    """What became of the twins without meaning."""
    twins = [method for method in scorecard.methods if method.role == "sanity"]
    measured = [(method_name(twin.name), twin.lds["composition"].value) for twin in twins]
    known = [f"{name} {value:z.2f}" for name, value in measured if value is not None]
    if not known:
        return ""
    return (
        "Two twins without meaning were measured too: the same method on a model whose weights were randomised, and "
        f"the same scores handed to the wrong rows. A ranking that means something must beat both: {', '.join(known)}."
    )


def smoothness_words(value: float | None) -> str:
    if value is None:
        return "How steadily this run answers small changes of its rows (metasmoothness) was not measured."
    return (
        f"Metasmoothness {value:.2f}: how steadily this run answers small changes of its rows (1: steadily, 0: "
        "erratically). It bounds what any method can say about single rows."
    )


def effect_words(scorecard: Scorecard) -> str:
    model = scorecard.effects.get("this_run")
    if model is None:
        return "Predicted effects of single rows, in nats, need retrainings of this run: none were made."
    made = f"{count(model['queries'])} questions and {count(model['retrainings'])} retrainings"
    if not model["for_hits"]:
        return (
            f"Effects in nats were fitted on {made}, for rows picked at random. They say little of the rows that a "
            "ranking names, so none is shown beside hits: leave the top rows of more questions out."
        )
    return (
        "Beside each hit stands what leaving that row out would do, in nats, with a 90 % interval. The model behind it "
        f"was fitted on {made}."
    )


def _verdict(own: MethodEvidence, question: Question, scorecard: Scorecard) -> VerdictView:
    verdict = own.verdicts[question]
    return VerdictView(
        question=question,
        asked=ASKED[question],
        meant=MEANT[question],
        verdict=verdict.verdict,
        title=VERDICTS[verdict.verdict],
        reason=verdict.reason,
        remedy=verdict.remedy or "",
        more=verdict.more_retrains,
        finish=_finish(own, question, scorecard),
    )


def _finish(own: MethodEvidence, question: Question, scorecard: Scorecard) -> dict[str, int] | None:
    """The settings that give the verdict what it lacks; None where it lacks nothing."""
    verdict, config = own.verdicts[question], scorecard.config
    nothing = not own.lds[question].subsets
    if verdict.more_retrains is None and not nothing:
        return None
    if question == "this_run":
        more = verdict.more_retrains or 60
        return {"drop_subsets": config.drop_subsets + more}
    seeds = max(1, config.half_seeds)
    return {"half_subsets": config.half_subsets + -(-(verdict.more_retrains or 60) // seeds)}


def _lds_row(method: MethodEvidence, question: Question) -> Row:
    lds = method.lds[question]
    figures = (number(lds.value), number(lds.low), number(lds.high))
    said = (text(ROLES[method.role]), text(VERDICTS[method.verdicts[question].verdict].lower()))
    return Row((text(method_name(method.name)), *figures, *said), control=method.role in ("control", "sanity"))


def _tuned(asked: str, tuned: Tuned) -> TunedView:
    rows: Sequence[Row] = [
        Row(
            (
                text(method_name(name)),
                number(value),
                number(over.difference if (over := tuned.over_own.get(name)) else None, True),
                text(
                    ""
                    if over is None or over.low is None or over.high is None
                    else f"{over.low:+.2f} to {over.high:+.2f}"
                ),
            )
        )
        for name, value in tuned.tuning_lds.items()
    ]
    own = (Column("more than the index's own", skip=True), Column("95 % interval", skip=True))
    title = (
        f"What auto chose from: LDS on {count(tuned.queries)} questions and {count(tuned.subsets)} subsets set aside"
    )
    chart = Chart("bars", title, (Column("method"), Column("LDS"), *own), tuple(rows), x_title="LDS on the tuning part")
    return TunedView(asked, method_name(tuned.chosen), tuned.queries, tuned.subsets, chart)
