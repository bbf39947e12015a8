"""A tiny LoRA fine-tune with Adam's state beside every epoch, and a dense GPT-2 with a state written here.

Shapes: N rows, C checkpoints, D numbers of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import get_scheduler

from engine.answer import score_query
from engine.batching import example_weights
from engine.build import build_index
from engine.causal.recipe import load_recipe
from engine.causal.train import train_lora
from engine.config import IndexConfig, IndexOptions, Lora, ModelConfig, Recipe, Training
from engine.curvature.fit import calibration_rows
from engine.curvature.labels import row_key
from engine.model import LoadedModel, load_model
from engine.opened import OpenIndex
from engine.types import Query
from tests import factories, oracles

ROWS, SAMPLE, EPOCHS, QUERY = 10, 6, 3, 4
TRAINING = Training(
    epochs=EPOCHS, batch_size=4, learning_rate=0.02, lora=Lora(rank=2, alpha=4), betas=(0.8, 0.95), epsilon=1e-5
)


class AdamWorld:
    """A float64 model, its rows, and indexes on demand."""

    def __init__(self, root: Path, config: ModelConfig, dataset: Any) -> None:
        self.root, self.config, self.dataset = root, config, dataset
        self.model: LoadedModel = load_model(config)
        self.tracked = self.model.tracked(None)
        self.rows = [self.model.encoder().encode(example) for example in dataset]
        self.weights = example_weights(self.rows, self.model.recipe.reduction, self.model.recipe.steps)
        self.chosen = calibration_rows([row_key(row.ids) for row in self.rows], SAMPLE)
        self._built = 0

    @property
    def query(self) -> Query:
        return Query(prompt=self.dataset[QUERY].prompt, completion=self.dataset[QUERY].completion)

    def index(self, method: str, width: int = 0, checkpoints: Any = "all", **method_options: Any) -> OpenIndex:
        self._built += 1
        path = self.root / f"index-{self._built}"
        options = IndexOptions(dtype="float32", projection_dim=width, curvature_rows=SAMPLE, allow_partial=True)
        config = IndexConfig(method, checkpoints, options, method_options)
        build_index(self.model, self.dataset, config, path, factories.ignore)
        return OpenIndex(self.model, self.dataset, path)

    def scores(self, index: OpenIndex) -> np.ndarray:
        return score_query(index, self.query).astype(np.float64)

    def gradients(self, state: int) -> list[dict[str, Tensor]]:
        """Of Σ log p, weight 1, row by row."""
        self.model.use(state)
        return [oracles.example_gradients(self.model, self.tracked, row) for row in self.rows]

    def state_file(self, state: int) -> dict[str, Tensor]:
        return load_file(self.model.states[state].path / "optimizer.safetensors")

    def step_of_adam(self, state: int, row: int) -> dict[str, Tensor]:
        """θ before − θ after one torch.optim.Adam step of size 1 on the row's mean loss: parameter name → as stored."""
        self.model.use(state)
        saved = self.state_file(state)
        parameters = {n: p for n, p in self.model.module.named_parameters() if n in tracked_parameters(self.tracked)}
        self.model.module.requires_grad_(True)
        loss = -oracles.log_prob(self.model, self.rows[row]) / self.rows[row].target_count
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        self.model.module.requires_grad_(False)
        copies = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
        optimizer = torch.optim.Adam(copies.values(), lr=1.0, betas=TRAINING.betas, eps=TRAINING.epsilon)
        for (name, copy), gradient in zip(copies.items(), gradients, strict=True):
            key = name.replace(".default", "")
            moments = {kind: saved[f"{kind}.{key}"].double().clone() for kind in ("exp_avg", "exp_avg_sq")}
            optimizer.state[copy] = {"step": saved["step"].clone(), **moments}
            copy.grad = gradient
        optimizer.step()
        return {name: (parameters[name] - copy).detach() for name, copy in copies.items()}


def tracked_parameters(tracked: Sequence[Any]) -> list[str]:
    return [f"{m.path}.{kind}" for m in tracked for kind in (("weight", "bias") if m.bias else ("weight",))]


def lora_world(root: Path, base: nn.Module | None = None) -> AdamWorld:
    factories.save_base(root / "base", factories.llama(hidden=8, layers=1) if base is None else base)
    dataset = factories.dataset(root / "data", factories.sentences(ROWS, seed=3, longest=3))
    train_lora(root / "base", list(dataset), root / "run", TRAINING)
    epochs = tuple(str(root / f"run/epoch-{epoch + 1}") for epoch in range(EPOCHS))
    recipe = load_recipe(root / "run/recipe.json")
    return AdamWorld(root, ModelConfig(str(root / "base"), checkpoints=epochs, recipe=recipe, dtype="float64"), dataset)


def gpt2_world(root: Path) -> AdamWorld:
    """Conv1D weights are stored as [I, O]; attn.c_proj is square, so that only its values tell a transpose."""
    base = factories.gpt2(hidden=8, layers=1)
    factories.save_base(root / "base", base)
    generator = torch.Generator().manual_seed(7)
    state: dict[str, Tensor] = {"step": torch.tensor(9.0)}
    for name, parameter in base.named_parameters():
        state[f"exp_avg.{name}"] = 0.1 * torch.randn(parameter.shape, generator=generator)
        state[f"exp_avg_sq.{name}"] = torch.rand(parameter.shape, generator=generator) ** 4
    save_file(state, root / "base/optimizer.safetensors")
    dataset = factories.dataset(root / "data", factories.sentences(ROWS, seed=3, longest=3))
    recipe = Recipe(
        training=replace(TRAINING, lora=None, schedule="constant", warmup_share=0.0), details={"rows": ROWS}
    )
    return AdamWorld(root, ModelConfig(str(root / "base"), recipe=recipe, dtype="float64"), dataset)


def epoch_rates() -> list[float]:
    """The mean learning rate of every epoch, by Transformers' own scheduler."""
    steps = EPOCHS * -(-ROWS // TRAINING.batch_size)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=TRAINING.learning_rate)
    warmup = -(-steps // 10)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [float(np.mean(epoch)) for epoch in np.array_split(np.array(rates), EPOCHS)]


def assert_scores(found_N: np.ndarray, expected_N: np.ndarray, tolerance: float = 2e-5) -> None:
    """Stored in float32: relative to the largest score."""
    assert np.abs(found_N - expected_N).max() <= tolerance * np.abs(expected_N).max()
