"""Replicas: the audited run's recipe with other seeds, for an index to average over.

A single run's gradients carry that run's accidents: the order of its rows and the start of its adapter. What a
differently composed training set would do, averaged over seeds, is foreseen better by several runs (docs/quality.md).
Rows weigh what they weigh in the audited run's loss. A replica lies in `<index>/replicas/run-<number>`, one checkpoint
an epoch, and is made only once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from engine.causal.recipe import removed_rows, repeatable
from engine.causal.steps import check_trainable
from engine.causal.train import train_lora
from engine.config import Training
from engine.dataset import Dataset
from engine.errors import CorruptIndex, InvalidOption
from engine.loaded import LoadedModel, State
from engine.model import tokenizer_path
from engine.types import CheckpointFn
from engine.weights import directory_fingerprint

FOLDER = "replicas"
LABEL = "replica-"


def replica_training(model: LoadedModel, rows: int) -> Training:
    """The recipe the replicas repeat. Raises MissingNeed, UnsupportedModel, InvalidOption (another dataset)."""
    remedy = (
        "Register the model with `recipe` (its training's optimizer, epochs, …) and index the dataset it was trained "
        "on, or leave replicas out."
    )
    training = repeatable(model.recipe, rows, what="A replica", remedy=remedy, pointer="/options/replicas")
    check_trainable(training)
    return training


def replica_seed(training: Training, number: int) -> int:
    """Far from the small numbers people choose: no replica may repeat a run that somebody measures by."""
    key = hashlib.blake2b(f"replica|{training.seed}|{number}".encode(), digest_size=4).digest()
    return int.from_bytes(key, "little") >> 1


def train_replica(
    model: LoadedModel, dataset: Dataset, training: Training, number: int, index: Path, tick: CheckpointFn
) -> None:
    """Replica `number`, unless it is there; goes on at its last epoch. Raises what `train_lora` raises."""
    out = index / FOLDER / f"run-{number}"
    if out.exists():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    train_lora(
        Path(model.config.base),
        list(dataset),
        out,
        replace(training, seed=replica_seed(training, number)),
        tick,
        template=model.recipe.template,
        max_length=model.recipe.max_length,
        dtype=model.config.dtype,
        device=str(model.device),
        tokenizer=tokenizer_path(model.config),
        chat_template=model.config.chat_template,
        removed=removed_rows(model.recipe, len(dataset)),
    )


def replica_states(model: LoadedModel, index: Path, count: int, epochs: Sequence[int]) -> list[State]:
    """The checkpoints of all replicas, run by run, on the model's device. epochs: which, from 1."""
    return [
        _state(model, index / FOLDER / f"run-{number}" / f"epoch-{epoch}", label)
        for (number, epoch), label in zip(_all(count, epochs), replica_labels(count, epochs), strict=True)
    ]


def fingerprints_C16(states: Sequence[State]) -> np.ndarray:
    """uint8 [C, 16]: what the replicas' files were when the index was built."""
    parts = [np.frombuffer(bytes.fromhex(state.fingerprint), np.uint8) for state in states]
    return np.stack(parts) if parts else np.zeros((0, 16), np.uint8)


def require_unchanged(states: Sequence[State], recorded_C16: np.ndarray) -> None:
    """Raises CorruptIndex naming the first replica whose files are not those the index was built on."""
    for state, found, recorded in zip(states, fingerprints_C16(states), recorded_C16, strict=True):
        if not np.array_equal(found, recorded):
            raise CorruptIndex(
                f"The index's {state.label} is not the one it was built on.",
                remedy="Delete the index and build it again.",
                file=str(state.path),
            )


def replica_labels(count: int, epochs: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{LABEL}{number}/epoch-{epoch}" for number, epoch in _all(count, epochs))


def _all(count: int, epochs: Sequence[int]) -> list[tuple[int, int]]:
    return [(number, epoch) for number in range(1, count + 1) for epoch in epochs]


def _state(model: LoadedModel, path: Path, label: str) -> State:
    like = model.states[-1].tensors
    saved = load_file(path / "adapter_model.safetensors")
    tensors = {name.removesuffix(".weight") + ".default.weight": tensor for name, tensor in saved.items()}
    if tensors.keys() != like.keys():
        raise InvalidOption(
            f"The recipe trains other modules than this model's adapter has: replica {path.parent.name} does not fit.",
            remedy="Correct recipe.training.lora, or leave replicas out.",
            pointer="/options/replicas",
        )
    placed = {name: tensor.to(like[name].device, like[name].dtype) for name, tensor in tensors.items()}
    return State((label,), directory_fingerprint(path), placed, path)
