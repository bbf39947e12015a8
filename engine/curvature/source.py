"""SOURCE: the derivative of the final weights with respect to a row's weight, unrolled segment by segment.

Bae et al. 2024 (arXiv:2405.12186), §3.1–3.2. Training is cut into segments in which curvature H and gradient are taken
as constant. A row's gradient in segment ℓ moves its end by r = (1 − e^{−tPH}) H⁻¹ g, t = Σ η over its steps (eq. 20 for
P = 1), and S = e^{−tPH} carries the end of one segment to that of the next (eq. 16). The score is
Σ_ℓ ∇f(q)ᵀ S_L ⋯ S_{ℓ+1} r_ℓ (eq. 15; N times the paper's), with g the mean over the segment's checkpoints and one query
gradient, at the final weights. P = 1 for SGD; for Adam P = 1/(√v̂+ε) elementwise (their appendices C and D).

With U = P^½ [t φ(tM)] P^½, φ(x) = (1−e^{−x})/x and M = P^½ H P^½: r = U g and S = 1 − U H, so that P is never
inverted. H is EK-FAC's, averaged over the segment's checkpoints as a matrix, plus λ = c·mean Λ. Where it is one
checkpoint's and P = 1, φ is taken of its eigenvalues; else by Lanczos, exactly, where the authors put P's and H's
diagonals in place of their product. Left out: momentum's first steps, clipping, weight decay.

Shapes: K gradients, I/O a module's input/output width, D the numbers of all tracked modules' gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.curvature.adam import moments_of
from engine.curvature.base import Metric, register
from engine.curvature.ekfac_product import EKFacProduct
from engine.curvature.iterations import lanczos
from engine.curvature.solving import Checkpoint, QuerySolver, SolvedMetric
from engine.modules import TrackedModule

_MOST_SEGMENTS = 6
_TOLERANCE, _DIRECTIONS = 1e-6, 256


class Source(SolvedMetric):
    name = "source"
    needs_covariance = True
    needs_eigen = True
    needs_horizons = True

    def __init__(self, *, adam: bool = False) -> None:
        self.needs_moments = adam

    def chosen(self, options: Any) -> Metric:
        return Source(adam=options.optimizer == "adam")

    def query_checkpoint(self, number: int, count: int) -> int:
        return count - 1

    def solvers(self, tracked: Sequence[TrackedModule], checkpoints: Sequence[Checkpoint]) -> list[QuerySolver]:
        options = checkpoints[0].setting.options
        count = min(options.segments or _MOST_SEGMENTS, len(checkpoints))
        parts = [[checkpoints[i] for i in part] for part in np.array_split(np.arange(len(checkpoints)), count)]
        run = Run([Segment(tracked, part, adam=self.needs_moments) for part in parts])
        return [SourceSolver(run, number, 1 / len(part)) for number, part in enumerate(parts) for _ in part]


class Segment:
    """Some neighbouring checkpoints, and the steps that lead to them."""

    def __init__(self, tracked: Sequence[TrackedModule], checkpoints: Sequence[Checkpoint], *, adam: bool) -> None:
        self._tracked = tracked
        self.horizon = float(sum(checkpoint.horizon for checkpoint in checkpoints))
        self._curvature = [EKFacProduct(tracked, c.setting, damped(c.setting.damping)) for c in checkpoints]
        self._root = {m.name: _root_of_steps(m, checkpoints) for m in tracked} if adam else None
        self._closed: EKFacProduct | None = None
        if not adam and len(checkpoints) == 1:
            setting = checkpoints[0].setting
            gain, whole = unrolled(self.horizon), damped(setting.damping)
            self._closed = EKFacProduct(tracked, setting, lambda moments_OI: gain(whole(moments_OI)))

    def unroll(self, vectors_KD: Tensor) -> Tensor:
        """U v: what a unit gradient in every step of the segment adds along v at its end."""
        if self._closed is not None:
            return self._closed(vectors_KD)
        parts = vectors_KD.split([m.parameters for m in self._tracked], dim=1)
        found = [self._unroll_module(m, part_Kd) for m, part_Kd in zip(self._tracked, parts, strict=True)]
        return torch.cat(found, 1)

    def back(self, vectors_KD: Tensor, unrolled_KD: Tensor) -> Tensor:
        """Sᵀ v = v − H U v."""
        return vectors_KD - self.curve(unrolled_KD)

    def forth(self, vectors_KD: Tensor) -> Tensor:
        """S v = v − U H v."""
        return vectors_KD - self.unroll(self.curve(vectors_KD))

    def curve(self, vectors_KD: Tensor) -> Tensor:
        """H v."""
        return torch.stack([product(vectors_KD) for product in self._curvature]).mean(0)

    def _unroll_module(self, module: TrackedModule, part_Kd: Tensor) -> Tensor:
        root_d = torch.ones_like(part_Kd[0]) if self._root is None else self._root[module.name].to(part_Kd)

        def preconditioned(rows_Kd: Tensor) -> Tensor:
            rows_KOI = (rows_Kd * root_d).unflatten(1, (module.outputs, module.inputs))
            curved = [product.of_module(module, rows_KOI) for product in self._curvature]
            return torch.stack(curved).mean(0).flatten(1) * root_d

        function = unrolled(self.horizon)
        return torch.stack(
            [root_d * lanczos(preconditioned, row_d * root_d, function, _TOLERANCE, _DIRECTIONS) for row_d in part_Kd]
        )


class Run:
    """All segments. The last gradients' way back is kept: every checkpoint's solver asks for the same."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = segments
        self._last: tuple[Tensor, list[Tensor]] | None = None

    def unrolled(self, gradients_KD: Tensor, number: int) -> Tensor:
        """U_ℓ S_{ℓ+1}ᵀ ⋯ S_Lᵀ g of segment ℓ = number."""
        if self._last is None or not torch.equal(self._last[0], gradients_KD):
            self._last = (gradients_KD.clone(), self._way_back(gradients_KD))
        return self._last[1][number]

    def _way_back(self, gradients_KD: Tensor) -> list[Tensor]:
        found, vectors_KD = [], gradients_KD
        for segment in reversed(self.segments):
            found.append(segment.unroll(vectors_KD))
            vectors_KD = segment.back(vectors_KD, found[-1])
        return found[::-1]


class SourceSolver:
    """Of one checkpoint, in segment `number`; share: its part of the segment's mean gradient."""

    def __init__(self, run: Run, number: int, share: float) -> None:
        self._run, self._number, self._share = run, number, share

    def solve(self, gradients_KD: Tensor) -> Tensor:
        return self._share * self._run.unrolled(gradients_KD, self._number)

    def transposed(self, vectors_KD: Tensor) -> Tensor:
        moved_KD = self._run.segments[self._number].unroll(vectors_KD)
        for segment in self._run.segments[self._number + 1 :]:
            moved_KD = segment.forth(moved_KD)
        return self._share * moved_KD


def unrolled(horizon: float) -> Callable[[Tensor], Tensor]:
    """x → (1 − e^{−tx})/x: t at x = 0, and near 1/x once tx is large (eq. 20; the damping 1/t of eq. 21)."""

    def function(values: Tensor) -> Tensor:
        scaled = horizon * values
        ratio = -torch.expm1(-scaled) / torch.where(scaled > 0, scaled, 1.0)
        return horizon * torch.where(scaled > 0, ratio, 1.0)

    return function


def damped(damping: float) -> Callable[[Tensor], Tensor]:
    return lambda moments_OI: moments_OI + damping * moments_OI.mean()


def _root_of_steps(module: TrackedModule, checkpoints: Sequence[Checkpoint]) -> Tensor:
    """√P of a module, [O·I] float64: P = 1/(√v̂+ε), v̂ the mean over the checkpoints; 0 where no gradient ever was."""
    moments = [moments_of(checkpoint.setting) for checkpoint in checkpoints]
    second_OI = sum(
        (m.second[module.name].double() / (1 - m.betas[1] ** m.step) for m in moments),
        torch.zeros(module.outputs, module.inputs, dtype=torch.float64),
    ) / len(moments)
    steps_OI = (second_OI.sqrt() + moments[0].epsilon).clamp_min(torch.finfo(torch.float64).tiny).reciprocal()
    return (steps_OI * (second_OI > 0)).sqrt().flatten()


register(Source())
