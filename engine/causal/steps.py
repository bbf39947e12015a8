"""Which rows every optimizer step takes, and its learning rate."""

from __future__ import annotations

import math
from typing import Literal

import torch

from engine.config import Training
from engine.errors import InvalidOption, UnsupportedModel

Steps = tuple[tuple[int, ...], ...]


def check_trainable(training: Training) -> None:
    """Raises UnsupportedModel for what the trainer cannot do."""
    if training.optimizer != "adamw":
        raise UnsupportedModel(
            f"The recipe's optimizer is {training.optimizer}; training is done with adamw.",
            remedy="Give optimizer adamw, or attribute the model without retraining it.",
        )
    if training.lora is None:
        raise UnsupportedModel(
            "The recipe trains every weight; training here is of LoRA adapters.",
            remedy="Give the recipe a LoRA config.",
        )


def make_steps(rows: int, training: Training) -> Steps:
    """Each epoch is a fresh shuffle cut into steps of batch_size × accumulation rows, the last maybe smaller."""
    generator = torch.Generator().manual_seed(training.seed)
    size = training.batch_size * training.accumulation
    steps: list[tuple[int, ...]] = []
    for _ in range(training.epochs):
        order = torch.randperm(rows, generator=generator).tolist()
        steps += [tuple(order[i : i + size]) for i in range(0, rows, size)]
    return tuple(steps)


def check_steps(recorded: Steps, ours: Steps) -> None:
    """Whether a recorded order fits the rows and the recipe. Raises InvalidOption."""
    rows = {row for step in ours for row in step}
    strange = next((row for step in recorded for row in step if row not in rows), None)
    if strange is not None:
        raise InvalidOption(f"The recorded order names row {strange}; there are {len(rows)} rows.")
    if len(recorded) != len(ours):
        raise InvalidOption(
            f"The recorded order has {len(recorded)} steps; this recipe takes {len(ours)}.",
            remedy="Give the epochs, batch size and accumulation of the run whose order this is.",
        )


def learning_rate(step: int, steps: int, training: Training) -> float:
    """At `step` (from 0) of `steps`; Transformers' get_*_schedule_with_warmup, so its first step of a warm-up is 0."""
    warmup = math.ceil(steps * training.warmup_share - 1e-9)
    return training.learning_rate * _share(training.schedule, step, warmup, steps)


def _share(schedule: Literal["linear", "cosine", "constant"], step: int, warmup: int, steps: int) -> float:
    if step < warmup:
        return step / warmup
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return max(0.0, 1.0 - done) if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
