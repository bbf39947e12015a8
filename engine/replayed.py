"""The index of method `replay`: the states of the training run, repeated once, and scores taken back through them.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.causal.audited import audited_study
from engine.causal.check_requirements import training_of
from engine.causal.replay import Recording, record, replay
from engine.causal.retrainer import Study
from engine.dataset import Dataset
from engine.loaded import LoadedModel
from engine.question import Question
from engine.store import IndexStore
from engine.types import CheckpointFn, Progress

RUN_TENSORS = "run"
OFF_NATS = 0.01  # of f, and of 1: between the repeated run and the model that is asked


@dataclass(frozen=True)
class Replayed:
    """scores_N: float32, N·∂f/∂w, so that removing a row changes f by about −score/N. value: f after the repeated run,
    which is the model's own where the run could be repeated."""

    scores_N: np.ndarray
    value: float

    def warning(self, measured: float) -> str | None:
        if abs(self.value - measured) <= OFF_NATS * (1 + abs(measured)):
            return None
        return (
            f"The repeated training run ends elsewhere than this model: its log-probability of the output is "
            f"{self.value:.3f}, the model's {measured:.3f}. The scores are those of the repeated run."
        )


def save_run(store: IndexStore, model: LoadedModel, dataset: Dataset, options: Any, checkpoint: CheckpointFn) -> None:
    """Train once more and keep the states, unless they are kept already. Raises what `replay` raises, MissingNeed."""
    if not store.has_tensors(RUN_TENSORS):
        recording = record(run_of(model, dataset), checkpoint, state_bytes=options.state_mb << 20)
        store.save_tensors(RUN_TENSORS, recording.to_arrays())


def run_of(model: LoadedModel, dataset: Dataset) -> Study:
    """Raises MissingNeed where the recipe does not say how the model was trained, UnsupportedModel, InvalidOption."""
    training = training_of(model.config, len(dataset))
    return audited_study(model.config, dataset, training, [], str(model.device))


def replayed(
    store: IndexStore, model: LoadedModel, dataset: Dataset, questions: Sequence[Question], between: Callable[[], None]
) -> list[Replayed]:
    """Of every question, all in one pass. between: called after each step; what it does may take long."""
    recording = Recording.from_arrays(store.load_tensors(RUN_TENSORS), model.device)

    def tick(_progress: Progress) -> None:
        between()

    found = replay(run_of(model, dataset), tick, recording=recording, questions=questions)
    scores_QN = (len(dataset) * found.derivative_QN).astype(np.float32)
    return [Replayed(scores_N, float(value)) for scores_N, value in zip(scores_QN, found.value_Q, strict=True)]
