"""ASTRA: (G + λ)⁻¹ g_q, G the exact Gauss-Newton matrix of the calibration rows, preconditioned by EK-FAC.

Wang et al. 2025 (arXiv:2507.14740), §4: from u = 0, u ← u − α (Ĝ + λ)⁻¹ ((G + λ) u − g) with EK-FAC's Ĝ, so the first
step is EK-FAC's own answer and each further one takes out part of its error. There G is of a random batch at each
step; here it is of all calibration rows, and the directions are made conjugate, which reaches the same solution in
fewer products. λ is a module's own: c times EK-FAC's mean Λ, in G and in the preconditioner.

Shapes: K gradients, I/O a module's input/output width, D the numbers of all tracked modules' gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.curvature.base import register
from engine.curvature.ekfac import inverse_root_of_moments
from engine.curvature.ekfac_product import EKFacProduct
from engine.curvature.iterations import conjugate_gradients
from engine.curvature.solving import Checkpoint, QuerySolver, SolvedMetric, SymmetricSolver, per_number
from engine.modules import TrackedModule


class Astra(SolvedMetric):
    name = "astra"
    needs_covariance = True
    needs_eigen = True

    def solvers(self, tracked: Sequence[TrackedModule], checkpoints: Sequence[Checkpoint]) -> list[QuerySolver]:
        return [AstraSolver(tracked, checkpoint) for checkpoint in checkpoints]


class AstraSolver(SymmetricSolver):
    def __init__(self, tracked: Sequence[TrackedModule], checkpoint: Checkpoint) -> None:
        self._checkpoint, self._options = checkpoint, checkpoint.setting.options
        self.precondition = EKFacProduct(tracked, checkpoint.setting, self._inverse)
        statistics = checkpoint.setting.statistics
        means = {m.name: float(statistics.eigen[m.name].double().mean()) / statistics.examples for m in tracked}
        levels = {name: checkpoint.setting.damping * mean for name, mean in means.items()}
        self.damping_D = per_number(levels, tracked, checkpoint.setting.place(torch.zeros(0)))

    def solve(self, gradients_KD: Tensor) -> Tensor:
        """As near as the iterations come: the first alone is EK-FAC's direction, so there is always an answer."""
        return conjugate_gradients(
            self.damped, gradients_KD, self.precondition, self._options.tolerance, self._options.iterations
        )[0]

    def _inverse(self, moments_OI: Tensor) -> Tensor:
        return inverse_root_of_moments(moments_OI, self._checkpoint.setting.damping, exponent=2.0)

    def damped(self, vectors_KD: Tensor) -> Tensor:
        """(G + λ) v."""
        return self._checkpoint.product(vectors_KD) + self.damping_D.to(vectors_KD) * vectors_KD


register(Astra())
