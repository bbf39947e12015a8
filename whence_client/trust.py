"""Evaluations, and what they say about an answer, typed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from whence_client.checks import LeftOut
from whence_client.problem import Problem
from whence_client.resource import Resource


class Evaluation(Resource):
    """`state` is queued, running, ready or failed; `job_id` is its job. `questions`: how many were asked. `verdicts`:
    of the index's own method, by question. `scorecard`: all that was measured; None in lists and until it is ready."""

    id: str
    job_id: str | None = None
    name: str | None = None
    model: str
    dataset: str | None = None
    index: str
    index_revision: str | None = None
    state: str
    config: dict[str, Any] = {}
    questions: int | None = None
    source: str | None = None
    measurement: str | None = None
    verdicts: dict[str, str] | None = None
    retrainings: int | None = None
    seconds: float | None = None
    metadata: dict[str, Any] | None = None
    error: Problem | None = None
    created_at: datetime | None = None
    ready_at: datetime | None = None
    scorecard: dict[str, Any] | None = None


class EvaluationCost(Resource):
    """`retrainings` still to be done, in `processes` at once."""

    retrainings: int
    processes: int
    seconds: float
    basis: str | None = None


class Pairs(Resource):
    """One question (`query`: its place among those asked): for each retrained subset of the rows what was predicted
    (standardised) and what was measured."""

    query: int
    asked: str | None = None
    lds: float | None = None
    predicted: list[float | None] = []
    measured: list[float | None] = []


class Fall(Resource):
    """How far the answer fell (nats) without its top rows, by method, and without as many random ones."""

    query: int
    asked: str | None = None
    top: dict[str, float | None] = {}
    random: float | None = None


class Curve(Resource):
    """`found` by method: which share of the `relevant` rows is among the first n, for each n of `rows`."""

    name: str
    rows: list[int] = []
    relevant: float | None = None
    found: dict[str, list[float | None]] = {}


class EvaluationFigures(Resource):
    """What a scorecard's charts show; `method`: the index's own."""

    evaluation: str
    method: str
    composition: list[Pairs] = []
    this_run: list[Pairs] = []
    leave_out: list[Fall] = []
    curves: list[Curve] = []


class Effect(Resource):
    """The change of what is measured, in nats, when the row is left out of this run; low to high with probability
    `level`."""

    value: float
    low: float
    high: float
    level: float = 0.9


class QuestionTrust(Resource):
    """The verdict for one question, with the rank correlation (`lds`) it rests on."""

    verdict: str
    reason: str | None = None
    remedy: str | None = None
    more_retrains: int | None = None
    lds: float | None = None
    low: float | None = None
    high: float | None = None
    ceiling: float | None = None


class TrustScope(Resource):
    """`extrapolated`: the answer lies beyond what was evaluated, for these `reasons`."""

    extrapolated: bool = False
    reasons: list[str] = []
    measurement: str | None = None
    queries: str | None = None


class Reliability(Resource):
    """Of this very question: the rank correlation to be expected. `level`: high, usual or low (do not act on it)."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    level: str
    words: str


class Trust(Resource):
    """How far the ranking can be trusted: trusted, weak, untrusted or unmeasured, and why. `questions`: composition (of
    which this verdict is) and this_run. `scorecard`: the evaluation it rests on. `measured`: of this very answer,
    by its newest leave-out check."""

    verdict: str
    reason: str | None = None
    remedy: str | None = None
    questions: dict[str, QuestionTrust] = {}
    scope: TrustScope = TrustScope()
    reliability: Reliability | None = None
    scorecard: str | None = None
    measured: LeftOut | None = None
