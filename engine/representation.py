"""Rows and queries as hidden states of the tuned model: RepSim, and RepT with the gradient beside them.

Shapes: B examples, T positions, C columns that hold a target in some example, V vocabulary, H hidden size,
D = H numbers a row (RepSim), or 2H (RepT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.batching import PaddedBatch
from engine.capture import GradientCapture, accepts_logits_to_keep, log_odds
from engine.errors import InvalidOption
from engine.loaded import LoadedModel
from engine.methods import RepresentationMethod
from engine.store import IndexStore

MEAN_TENSORS = "hidden-mean"


class RepresentationFeatures:
    """Unit-norm vectors of the tuned model; cosines are then inner products.

    mean_H: what is subtracted from every pooled hidden state first (`centred`), float64; None = nothing.
    Raises InvalidOption for a layer that the model does not have.
    """

    def __init__(
        self, model: LoadedModel, method: RepresentationMethod, options: Any, mean_H: np.ndarray | None = None
    ) -> None:
        self.model = model
        self.layer, self.pooling = options.layer, options.pooling
        self.with_gradient = method.parts == 2
        self.mean_H = None if mean_H is None else torch.from_numpy(mean_H).to(model.device)
        if not -model.hidden_layers - 1 <= self.layer <= model.hidden_layers:
            raise InvalidOption(
                f"Layer {self.layer} does not exist: the model has hidden states 0 to {model.hidden_layers}.",
                pointer="/options/layer",
            )

    def compute(self, batch: PaddedBatch, *, odds: bool = False) -> Tensor:
        """[B, D], each of norm 1 (a zero vector stays zero). odds: the gradient is of the log-odds."""
        self.model.use(-1)
        pooled_BD = self._with_gradient(batch, odds) if self.with_gradient else self.pooled(batch)
        if self.mean_H is not None:
            pooled_BD = pooled_BD - self.mean_H.to(pooled_BD.dtype)
        return F.normalize(pooled_BD, dim=-1)

    @torch.no_grad()
    def pooled(self, batch: PaddedBatch) -> Tensor:
        """[B, H], in float32 at least; a bfloat16 mean over many positions would lose them."""
        self.model.use(-1)
        output = self.model.module(**self._arguments(batch), output_hidden_states=True)
        return pool(_wide(output.hidden_states[self.layer]), batch, self.pooling)

    def _with_gradient(self, batch: PaddedBatch, odds: bool) -> Tensor:
        """[B, 2H]: [hidden ; ∂(mean target log p)/∂hidden], both at `layer` and pooled alike.

        The mean, as in the paper: beside the hidden state the gradient's size counts, and a sum would grow with T.
        """
        with torch.enable_grad(), GradientCapture(self.model, ()):
            output = self.model.module(**self._arguments(batch), output_hidden_states=True)
            states_BTH = output.hidden_states[self.layer]
            value_B = mean_target_value(self._logits(output, batch), batch, odds)
            (gradient_BTH,) = torch.autograd.grad(value_B.sum(), states_BTH)
        halves = (states_BTH.detach(), gradient_BTH)
        return torch.cat([pool(_wide(half_BTH), batch, self.pooling) for half_BTH in halves], dim=-1)

    def _arguments(self, batch: PaddedBatch) -> dict[str, Any]:
        """The logits are kept where they are read only."""
        arguments: dict[str, Any] = {"input_ids": batch.ids_BT, "use_cache": False}
        if accepts_logits_to_keep(self.model):
            arguments["logits_to_keep"] = batch.target_columns - 1
        return arguments

    def _logits(self, output: Any, batch: PaddedBatch) -> Tensor:
        """[B, C, V] that predict the columns with a target"""
        kept = accepts_logits_to_keep(self.model)
        return _wide(output.logits if kept else output.logits[:, batch.target_columns - 1])


def mean_target_value(logits_BCV: Tensor, batch: PaddedBatch, odds: bool = False) -> Tensor:
    """[B]: mean over an example's targets of their log p (of their log-odds); pads and prompt do not count."""
    targets_BC = batch.ids_BT[:, batch.target_columns]
    is_target_BC = batch.weights_BT[:, batch.target_columns] != 0
    if odds:
        value_BC = log_odds(logits_BCV, targets_BC)
    else:
        value_BC = -F.cross_entropy(logits_BCV.flatten(0, 1), targets_BC.flatten(), reduction="none")
    value_BC = value_BC.view_as(targets_BC) * is_target_BC
    return value_BC.sum(1) / is_target_BC.sum(1)


def pool(states_BTH: Tensor, batch: PaddedBatch, pooling: str) -> Tensor:
    """last_prompt: the position before the first target; last: the last non-pad one; mean_*: over a part."""
    is_target_BT = batch.weights_BT != 0
    first_B = is_target_BT.int().argmax(1)
    rows = torch.arange(states_BTH.shape[0], device=states_BTH.device)
    if pooling == "last_prompt":
        return states_BTH[rows, (first_B - 1).clamp_min(0)]
    if pooling == "last":
        return states_BTH[rows, batch.valid_BT.sum(1) - 1]
    before_BT = torch.arange(states_BTH.shape[1], device=states_BTH.device) < first_B.unsqueeze(1)
    chosen_BT = (before_BT if pooling == "mean_prompt" else ~before_BT) & batch.valid_BT
    weights_BT = chosen_BT.to(states_BTH.dtype)
    return (states_BTH * weights_BT.unsqueeze(-1)).sum(1) / weights_BT.sum(1, keepdim=True)


def fit_mean(features: RepresentationFeatures, batches: Iterable[PaddedBatch]) -> np.ndarray:
    """float64 [H]: the mean pooled hidden state of the calibration rows, each row counting once."""
    total_H, rows = torch.zeros(features.model.hidden_size, dtype=torch.float64), 0
    for batch in batches:
        pooled_BH = features.pooled(batch)
        total_H += pooled_BH.double().sum(0).cpu()
        rows += len(pooled_BH)
    return (total_H / rows).numpy()


def save_mean(
    model: LoadedModel,
    method: RepresentationMethod,
    options: Any,
    store: IndexStore,
    batches: Callable[[], Iterable[PaddedBatch]],
) -> None:
    """Where the options ask for centred vectors: their mean, stored with the index; kept on resume."""
    if is_centred(options) and not store.has_tensors(MEAN_TENSORS):
        mean_H = fit_mean(RepresentationFeatures(model, method, options), batches())
        store.save_tensors(MEAN_TENSORS, {"mean": mean_H})


def open_representation(
    model: LoadedModel, method: RepresentationMethod, options: Any, store: IndexStore
) -> RepresentationFeatures:
    """As the index was built: the same for its rows and for its queries."""
    mean_H = store.load_tensors(MEAN_TENSORS)["mean"] if is_centred(options) else None
    return RepresentationFeatures(model, method, options, mean_H)


def is_centred(options: Any) -> bool:
    return getattr(options, "centred", False)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
