"""Causal checks over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.amending import GIVEN, SHOWN, Metadata
from app.bodies import Name, PlainText, Problem, RequestBody
from engine.causal.checks import CheckConfig, CheckKind

MAX_ROWS = 10_000
_USUAL = CheckConfig("leave_out")
_EXAMPLE = {"kind": "leave_out", "rows": 10, "seeds": 3}
KINDS = (
    "`tail_patch`: one more optimizer step on each row; `leave_out`: training again without the first rows, without as "
    "many random ones, without BM25's first; `replay`: the exact derivative of the output with respect to each row's "
    "weight; `flip`: the smallest set of rows whose removal changes the answer; `unlearn`: an adapter without the "
    "rows' effect, registered as a new version of the model."
)

State = Literal["queued", "running", "ready", "failed"]


class CheckCreate(RequestBody):
    """What is tried. Only `kind` is required."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    kind: CheckKind = Field(description=KINDS)
    rows: int = Field(
        default=_USUAL.rows,
        ge=1,
        le=MAX_ROWS,
        description="How many of the answer's first proponents; left out: 10, or as many as it lists.",
    )
    seeds: int = Field(default=_USUAL.seeds, ge=1, le=100, description="Trainings of each set (leave_out, flip).")
    draws: int = Field(
        default=_USUAL.draws, ge=1, le=100, description="Random sets, or rows, to compare with (leave_out, tail_patch)."
    )
    learning_rate: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Of tail_patch's step; left out: the recipe's."
    )
    ids: list[PlainText] = Field(default=[], max_length=MAX_ROWS, description="Of unlearn: these rows instead.")
    how: Literal["retrain", "influence"] = Field(
        default="retrain", description="Unlearn by training again without the rows, or by one influence step."
    )
    seed: int = Field(default=_USUAL.seed, ge=0, lt=2**63, description="Of every random draw.")
    name: Name | None = None
    metadata: Metadata | None = GIVEN


class RowEffectOut(BaseModel):
    """What one row did to the measurement, in nats. `predicted`: by the answer's ranking, null where its scores are in
    no unit. `low` to `high`: 95 %, null where one measurement is all there is."""

    id: str
    predicted: float | None
    measured: float | None
    low: float | None
    high: float | None


class SetEffectOut(BaseModel):
    """What changing the training by a set of rows did. `name`: top, half, random, bm25, or none (nothing was left out:
    chance alone). `before`, `after`: the measurement in nats, mean over `trainings`; `change` with its 95 % interval.
    `answer_changed`: share of the trainings whose greedy answer is another one."""

    name: str
    rows: int
    before: float | None
    after: float | None
    change: float | None
    low: float | None
    high: float | None
    trainings: int
    answer_changed: float | None = None
    ids: list[str] = []


class CheckResultOut(BaseModel):
    """`sets` in the order in which they are to be read. `flipped`: flip's set; null of other kinds, and where no set of
    at most `rows` changed the answer. `held_out`: unlearn's mean loss a token on the other rows, before and after.
    `details`: figures of one kind alone."""

    effects: list[RowEffectOut]
    sets: list[SetEffectOut]
    answer_before: str | None = None
    answer_after: str | None = None
    flipped: list[str] | None = None
    held_out: dict[str, float | None] | None = None
    details: dict[str, Any] = {}
    warnings: list[str] = []


class CheckSummary(BaseModel):
    """`attribution`: the answer that is checked; `measurement`: what is measured of it. `new_model`: the version that
    `unlearn` registered. What the job learns is null until `state` is `ready`."""

    id: str
    job_id: str | None
    name: str | None
    attribution: str
    model: str
    dataset: str
    index: str
    index_revision: str
    kind: CheckKind
    config: dict[str, Any]
    measurement: str
    state: State
    new_model: str | None
    retrainings: int | None
    seconds: float | None
    error: Problem | None
    metadata: dict[str, Any] | None = SHOWN
    created_at: datetime
    finished_at: datetime | None


class CheckOut(CheckSummary):
    result: CheckResultOut | None


class CheckCostOut(BaseModel):
    """Of what is still to be done: retrainings of earlier checks of the same answer are taken over."""

    model_config = ConfigDict(from_attributes=True)

    retrainings: int
    seconds: float
    memory_bytes: int
