"""What a scorecard's charts show, made once, when an evaluation ends: pages and programs read it and compute nothing.

figures.json (FIGURES_FILE), small whatever the dataset's size:

    method       the index's own, whose predictions are shown
    composition, this_run   [{query, lds, predicted, measured}]: for some test queries, spread over the list; for each
                 subset of the rows the sum of the kept rows' scores, standardised, and f after retraining (nats, mean
                 over seeds)
    leave_out    [{query, top, random}]: how far f fell (nats, mean over seeds): top by method, random the draws' mean
    curves       [{name, rows, relevant, found}]: found by method: share of the `relevant` rows among the first n, for
                 each n in `rows`, mean over queries; ties count as in retrieval.py

Shapes: Q queries, N rows, M subsets, P numbers of rows looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.dataset import Dataset
from engine.durable import write_durably
from engine.evaluate.assemble import Measured
from engine.evaluate.detection import relevant_rows, wrong_rows
from engine.evaluate.evidence import Evidence
from engine.evaluate.lds import predict
from engine.evaluate.scorecard import FIGURES_FILE, QUESTIONS, Question
from engine.evaluate.scored import Scored

SHOWN_QUERIES, SHOWN_SUBSETS, SHOWN_ROWS, CURVE_QUERIES = 24, 400, 40, 64
_DIGITS = 6
Json = dict[str, Any]


def write_figures(evidence: Evidence, dataset: Dataset, work: Path) -> None:
    content = json.dumps(figures_of(evidence, dataset), allow_nan=False).encode()
    write_durably(work / FIGURES_FILE, lambda sink: sink.write(content))


def figures_of(evidence: Evidence, dataset: Dataset) -> Json:
    pairs = {question: _pairs(evidence, question) for question in QUESTIONS}
    return {"method": evidence.scores.own.name, **pairs, "leave_out": _leave_out(evidence)} | {
        "curves": [*_curves_of_tags(evidence, dataset), *_curves_of_canaries(evidence)]
    }


def _pairs(evidence: Evidence, question: Question) -> list[Json]:
    test = list(evidence.bench.queries.test)
    measured = evidence.bench.test(question)
    if not measured.outcome_QMR.size:
        return []
    places = spread(len(test), SHOWN_QUERIES)
    shown = measured.part(places, range(min(SHOWN_SUBSETS, measured.subsets)))
    queries = [test[place] for place in places]
    scores_QN = evidence.scores.own.scores_QN[queries]
    lds_Q = measured.part(places, range(measured.subsets)).lds(scores_QN).per_query_Q
    return pairs_of(queries, scores_QN, shown, lds_Q)


def pairs_of(queries: Sequence[int], scores_QN: np.ndarray, shown: Measured, lds_Q: np.ndarray) -> list[Json]:
    """One entry a query; predictions have mean 0 and standard deviation 1 over the subsets."""
    predicted_QM, outcome_QM = predict(scores_QN, shown.kept_MN), shown.outcome_QMR.mean(axis=2)
    centred_QM = predicted_QM - predicted_QM.mean(axis=1, keepdims=True)
    scale_Q1 = centred_QM.std(axis=1, keepdims=True)
    standard_QM = np.divide(centred_QM, scale_Q1, out=np.zeros_like(centred_QM), where=scale_Q1 > 0)
    return [
        {"query": query, "lds": _number(lds_Q[q]), "predicted": _list(standard_QM[q]), "measured": _list(outcome_QM[q])}
        for q, query in enumerate(queries)
    ]


def _leave_out(evidence: Evidence) -> list[Json]:
    if not evidence.falls:
        return []
    full_QR = np.stack([evidence.outcomes.full_Q[seed] for seed in evidence.plan.leave_out_seeds], axis=1)
    random_Q = (full_QR[:, None, :] - evidence.outcomes.random_QKR).mean(axis=(1, 2))
    return [
        {
            "query": query,
            "top": {name: _number(fall_LR[place].mean()) for name, fall_LR in evidence.falls.items()},
            "random": _number(random_Q[query]),
        }
        for place, query in enumerate(evidence.asked)
    ]


# --- curves: how many of the rows that should be found are found early ---


def _curves_of_tags(evidence: Evidence, dataset: Dataset) -> list[Json]:
    found = []
    known, relevant_QN = relevant_rows(evidence, dataset)
    if len(known):
        by_method = {scored.name: scored.scores_QN[list(known)] for scored in evidence.scores.all}
        found.append(curve("teaching rows", by_method, relevant_QN))
    wrong_N = wrong_rows(evidence, dataset)
    noticing = {scored.name: _self_scores(scored) for scored in evidence.scores.all if scored.self_scores_N is not None}
    if wrong_N.any() and noticing:
        found.append(curve("mislabelled rows", noticing, wrong_N[None]))
    return found


def _self_scores(scored: Scored) -> np.ndarray:
    assert scored.self_scores_N is not None
    return scored.self_scores_N[None]


def _curves_of_canaries(evidence: Evidence) -> list[Json]:
    canaries = evidence.canaries
    return [] if canaries is None else [curve("planted canaries", canaries.scores, canaries.relevant_QN)]


def curve(name: str, scores: Mapping[str, np.ndarray], relevant_QN: np.ndarray) -> Json:
    """scores: by method [Q, N]. Queries without a relevant row do not count."""
    has_Q = np.flatnonzero(relevant_QN.any(axis=1))
    chosen = has_Q[spread(len(has_Q), CURVE_QUERIES)]
    rows_P = looked_at(relevant_QN.shape[1])
    found = {
        method: _list(np.mean([found_share(scores_QN[q], relevant_QN[q], rows_P) for q in chosen], axis=0))
        for method, scores_QN in scores.items()
        if len(chosen)
    }
    relevant = float(relevant_QN[chosen].sum(axis=1).mean()) if len(chosen) else 0.0
    return {"name": name, "rows": rows_P.tolist(), "relevant": relevant, "found": found}


def found_share(scores_N: np.ndarray, relevant_N: np.ndarray, rows_P: np.ndarray) -> np.ndarray:
    """[P]: share of the relevant rows among the first of the ranking; over ties the expectation over their order."""
    order_N = np.argsort(-scores_N, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores_N[order_N])) + 1, len(order_N))  # behind each group of equal scores
    hits = np.cumsum(relevant_N[order_N])[ends - 1]
    return np.interp(rows_P, np.append(0, ends), np.append(0, hits)) / relevant_N.sum()


def looked_at(rows: int) -> np.ndarray:
    """Numbers of rows from 1 to all, each about the same share more than the one before."""
    return np.unique(np.rint(np.geomspace(1, rows, SHOWN_ROWS)).astype(np.int64))


def spread(count: int, most: int) -> list[int]:
    """At most `most` positions, evenly over `count`."""
    return list(range(count)) if count <= most else [place * count // most for place in range(most)]


def _list(values: np.ndarray) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: Any) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None
