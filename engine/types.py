"""The values that cross the engine's border: plain frozen dataclasses, no tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """One training row: exactly one of (prompt, completion), messages, text."""

    id: str
    prompt: str | None = None
    completion: str | None = None
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    label: str | None = None


@dataclass(frozen=True)
class Progress:
    """One report from long work. `unit` is e.g. "rows"; `phase` e.g. "curvature", "sketch"."""

    done: int
    total: int
    unit: str
    phase: str


# Called between batches. It may raise `engine.errors.Cancelled` to stop the work cleanly.
CheckpointFn = Callable[[Progress], None]


@dataclass(frozen=True)
class Untracked:
    """A module that could have been tracked and was not, and why (DESIGN §2.7)."""

    module: str
    parameters: int
    reason: str


@dataclass(frozen=True)
class Coverage:
    """share = tracked_parameters / trained_parameters."""

    tracked_parameters: int
    trained_parameters: int
    share: float
    untracked: tuple[Untracked, ...] = ()


@dataclass(frozen=True)
class ModelInfo:
    """What registering a model learns. `fingerprint` binds base, adapter, checkpoints, tokenizer, template."""

    fingerprint: str
    parameters: int
    trained_parameters: int
    trained_modules: int
    checkpoints: int
    context_length: int
    coverage: Coverage
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetInfo:
    """What storing a dataset learns; the rows lie in datasets/<sha256>/rows.arrow."""

    sha256: str
    rows: int
    format: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class IndexInfo:
    """What a finished build reports (also readable from the index's manifest.json)."""

    method: str
    serves: tuple[str, ...]
    rows: int
    dims: int
    bytes: int
    sketched: bool
    coverage: Coverage
    fingerprints: dict[str, str]
    revision: str
    checkpoints: int
    options: dict[str, Any]
    warnings: tuple[str, ...] = ()
    timings_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class IndexEstimate:
    seconds: float
    memory_bytes: int
    disk_bytes: int
    rows: int
    dims: int
    sketched: bool
    basis: str  # how the figures were obtained, in words


@dataclass(frozen=True)
class Generate:
    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Generated:
    """ended: the model ended it itself; else it was cut off at the most tokens asked for."""

    text: str
    ended: bool


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of the completion."""

    start: int
    end: int


@dataclass(frozen=True)
class Query:
    """Exactly one of prompt, messages, members. With messages the last assistant turn is the completion,
    unless `completion` or `generate` gives one.

    measurement: f is Σ log p over the explained tokens, or Σ log(p/(1−p)), which does not saturate.
    members: a set of queries; f is the mean of theirs, each measured as this query says.
    """

    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    completion: str | None = None
    generate: Generate | None = None
    contrast: str | None = None
    span: Span | None = None
    measurement: Literal["log_prob", "log_odds"] = "log_prob"
    members: tuple[Query, ...] = ()


@dataclass(frozen=True)
class Filter:
    """Rows to rank: every tag must match; the named ids are left out."""

    tags: dict[str, str] = field(default_factory=dict)
    exclude_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemovalSet:
    """Rows to take out together: those that have every one of the tags (if there are any), and the named ones."""

    tags: dict[str, str] = field(default_factory=dict)
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class AskOptions:
    """How to answer. method None = the index's own. normalize `cosine` divides by √(s_q·s_z).

    removal: rows whose joint score is asked for; additive methods only. search `flat`: read every row, also where the
    index has lists.
    """

    method: str | None = None
    normalize: Literal["none", "cosine"] | None = None
    top_k: int = 10
    opponents: bool = True
    tokens: bool = False
    modules: bool = False
    filter: Filter | None = None
    group_by: str | None = None  # "tags.<key>"
    removal: RemovalSet | None = None
    search: Literal["auto", "flat"] = "auto"


@dataclass(frozen=True)
class Token:
    """One token of the query. start/end are characters within its part; specials have start == end.

    member: of a set of queries, the one it belongs to.
    """

    text: str
    start: int
    end: int
    part: Literal["prompt", "completion", "special"]
    target: bool
    member: int = 0


RankError = Literal["checkpoints", "storage", "none"]


@dataclass(frozen=True)
class Hit:
    """One ranked row. percentile is of the score among all rows of the index, 0–100.

    rank_low, rank_high: best and worst rank that the score's error allows; tied: they differ, so that many rows share
    these ranks. rank_error: the error that was counted: what other checkpoints or runs would change, the rounding of
    stored numbers alone, or none (only equal scores tie). rank_estimated: from a sample of the rows.
    cluster: number of the Cluster it belongs to.
    """

    rank: int
    position: int
    example_id: str
    score: float
    normalized_score: float | None
    percentile: float
    position_shares: tuple[float, ...] | None = None
    query_token_scores: tuple[float, ...] | None = None
    train_tokens: tuple[str, ...] | None = None
    train_position_shares: tuple[float, ...] | None = None
    module_scores: dict[str, float] | None = None
    exact_score: float | None = None
    rank_low: int | None = None
    rank_high: int | None = None
    tied: bool = False
    rank_error: RankError = "none"
    rank_estimated: bool = False
    cluster: int | None = None


@dataclass(frozen=True)
class Cluster:
    """Hits whose texts nearly coincide (engine/near_duplicates.py), in the order of the answer; number: from 1.

    score: the sum of their scores where these add up, else the strongest one. sides: which list each rank is of.
    """

    number: int
    score: float
    additive: bool
    positions: tuple[int, ...]
    example_ids: tuple[str, ...]
    ranks: tuple[int, ...]
    sides: tuple[Literal["proponent", "opponent"], ...]


@dataclass(frozen=True)
class Group:
    key: str
    score: float
    share: float
    count: int


@dataclass(frozen=True)
class Removal:
    """score: Σ of the rows' raw scores. predicted_change: of f when they are all taken out of the training set,
    −score/N (of an ensemble the mean over its checkpoints, each in its own units); None where the method's scores are
    not in units of f (DESIGN §2.2)."""

    rows: int
    score: float
    predicted_change: float | None


@dataclass(frozen=True)
class Member:
    """One query of a set."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Measurement:
    """f(q). kind: "log_prob" or "log_odds", with "contrastive_" before it when a contrast is taken off, and "mean_"
    before that for a set; tokens = number of explained targets."""

    kind: str
    value: float
    tokens: int


@dataclass(frozen=True)
class Diagnostics:
    """Figures of one answer; None where the method cannot give them. What a query's reliability is predicted from.

    score_spread: standard deviation of the scores. effective_rows: (Σ|s|)²/Σs², how many rows of equal weight the
    scores are worth. query_norm: length of the query's gradient in the index's metric, mean over checkpoints.
    checkpoint_agreement: mean correlation of the scores that each checkpoint gives alone (of a large index estimated).
    bm25_agreement: correlation of the scores with BM25's. search: `flat` where every row was read, `ivf` where those of
    some lists were; recall_at_10: of the latter, as measured when the index was built.
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
    estimated: bool = False
    warnings: tuple[str, ...] = ()
    search: Literal["flat", "ivf"] = "flat"
    recall_at_10: float | None = None


@dataclass(frozen=True)
class Attribution:
    """The engine's answer to one query; the service adds ids, example texts, trust and timing of the store.

    Of a set: prompt and completion are the first member's, tokens those of all members in order, and so are shares.
    """

    method: str
    signed: bool
    additive: bool
    revision: str
    prompt: str
    completion: str
    tokens: tuple[Token, ...]
    measurement: Measurement
    tuned_minus_base: float | None
    proponents: tuple[Hit, ...]
    opponents: tuple[Hit, ...]
    groups: tuple[Group, ...] | None
    diagnostics: Diagnostics
    timings_ms: dict[str, float]
    members: tuple[Member, ...] | None = None
    removal: Removal | None = None
    clusters: tuple[Cluster, ...] = ()


@dataclass(frozen=True)
class SelfInfluence:
    """rank: among all rows of the index, from 1."""

    position: int
    example_id: str
    score: float
    rank: int


@dataclass(frozen=True)
class MethodSpec:
    """One line of `whence methods`. `options` is the JSON schema of the method's own options."""

    name: str
    title: str
    description: str
    signed: bool
    additive: bool
    needs: tuple[str, ...]
    cost: str
    options: dict[str, Any]
    source: str  # paper and equation
