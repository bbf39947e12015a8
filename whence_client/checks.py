"""Causal checks of stored answers, typed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from whence_client.problem import Problem
from whence_client.resource import Resource


class RowEffect(Resource):
    """What one row did to what is measured, in nats. `predicted`: by the ranking, None where its scores are in no unit;
    `low` to `high`: 95 %, None where one measurement is all there is."""

    id: str
    predicted: float | None = None
    measured: float | None = None
    low: float | None = None
    high: float | None = None


class SetEffect(Resource):
    """What changing the training by a set of rows did: top, half, random, bm25, or none (chance alone). `before` and
    `after` in nats, mean over `trainings`. `answer_changed`: share of them whose greedy answer is another one."""

    name: str
    rows: int
    before: float | None = None
    after: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    trainings: int = 0
    answer_changed: float | None = None
    ids: list[str] = []


class CheckResult(Resource):
    """`sets` in the order in which they are to be read. `flipped`: flip's set. `held_out`: unlearn's loss on the other
    rows, before and after. `details`: figures of one kind alone."""

    effects: list[RowEffect] = []
    sets: list[SetEffect] = []
    answer_before: str | None = None
    answer_after: str | None = None
    flipped: list[str] | None = None
    held_out: dict[str, float | None] | None = None
    details: dict[str, Any] = {}
    warnings: list[str] = []

    def of(self, name: str) -> SetEffect | None:
        return next((one for one in self.sets if one.name == name), None)


class Check(Resource):
    """`state` is queued, running, ready or failed; `job_id` is its job. `new_model`: the version that unlearn made.
    `result`: None in lists and until it is ready."""

    id: str
    job_id: str | None = None
    name: str | None = None
    attribution: str
    model: str
    dataset: str | None = None
    index: str | None = None
    index_revision: str | None = None
    kind: str
    config: dict[str, Any] = {}
    measurement: str = "log_prob"
    state: str
    new_model: str | None = None
    retrainings: int | None = None
    seconds: float | None = None
    metadata: dict[str, Any] | None = None
    error: Problem | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None
    result: CheckResult | None = None


class CheckCost(Resource):
    """Of what is still to be done."""

    retrainings: int
    seconds: float
    memory_bytes: int | None = None


class MeasuredEffect(Resource):
    """What a check (`kind`, `check`) measured of one row, in nats; `predicted` by the ranking that was checked."""

    predicted: float | None = None
    measured: float
    low: float | None = None
    high: float | None = None
    kind: str
    check: str


class Difference(Resource):
    value: float | None = None
    low: float | None = None
    high: float | None = None


class LeftOut(Resource):
    """What training again without the first `rows` did to this very answer, in nats; `difference`: to random rows.
    `words`: all of that, for people."""

    check: str
    rows: int
    trainings: int = 0
    before: float | None = None
    after: float | None = None
    change: float
    low: float | None = None
    high: float | None = None
    random_change: float | None = None
    difference: Difference | None = None
    words: str = ""
