"""DataInf: the mean over rows of (g gᵀ + λI)⁻¹, each inverted by itself, in place of the inverse of the mean.

Kwon et al. 2024 (arXiv:2310.00902), eq. 5: per module H⁻¹v = (1/(Sλ)) Σ_s [v − ⟨v, g_s⟩/(λ+‖g_s‖²) g_s], with
λ = c·mean ‖g‖²/d (there c = 0.1). As a matrix it is (1/λ)(I − C), C = (1/S) Σ_s y_s y_sᵀ with y_s = g_s/√(λ+‖g_s‖²):
symmetric and, as ‖y_s‖ < 1, positive, so its root follows from the spectrum of the y_s.

Shapes: S rows of the sample, d numbers of a module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.curvature.base import register
from engine.curvature.fisher import SampleMap
from engine.whitening import BlockMap, LowRank, low_rank, storage_dtype


class DataInf(SampleMap):
    name = "datainf"
    sample = "own"

    def fit_map(self, sample_SD: Tensor, columns: Sequence[slice], options: Any) -> BlockMap:
        return datainf_map(sample_SD, columns, options.damping)


def datainf_map(sample_SD: Tensor, columns: Sequence[slice], damping: float) -> BlockMap:
    """The root of DataInf's H⁻¹, module by module."""
    blocks = tuple(_block(sample_SD[:, block], block, damping) for block in columns)
    return BlockMap(blocks).to(storage_dtype(sample_SD, damping))


def _block(sample_Sd: Tensor, columns: slice, damping: float) -> LowRank:
    squares_S = sample_Sd.double().square().sum(1)
    level = damping * float(squares_S.mean()) / sample_Sd.shape[1]
    if level <= 0:  # nothing was measured here: nothing is invented (see `kfac`)
        return low_rank(sample_Sd, columns, lambda values_R, _mean: torch.zeros_like(values_R))
    scaled_Sd = sample_Sd.double() * (level + squares_S).rsqrt().unsqueeze(1)
    return low_rank(scaled_Sd, columns, lambda values_R, _mean: ((1 - values_R).clamp_min(0.0) / level).sqrt())


register(DataInf())
