"""Many retrainings of one recipe, and what each does to the queries: the ground truth of attribution.

Shapes: V variants, Q queries.

Variants are trained K at a time in one stack (engine/causal/stack.py), one process a core. How wide a stack pays is
measured on the first steps and kept in the plan. Every finished stack is on disk at once: an interrupted study goes
on with the stacks that are missing, and ends with the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.causal.outcomes import OutcomeStore
from engine.causal.pool import run_in_processes, train_and_keep
from engine.causal.retrainer import Retrainer, Study
from engine.causal.train import torch_threads
from engine.causal.variant import Variant, check_variants
from engine.durable import alone_in
from engine.types import CheckpointFn, Progress

__all__ = ["Cost", "Study", "Variant", "estimate", "kept_answers", "retrain", "stacks_of"]


def retrain(
    study: Study,
    variants: Sequence[Variant],
    out: Path,
    on_progress: CheckpointFn | None = None,
    *,
    processes: int | None = None,
    width: int | None = None,
) -> np.ndarray:
    """float64 [V, Q]: f(q) in nats (of a contrast: the difference) after every variant's training; NaN where it
    diverged. Behind them, a column for each of the study's `greedy`: its answer's margin (engine/causal/greedy.py).

    processes None: one a core (one in all on a GPU). width None: what is measured to be fastest.
    on_progress hears of adapter steps, those of earlier calls included, and may raise Cancelled; what is finished by
    then is kept in `out`.
    Raises ModelError, UnsupportedModel, EmptyDataset, NoLossToken, InvalidQuery, InvalidOption, EngineUnavailable
    (a training process died), StorageFull. Another process that writes into `out` is an InvalidOption.
    """
    check_variants(variants)
    for variant in variants:
        variant.weights_N(len(study.examples))
    with torch_threads(1 if study.device == "cpu" else os.cpu_count() or 1):
        trainer = Retrainer(study)
        with alone_in(out):
            store = OutcomeStore(out, trainer.fingerprint)
            count = processes or _processes(study, variants)
            missing = _missing_stacks(trainer, store, variants, count, width)
            _record(store, missing)
            _run(trainer, store, missing, count, len(variants), on_progress or (lambda _progress: None))
    return np.stack([_outcome(store, variant) for variant in variants])


def kept_answers(variants: Sequence[Variant], out: Path) -> list[tuple[str, ...]]:
    """What `retrain` found in `out` to be the greedy answers to the study's `greedy`, after every variant."""
    store = OutcomeStore.at(out)
    return [store.answers(variant) for variant in variants]


@dataclass(frozen=True)
class Cost:
    """retrainings: still to be done. seconds: what they will take on this machine, measured on a few steps."""

    retrainings: int
    processes: int
    width: int
    seconds: float


def estimate(study: Study, variants: Sequence[Variant], out: Path, *, processes: int | None = None) -> Cost:
    """What `retrain` with the same arguments would cost. Raises what it raises."""
    check_variants(variants)
    with torch_threads(1 if study.device == "cpu" else os.cpu_count() or 1):
        trainer = Retrainer(study)
        with alone_in(out):
            store = OutcomeStore(out, trainer.fingerprint)
            count = processes or _processes(study, variants)
            missing = _missing_stacks(trainer, store, variants, count, None)
        retrainings, plan = sum(map(len, missing)), store.plan()
        if not missing:
            return Cost(0, count, plan.get("width", 1), 0.0)
        seconds = retrainings * trainer.steps * plan["seconds_per_step"] / min(count, len(missing))
        return Cost(retrainings, count, plan["width"], seconds)


def _processes(study: Study, variants: Sequence[Variant]) -> int:
    return min(os.cpu_count() or 1, len(variants)) if study.device == "cpu" else 1


def _missing_stacks(
    trainer: Retrainer, store: OutcomeStore, variants: Sequence[Variant], processes: int, width: int | None
) -> list[list[Variant]]:
    """What is still to be trained; the plan gets its width on the first call.

    A stack that was begun is done again as it was, so that an interrupted study ends with the bytes of one that was
    not. Other variants that are on disk stay as they are, whatever list they come from.
    """
    missing = [variant for variant in variants if store.read(variant) is None]
    if not missing:
        return []
    if "width" not in store.plan():
        fastest, seconds = trainer.fastest_width(variants, processes)
        store.write_plan(width=width or fastest, seconds_per_step=seconds)
    begun = _begun(store, variants, missing)
    again = {store.key(variant) for stack in begun for variant in stack}
    rest = [variant for variant in missing if store.key(variant) not in again]
    return [*begun, *stacks_of(rest, width or store.plan()["width"], processes)]


def _begun(store: OutcomeStore, variants: Sequence[Variant], missing: Sequence[Variant]) -> list[list[Variant]]:
    """The recorded stacks that are not whole and lie within `variants`; of two that overlap the newer one."""
    known = {store.key(variant): variant for variant in variants}
    open_keys = {store.key(variant) for variant in missing}
    taken: set[str] = set()
    found: list[list[Variant]] = []
    for keys in reversed(store.plan().get("stacks", [])):
        if known.keys() >= set(keys) and not taken & set(keys) and open_keys & set(keys):
            taken |= set(keys)
            found.append([known[key] for key in keys])
    return found[::-1]


def _record(store: OutcomeStore, stacks: Sequence[Sequence[Variant]]) -> None:
    plan = store.plan()
    before = plan.get("stacks", [])
    new = [keys for stack in stacks if (keys := [store.key(variant) for variant in stack]) not in before]
    if new:
        store.write_plan(**plan | {"stacks": [*before, *new]})


def stacks_of(variants: Sequence[Variant], width: int, processes: int) -> list[list[Variant]]:
    """Variants of like size together (a stack is as slow as its fullest member), no wider than `width`, and as many
    for one process as for another."""
    ordered = sorted(variants, key=lambda variant: variant.removed)
    rounds = -(-len(ordered) // (max(1, width) * processes))
    width = max(1, -(-len(ordered) // max(1, rounds * processes)))
    return [ordered[i : i + width] for i in range(0, len(ordered), width)]


def _run(
    trainer: Retrainer,
    store: OutcomeStore,
    stacks: list[list[Variant]],
    processes: int,
    variants: int,
    on_progress: CheckpointFn,
) -> None:
    total = trainer.steps * variants
    done = total - trainer.steps * sum(map(len, stacks))

    def tick(steps: int) -> None:
        nonlocal done
        done += steps
        on_progress(Progress(done, total, "steps", "retrain"))

    if processes > 1 and len(stacks) > 1:
        tick(0)  # they take a while to start: say what is going on
        run_in_processes(trainer.study, store, stacks, min(processes, len(stacks)), tick)
    else:
        for stack in stacks:
            train_and_keep(trainer, store, stack, tick)


def _outcome(store: OutcomeStore, variant: Variant) -> np.ndarray:
    outcome_Q = store.read(variant)
    assert outcome_Q is not None, f"{variant.name} was just written"
    return outcome_Q
