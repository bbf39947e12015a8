"""Rows to vectors, for training rows and queries alike (DESIGN §2.3: one code path).

Shapes: B examples, D numbers of one checkpoint, H hidden size, T positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.batching import PaddedBatch
from engine.capture import GradientCapture, Outcome
from engine.consumers import SketchConsumer
from engine.errors import InvalidOption, NonFiniteGradient
from engine.model import LoadedModel
from engine.modules import TrackedModule
from engine.sketch import ModuleSketch


@dataclass(frozen=True)
class Vectors:
    """vectors_BD on the model's device; self_B = ⟨v, v⟩, before unit norm. outcome: what the forward saw."""

    vectors_BD: Tensor
    self_B: Tensor
    outcome: Outcome


class GradientFeatures:
    """One checkpoint's gradients in one metric. The sketch's dtype is float64 for float64 models, else float32."""

    def __init__(
        self,
        model: LoadedModel,
        state: int,
        tracked: tuple[TrackedModule, ...],
        sketches: dict[str, ModuleSketch],
        *,
        unit_norm: bool,
    ) -> None:
        self.model = model
        self.state = state
        self.tracked = tracked
        self.sketches = sketches
        self.unit_norm = unit_norm
        self.width = SketchConsumer(tracked, sketches).width

    def compute(self, capture: GradientCapture, batch: PaddedBatch) -> Vectors:
        """Gradients of the batch's rows. Raises NonFiniteGradient naming the rows' positions."""
        self.model.use(self.state)
        consumer = SketchConsumer(self.tracked, self.sketches)
        consumer.begin(len(batch.positions), batch.ids_BT.device, torch.promote_types(self.model.dtype, torch.float32))
        outcome = capture.run(batch, consumer)
        self_B = consumer.vectors_BD.square().sum(1)
        return Vectors(consumer.vectors_BD, self_B, outcome)

    def finish(self, vectors: Vectors) -> tuple[Tensor, Tensor]:
        """(what is stored [B, D], its self-scores [B]): unit norm where the method asks for it, zero stays zero."""
        if not self.unit_norm:
            return vectors.vectors_BD, vectors.self_B
        norms_B = vectors.self_B.sqrt()
        scaled_BD = vectors.vectors_BD / norms_B.clamp_min(torch.finfo(norms_B.dtype).tiny).unsqueeze(1)
        return scaled_BD, (norms_B > 0).to(norms_B.dtype)


def check_finite(self_B: Tensor, positions: tuple[int, ...]) -> None:
    """One look at B numbers already on the host: a NaN anywhere in a row's vector shows in its norm."""
    bad = [position for position, fine in zip(positions, torch.isfinite(self_B).tolist(), strict=True) if not fine]
    if bad:
        raise NonFiniteGradient(f"The gradient of {_rows(bad)} is not finite.", rows=bad)


def _rows(positions: list[int]) -> str:
    if positions == [-1]:
        return "the query"
    shown = ", ".join(str(position) for position in positions[:5])
    return f"row {shown}" if len(positions) == 1 else f"rows {shown}" + (" and others" if len(positions) > 5 else "")


class RepresentationFeatures:
    """Unit-norm hidden states of the tuned model (RepSim)."""

    def __init__(self, model: LoadedModel, options: Any) -> None:
        self.model = model
        self.options = options
        self.width = model.hidden_size
        if not -model.hidden_layers - 1 <= options.layer <= model.hidden_layers:
            raise InvalidOption(
                f"Layer {options.layer} does not exist: the model has hidden states 0 to {model.hidden_layers}.",
                pointer="/options/layer",
            )

    @torch.no_grad()
    def compute(self, batch: PaddedBatch) -> Tensor:
        """[B, H], each of norm 1; cosines are then inner products."""
        self.model.use(-1)
        states = self.model.module(input_ids=batch.ids_BT, use_cache=False, output_hidden_states=True).hidden_states
        pooled_BH = _pool(states[self.options.layer], batch, self.options.pooling)
        return torch.nn.functional.normalize(pooled_BH.to(torch.promote_types(pooled_BH.dtype, torch.float32)), dim=-1)


def _pool(states_BTH: Tensor, batch: PaddedBatch, pooling: str) -> Tensor:
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
