"""Symmetric maps that differ from a multiple of the identity in a few directions only: H^-½ of a sample of gradients.

Shapes: B vectors, S rows of the sample, d numbers of a block, D of all blocks, R directions of a block.

With σ_r, b_r the eigenvalues and eigenvectors of (1/S) Σ x xᵀ, a function f of it plus λI is
    f(C) x = rest·x + Σ_r (gain_r − rest)⟨b_r, x⟩ b_r,     gain_r = f(σ_r), rest = f(0)
for any D and S: what lies outside the sample's span is scaled by `rest`. Two rules keep it stable for small λ:
everything is fitted in float64, and the whitened vectors' inner product is taken, never (1/λ)[⟨x, y⟩ − …], whose two
terms cancel to the last digit. A block whose directions fill it is Σ_r gain_r⟨b_r, x⟩ b_r, without any difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# (eigenvalues σ_R ≥ 0, their mean over the block's d numbers) → factors ≥ 0
Gain = Callable[[Tensor, float], Tensor]

# In float32 scores carry a relative error of about 2e-7 / damping (measured; see tests/engine/test_whitening.py):
# below this damping a map is kept in float64.
FLOAT32_DAMPING = 1e-3


@dataclass(frozen=True)
class LowRank:
    """x → rest·x outside the span of basis_RD's orthonormal rows, gains_R along them. `columns`: the block."""

    columns: slice
    rest: float
    basis_RD: Tensor
    gains_R: Tensor

    @property
    def is_full(self) -> bool:
        """Whether nothing lies outside the directions."""
        return self.basis_RD.shape[0] == self.basis_RD.shape[1]

    def apply(self, x_BD: Tensor) -> Tensor:
        """Of the block's own columns, in the basis' dtype or wider; two products with the basis."""
        wide = torch.promote_types(x_BD.dtype, self.basis_RD.dtype)
        x_BD, basis_RD = x_BD.to(wide), self.basis_RD.to(wide)
        along_BR = x_BD @ basis_RD.T
        if self.is_full or self.rest == 0:
            return (along_BR * self.gains_R) @ basis_RD
        return self.rest * x_BD + (along_BR * (self.gains_R - self.rest)) @ basis_RD

    def inverse(self) -> LowRank:
        """The pseudo-inverse: a direction that is scaled by zero stays zero."""
        rest = 1 / self.rest if self.rest else 0.0
        gains_R = torch.where(self.gains_R > 0, 1 / self.gains_R, 0.0)
        return LowRank(self.columns, rest, self.basis_RD, gains_R)


@dataclass(frozen=True)
class BlockMap:
    """One LowRank per block; the blocks cover all columns. A `curvature.base.RowMap`; symmetric by its form."""

    blocks: tuple[LowRank, ...]

    def apply(self, vectors_BD: Tensor) -> Tensor:
        """In the vectors' own dtype."""
        mapped_BD = torch.empty_like(vectors_BD)
        for block in self.blocks:
            mapped_BD[:, block.columns] = block.apply(vectors_BD[:, block.columns]).to(vectors_BD.dtype)
        return mapped_BD

    def undo(self, vectors_BD: Tensor) -> Tensor:
        """x from apply(x), up to what the map sets to zero."""
        return BlockMap(tuple(block.inverse() for block in self.blocks)).apply(vectors_BD)

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> BlockMap:
        return BlockMap(
            tuple(
                LowRank(b.columns, b.rest, b.basis_RD.to(device, dtype), b.gains_R.to(device, dtype))
                for b in self.blocks
            )
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Flat names for safetensors, in the map's dtype; `layout` [blocks, 2]: each block's first and last + 1."""
        arrays = {
            "layout": np.array([(b.columns.start, b.columns.stop) for b in self.blocks], np.int64),
            "rests": np.array([b.rest for b in self.blocks], np.float64),
        }
        for number, block in enumerate(self.blocks):
            arrays[f"basis.{number:04d}"] = block.basis_RD.cpu().numpy()
            arrays[f"gains.{number:04d}"] = block.gains_R.cpu().numpy()
        return arrays

    @staticmethod
    def from_arrays(arrays: dict[str, np.ndarray], device: torch.device) -> BlockMap:
        blocks = [
            LowRank(
                slice(int(start), int(stop)),
                float(arrays["rests"][number]),
                torch.from_numpy(arrays[f"basis.{number:04d}"]).to(device),
                torch.from_numpy(arrays[f"gains.{number:04d}"]).to(device),
            )
            for number, (start, stop) in enumerate(arrays["layout"])
        ]
        return BlockMap(tuple(blocks))


def spectrum_map(sample_SD: Tensor, columns: Sequence[slice], gain: Gain, rest: float | None = None) -> BlockMap:
    """gain of (1/S) Σ x xᵀ, block by block; float64. rest: the factor outside the span, or None = the gain of zero."""
    return BlockMap(tuple(low_rank(sample_SD[:, block], block, gain, rest) for block in columns))


def low_rank(sample_Sd: Tensor, columns: slice, gain: Gain, rest: float | None = None) -> LowRank:
    """One block of `spectrum_map`, from its own columns of the sample."""
    values_R, basis_Rd = spectrum(sample_Sd)
    mean = float(values_R.sum()) / sample_Sd.shape[1]
    if rest is None:
        rest = float(gain(torch.zeros(1, dtype=torch.float64), mean))
    return LowRank(columns, rest, basis_Rd, gain(values_R, mean))


def spectrum(sample_SD: Tensor) -> tuple[Tensor, Tensor]:
    """(σ_R largest first, orthonormal basis_RD) of (1/S) Σ x xᵀ; float64.

    Primal (D ≤ S): all D directions, those without weight at exactly 0. Dual (S < D): those with weight, from the S×S
    Gram matrix; Xᵀv lose their orthogonality as σ falls, so a QR, largest first, restores it.
    """
    x_SD = sample_SD.double()
    rows, width = x_SD.shape
    if width <= rows:
        values_D, vectors_DD = torch.linalg.eigh(x_SD.T @ x_SD / rows)
        values_D, basis_DD = values_D.flip(0), vectors_DD.flip(1).T.contiguous()
        return torch.where(values_D > _least(values_D, rows), values_D, 0.0), basis_DD
    squares_S, vectors_SS = torch.linalg.eigh(x_SD @ x_SD.T)
    keep_S = squares_S > _least(squares_S, rows)
    basis_DR = torch.linalg.qr(x_SD.T @ vectors_SS[:, keep_S].flip(1))[0]
    return (x_SD @ basis_DR).square().sum(0) / rows, basis_DR.T.contiguous()


def _least(values_R: Tensor, rows: int) -> Tensor:
    """Below this an eigenvalue of a float64 Gram matrix is rounding."""
    return values_R.max().clamp_min(0.0) * max(rows, len(values_R)) * torch.finfo(torch.float64).eps


def inverse_root(damping: float) -> Gain:
    """(σ + λ)^-½ with λ = damping × the block's mean eigenvalue, tr C / d over all d numbers (not over its rank).

    No damping: the pseudo-inverse, zero where σ is. A block in which nothing was measured: zero (see `kfac`).
    """

    def gain(values_R: Tensor, mean: float) -> Tensor:
        damped_R = values_R + damping * mean
        return torch.where(damped_R > 0, damped_R, torch.inf).rsqrt()

    return gain


def storage_dtype(sample_SD: Tensor, damping: float) -> torch.dtype:
    """What a map is kept in: the sample's dtype, float64 where a small damping asks for it."""
    return torch.float64 if damping < FLOAT32_DAMPING else sample_SD.dtype
