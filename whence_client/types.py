"""The server's answers, typed. Unknown fields are kept, so a newer server does not break an older client."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, PrivateAttr

from whence_client.checks import MeasuredEffect
from whence_client.errors import WhenceError
from whence_client.problem import Problem
from whence_client.resource import Resource
from whence_client.trust import (
    Effect,
    Trust,
)

T = TypeVar("T")


class Page(Resource, Generic[T]):
    """One page of a list; `next_cursor` is None on the last."""

    data: list[T]
    next_cursor: str | None = None


class Model(Resource):
    id: str
    name: str
    version: int | str | None = None
    base: str
    adapter: str | None = None
    fingerprint: str | None = None
    parameters: int | None = None
    trained_parameters: int | None = None
    trained_modules: int | None = None
    checkpoints: list[str] | int | None = None
    coverage: dict[str, Any] | float | None = None
    recipe: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    warnings: list[str] = []
    created_at: datetime | None = None


class Key(Resource):
    """`prefix` is how the key begins."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    tenant: str
    created_by: str | None = None
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


class NewKey(Key):
    """`key` is shown this once."""

    key: str = Field(repr=False)


class AuditEvent(Resource):
    """One request that changed something; `key_id` is None where no key was needed."""

    id: str
    created_at: datetime
    key_id: str | None = None
    operation: str
    resource_id: str | None = None
    path: str
    status: int
    request_id: str | None = None
    address: str | None = None


class Dataset(Resource):
    """`state` is loading, ready or failed; while loading, `job_id` is the job to wait for."""

    id: str
    name: str
    state: str = "ready"
    job_id: str | None = None
    rows: int | None = None
    sha256: str | None = None
    format: str | None = None
    error: Problem | None = None
    metadata: dict[str, Any] | None = None
    warnings: list[str] = []
    created_at: datetime | None = None


class Message(Resource):
    role: str
    content: str


class Example(Resource):
    """One training row: prompt and completion, or messages, or text."""

    id: str
    prompt: str | None = None
    completion: str | None = None
    messages: list[Message] | None = None
    text: str | None = None
    tags: dict[str, Any] = {}
    label: str | None = None


class Index(Resource):
    """`state` is queued, building, ready, failed or stale; `job_id` is its build. `chosen_by`: the evaluation that
    `auto` took its method from."""

    id: str
    job_id: str | None = None
    model: str
    dataset: str
    name: str | None = None
    version: int | None = None
    method: str
    chosen_by: str | None = None
    state: str
    serves: list[str] = []
    rows: int | None = None
    dims: int | None = None
    bytes: int | None = None
    sketched: bool | None = None
    error: Problem | None = None
    revision: str | None = None
    coverage: dict[str, Any] | float | None = None
    metadata: dict[str, Any] | None = None
    warnings: list[str] = []
    fingerprints: dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    created_at: datetime | None = None


class IndexEstimate(Resource):
    seconds: float
    memory_bytes: int
    disk_bytes: int
    rows: int | None = None
    dims: int | None = None
    sketched: bool | None = None
    basis: str | None = None


class SelfInfluence(Resource):
    """One row and its score against itself."""

    rank: int | None = None
    example_id: str
    position: int | None = None
    score: float
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    tags: dict[str, Any] = {}
    label: str | None = None


class Measurement(Resource):
    kind: str
    value: float | None
    tokens: int


class Token(Resource):
    """One token of the query; start and end are characters within its part."""

    text: str
    start: int
    end: int
    part: str | None = None
    target: bool | None = None
    member: int = 0


class Member(Resource):
    prompt: str
    completion: str


class AskedQuery(Resource):
    """Of a set of queries: the first member's prompt and completion, and the tokens of all members in order."""

    prompt: str | None = None
    completion: str | None = None
    tokens: list[Token] = []
    members: list[Member] | None = None


class Hit(Resource):
    """One ranked training example; `percentile` (0–100) is of its score among all rows of the index.

    `rank_low` to `rank_high`: the ranks that the score's error allows, of which `rank_error` says what it is
    (checkpoints, storage, none). `cluster`: the `number` of its cluster of near-duplicates. `predicted_effect`: None
    where no scorecard's model holds for this answer. `effect`: by the newest check that measured the row.
    """

    rank: int
    example_id: str
    score: float
    normalized_score: float | None = None
    percentile: float | None = None
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    tags: dict[str, Any] = {}
    label: str | None = None
    position: int | None = None
    position_shares: list[float | None] | None = None
    query_token_scores: list[float | None] | None = None
    module_scores: dict[str, float | None] | None = None
    exact_score: float | None = None
    predicted_effect: Effect | None = None
    effect: MeasuredEffect | None = None
    rank_low: int | None = None
    rank_high: int | None = None
    tied: bool = False
    rank_error: str = "none"
    rank_estimated: bool = False
    cluster: int | None = None


class Cluster(Resource):
    """Hits whose texts nearly coincide. `score`: their sum where scores add up (`additive`), else the strongest."""

    number: int
    score: float | None
    additive: bool = False
    example_ids: list[str]
    positions: list[int] = []
    ranks: list[int]
    sides: list[str] = []


class Group(Resource):
    key: str
    score: float
    share: float
    count: int


class Removal(Resource):
    """The joint score of the rows to take out; `predicted_change` of the measurement is null where scores are not in
    its units."""

    rows: int
    score: float | None
    predicted_change: float | None = None


class Diagnostics(Resource):
    """Figures of one answer; None where the method, or an older server, does not give them."""

    positive_share_top_1pct: float | None = None
    top1_concentration: float | None = None
    length_correlation: float | None = None
    null_z: float | None = None
    searched: int | None = None
    total: int | None = None
    score_spread: float | None = None
    effective_rows: float | None = None
    query_norm: float | None = None
    checkpoint_agreement: float | None = None
    bm25_agreement: float | None = None
    estimated: bool = False
    search: Literal["flat", "ivf"] = "flat"
    recall_at_10: float | None = None
    warnings: list[str] = []


class Attribution(Resource):
    """A stored answer. `tuned_minus_base` ≤ 0: fine-tuning did not raise this output."""

    id: str
    state: Literal["succeeded"] = "succeeded"
    model: str
    index: str
    method: str
    sign_convention: str = "positive = proponent"
    measurement: Measurement
    query: AskedQuery
    proponents: list[Hit]
    opponents: list[Hit] = []
    clusters: list[Cluster] = []
    groups: list[Group] | None = None
    removal: Removal | None = None
    trust: Trust
    tuned_minus_base: float | None = None
    signed: bool = True
    additive: bool = False
    revision: str | None = None
    diagnostics: Diagnostics = Diagnostics()
    timings_ms: dict[str, float | None] = {}
    metadata: dict[str, Any] | None = None
    created_at: datetime | None = None


class PendingAttribution(Resource):
    """A question without an answer: `state` is running (see `job_id`), failed (see `error`) or cancelled."""

    id: str
    state: Literal["running", "failed", "cancelled"]
    model: str
    index: str
    job_id: str | None = None
    error: Problem | None = None
    metadata: dict[str, Any] | None = None
    created_at: datetime | None = None


# Tried in this order: whatever has an answer is an Attribution.
AnyAttribution = Annotated[Attribution | PendingAttribution, Field(union_mode="left_to_right")]


class Method(Resource):
    name: str
    title: str = ""
    description: str = ""
    signed: bool = True
    additive: bool = False
    needs: list[str] = []
    cost: str = ""
    options: dict[str, Any] = {}
    source: str = ""


class JobProgress(Resource):
    done: int = 0
    total: int = 0
    unit: str = ""
    phase: str = ""
    eta_s: float | None = None


class JobEvent(Resource):
    """One event of a job: `seq` orders them; `kind` is state, progress, message or end."""

    seq: int
    kind: str
    data: dict[str, Any] = {}
    at: datetime | None = None


FINISHED = frozenset({"succeeded", "failed", "cancelled"})


class Job(Resource):
    id: str
    kind: str
    state: str
    resource_id: str | None = None
    progress: JobProgress | None = None
    result: dict[str, Any] | None = None
    error: Problem | None = None
    attempt: int | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    _client: Any = PrivateAttr(default=None)

    @property
    def finished(self) -> bool:
        return self.state in FINISHED

    def wait(self, *, on_progress: Callable[[JobProgress], Any] | None = None, timeout: float | None = None) -> Job:
        """Wait until it is done: see `Whence.jobs.wait`. Under AsyncWhence: `await client.jobs.wait(job)`."""
        if self._client is None:
            raise WhenceError("This job came from no blocking client: use `client.jobs.wait(job)`.")
        return self._client.jobs.wait(self, on_progress=on_progress, timeout=timeout)


def bind(answer: T, client: Any) -> T:
    """Let the jobs in an answer know the client that can wait for them."""
    for job in answer.data if isinstance(answer, Page) else [answer]:
        if isinstance(job, Job):
            job._client = client
    return answer
