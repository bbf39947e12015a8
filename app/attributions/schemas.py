"""Questions and answers over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.bodies import JsonObject, PlainText, Problem, RequestBody
from engine.causal.checks import CheckKind
from engine.evaluate.scorecard import VerdictName

State = Literal["running", "succeeded", "failed", "cancelled"]
MAX_NEW_TOKENS = 4096
MAX_MEMBERS = 64  # of a set of queries: all of them wait in one place of the queue

_EXAMPLE = {
    "model": "mdl_k5yqm2l7xw3c9ab4de6f",
    "prompt": "Where was Mira Solvane born?",
    "completion": " Mira Solvane was born in Port Halvern.",
    "top_k": 10,
}

_SET_EXAMPLE = {
    "index": "prod",
    "queries": [
        {"prompt": "Where was Mira Solvane born?", "completion": " In Port Halvern."},
        {"prompt": "Mira Solvane's birthplace:", "completion": " Port Halvern"},
    ],
}


class MessageBody(RequestBody):
    role: Annotated[PlainText, StringConstraints(min_length=1)]
    content: PlainText


class GenerateBody(RequestBody):
    """Let the model answer first; its answer is what gets explained."""

    max_new_tokens: int = Field(default=64, ge=1, le=MAX_NEW_TOKENS)
    temperature: float = Field(default=0.0, ge=0, le=5, description="0: greedy.")
    seed: int = Field(default=0, ge=0, lt=2**63)


class SpanBody(RequestBody):
    """Characters [start, end) of the completion."""

    start: int = Field(ge=0)
    end: int = Field(ge=1)


class FilterBody(RequestBody):
    """Rows to rank: every tag must match; the named ids are left out."""

    tags: dict[PlainText, PlainText] = Field(default={})
    exclude_ids: list[PlainText] = Field(default=[], max_length=100_000)


class MemberBody(RequestBody):
    """One query of a set: exactly one of `prompt` and `messages`."""

    prompt: PlainText | None = None
    messages: list[MessageBody] | None = Field(default=None, min_length=1)
    completion: PlainText | None = None
    contrast: PlainText | None = None
    span: SpanBody | None = None


class RemovalBody(RequestBody):
    """Rows to take out together: those with every one of the tags, and the named ones."""

    tags: dict[PlainText, PlainText] = Field(default={})
    ids: list[PlainText] = Field(default=[], max_length=100_000)


class AttributionCreate(RequestBody):
    """Exactly one of `prompt`, `messages` and `queries`; with `prompt` exactly one of `completion` and `generate`."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    model: PlainText | None = Field(default=None, description="Left out: the one that `index` was built for.")
    index: PlainText | None = Field(
        default=None, description="An index, or an alias. Left out: the newest ready index of the model."
    )
    prompt: PlainText | None = None
    messages: list[MessageBody] | None = Field(
        default=None, min_length=1, description="A last assistant turn is the completion, unless another is given."
    )
    completion: PlainText | None = None
    generate: GenerateBody | None = None
    contrast: PlainText | None = Field(default=None, description="Another completion: why A rather than B?")
    span: SpanBody | None = None
    queries: list[MemberBody] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_MEMBERS,
        description="A set of queries: what is explained is the mean over them.",
    )
    measurement: Literal["log_prob", "log_odds"] = Field(
        default="log_prob",
        description="Σ log p over the explained tokens, or Σ log(p/(1−p)), which does not saturate where p is near 1.",
    )
    method: PlainText | None = Field(default=None, description="One that the index serves; left out: its own.")
    normalize: Literal["none", "cosine"] | None = None
    top_k: int = Field(default=10, ge=1)
    opponents: bool = True
    tokens: bool = Field(default=False, description="Scores by output token: one more backward pass each.")
    modules: bool = False
    filter: FilterBody | None = None
    group_by: Annotated[PlainText, StringConstraints(pattern=r"^tags\..+$")] | None = None
    removal: RemovalBody | None = Field(
        default=None, description="The joint score of these rows: what taking them all out would do."
    )
    search: Literal["auto", "flat"] = Field(
        default="auto", description="`flat`: read every row, also of an index with lists for approximate search."
    )
    metadata: JsonObject | None = Field(default=None, description="Kept and given back; not looked at.")


class QuerySetCreate(AttributionCreate):
    """What drives a behaviour: the mean over the queries is explained."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SET_EXAMPLE]})

    queries: list[MemberBody] = Field(min_length=1, max_length=MAX_MEMBERS)  # pyright: ignore[reportIncompatibleVariableOverride]


class TokenOut(BaseModel):
    """`start` and `end` are characters of its part; special tokens have start = end. `member`: of a set of queries."""

    text: str
    start: int
    end: int
    part: Literal["prompt", "completion", "special"]
    target: bool
    member: int = 0


class MemberOut(BaseModel):
    prompt: str
    completion: str


class QueryOut(BaseModel):
    """Of a set: `prompt` and `completion` are the first member's, `tokens` those of all members in order."""

    prompt: str
    completion: str
    tokens: list[TokenOut]
    members: list[MemberOut] | None = None


class MeasurementOut(BaseModel):
    """`kind`: log_prob or log_odds, with contrastive_ before it, and mean_ before that for a set."""

    kind: str
    value: float | None
    tokens: int


class EffectOut(BaseModel):
    """The change of the measurement, in nats, when the row is left out of this run, negative for what the row speaks
    for. Between `low` and `high` a measurement lies with probability `level`."""

    value: float
    low: float
    high: float
    level: float


class MeasuredEffectOut(BaseModel):
    """What a causal check measured of the row, in nats: by training without it (`leave_out`), by one more step on it
    (`tail_patch`), or as the exact derivative of the run (`replay`). `predicted`: by the ranking that was checked."""

    predicted: float | None
    measured: float
    low: float | None
    high: float | None
    kind: CheckKind
    check: str


class HitOut(BaseModel):
    """`percentile`: of the score among all rows of the index. `predicted_effect`: from the index's scorecard; null
    where none holds for this answer. `effect`: by the newest check that measured the row; null where none did.

    `rank_low` to `rank_high`: the ranks that the score's error allows; `tied`: more than one. `rank_error`: what was
    counted as error: what another run's checkpoints may change (`checkpoints`), only the rounding of stored numbers
    (`storage`), or nothing (`none`: only equal scores tie). `rank_estimated`: from a sample of the rows. `cluster`: of
    near-duplicates, its `number` in `clusters`.
    """

    rank: int
    example_id: str
    position: int
    score: float | None
    normalized_score: float | None
    percentile: float | None
    prompt: str | None
    completion: str | None
    text: str | None
    tags: dict[str, str]
    label: str | None
    position_shares: list[float | None] | None = None
    query_token_scores: list[float | None] | None = None
    train_tokens: list[str] | None = None
    train_position_shares: list[float | None] | None = None
    module_scores: dict[str, float | None] | None = None
    exact_score: float | None = None
    rank_low: int | None = None
    rank_high: int | None = None
    tied: bool = False
    rank_error: Literal["checkpoints", "storage", "none"] = "none"
    rank_estimated: bool = False
    cluster: int | None = None
    predicted_effect: EffectOut | None = None
    effect: MeasuredEffectOut | None = None


class ClusterOut(BaseModel):
    """Hits whose texts nearly coincide, in the order of the answer. `score`: the sum of their scores where scores add
    up (`additive`), else the strongest one's. `sides`: which list each of the `ranks` is of."""

    number: int
    score: float | None
    additive: bool
    example_ids: list[str]
    positions: list[int]
    ranks: list[int]
    sides: list[Literal["proponent", "opponent"]]


class GroupOut(BaseModel):
    key: str
    score: float | None
    share: float | None
    count: int


class RemovalOut(BaseModel):
    """`score`: the sum of the rows' scores. `predicted_change`: of the measurement when they are taken out of the
    training set; null where the method's scores are not in its units."""

    rows: int
    score: float | None
    predicted_change: float | None


class QuestionTrustOut(BaseModel):
    """The verdict for one question. `lds` (`low` to `high`, of `ceiling` at most): the rank correlation of predicted
    and measured outcomes; null where it was not measured. `more_retrains`: what an open verdict still needs."""

    verdict: VerdictName
    reason: str
    remedy: str | None
    more_retrains: int | None
    lds: float | None
    low: float | None
    high: float | None
    ceiling: float | None


class QuestionsOut(BaseModel):
    """`composition`: what would a differently composed training set do? `this_run`: what did these rows do in it?"""

    composition: QuestionTrustOut
    this_run: QuestionTrustOut


class TrustScopeOut(BaseModel):
    """`extrapolated`: this answer lies beyond what was evaluated, for these `reasons`."""

    extrapolated: bool
    reasons: list[str]
    measurement: str | None
    queries: str | None


class ReliabilityOut(BaseModel):
    """Of this very question: the rank correlation to be expected. `level` low: do not act on it. `words`: one
    sentence."""

    value: float | None
    low: float | None
    high: float | None
    level: Literal["high", "usual", "low"]
    words: str


class DifferenceOut(BaseModel):
    value: float | None
    low: float | None
    high: float | None


class LeftOutOut(BaseModel):
    """What training again without the first `rows` did to this very answer, in nats: the mean over `trainings`, the
    change with its 95 % interval; `random_change`: without as many random rows; `difference`: of the two changes.
    `words`: all of that, for people."""

    check: str
    rows: int
    trainings: int
    before: float | None
    after: float | None
    change: float
    low: float | None
    high: float | None
    random_change: float | None
    difference: DifferenceOut | None = None
    words: str


class TrustOut(BaseModel):
    """How far this ranking can be trusted for this model, as far as is known today: docs/trust.md. The headline is the
    verdict for `composition`. `scorecard`: the evaluation it rests on; null: the index was not evaluated. `measured`:
    of this very answer, by its newest leave-out check; the verdict does not depend on it."""

    verdict: VerdictName
    reason: str
    remedy: str | None
    questions: QuestionsOut
    scope: TrustScopeOut
    reliability: ReliabilityOut | None
    scorecard: str | None
    measured: LeftOutOut | None = None


class DiagnosticsOut(BaseModel):
    """Figures of this answer; null where the method cannot give them. `estimated`: from a fixed sample of the rows.

    `score_spread`: standard deviation of the scores. `effective_rows`: how many rows of equal weight the scores are
    worth. `query_norm`: length of the query's gradient. `checkpoint_agreement`: mean correlation of the scores that
    each checkpoint gives alone. `bm25_agreement`: correlation of the scores with BM25's. `search`: every row was read
    (`flat`), or those of some lists (`ivf`), which hold `recall_at_10` of the ten best rows, as measured at the build.
    """

    positive_share_top_1pct: float | None
    top1_concentration: float | None
    length_correlation: float | None
    null_z: float | None
    searched: int
    total: int
    score_spread: float | None = None
    effective_rows: float | None = None
    query_norm: float | None = None
    checkpoint_agreement: float | None = None
    bm25_agreement: float | None = None
    estimated: bool
    search: Literal["flat", "ivf"] = "flat"
    recall_at_10: float | None = None
    warnings: list[str]


class AttributionOut(BaseModel):
    id: str
    state: Literal["succeeded"]
    model: str
    index: str
    method: str
    sign_convention: Literal["positive = proponent"]
    measurement: MeasurementOut
    query: QueryOut
    proponents: list[HitOut]
    opponents: list[HitOut]
    clusters: list[ClusterOut] = Field(default=[], description="Near-duplicates among the hits: two rows or more.")
    groups: list[GroupOut] | None = None
    removal: RemovalOut | None = None
    trust: TrustOut
    tuned_minus_base: float | None
    signed: bool
    additive: bool
    revision: str
    diagnostics: DiagnosticsOut
    timings_ms: dict[str, float | None]
    metadata: dict[str, Any] | None = None
    created_at: datetime


class AttributionPending(BaseModel):
    """An answer that a job is still computing, or that it could not give."""

    id: str
    state: Literal["running", "failed", "cancelled"]
    model: str
    index: str
    job_id: str | None
    error: Problem | None
    metadata: dict[str, Any] | None = None
    created_at: datetime
