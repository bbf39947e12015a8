"""Rows to vectors, for training rows and queries alike (DESIGN §2.3: one code path).

Shapes: B examples, D numbers of one checkpoint, C columns that hold a target in some example.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.batching import PaddedBatch
from engine.capture import GradientCapture, LabelSampler, Outcome
from engine.consumers import SketchConsumer
from engine.curvature.base import RowMap
from engine.errors import NonFiniteGradient
from engine.loaded import LoadedModel, State
from engine.modules import TrackedModule
from engine.sketch import ModuleSketch


@dataclass(frozen=True)
class Vectors:
    """vectors_BD on the model's device; self_B = ⟨v, v⟩, before unit norm. outcome: what the forward saw.

    probability_B: mean over the targets of their probability.
    """

    vectors_BD: Tensor
    self_B: Tensor
    outcome: Outcome
    probability_B: Tensor


class GradientFeatures:
    """One checkpoint's gradients in one metric. The sketch's dtype is float64 for float64 models, else float32.

    train_sketches: the rows' where they are not the queries'. row_map: what follows the sketches, on both sides.
    odds: gradients of Σ log(p/(1−p)) instead of Σ log p. damage: what is stored is multiplied by 1 − the mean target
    probability, averaged over the checkpoints (by the build). power: p of the ensemble, see `finish`.
    """

    def __init__(
        self,
        model: LoadedModel,
        state: State,
        tracked: tuple[TrackedModule, ...],
        sketches: dict[str, ModuleSketch],
        *,
        unit_norm: bool,
        train_sketches: dict[str, ModuleSketch] | None = None,
        row_map: RowMap | None = None,
        odds: bool = False,
        damage: bool = False,
        power: float = 0.0,
    ) -> None:
        self.model = model
        self.state = state
        self.tracked = tracked
        self.sketches = sketches
        self.train_sketches = train_sketches or sketches
        self.row_map = row_map
        self.unit_norm = unit_norm
        self.odds = odds
        self.damage = damage
        self.power = power
        self.width = SketchConsumer(tracked, sketches).width

    def compute(self, capture: GradientCapture, batch: PaddedBatch, labels: LabelSampler | None = None) -> Vectors:
        """Gradients of the batch's training rows; of `labels` instead of their own targets where they are given."""
        return self._vectors(capture, batch, self.train_sketches, labels)

    def query(self, capture: GradientCapture, batch: PaddedBatch, *, odds: bool = False) -> Vectors:
        """Gradients of a query's sequences: the rows' own path, unless the method treats the two sides differently.

        odds: the query's measurement is of the log-odds.
        """
        return self._vectors(capture, batch, self.sketches, None, odds=odds)

    def _vectors(
        self,
        capture: GradientCapture,
        batch: PaddedBatch,
        sketches: dict[str, ModuleSketch],
        labels: LabelSampler | None,
        *,
        odds: bool = False,
    ) -> Vectors:
        self.model.use(self.state)
        consumer = SketchConsumer(self.tracked, sketches)
        consumer.begin(len(batch.positions), batch.ids_BT.device, torch.promote_types(self.model.dtype, torch.float32))
        outcome = capture.run(batch, consumer, labels, odds=self.odds or odds)
        vectors_BD = consumer.vectors_BD if self.row_map is None else self.row_map.apply(consumer.vectors_BD)
        return Vectors(vectors_BD, vectors_BD.square().sum(1), outcome, mean_probability(outcome, batch))

    def finish(self, vectors: Vectors) -> tuple[Tensor, Tensor]:
        """(what is stored [B, D], its self-scores [B]): unit norm where the method asks for it, zero stays zero.

        With a `power` the stored vector is scaled and the self-score is not (engine/ensemble.py, row_factors).
        """
        vectors_BD, self_B = vectors.vectors_BD, vectors.self_B
        power = 1.0 if self.unit_norm else self.power
        if not power:
            return vectors_BD, self_B
        scale_B = torch.where(self_B > 0, self_B.clamp_min(torch.finfo(self_B.dtype).tiny) ** (-power / 2), 0.0)
        scaled_BD = vectors_BD * scale_B.unsqueeze(1)
        return scaled_BD, (self_B > 0).to(self_B.dtype) if self.unit_norm else self_B


def mean_probability(outcome: Outcome, batch: PaddedBatch) -> Tensor:
    """[B]: mean over an example's targets of their probability."""
    is_target_BC = batch.weights_BT[:, outcome.columns_C] != 0
    return (outcome.target_log_prob_BC.exp() * is_target_BC).sum(1) / is_target_BC.sum(1).clamp_min(1)


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
