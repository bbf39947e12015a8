"""Flip: how many of the ranking's first rows must be left out before the greedy answer is another one.

Sets are the ranking's first k rows; the audited run is repeated without them, several k in one stack, until the least
k is found (flip_search.py). A smaller set of other rows may exist. Then the set, half of it and no row at all are left
out at further seeds.

The answer is another one exactly where, at some of its tokens, a token of higher logit is there (greedy.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.causal.audited import audited_seeds
from engine.causal.check_intervals import interval_of_mean
from engine.causal.check_trainings import FOLDER, Trainings, repeated_note, without
from engine.causal.check_work import CheckWork
from engine.causal.checks import CheckCost, CheckResult, RankedRow, SetEffect
from engine.causal.flip_search import next_sizes, predicted_size, sizes_at_most
from engine.causal.greedy import greedy_margins
from engine.causal.measuring import measure_questions
from engine.causal.retrain import Variant
from engine.errors import InvalidQuery
from engine.loaded import LoadedModel
from engine.question import prepare
from engine.types import CheckpointFn, Query, Span


def run_flip(work: CheckWork, checkpoint: CheckpointFn) -> CheckResult:
    """Raises InvalidQuery where the completion is not what the model answers greedily, or there are several; and what
    `retrain` raises."""
    started = time.perf_counter()
    search = _Search.of(work)
    search.run(checkpoint)
    flipped = search.least
    sizes = [len(search.top), 0] if flipped is None else sorted({flipped, flipped // 2, 0}, reverse=True)
    seeds = search.seeds[:1] if flipped is None else search.seeds
    found = search.trainings.measure([search.without(k, s) for k in sizes for s in seeds], checkpoint, "verify")
    first = search.seeds[0]
    return CheckResult(
        kind="flip",
        sets=tuple(_set_effect(search, found, k, seeds, work.ranked) for k in sizes),
        answer_before=search.trainings.answer(search.without(0, first)),
        answer_after=None if flipped is None else search.trainings.answer(search.without(flipped, first)),
        flipped=None if flipped is None else tuple(row.id for row in work.ranked[:flipped]),
        retrainings=len({search.without(k, first).name for k in search.margins} | found.keys()),
        seconds=time.perf_counter() - started,
        details=search.details,
        warnings=(
            *repeated_note(search.value, float(found[search.without(0, first).name][0])),
            *_warnings(search, found),
        ),
    )


def estimate_flip(work: CheckWork) -> CheckCost:
    """At most: how many sizes must be tried is known only afterwards. Raises what `run_flip` raises."""
    search = _Search.of(work)
    search.recall()
    if search.next_sizes:
        sizes = sizes_at_most(len(search.top), search.predicted)
        verified = {0, len(search.top) // 2, len(search.top)}
    else:
        sizes = sorted(search.margins)
        verified = set() if search.least is None else {0, search.least // 2, search.least}
    variants = [search.without(k, search.seeds[0]) for k in sizes]
    return search.trainings.cost([*variants, *(search.without(k, s) for k in verified for s in search.seeds[1:])])


@dataclass
class _Search:
    """top: positions, best first. value, margin: of the tuned model. margins: size → the answer's margin after the
    audited run without so many rows. ends: the answer's end is part of it."""

    trainings: Trainings
    seeds: tuple[int, ...]
    top: list[int]
    value: float
    margin: float
    ends: bool
    predicted: int | None
    margins: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, work: CheckWork) -> _Search:
        tuned = work.tuned()
        asked, margin = greedy_query(tuned, work.query)
        value = float(measure_questions(tuned, [prepare(tuned, None, work.query)])[0, 0])
        predicted = predicted_size(work.named, len(work.dataset), margin)
        trainings = Trainings(work.study(greedy=[asked]), work.directory / FOLDER)
        seeds = audited_seeds(work.training, work.config.seeds)
        return cls(trainings, seeds, work.top, value, margin, asked.span == work.query.span, predicted)

    def without(self, size: int, seed: int) -> Variant:
        return without(self.top[:size], seed)

    @property
    def next_sizes(self) -> list[int]:
        return next_sizes({k: not margin > 0 for k, margin in self.margins.items()}, len(self.top), self.predicted)

    def run(self, checkpoint: CheckpointFn) -> None:
        number = 0
        while sizes := self.next_sizes:
            number += 1
            variants = [self.without(k, self.seeds[0]) for k in sizes]
            found = self.trainings.measure(variants, checkpoint, f"search {number}")
            self.margins |= {k: float(found[v.name][-1]) for k, v in zip(sizes, variants, strict=True)}

    def recall(self) -> None:
        """As far as the retrainings that are there tell."""
        while sizes := self.next_sizes:
            known = {k: self.trainings.known(self.without(k, self.seeds[0])) for k in sizes}
            if any(outcome_Q is None for outcome_Q in known.values()):
                return
            self.margins |= {k: float(outcome_Q[-1]) for k, outcome_Q in known.items() if outcome_Q is not None}

    @property
    def least(self) -> int | None:
        """The size found; None where no set changed the answer, or no row at all had to be left out."""
        changing = [k for k, margin in self.margins.items() if not margin > 0]
        return min(changing) if changing and 0 not in changing else None

    @property
    def details(self) -> dict[str, Any]:
        return {
            "seeds": list(self.seeds),
            "margins": {str(k): self.margins[k] for k in sorted(self.margins)},
            "tuned_margin": self.margin,
            "predicted_rows": self.predicted,
            "answer_ends": self.ends,
        }


def greedy_query(model: LoadedModel, query: Query) -> tuple[Query, float]:
    """(what is asked about the answer, its margin under the tuned model): the query, without the answer's end where
    the model would go on. Raises InvalidQuery where the completion is not what the model answers greedily."""
    model.use(-1)
    question = prepare(model, None, query)
    if len(question.explained) != 1:
        raise InvalidQuery("A set of queries has no one answer to change.", remedy="Check one of its members.")
    whole = Span(0, len(question.completion))
    plain = replace(query, contrast=None)
    for asked in (plain, *([replace(plain, span=whole)] if query.span is None else [])):
        margin = float(greedy_margins(model, [prepare(model, None, asked).sequences[0]])[0, 0])
        if margin > 0:
            return asked, margin
    raise InvalidQuery(
        "The completion is not what the model answers greedily: there is no answer to change.",
        remedy="Ask with `generate` at temperature 0, or give the completion that it yields.",
        pointer="/completion",
    )


def _set_effect(
    search: _Search, found: Mapping[str, np.ndarray], size: int, seeds: Sequence[int], ranked: Sequence[RankedRow]
) -> SetEffect:
    outcome_SQ = np.stack([found[search.without(size, seed).name] for seed in seeds])
    full_S = np.array([found[search.without(0, seed).name][0] for seed in seeds])
    before_S = full_S if size else np.full(len(seeds), search.value)
    change_S = outcome_SQ[:, 0] - before_S
    low, high = interval_of_mean(change_S)
    largest = search.least or len(search.top)
    return SetEffect(
        name="top" if size == largest else "half" if size else "none",
        rows=size,
        before=float(before_S.mean()),
        after=float(outcome_SQ[:, 0].mean()),
        change=float(change_S.mean()),
        low=low,
        high=high,
        trainings=len(seeds),
        answer_changed=float((~(outcome_SQ[:, -1] > 0)).mean()),
        ids=tuple(row.id for row in ranked[:size]),
    )


def _warnings(search: _Search, found: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    most, least = len(search.top), search.least
    if not search.margins[0] > 0:
        return (
            "the audited run, repeated with every row, already gives another answer: no set can be said to flip it",
        )
    if least is None:
        return (f"no set of the first {most} rows or fewer that was tried changed the greedy answer",)
    notes: list[str] = []
    if any(margin > 0 for k, margin in search.margins.items() if k > least):
        notes.append("a larger set that was tried leaves the answer as it is: removals do not add up here")
    shares = [~(found[search.without(k, s).name][-1] > 0) for k in (least, 0) for s in search.seeds]
    if not all(shares[: len(search.seeds)]):
        notes.append("at some seed the set leaves the answer as it is")
    if any(shares[len(search.seeds) :]):
        notes.append("at some seed the answer is another one already with every row")
    if not search.ends:
        notes.append("the model would go on after the completion: its end is not part of the answer")
    return tuple(notes)
