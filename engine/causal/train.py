"""A deterministic LoRA fine-tune whose every choice is on record.

The loss is the step's token mean, through the same tokens, batches and forward pass that attribution uses
(text, batching, capture.forward), so a row's recorded gradient is the one that moved the weights.
The same base, rows and recipe give the same bytes in every process of one machine.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from engine.causal.loop import TrainingLoop
from engine.causal.recipe import RECIPE_FILE, REMOVED, removed_rows, save_recipe
from engine.causal.stack import AdapterStack
from engine.causal.steps import Steps, check_steps, check_trainable, make_steps
from engine.config import DType, ModelConfig, Recipe, TemplateConfig, Training, fingerprint
from engine.durable import alone_in, naming_full_disk, sync_directory, write_durably
from engine.errors import EmptyDataset, InvalidOption, NonFiniteGradient
from engine.model import load_model
from engine.types import CheckpointFn, Example, Progress
from engine.weights import directory_fingerprint

MOMENTS_FILE = "optimizer.safetensors"
LOG_FILE = "training_log.json"


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
    training: Training | None = None,
    on_progress: CheckpointFn | None = None,
    *,
    template: TemplateConfig | None = None,
    max_length: int | None = None,
    dtype: DType = "float32",
    device: str = "cpu",
    threads: int = 1,
    tokenizer: str | None = None,
    chat_template: str | None = None,
    steps: Steps | None = None,
    removed: Sequence[int] = (),
) -> TrainResult:
    """Fine-tune `base` on `examples` and write epoch-1 … epoch-E and recipe.json into the new directory `out`.

    `out` appears when the run is whole; until then its epochs lie in `<out>.partial`, and a run that was interrupted
    goes on at the last of them, to the same bytes. threads: torch's; another number may change the last bits.
    tokenizer, chat_template: where they are not the base's.
    steps: another order of rows than the seed's, of as many steps. removed: rows of weight 0: they keep their places in
    the steps and their denominators, and teach nothing.
    on_progress is called after every step and may raise Cancelled.
    Raises ModelError, UnsupportedModel, EmptyDataset, NoLossToken (naming the row), InvalidOption (`out` exists, or an
    unfinished run of another recipe lies in its place, or another process
    writes there), NonFiniteGradient (the training diverged), StorageFull.
    """
    training = training or Training()
    if not examples:
        raise EmptyDataset("There is no row to train on.")
    _check_new(out)
    recipe = make_recipe(len(examples), training, template or TemplateConfig(), max_length, steps, removed)
    with naming_full_disk(out), torch_threads(threads):
        config = ModelConfig(str(base), tokenizer=tokenizer, chat_template=chat_template, recipe=recipe, dtype=dtype)
        run = _Run(config, examples, device)
        partial = out.with_name(out.name + ".partial")
        with alone_in(partial):
            _check_claim(out, partial, run.fingerprint)
            losses = run.train(partial, on_progress or (lambda _progress: None))
            save_recipe(partial / RECIPE_FILE, recipe)
            os.rename(partial, out)
            sync_directory(out.parent)
    return TrainResult(tuple(out / _epoch(e) for e in range(training.epochs)), out / RECIPE_FILE, tuple(losses))


def make_recipe(
    rows: int,
    training: Training,
    template: TemplateConfig,
    max_length: int | None,
    steps: Steps | None = None,
    removed: Sequence[int] = (),
) -> Recipe:
    """What the run will do, order of rows included, before it does it. Raises UnsupportedModel, InvalidOption."""
    check_trainable(training)
    ours = make_steps(rows, training)
    if steps is not None:
        check_steps(steps, ours)
    details = {"rows": rows, "torch": torch.__version__} | ({REMOVED: sorted(set(removed))} if removed else {})
    return Recipe("batch_token_mean", template, max_length, steps or ours, training, details)


def _check_new(out: Path) -> None:
    if out.exists():
        raise InvalidOption(f"{out} is there already.", remedy="Give a new directory, or remove that one.")


def _check_claim(out: Path, partial: Path, run_fingerprint: str) -> None:
    """Whether `partial` is new, or left by the same run when it was interrupted, and nobody finished meanwhile."""
    _check_new(out)
    log = partial / LOG_FILE
    if log.exists() and _logged(log)["fingerprint"] != run_fingerprint:
        raise InvalidOption(
            f"{partial} holds an unfinished run of another recipe, base or dataset.",
            remedy="Finish that run with its own options, or remove the directory.",
        )


def _logged(log: Path) -> dict[str, Any]:
    """fingerprint, losses. Raises InvalidOption when the file is damaged."""
    try:
        found = json.loads(log.read_text())
        return {name: found[name] for name in ("fingerprint", "losses")}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidOption(
            f"{log} is damaged.", remedy=f"Remove {log.parent.name}; the run then starts anew."
        ) from None


class _Run:
    """The model, its optimizer and the rows as tokens."""

    def __init__(self, config: ModelConfig, examples: Sequence[Example], device: str) -> None:
        recipe = config.recipe
        assert recipe is not None
        assert recipe.steps is not None
        assert recipe.training is not None
        assert recipe.training.lora is not None
        model = load_model(config, device)
        encoder = model.encoder()
        rows = [encoder.encode(example) for example in examples]
        self.epochs = recipe.training.epochs
        self.stack = AdapterStack(model, recipe.training.lora, 1)
        self.stack.start([recipe.training.seed])
        weights_1N = np.ones((1, len(rows)))
        weights_1N[:, list(removed_rows(recipe, len(rows)))] = 0.0
        self.loop = TrainingLoop(self.stack, rows, recipe.training, [recipe.steps], weights_1N)
        tokens = [(row.ids, row.targets) for row in rows]
        base = directory_fingerprint(Path(config.base))
        self.fingerprint = fingerprint("train", base, tokens, recipe, config.dtype)

    def train(self, out: Path, on_progress: CheckpointFn) -> list[float]:
        losses, epoch = self._resume(out)
        per_epoch = self.loop.total // self.epochs
        pending: list[Tensor] = []  # still on the device: reading one waits for it
        for number in range(epoch * per_epoch, self.loop.total):
            pending.append(self.loop.step(number))
            if (number + 1) % per_epoch == 0:
                losses += torch.cat(pending).tolist()
                pending.clear()
                self._save(out, number // per_epoch, losses)
            on_progress(Progress(number + 1, self.loop.total, "steps", "fine-tune"))
        return losses

    def _save(self, out: Path, epoch: int, losses: list[float]) -> None:
        """An epoch's directory is whole or absent, and the log never names one that is absent."""
        self._check_finite(epoch)
        path, aside = out / _epoch(epoch), out / f"{_epoch(epoch)}.writing"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(path, ignore_errors=True)
        aside.mkdir()
        self.stack.save_config(aside)
        _save_tensors(aside / "adapter_model.safetensors", self.stack.named(self.stack.theta_KP[0]), {"format": "pt"})
        _save_tensors(aside / MOMENTS_FILE, self._moments())
        os.rename(aside, path)
        sync_directory(out)
        log = json.dumps({"fingerprint": self.fingerprint, "losses": losses}).encode()
        write_durably(out / LOG_FILE, lambda sink: sink.write(log))

    def _check_finite(self, epoch: int) -> None:
        if not self.stack.theta_KP.isfinite().all():
            raise NonFiniteGradient(
                f"The weights are NaN or infinite after epoch {epoch + 1}: the training diverged.",
                remedy="Lower the learning rate, clip the gradient, or raise epsilon.",
            )

    def _moments(self) -> dict[str, Tensor]:
        """exp_avg.<name> and exp_avg_sq.<name>, under the names of the adapter's weights beside them, and the step."""
        state = self.loop.optimizer.state[self.stack.theta_KP]
        moments = {"step": state["step"].clone()}
        for kind in ("exp_avg", "exp_avg_sq"):
            moments |= {f"{kind}.{name}": part for name, part in self.stack.named(state[kind][0]).items()}
        return moments

    @torch.no_grad()
    def _resume(self, out: Path) -> tuple[list[float], int]:
        """(losses so far, finished epochs); weights and moments as the last finished epoch left them."""
        if not (out / LOG_FILE).exists():
            return [], 0
        losses = _logged(out / LOG_FILE)["losses"]
        epoch = len(losses) * self.epochs // self.loop.total
        path = out / _epoch(epoch - 1)
        moments = load_file(path / MOMENTS_FILE)
        theta_KP, optimizer = self.stack.theta_KP, self.loop.optimizer
        theta_KP[0].copy_(self.stack.flat(load_file(path / "adapter_model.safetensors")))
        optimizer.state[theta_KP] = {
            "step": moments["step"],
            "exp_avg": self.stack.flat(moments, "exp_avg.").unsqueeze(0).to(theta_KP),
            "exp_avg_sq": self.stack.flat(moments, "exp_avg_sq.").unsqueeze(0).to(theta_KP),
        }
        return losses, epoch


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None) -> None:
    """safetensors' own writer neither syncs nor says of a full disk what an OSError would."""
    content = save(tensors, about)
    write_durably(path, lambda sink: sink.write(content))


def _epoch(number: int) -> str:
    return f"epoch-{number + 1}"
