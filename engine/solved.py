"""Query gradients multiplied by an inverse curvature at question time, for rows stored as plain gradients.

Shapes: B sequences, Q queries, K vectors to pull back, S calibration rows, D the numbers of all tracked modules'
gradients of one checkpoint, P those left after projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engine.batching import PaddedBatch
from engine.capture import GradientCapture, Outcome
from engine.checkpoints import checkpoint_setting
from engine.consumers import SketchConsumer
from engine.curvature import get_metric
from engine.curvature.fit import calibration_rows
from engine.curvature.labels import LabelDraws
from engine.curvature.solving import Checkpoint, QuerySolver, SolvedMetric
from engine.ensemble import recorded_horizons
from engine.features import GradientFeatures, Vectors, mean_probability
from engine.ggn import GaussNewton, mean_diagonals, split
from engine.loaded import State
from engine.rows import Batcher, EncodedRows, encode_rows
from engine.sketch import ModuleSketch, SeparableSketch

if TYPE_CHECKING:
    from engine.opened import OpenIndex


class SolvedFeatures(GradientFeatures):
    """`compute` is a row's plain gradient, `query` the query's solved one. query_state: where its gradient is taken."""

    def __init__(self, plain: GradientFeatures, solver: QuerySolver, query_state: State) -> None:
        super().__init__(plain.model, plain.state, plain.tracked, plain.sketches, unit_norm=plain.unit_norm)
        self.solver = solver
        self.query_state = query_state
        self._exact: dict[str, ModuleSketch] = {
            m.name: SeparableSketch(m.outputs, m.inputs, None, None) for m in plain.tracked
        }

    def query(self, capture: GradientCapture, batch: PaddedBatch, *, odds: bool = False) -> Vectors:
        """Each sequence solved by itself."""
        gradients_BD, outcome = self.gradients(capture, batch, odds=odds)
        vectors_BP, self_B = self.solve(gradients_BD)
        return Vectors(vectors_BP, self_B, outcome, mean_probability(outcome, batch))

    def gradients(self, capture: GradientCapture, batch: PaddedBatch, *, odds: bool = False) -> tuple[Tensor, Outcome]:
        """(exact gradients [B, D], outcome), in float32 or wider."""
        self.model.use(self.query_state)
        consumer = SketchConsumer(self.tracked, self._exact)
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        consumer.begin(len(batch.positions), batch.ids_BT.device, dtype)
        outcome = capture.run(batch, consumer, odds=odds)
        return consumer.vectors_BD, outcome

    def solve(self, gradients_QD: Tensor) -> tuple[Tensor, Tensor]:
        """(u projected as the rows are [Q, P], gᵀu [Q]) of u = H⁻¹ g. Raises InvalidOption."""
        solved_QD = self.solver.solve(gradients_QD)
        return self._projected(solved_QD), (gradients_QD * solved_QD).sum(1).clamp_min(0.0)

    def pull_back(self, phi: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Module → W_KOI with Σ_m ⟨query's sketch, Φ_k⟩ = Σ_m ⟨G, W_k⟩, G a query's gradient; phi: module → Φ_KPR."""
        flat_KD = torch.cat([self.sketches[m.name].adjoint(phi[m.name]).flatten(1) for m in self.tracked], 1)
        return split(self.solver.transposed(flat_KD), self.tracked)

    @property
    def exact_width(self) -> int:
        """D."""
        return sum(module.parameters for module in self.tracked)

    def _projected(self, solved_QD: Tensor) -> Tensor:
        parts = split(solved_QD, self.tracked)
        return torch.cat([_sketched(self.sketches[m.name], parts[m.name]).flatten(1) for m in self.tracked], 1)  # type: ignore[arg-type]


def _sketched(sketch: SeparableSketch, w_QOI: Tensor) -> Tensor:
    """L W Rᵀ, [Q, P, R]."""
    w = w_QOI if sketch.left_PO is None else sketch.left_PO @ w_QOI
    return w if sketch.right_RI is None else w @ sketch.right_RI.T


def with_solvers(index: OpenIndex, plain: Sequence[GradientFeatures]) -> list[GradientFeatures]:
    """The index's features, each with its solver where the method has one. Nothing is computed before it is asked."""
    plan = index.plan
    metric = get_metric(plan.method.metric, plan.method_options)  # type: ignore[attr-defined]
    if not isinstance(metric, SolvedMetric):
        return list(plain)
    sample = _Sample(index)
    horizons_C = recorded_horizons(index.store, len(plain))
    checkpoints = [
        Checkpoint(
            checkpoint_setting(index.model, plan, index.store, number, features.state),
            GaussNewton(index.model, features.state, plan.tracked, lambda: sample.batches),
            _Diagonals(index, sample, number, features.state),
            float(horizons_C[number]),
        )
        for number, features in enumerate(plain)
    ]
    solvers = metric.solvers(plan.tracked, checkpoints)
    states = [plain[metric.query_checkpoint(number, len(plain))].state for number in range(len(plain))]
    return [SolvedFeatures(f, solver, state) for f, solver, state in zip(plain, solvers, states, strict=True)]


class _Sample:
    """The calibration rows, encoded from the dataset at the first question: the very rows a build would take."""

    def __init__(self, index: OpenIndex) -> None:
        self._index = index

    @cached_property
    def _rows(self) -> EncodedRows:
        plan = self._index.plan
        alone = getattr(plan.method, "alone", False)
        return encode_rows(
            self._index.model, self._index.dataset, plan.options.max_length, lambda _done: None, alone=alone
        )

    @cached_property
    def batches(self) -> list[PaddedBatch]:
        """With the rows' weights in the recipe's loss."""
        return self._batched(1.0)

    @cached_property
    def drawn_batches(self) -> list[PaddedBatch]:
        """With their roots: see engine/curvature/fit.py."""
        return self._batched(0.5)

    @property
    def keys(self) -> Sequence[str]:
        return self._rows.keys

    def _batched(self, power: float) -> list[PaddedBatch]:
        index, rows = self._index, self._rows
        chosen = calibration_rows(rows.keys, index.plan.curvature_rows)
        weights = [float(np.power(rows.weights[i], power)) for i in chosen]
        # dual numbers double what a forward holds
        batcher = Batcher(index.model, max(1, index.batcher.token_budget // 2))
        return [batch.padded for batch in batcher.batches([rows.rows[i] for i in chosen], weights, chosen)]


class _Diagonals:
    """Module → the mean of the curvature's diagonal there, by labels drawn as EK-FAC's Λ draws them."""

    def __init__(self, index: OpenIndex, sample: _Sample, number: int, state: State) -> None:
        self._index, self._sample, self._number, self._state = index, sample, number, state

    def __call__(self) -> dict[str, float]:
        draws = LabelDraws(self._index.plan.options.seed, self._number, self._sample.keys)
        fresh = replace(draws, fresh=True)
        return mean_diagonals(self._index.capture, self._state, self._sample.drawn_batches, fresh.sampler)
