"""A scorecard: measured evidence of how well scores predict what retraining really does. Plain data, JSON-able.

Two questions, because a method may answer one and not the other:
    composition  what would a differently composed training set do? Random halves of the rows, averaged over seeds.
    this_run     what did these rows do in this very run? 2 % of the rows left out, the audited run's own seed.

Nothing here imports torch, so the API can read and show scorecards without the engine installed. The arrays behind the
figures lie in an .npz beside it (engine/evaluate/evidence.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from engine.types import Query

Question = Literal["composition", "this_run"]
QUESTIONS: tuple[Question, ...] = ("composition", "this_run")
VerdictName = Literal["trusted", "weak", "untrusted", "unmeasured"]
# index: the index's own method. candidate: what `auto` may choose instead. control: what needs no gradient.
# sanity: the index's method with its meaning destroyed, which must not look good.
Role = Literal["index", "candidate", "control", "sanity"]
CONTROLS = ("bm25", "repsim", "length", "random")
SHUFFLED, RANDOMISED = "shuffled ids", "randomised weights"

VERSION = 1
FIGURES_FILE = "figures.json"  # beside it: what its charts show (engine/evaluate/figures.py)


@dataclass(frozen=True)
class EvaluationQuery:
    """group: queries about one fact share it; a group is never on both sides of a split. None: a group of its own.

    relevant: tags of the rows that really teach the answer, where that is known.
    """

    query: Query
    group: str | None = None
    relevant: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A method and its own options, as an index would be asked for."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationConfig:
    """How much is measured. Everything is a function of this, the index, the queries and the recipe.

    half_subsets × half_seeds and drop_subsets retrainings; for `leave_out_queries` of the test queries the top
    `leave_out_rows` rows of the index's method, of BM25's and of `leave_out_draws` random draws are left out, at
    `leave_out_seeds` seeds. directions: of the metasmoothness, two retrainings each.
    tuning_share: of the queries' groups and of the subsets; `auto` is chosen on these and measured on the rest.
    mislabelled: tags of the rows known to be wrong, for the test of self-influence.
    canaries: invented facts that one more run learns and the index's method has to find (engine/evaluate/canaries.py),
    where no query has `relevant`; 0: none.
    """

    half_subsets: int = 60
    half_seeds: int = 2
    drop_subsets: int = 60
    drop_share: float = 0.02
    leave_out_queries: int = 20
    leave_out_rows: int = 4
    leave_out_draws: int = 8
    leave_out_seeds: int = 1
    directions: int = 8
    tuning_share: float = 1 / 3
    candidates: tuple[Candidate, ...] = ()
    mislabelled: dict[str, str] = field(default_factory=dict)
    canaries: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Compared:
    """LDS of one method minus another's, paired by query and subset; `low`, `high`: 95 % interval."""

    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None


@dataclass(frozen=True)
class LdsEvidence:
    """value: the mean over the test queries of Spearman's correlation between predicted and measured outcomes.

    low, high: 95 % interval over queries and subsets. ceiling: what a perfect method could reach, given how far seeds
    agree; None where that is not known. against: control's name → this method minus the control. per_query: in the
    order of the scorecard's test queries, None where undefined. significant_share: of the queries, after
    Benjamini-Hochberg.
    """

    value: float | None
    low: float | None
    high: float | None
    ceiling: float | None
    significant_share: float | None
    subsets: int
    seeds: int
    against: dict[str, Compared] = field(default_factory=dict)
    per_query: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class LeaveOutEvidence:
    """Mean fall of f (nats) when a query's top rows are left out, and when random ones are.

    difference: top − random, low and high its 95 % interval.
    """

    top: float
    random: float
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    rows: int
    queries: int
    seeds: int
    draws: int


@dataclass(frozen=True)
class Verdict:
    """reason: one sentence for people, with the figures. remedy: the one thing to do about it, None when there is none.

    more_retrains: how many more retrainings (subsets × seeds) would make the interval narrow enough, where it is too
    wide.
    """

    verdict: VerdictName
    reason: str
    remedy: str | None = None
    more_retrains: int | None = None


@dataclass(frozen=True)
class MethodEvidence:
    """detection: metric's name → value, where tags give ground truth (see engine/evaluate/retrieval.py); else
    "canary recall@10" and "canary MRR" of the index's method, its shuffled twin and the controls that need no index.
    """

    name: str
    role: Role
    method: str
    options: dict[str, Any]
    lds: dict[Question, LdsEvidence]
    verdicts: dict[Question, Verdict]
    leave_out: LeaveOutEvidence | None = None
    detection: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Tuned:
    """How `auto` was chosen for a question: LDS of every choice on the tuning queries and subsets alone.

    over_own: candidate's name → its LDS minus that of the index's own method, there. Where the best candidate is not
    better beyond what chance explains, the index's own stays.
    """

    chosen: str
    tuning_lds: dict[str, float | None]
    queries: int
    subsets: int
    over_own: dict[str, Compared] = field(default_factory=dict)


@dataclass(frozen=True)
class Scope:
    """What the evidence is about. ranges: a query's feature → (lowest, highest) among the evaluation's queries."""

    measurement: str
    queries: str  # in words: where they came from
    ranges: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Scorecard:
    """The evidence for one index. reliability, effects: what predicts a query's own LDS and a row's effect in nats
    (engine/evaluate/reliability.py, effects.py); None where too little was measured for them.
    """

    index_revision: str
    config: EvaluationConfig
    scope: Scope
    rows: int
    test_queries: tuple[int, ...]
    tuning_queries: tuple[int, ...]
    methods: tuple[MethodEvidence, ...]
    metasmoothness: float | None
    retrainings: int
    seconds: float
    tuned: dict[Question, Tuned] = field(default_factory=dict)
    reliability: dict[str, Any] | None = None
    effects: dict[Question, dict[str, Any]] = field(default_factory=dict)
    sketch_overlap: dict[str, float | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    version: int = VERSION

    def of(self, name: str) -> MethodEvidence | None:
        """The evidence of the method named so: the index's own, or a control it serves."""
        return next((method for method in self.methods if method.name == name), None)


@dataclass(frozen=True)
class EvaluationCost:
    """retrainings: still to be done. seconds: what they will take on this machine, measured on a few steps; `basis`
    says how. The run that learns planted canaries, one training and one index, comes on top."""

    retrainings: int
    processes: int
    seconds: float
    basis: str


def to_json(scorecard: Scorecard) -> dict[str, Any]:
    return dataclasses.asdict(scorecard)


def from_json(given: dict[str, Any]) -> Scorecard:
    """What `to_json` gave, through JSON or not."""
    return _SCORECARD.validate_python(given)


_SCORECARD = TypeAdapter(Scorecard)  # kept: making one takes a hundred times as long as reading with it
