"""LiSSA: (G + λ)⁻¹ g_q by u ← u + (g − (G + λ) u)/s, G the exact Gauss-Newton matrix of the calibration rows.

Agarwal et al. 2017 (arXiv:1602.03943), §3; for influence Koh & Liang 2017 (arXiv:1703.04730), §3, in whose form this is
u ← g/s + (1 − (G+λ)/s) u: every term of it damps, none amplifies. They draw one row a step; here every step sees all
calibration rows, so that the same question has the same answer and the iteration ends at the solution itself.
λ is one for all modules, c times the mean of G's diagonal: where it is each module's own, as EK-FAC's, the smallest
sets how many steps it takes (a LoRA's A early in training: tens of thousands).

Shapes: K gradients, D the numbers of all tracked modules' gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from engine.curvature.base import register
from engine.curvature.iterations import largest_eigenvalue, richardson
from engine.curvature.solving import Checkpoint, QuerySolver, SolvedMetric, SymmetricSolver
from engine.errors import InvalidOption
from engine.modules import TrackedModule

# s = 0.75 λ_max: above λ_max/2 even if the power iteration ended a third too low
_STEP = 0.75


class Lissa(SolvedMetric):
    name = "lissa"

    def solvers(self, tracked: Sequence[TrackedModule], checkpoints: Sequence[Checkpoint]) -> list[QuerySolver]:
        return [LissaSolver(tracked, checkpoint) for checkpoint in checkpoints]


class LissaSolver(SymmetricSolver):
    """Its λ and s are measured at the first question."""

    def __init__(self, tracked: Sequence[TrackedModule], checkpoint: Checkpoint) -> None:
        self._tracked, self._checkpoint = tracked, checkpoint
        self._options = checkpoint.setting.options

    def solve(self, gradients_KD: Tensor) -> Tensor:
        """Raises InvalidOption where the residual is not within the tolerance after the last iteration."""
        tolerance, iterations = self._options.tolerance, self._options.iterations
        u_KD, residual_K = richardson(self.damped, gradients_KD, self.step, tolerance, iterations)
        if bool((residual_K > tolerance).any()):
            raise InvalidOption(
                f"LiSSA has not converged after {iterations} iterations: the residual is {float(residual_K.max()):.2g} "
                f"of the gradient, and {tolerance:g} is asked for.",
                remedy="Build the index with more iterations, a larger damping or tolerance; or with astra, which "
                "needs far fewer iterations.",
                pointer="/method_options/iterations",
            )
        return u_KD

    def damped(self, vectors_KD: Tensor) -> Tensor:
        """(G + λ) v."""
        return self._checkpoint.product(vectors_KD) + self.damping * vectors_KD

    @cached_property
    def damping(self) -> float:
        means, size = self._checkpoint.diagonals(), sum(module.parameters for module in self._tracked)
        mean = sum(means[module.name] * module.parameters for module in self._tracked) / size
        return self._checkpoint.setting.damping * mean

    @cached_property
    def step(self) -> float:
        generator = torch.Generator().manual_seed(0)
        size = sum(module.parameters for module in self._tracked)
        start_D = torch.randn(size, generator=generator, dtype=torch.float64)
        # nothing was measured: every gradient is zero too
        return _STEP * largest_eigenvalue(self.damped, self._checkpoint.setting.place(start_D)) or 1.0


register(Lissa())
