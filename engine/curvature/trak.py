"""TRAK's kernel: (ΦᵀΦ/S + λI)⁻¹ over all modules at once, Φ the sample's projected gradients of the log-odds.

Park et al. 2023 (arXiv:2303.14186), §3, eq. 16–18: τ(q) = φ(q)ᵀ(ΦᵀΦ)⁻¹Φᵀ Q with φ the projected gradient of
Σ log(p/(1−p)) and Q = diag(1 − p̄), on the training side; over checkpoints the first factor and Q are averaged each by
itself. Ours differs from it in constants (S·C times as large; no soft threshold), in the projection (two-sided, module
by module) and in λ, which the paper takes as zero: possible here too, and then the pseudo-inverse.

Shapes: S rows of the sample, D numbers of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from engine.curvature.base import register
from engine.curvature.fisher import SampleMap, fisher_map, whole
from engine.whitening import BlockMap


class Trak(SampleMap):
    name = "trak"
    sample = "own"

    def fit_map(self, sample_SD: Tensor, columns: Sequence[slice], options: Any) -> BlockMap:
        return fisher_map(sample_SD, whole(columns), options.damping)


register(Trak())
