"""Which rows every optimizer step takes, and its learning rate."""

from __future__ import annotations

import math
from typing import Literal

import torch

from engine.config import Training
from engine.errors import InvalidOption, UnsupportedModel

Steps = tuple[tuple[int, ...], ...]
SCHEDULES = ("linear", "cosine", "constant")


def check_trainable(training: Training) -> None:
    """Raises UnsupportedModel for what the trainer cannot do, InvalidOption for a number that makes no sense."""
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
    for name, (valid, wanted) in _bounds(training).items():
        if not valid:
            raise InvalidOption(
                f"{name} is {getattr(training, name)}; it must be {wanted}.", remedy="Correct the recipe."
            )


def _bounds(training: Training) -> dict[str, tuple[bool, str]]:
    """Of every field: whether it is within them, and what they are (those of the HTTP API)."""
    found = {name: (getattr(training, name) >= 1, "at least 1") for name in ("epochs", "batch_size", "accumulation")}
    for name in ("learning_rate", "weight_decay", "epsilon"):
        found[name] = 0 <= getattr(training, name) < math.inf, "a finite number, at least 0"
    norm = training.max_grad_norm
    found["max_grad_norm"] = norm is None or 0 < norm < math.inf, "above 0; None for no clipping"
    found["warmup_share"] = 0 <= training.warmup_share <= 1, "between 0 and 1"
    found["betas"] = all(0 <= beta < 1 for beta in training.betas), "at least 0 and below 1, both"
    found["schedule"] = training.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"
    return found


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
