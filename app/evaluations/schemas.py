"""Evaluations over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.amending import GIVEN, SHOWN, Metadata
from app.attributions.schemas import MemberBody
from app.bodies import JsonObject, Name, PlainText, Problem, RequestBody
from engine.evaluate.scorecard import Candidate, EvaluationConfig, Question, VerdictName

MAX_QUESTIONS = 5000
DEFAULT_ROWS = 100
MAX_SUBSETS = 10_000
_USUAL = EvaluationConfig()
_EXAMPLE = {"index": "idx_k5yqm2l7xw3c9ab4de6f", "rows": 100, "half_subsets": 60, "candidates": [{"method": "kfac"}]}

State = Literal["queued", "running", "ready", "failed"]


class QuestionBody(MemberBody):
    """One query. `group`: those about one fact share it, so that none of them tunes while another one measures.
    `relevant`: tags of the rows that really teach the answer, where that is known."""

    group: Annotated[PlainText, StringConstraints(min_length=1, max_length=200)] | None = None
    relevant: dict[PlainText, PlainText] = Field(default={})


class CandidateBody(RequestBody):
    """A method and its own options, which `auto` may choose instead of the index's."""

    method: PlainText
    options: JsonObject = Field(default={})


class EvaluationCreate(RequestBody):
    """At most one of `queries` and `rows`. The rest says how much is measured: engine.evaluate.scorecard."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    index: PlainText = Field(description="An index, or an alias.")
    name: Name | None = None
    queries: list[QuestionBody] | None = Field(
        default=None, min_length=2, max_length=MAX_QUESTIONS, description="Questions like those people will ask."
    )
    rows: int | None = Field(
        default=None, ge=2, le=MAX_QUESTIONS, description=f"Rows of the dataset as questions (default {DEFAULT_ROWS})."
    )
    group_by: Annotated[PlainText, StringConstraints(pattern=r"^tags\..+$")] | None = Field(
        default=None, description="With rows: those with the same tag are one group. Left out: those of one prompt."
    )
    measurement: Literal["log_prob", "log_odds"] = "log_prob"
    half_subsets: int = Field(default=_USUAL.half_subsets, ge=3, le=MAX_SUBSETS)
    half_seeds: int = Field(default=_USUAL.half_seeds, ge=1, le=100)
    drop_subsets: int = Field(default=_USUAL.drop_subsets, ge=0, le=MAX_SUBSETS)
    drop_share: float = Field(default=_USUAL.drop_share, ge=0, lt=1)
    leave_out_queries: int = Field(default=_USUAL.leave_out_queries, ge=0, le=MAX_QUESTIONS)
    leave_out_rows: int = Field(default=_USUAL.leave_out_rows, ge=1, le=MAX_SUBSETS)
    leave_out_draws: int = Field(default=_USUAL.leave_out_draws, ge=2, le=MAX_SUBSETS)
    leave_out_seeds: int = Field(default=_USUAL.leave_out_seeds, ge=1, le=100)
    directions: int = Field(default=_USUAL.directions, ge=0, le=MAX_SUBSETS)
    tuning_share: float = Field(default=_USUAL.tuning_share, ge=0, lt=1)
    candidates: list[CandidateBody] = Field(default=[], max_length=16)
    mislabelled: dict[PlainText, PlainText] = Field(default={}, description="Tags of the rows known to be wrong.")
    canaries: int = Field(
        default=_USUAL.canaries, ge=0, le=64, description="Facts planted to be found, where no query has `relevant`."
    )
    seed: int = Field(default=_USUAL.seed, ge=0, lt=2**63)
    metadata: Metadata | None = GIVEN

    def config(self) -> EvaluationConfig:
        """As the engine knows it."""
        beside = {"index", "name", "queries", "rows", "group_by", "measurement", "candidates", "metadata"}
        chosen = tuple(Candidate(given.method, dict(given.options)) for given in self.candidates)
        return EvaluationConfig(candidates=chosen, **self.model_dump(exclude=beside))


class EvaluationSummary(BaseModel):
    """`questions`: how many; `source`: where they come from. `verdicts`: of the index's own method, by question.
    What the job learns (`verdicts`, `retrainings`, `seconds`) is null until `state` is `ready`."""

    id: str
    job_id: str | None
    name: str | None
    model: str
    dataset: str
    index: str
    index_revision: str
    state: State
    config: dict[str, Any]
    questions: int
    source: str
    measurement: str
    verdicts: dict[Question, VerdictName] | None
    retrainings: int | None
    seconds: float | None
    error: Problem | None
    metadata: dict[str, Any] | None = SHOWN
    created_at: datetime
    ready_at: datetime | None


class EvaluationOut(EvaluationSummary):
    """`scorecard`: all that was measured: every method's LDS, comparisons, leave-out and verdicts; docs/trust.md."""

    scorecard: dict[str, Any] | None


class PairsOut(BaseModel):
    """One question (`query`: its place among those asked), and one number a retrained subset of the rows: `predicted`,
    the sum of the kept rows' scores (standardised), and `measured`, log-probability or log-odds after retraining."""

    query: int
    asked: str = Field(description="The question as people read it, shortened.")
    lds: float | None
    predicted: list[float | None]
    measured: list[float | None]


class FallOut(BaseModel):
    """How far a question's answer fell (nats) without its `top` rows, by method, and without as many random ones."""

    query: int
    asked: str
    top: dict[str, float | None]
    random: float | None


class CurveOut(BaseModel):
    """`found` by method: which share of the `relevant` rows is among the first n, for each n of `rows`."""

    name: str
    rows: list[int]
    relevant: float
    found: dict[str, list[float | None]]


class EvaluationFiguresOut(BaseModel):
    """What a scorecard's charts show; `method`: the index's own. Of many questions some, spread over the list."""

    evaluation: str
    method: str
    composition: list[PairsOut]
    this_run: list[PairsOut]
    leave_out: list[FallOut]
    curves: list[CurveOut]


class EvaluationCostOut(BaseModel):
    """`retrainings` still to be done, in `processes` at once; `basis` says how `seconds` was obtained."""

    model_config = ConfigDict(from_attributes=True)

    retrainings: int
    processes: int
    seconds: float
    basis: str
