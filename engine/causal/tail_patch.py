"""Tail-patch: one more optimizer step on a row alone, from the tuned weights; how far does f(query) move?

The step is the recipe's own AdamW with its recorded moments, bias corrections and all, its gradient the row's token
mean, clipped and decayed as in training. Rows that taught the output raise f more than random rows of about the same
length do (after Chang et al. 2024, arXiv:2410.17413). Every row's step is one adapter of a stack.

Shapes: K adapters of a chunk, H hits, D random rows beside each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.causal.check_intervals import check_finite, interval_of_mean
from engine.causal.check_work import CheckWork
from engine.causal.checks import CheckConfig, CheckCost, CheckResult, Effect, RankedRow, SetEffect
from engine.causal.loop import TrainingLoop
from engine.causal.outcomes import OutcomeStore
from engine.causal.tuned_stack import TunedStack, tuned_stack
from engine.causal.variant import Variant
from engine.config import Training, fingerprint
from engine.durable import alone_in
from engine.encoded import Encoded
from engine.evaluate.correlation import spearman
from engine.types import CheckpointFn, Progress

FOLDER = "tail_patch"
WIDTH = 32  # adapters of a chunk, at most
_STACK_BYTES = 1 << 30  # of a chunk's adapters; its logits may take as much
_TOKENS = 8192  # of a chunk's forward pass
_COPIES = 6  # of an adapter's numbers: θ, its gradient, two moments, two temporaries
_LOGITS = 3  # copies of a row's: themselves, their logarithms, their gradient
_ALIKE = 4  # candidates for each random row: those whose lengths are nearest


def run_tail_patch(work: CheckWork, checkpoint: CheckpointFn) -> CheckResult:
    """Raises MissingNeed (no recorded moments), UnsupportedModel, Cancelled (finished steps are kept)."""
    started = time.perf_counter()
    patches = Patches.of(work, checkpoint)
    change_of = patches.measure(work.directory / FOLDER, checkpoint)
    hit_H = np.array([change_of[position] for position in patches.hits])
    random_HD = np.array([[change_of[p] for p in beside] for beside in patches.random])
    check_finite(np.append(random_HD.ravel(), hit_H), "A step")
    value, named = patches.tuned.value, work.named
    return CheckResult(
        kind="tail_patch",
        effects=tuple(Effect(row.id, None, float(change)) for row, change in zip(named, hit_H, strict=True)),
        sets=(
            _set_effect("top", value, hit_H, tuple(row.id for row in named)),
            _set_effect("random", value, random_HD.ravel(), ()),
        ),
        seconds=time.perf_counter() - started,
        details=_details(patches, named, hit_H, random_HD),
        warnings=patches.warnings,
    )


def estimate_tail_patch(work: CheckWork) -> CheckCost:
    """A few steps are timed. Raises what `run_tail_patch` raises."""
    patches = Patches.of(work)
    with alone_in(work.directory / FOLDER):
        missing = patches.missing(OutcomeStore(work.directory / FOLDER, patches.key))
    chunk = missing[: min(4, patches.width)]
    seconds = 0.0
    if chunk:
        one_chunk_seconds = []
        for _ in range(2):  # the first allocates
            started = time.perf_counter()
            patches.changes(chunk)
            one_chunk_seconds.append(time.perf_counter() - started)
        seconds = min(one_chunk_seconds) * len(missing) / len(chunk)
    return CheckCost(0, seconds, 2 * patches.tuned.model_bytes + patches.chunk_bytes)


@dataclass(frozen=True)
class Patches:
    """The steps of one check, not yet taken. hits: positions. random: of each hit, the positions beside it. recipe: as
    the step has it."""

    tuned: TunedStack
    recipe: Training
    hits: list[int]
    random: list[list[int]]
    config: CheckConfig
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, work: CheckWork, on_progress: CheckpointFn | None = None) -> Patches:
        training, model, config = work.training, work.model, work.config
        tuned = tuned_stack(model, list(work.dataset), work.query, training, work.device, on_progress)
        rate = training.learning_rate if config.learning_rate is None else config.learning_rate
        step = replace(training, learning_rate=rate, schedule="constant", warmup_share=0.0)
        hits, every = work.top, work.positions(work.ranked)
        targets = [row.target_count for row in tuned.rows]
        random, again = matched_rows(targets, hits, every, config.draws, config.seed)
        notes = ("there are too few other rows: some random rows stand beside several hits",) if again else ()
        notes += ("measured on the base as it is stored, not quantised",) if model.quantization else ()
        notes += ("in bfloat16: small changes are rounding",) if model.dtype == "bfloat16" else ()
        return cls(tuned, step, hits, random, config, notes)

    @property
    def key(self) -> str:
        tokens = [(row.ids, row.targets) for row in self.tuned.rows]
        return fingerprint("tail patch", self.tuned.key, tokens, self.recipe, self.tuned.step)

    @property
    def width(self) -> int:
        """Adapters of a chunk, within memory."""
        tokens = _TOKENS // max(len(row.ids) for row in self._read)
        return max(1, min(WIDTH, tokens, _STACK_BYTES // self._adapter_bytes, _STACK_BYTES // self._logit_bytes))

    @property
    def chunk_bytes(self) -> int:
        return self.width * (self._adapter_bytes + self._logit_bytes)

    @property
    def _read(self) -> list[Encoded]:
        return [*(self.tuned.rows[p] for p in self._positions), *self.tuned.question.sequences]

    @property
    def _adapter_bytes(self) -> int:
        return _COPIES * self.tuned.theta_P.nbytes

    @property
    def _logit_bytes(self) -> int:
        """Of the row with the most targets."""
        numbers = max(row.target_count for row in self._read) * self.tuned.vocabulary
        return _LOGITS * numbers * self.tuned.theta_P.element_size()

    def missing(self, store: OutcomeStore) -> list[int]:
        """Rows of like length together."""
        todo = [p for p in self._positions if store.read(_named(p)) is None]
        return sorted(todo, key=lambda p: len(self.tuned.rows[p].ids))

    def measure(self, out: Path, checkpoint: CheckpointFn) -> dict[int, float]:
        """Position → change of f, in nats. What is finished is on disk, and is not done again."""
        positions = self._positions
        with alone_in(out):
            store = OutcomeStore(out, self.key)
            store.write_plan()
            todo = self.missing(store)
            checkpoint(Progress(len(positions) - len(todo), len(positions), "rows", "tail-patch"))
            for start in range(0, len(todo), self.width):
                chunk = todo[start : start + self.width]
                for position, change in zip(chunk, self.changes(chunk), strict=True):
                    store.write(_named(position), np.array([change]))
                done = len(positions) - len(todo) + start + len(chunk)
                checkpoint(Progress(done, len(positions), "rows", "tail-patch"))
            found = {position: store.read(_named(position)) for position in positions}
        return {position: float(change[0]) for position, change in found.items() if change is not None}

    def changes(self, positions: Sequence[int]) -> np.ndarray:
        """float64 [K]: f after one step on each row, less f before."""
        tuned, count = self.tuned, len(positions)
        tuned.copies(count)
        loop = TrainingLoop(tuned.stack, tuned.rows, self.recipe, [((position,),) for position in positions])
        loop.optimizer.state[tuned.stack.theta_KP] = tuned.optimizer_state(count)
        loop.step(0)
        return tuned.values() - tuned.value

    @property
    def _positions(self) -> list[int]:
        return list(dict.fromkeys([*self.hits, *(p for beside in self.random for p in beside)]))


def matched_rows(
    targets_N: Sequence[int], hits: Sequence[int], ranked: Sequence[int], draws: int, seed: int
) -> tuple[list[list[int]], bool]:
    """For each hit, `draws` rows of about as many target tokens, none of them in the ranking; and whether some had to
    be taken more than once (or from the ranking) because there are too few.

    Of each hit the `_ALIKE`·draws rows nearest in length are candidates, of which chance picks.
    """
    generator = np.random.default_rng((seed, len(targets_N)))
    counts_N = np.asarray(targets_N)
    free = sorted(set(range(len(counts_N))) - set(ranked))
    again = len(free) < draws * len(hits)
    found: list[list[int]] = []
    for hit in hits:
        if len(free) < draws:
            free = sorted(set(range(len(counts_N))) - set(ranked))
        if len(free) < draws:  # the ranking is nearly the whole dataset
            free = sorted(set(range(len(counts_N))) - {hit})
        free_F = np.array(free)
        near_F = free_F[np.argsort(np.abs(counts_N[free_F] - counts_N[hit]), kind="stable")][: _ALIKE * draws]
        chosen = generator.choice(near_F, draws, replace=len(near_F) < draws).tolist()
        found.append(chosen)
        free = sorted(set(free) - set(chosen))
    return found, again


def _named(position: int) -> Variant:
    return Variant(f"one step on row {position}", 0)


def _set_effect(name: str, value: float, change_R: np.ndarray, ids: tuple[str, ...]) -> SetEffect:
    low, high = interval_of_mean(change_R)
    change = float(change_R.mean())
    return SetEffect(name, len(change_R), value, value + change, change, low, high, len(change_R), ids=ids)


def _details(patches: Patches, named: Sequence[RankedRow], hit_H: np.ndarray, random_HD: np.ndarray) -> dict[str, Any]:
    difference_H = hit_H - random_HD.mean(axis=1)  # paired: each hit with the rows beside it
    low, high = interval_of_mean(difference_H)
    scores = [row.score for row in named]
    correlation = float(spearman(np.array([scores]), hit_H[None])[0])
    return {
        "learning_rate": patches.recipe.learning_rate,
        "step": patches.tuned.step + 1,
        "draws": patches.config.draws,
        "difference": {"value": float(difference_H.mean()), "low": low, "high": high},
        "win_share": float((difference_H > 0).mean()),
        "rank_correlation": correlation if np.isfinite(correlation) else None,
    }
