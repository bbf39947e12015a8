"""A deterministic LoRA fine-tune whose every choice is on record.

The loss is the batch's token mean, through the same tokens, batches and forward pass that attribution uses
(text, batching, capture.forward), so a row's recorded gradient is the one that moved the weights.
The same base, rows and config give the same bytes in every process of one machine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.batching import PaddedBatch, pad_batch
from engine.capture import forward
from engine.causal.recipe import RECIPE_FILE, save_recipe
from engine.config import ModelConfig, Recipe, TemplateConfig
from engine.durable import naming_full_disk, sync_directory
from engine.encoded import Encoded
from engine.errors import EmptyDataset, InvalidOption
from engine.model import LoadedModel, load_model
from engine.types import CheckpointFn, Example, Progress

MOMENTS_FILE = "optimizer.safetensors"


@dataclass(frozen=True)
class TrainConfig:
    """AdamW, linear warm-up over `warmup_share` of the steps, then linear to zero. No dropout.

    targets: PEFT's target_modules. threads: torch threads while training; another number may change the last bits.
    """

    learning_rate: float = 5e-3
    epochs: int = 5
    batch_size: int = 8
    warmup_share: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    rank: int = 8
    alpha: int = 16
    targets: str | tuple[str, ...] = "all-linear"
    max_length: int | None = None
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class TrainResult:
    """checkpoints: one adapter directory an epoch, oldest first. losses: of every step, nats a token."""

    checkpoints: tuple[Path, ...]
    recipe: Path
    losses: tuple[float, ...]


def train_lora(
    base: Path,
    examples: Sequence[Example],
    out: Path,
    config: TrainConfig | None = None,
    on_progress: CheckpointFn | None = None,
    *,
    template: TemplateConfig | None = None,
) -> TrainResult:
    """Fine-tune `base` on `examples` and write epoch-1 … epoch-E and recipe.json into the new directory `out`.

    `out` appears whole or not at all: what an interrupted run left is removed by the next one.
    on_progress is called after every step and may raise Cancelled.
    Raises ModelError, EmptyDataset, NoLossToken (naming the row), InvalidOption (`out` exists), StorageFull.
    """
    config = config or TrainConfig()
    if not examples:
        raise EmptyDataset("There is no row to train on.")
    if out.exists():
        raise InvalidOption(f"{out} is there already.", remedy="Give a new directory, or remove that one.")
    recipe = make_recipe(len(examples), config, template or TemplateConfig())
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with naming_full_disk(out), _threads(config.threads):
        partial.mkdir(parents=True)
        run = _Run(base, examples, recipe, config)
        losses = run.train(partial, on_progress or (lambda _progress: None))
        save_recipe(partial / RECIPE_FILE, recipe)
        os.rename(partial, out)
        sync_directory(out.parent)
    return TrainResult(tuple(out / _epoch(e) for e in range(config.epochs)), out / RECIPE_FILE, tuple(losses))


def make_recipe(rows: int, config: TrainConfig, template: TemplateConfig) -> Recipe:
    """What the run will do, order of rows included, before it does it."""
    details = asdict(config) | {"optimizer": "adamw", "schedule": "linear", "rows": rows, "torch": torch.__version__}
    return Recipe("batch_token_mean", template, config.max_length, make_steps(rows, config), details)


def make_steps(rows: int, config: TrainConfig) -> tuple[tuple[int, ...], ...]:
    """The rows of every optimizer step: each epoch is a fresh shuffle cut into batches, the last maybe smaller."""
    generator = torch.Generator().manual_seed(config.seed)
    steps: list[tuple[int, ...]] = []
    for _ in range(config.epochs):
        order = torch.randperm(rows, generator=generator).tolist()
        steps += [tuple(order[i : i + config.batch_size]) for i in range(0, rows, config.batch_size)]
    return tuple(steps)


class _Run:
    """The model, its optimizer and the rows as tokens."""

    def __init__(self, base: Path, examples: Sequence[Example], recipe: Recipe, config: TrainConfig) -> None:
        assert recipe.steps is not None
        self.steps = recipe.steps
        self.model = _with_adapter(load_model(ModelConfig(str(base), recipe=recipe)), config)
        encoder = self.model.encoder()
        self.rows: list[Encoded] = [encoder.encode(example) for example in examples]
        self.parameters = [p for p in self.model.module.parameters() if p.requires_grad]
        self.config = config
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        )

    def train(self, out: Path, on_progress: CheckpointFn) -> list[float]:
        losses: list[float] = []
        per_epoch = len(self.steps) // self.config.epochs
        for number, positions in enumerate(self.steps, start=1):
            losses.append(self._step(number - 1, positions))
            if number % per_epoch == 0:
                self._save(out / _epoch(number // per_epoch - 1))
            on_progress(Progress(number, len(self.steps), "steps", "fine-tune"))
        return losses

    def _step(self, number: int, positions: tuple[int, ...]) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * schedule(number, len(self.steps), self.config.warmup_share)
        with torch.enable_grad():
            loss = -forward(self.model, self._batch(positions)).log_prob_B.sum()
            self.optimizer.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        return loss.item()

    def _batch(self, positions: tuple[int, ...]) -> PaddedBatch:
        rows = [self.rows[position] for position in positions]
        weight = 1.0 / sum(row.target_count for row in rows)  # the step's token mean
        return pad_batch(rows, [weight] * len(rows), self.model.pad_id, torch.float32, positions=positions)

    def _save(self, path: Path) -> None:
        module: Any = self.model.module
        module.save_pretrained(str(path), save_embedding_layers=False)
        save_file(self._moments(), path / MOMENTS_FILE)

    def _moments(self) -> dict[str, Tensor]:
        """exp_avg.<name> and exp_avg_sq.<name>, under the names of the adapter's weights beside them, and the step."""
        moments = {"step": torch.zeros(())}
        for name, parameter in self.model.module.named_parameters():
            if parameter.requires_grad:
                state, saved_as = self.optimizer.state[parameter], name.replace(".default.", ".")
                moments[f"exp_avg.{saved_as}"] = state["exp_avg"].contiguous()
                moments[f"exp_avg_sq.{saved_as}"] = state["exp_avg_sq"].contiguous()
                moments["step"] = state["step"].clone()
        return moments


def schedule(step: int, steps: int, warmup_share: float) -> float:
    """The learning rate at `step` (from 0), as a share of its peak."""
    warmup = max(1, round(steps * warmup_share))
    return (step + 1) / warmup if step < warmup else (steps - step) / max(1, steps - warmup)


def _with_adapter(loaded: LoadedModel, config: TrainConfig) -> LoadedModel:
    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets, task_type="CAUSAL_LM")
    adapted = get_peft_model(loaded.module, lora)  # type: ignore[arg-type]
    _start(adapted, config.seed)
    loaded.module, loaded.lora = adapted, True
    return loaded


@torch.no_grad()
def _start(adapted: PeftModel, seed: int) -> None:
    """A uniform as PEFT draws it, but from this run's own generator; B = 0: other threads cannot disturb the draw."""
    found = adapted.peft_config["default"]
    found.target_modules = sorted(found.target_modules)  # type: ignore[attr-defined]  # a set's order changes with the process
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_A" in name:
            bound = parameter.shape[1] ** -0.5
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
        elif "lora_B" in name:
            parameter.zero_()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _epoch(number: int) -> str:
    return f"epoch-{number + 1}"
