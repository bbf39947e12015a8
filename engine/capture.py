"""One forward and one activation-only backward; per tracked module, the input a and the output gradient δ.

Shapes: B examples, T positions, C columns that hold a target in some example, V vocabulary,
I/O a module's input/output width.

All parameters are frozen and the embedding's output asks for a gradient, so autograd walks the activations
and never forms a weight gradient. The loss is the plain sum over examples of Σ_t w_t log p(token_t), so
examples never mix. A module is recorded only when its output requires grad, and a later call overwrites an
earlier one: DoRA and activation checkpointing call a module a second time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.batching import PaddedBatch
from engine.errors import UnsupportedModel
from engine.model import LoadedModel
from engine.modules import TrackedModule, input_identity

# Draws a label for every target from the model's own distribution: (logits_BCV, columns_C) → labels_BC.
LabelSampler = Callable[[Tensor, Tensor], Tensor]


class Consumer(Protocol):
    """What becomes of a and δ."""

    def keep(self, module: TrackedModule, a_BTI: Tensor) -> Tensor:
        """Called once per input group in the forward pass; what it returns is handed to `take`."""
        ...

    def take(self, module: TrackedModule, kept: Tensor, d_BTO: Tensor) -> None:
        """Called once per module in the backward pass."""
        ...


@dataclass(frozen=True)
class Outcome:
    """log_prob_B: f of every example (weighted sum). target_log_prob_BC at `columns_C`, unweighted."""

    log_prob_B: Tensor
    target_log_prob_BC: Tensor
    columns_C: Tensor


class GradientCapture:
    """Hooks on one resident model. A context manager: the hooks go when it closes."""

    def __init__(self, model: LoadedModel, tracked: Sequence[TrackedModule]) -> None:
        self.model = model
        self.tracked = tuple(tracked)
        self._consumer: Consumer | None = None
        self._kept: dict[str, tuple[tuple[object, ...], Tensor]] = {}
        self._groups_checked = False
        self._shape: tuple[int, int] = (0, 0)
        embedding = model.module.get_input_embeddings()  # type: ignore[operator]
        self._handles = [embedding.register_forward_hook(_require_grad)]
        for module in self.tracked:
            layer = model.module.get_submodule(module.path)
            if module.kind == "magnitude":
                self._handles.append(layer.register_forward_hook(self._magnitude_hook(module), with_kwargs=True))
            else:
                self._handles.append(layer.register_forward_hook(self._forward_hook(module)))

    def __enter__(self) -> GradientCapture:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def run(
        self, batch: PaddedBatch, consumer: Consumer, labels: LabelSampler | None = None, *, odds: bool = False
    ) -> Outcome:
        """Feed one batch's (a, δ) to `consumer`. `labels` replaces the batch's own tokens as targets.

        odds: of Σ_t w_t log(p_t/(1−p_t)) instead of Σ_t w_t log p_t; the outcome's log_prob_B is then that sum.
        """
        self._consumer, self._kept = consumer, {}
        self._shape = (batch.ids_BT.shape[0], batch.ids_BT.shape[1])
        try:
            with torch.enable_grad():
                outcome = forward(self.model, batch, labels, slice_logits=self._can_slice, odds=odds)
                outcome.log_prob_B.sum().backward()
        finally:
            self._consumer, self._kept = None, {}
        self._groups_checked = True
        return Outcome(outcome.log_prob_B.detach(), outcome.target_log_prob_BC.detach(), outcome.columns_C)

    @property
    def _can_slice(self) -> bool:
        # A tracked head would see sliced positions while everything else sees all of them.
        return not any("modules_to_save" in module.path for module in self.tracked)

    def _forward_hook(self, module: TrackedModule) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            consumer = self._consumer
            if consumer is None or not output.requires_grad:
                return
            shape = self._shape
            kept = self._keep(consumer, module, by_row(module, inputs[0].detach(), shape))
            output.register_hook(lambda d: consumer.take(module, kept, by_row(module, d, shape)))

        return hook

    def _magnitude_hook(self, module: TrackedModule) -> Callable[..., None]:
        """DoRA's layer returns y − y₀ of y = m∘u, where y₀, the frozen layer's output without its bias, is given."""

        def hook(layer: nn.Module, _inputs: Any, named: dict[str, Any], output: Tensor) -> None:
            consumer = self._consumer
            if consumer is None or not output.requires_grad:
                return
            bias = named["base_layer"].bias
            frozen_BTO = named["base_result"].detach() - (0 if bias is None else bias)
            unit_BTO = (output.detach() + frozen_BTO) / layer.weight
            kept = consumer.keep(module, unit_BTO.new_ones(*unit_BTO.shape[:-1], 1))
            output.register_hook(lambda d_BTO: consumer.take(module, kept, d_BTO * unit_BTO))

        return hook

    def _keep(self, consumer: Consumer, module: TrackedModule, a_BTI: Tensor) -> Tensor:
        identity = input_identity(a_BTI)
        earlier = self._kept.get(module.group)
        if earlier is not None and earlier[0] == identity:
            return earlier[1]
        if earlier is not None and not self._groups_checked:
            raise UnsupportedModel(f"Module {module.name} does not read the same input as {module.group}.")
        kept = consumer.keep(module, with_bias_column(module, a_BTI))
        self._kept[module.group] = (identity, kept)
        return kept


def _require_grad(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output.requires_grad_(True) if torch.is_grad_enabled() else output


def by_row(module: TrackedModule, tensor: Tensor, shape: tuple[int, int]) -> Tensor:
    """[B, T, …] also of what a shared expert reads, [B·T, …]. `shape`: (B, T) of the batch."""
    if tensor.dim() == 3:
        return tensor
    if tensor.dim() != 2 or len(tensor) != shape[0] * shape[1]:
        raise UnsupportedModel(
            f"Module {module.name} sees {tuple(tensor.shape)} of a batch of {shape}: rows are mixed."
        )
    return tensor.unflatten(0, shape)


def with_bias_column(module: TrackedModule, a_BTI: Tensor) -> Tensor:
    """A trained bias is the weight of a constant input: append 1 to a."""
    if not module.bias:
        return a_BTI
    return torch.cat([a_BTI, a_BTI.new_ones(*a_BTI.shape[:-1], 1)], dim=-1)


def forward(
    model: LoadedModel,
    batch: PaddedBatch,
    labels: LabelSampler | None = None,
    *,
    slice_logits: bool = True,
    odds: bool = False,
    module: nn.Module | None = None,
) -> Outcome:
    """Weighted log-probabilities (log-odds) of the batch's targets; differentiable where gradients are enabled.

    module: of the model's architecture, read in place of its own.

    Right padding under a causal mask needs no attention mask: no target can see a pad behind it.
    """
    columns_C = batch.target_columns
    logits_BCV = logits_at(model, batch, slice_logits=slice_logits, module=module)
    targets_BC = batch.ids_BT[:, columns_C] if labels is None else labels(logits_BCV.detach(), columns_C)
    log_prob_BC = -F.cross_entropy(logits_BCV.flatten(0, 1), targets_BC.flatten(), reduction="none").view_as(targets_BC)
    weights_BC = batch.weights_BT[:, columns_C].to(log_prob_BC.dtype)
    value_BC = log_odds(logits_BCV, targets_BC) if odds else log_prob_BC
    return Outcome((value_BC * weights_BC).sum(1), log_prob_BC, columns_C)


def logits_at(
    model: LoadedModel, batch: PaddedBatch, *, slice_logits: bool = True, module: nn.Module | None = None
) -> Tensor:
    """[B, C, V], in float32 or wider: what the tokens at the batch's target columns are predicted from."""
    columns_C = batch.target_columns
    arguments: dict[str, Any] = {"input_ids": batch.ids_BT, "use_cache": False}
    sliced = slice_logits and accepts_logits_to_keep(model)
    if sliced:
        arguments["logits_to_keep"] = columns_C - 1
    logits = (model.module if module is None else module)(**arguments).logits
    logits_BCV = logits if sliced else logits[:, columns_C - 1]
    return logits_BCV.float() if logits_BCV.dtype in (torch.bfloat16, torch.float16) else logits_BCV


def log_odds(logits_BCV: Tensor, targets_BC: Tensor) -> Tensor:
    """log(p/(1−p)) = the target's logit − log Σ exp of all others.

    Never formed from p: where rounding makes p one, this and its gradient are still exact.
    """
    targets_BC1 = targets_BC.unsqueeze(-1)
    others_BCV = logits_BCV.scatter(-1, targets_BC1, float("-inf"))
    return logits_BCV.gather(-1, targets_BC1).squeeze(-1) - others_BCV.logsumexp(-1)


def accepts_logits_to_keep(model: LoadedModel) -> bool:
    inner = model.module.get_base_model() if model.lora else model.module  # type: ignore[operator]
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
