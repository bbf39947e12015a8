"""The learned sketch: a basis of the directions in which the rows' vectors really differ, fitted to a sample of them.

Principal components of the uncentred, whitened vectors of all checkpoints side by side (Pearson 1901; Halko et al.
2011, arXiv:0909.4061, §1). One basis for all checkpoints: what a row does in one epoch says most of what it does in the
next, so K numbers for all keep more than K/C for each. Rows and queries are projected by the same stored basis:
    score = ⟨B x, B q⟩ = ⟨BᵀB x, q⟩ = ⟨x, BᵀB q⟩
so a stored row y is lifted to Bᵀy, whose parts by module and position add up to the stored score exactly, and the same
holds of the lifted query. A random rotation of the K components spreads every row evenly over its numbers, so that
int8's one scale a row does not drown the small components in the rounding of the largest.

Shapes: S sample rows, B or M vectors, D numbers of a vector (all checkpoints), K numbers kept, W columns of a part.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BASIS = "basis"
_CHUNK_NUMBERS = 1 << 24  # products are formed in pieces of about 64 MB (128 MB in float64)
_RANK = 1e-10  # of the largest eigenvalue: below it a component is rounding
_REMEMBERED = 16


class LearnedBasis:
    """basis_KD: float16, rows orthonormal up to rounding (2⁻¹¹ of each number); zero rows where the sample had fewer
    directions than K."""

    def __init__(self, basis_KD: Tensor) -> None:
        self.basis_KD = basis_KD
        self._projected: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> LearnedBasis:
        return cls(torch.from_numpy(arrays[BASIS]))

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {BASIS: self.basis_KD.numpy()}

    @property
    def width(self) -> int:
        """K"""
        return self.basis_KD.shape[0]

    def project_part(self, vectors_BW: Tensor, offset: int) -> Tensor:
        """float32 [B, K] on the vectors' device: what the columns [offset, offset + W) add to the sketch."""
        sketch_BK = torch.zeros(len(vectors_BW), self.width, dtype=torch.float32, device=vectors_BW.device)
        for start, stop in _chunks(vectors_BW.shape[1], self.width):
            part_KW = self.basis_KD[:, offset + start : offset + stop].to(vectors_BW.device, torch.float32)
            sketch_BK += vectors_BW[:, start:stop].to(torch.float32) @ part_KW.T
        return sketch_BK

    def project(self, query_D: np.ndarray) -> np.ndarray:
        """float64 [K]: a query's sketch. The last few are remembered: one answer asks for the same several times."""
        query_D = np.ascontiguousarray(query_D, np.float32)
        key = hashlib.blake2b(query_D.tobytes(), digest_size=16).digest()
        with self._lock:
            known_K = self._projected.get(key)
        if known_K is None:
            known_K = self.project_part(torch.from_numpy(query_D)[None], 0)[0].double().numpy()
            known_K.setflags(write=False)
            with self._lock:
                self._projected[key] = known_K
                while len(self._projected) > _REMEMBERED:
                    self._projected.popitem(last=False)
        return known_K

    def lift(self, sketch_MK: np.ndarray) -> np.ndarray:
        """float32 [M, D]: the adjoint of projecting. ⟨lift(y), v⟩ = ⟨y, project(v)⟩."""
        sketch_MK_ = torch.from_numpy(np.ascontiguousarray(sketch_MK, np.float32))
        lifted_MD = torch.empty(len(sketch_MK_), self.basis_KD.shape[1])
        for start, stop in _chunks(self.basis_KD.shape[1], self.width):
            lifted_MD[:, start:stop] = sketch_MK_ @ self.basis_KD[:, start:stop].float()
        return lifted_MD.numpy()


@dataclass(frozen=True)
class Spectrum:
    """Of a sample's Gram matrix, float64: eigenvalues (falling) and eigenvectors in columns."""

    values_S: Tensor
    vectors_SS: Tensor


def spectrum_of(sample_SD: Tensor) -> Spectrum:
    """Time O(S²D), in float64."""
    values_S, vectors_SS = torch.linalg.eigh(_gram(sample_SD))
    return Spectrum(values_S.flip(0), vectors_SS.flip(1))


def fit_basis(sample_SD: Tensor, width: int, seed: int, spectrum: Spectrum | None = None) -> LearnedBasis:
    """The `width` leading principal directions of the sample, rotated at random within their span.

    From the Gram matrix XXᵀ = UΛUᵀ: B = O Λ^-½ Uᵀ X has orthonormal rows. spectrum: the sample's, where it is known.
    """
    spectrum = spectrum or spectrum_of(sample_SD)
    values_S = spectrum.values_S[:width]
    kept = int((values_S > max(float(values_S[0]), 0.0) * _RANK).sum())
    weights_SR = spectrum.vectors_SS[:, :kept] / values_S[:kept].sqrt()
    weights_RS = (weights_SR @ _rotation(kept, seed)).T.contiguous()
    basis_KD = torch.zeros(width, sample_SD.shape[1], dtype=torch.float16)
    for start, stop in _chunks(sample_SD.shape[1], len(sample_SD)):
        basis_KD[:kept, start:stop] = (weights_RS @ sample_SD[:, start:stop].double()).half()
    return LearnedBasis(basis_KD)


def _gram(sample_SD: Tensor) -> Tensor:
    gram_SS = torch.zeros(len(sample_SD), len(sample_SD), dtype=torch.float64)
    for start, stop in _chunks(sample_SD.shape[1], len(sample_SD)):
        part_SW = sample_SD[:, start:stop].double()
        gram_SS += part_SW @ part_SW.T
    return gram_SS


def _rotation(size: int, seed: int) -> Tensor:
    """float64 [R, R], orthogonal."""
    random = np.random.Generator(np.random.Philox(seed))
    return torch.linalg.qr(torch.from_numpy(random.standard_normal((size, size)))).Q


def _chunks(columns: int, rows: int) -> list[tuple[int, int]]:
    step = max(1, _CHUNK_NUMBERS // max(rows, 1))
    return [(start, min(start + step, columns)) for start in range(0, columns, step)]
