"""What a causal check is asked and what it answers: plain values, without torch.

A check changes the training, measures the output, and puts the measured effect beside the predicted one.

    tail_patch   one more optimizer step on each row, from the tuned weights and their recorded moments
    leave_out    retrainings without the first rows, without as many random ones, without BM25's first
    replay       the exact derivative of the measurement with respect to every row's weight in the recorded run
    flip         the smallest set of rows whose removal changes the greedy answer
    unlearn      an adapter with the chosen rows' effect removed, to be registered as a new version of the model

Effects are changes of the measurement f in nats: f after the change minus f before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

CheckKind = Literal["tail_patch", "leave_out", "replay", "flip", "unlearn"]
CHECK_KINDS: tuple[CheckKind, ...] = ("tail_patch", "leave_out", "replay", "flip", "unlearn")


@dataclass(frozen=True)
class CheckConfig:
    """rows: how many of the ranking's first are tried (flip: at most so many are removed).

    seeds: trainings of each set (leave_out, flip). draws: random sets beside the rows' own (leave_out), or random rows
    beside each row (tail_patch). learning_rate: of tail_patch's step, None = the recipe's. ids: unlearn's rows, () =
    the first `rows` of the ranking. how: unlearn by retraining without them, or by one influence step. seed: of every
    draw.
    """

    kind: CheckKind
    rows: int = 10
    seeds: int = 3
    draws: int = 3
    learning_rate: float | None = None
    ids: tuple[str, ...] = ()
    how: Literal["retrain", "influence"] = "retrain"
    seed: int = 0


@dataclass(frozen=True)
class RankedRow:
    """A row of the answer that is checked. score: by the answer's own method; in_nats: whether −score/N is its
    prediction, in nats, of what removing the row does."""

    id: str
    score: float
    in_nats: bool = False


@dataclass(frozen=True)
class Effect:
    """Of one row. predicted: by the ranking, None where scores are in no unit. low, high: 95 % interval, None where one
    measurement is all there is."""

    id: str
    predicted: float | None
    measured: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class SetEffect:
    """Of a set of rows, taken together. name: top, half, random, bm25, none. before, after: mean f in nats over seeds
    (and draws). change: after − before, with its 95 % interval. answer_changed: share of the trainings whose greedy
    answer is another, None where that was not looked at."""

    name: str
    rows: int
    before: float
    after: float
    change: float
    low: float | None
    high: float | None
    trainings: int
    answer_changed: float | None = None
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckResult:
    """sets: in the order in which they are to be read. answer_before, answer_after: the greedy text, where looked at.

    flipped: flip's set, None of other kinds and where no set of at most `rows` changed the answer.
    adapter: unlearn's new adapter, below the work directory. held_out: unlearn's {before, after} mean loss a token on
    rows that were not removed. details: figures of one kind alone (of replay: its cost, metasmoothness).
    """

    kind: CheckKind
    effects: tuple[Effect, ...] = ()
    sets: tuple[SetEffect, ...] = ()
    answer_before: str | None = None
    answer_after: str | None = None
    flipped: tuple[str, ...] | None = None
    adapter: Path | None = None
    held_out: dict[str, float] | None = None
    retrainings: int = 0
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckCost:
    """Of what is still to be done. seconds: measured on a few steps of this machine."""

    retrainings: int
    seconds: float
    memory_bytes: int
