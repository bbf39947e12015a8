"""Per-module linear maps from a gradient to its sketch, whitening included, and their adjoints.

Shapes: B examples, T positions, K rows to pull back, I/O a module's input/output width (I counts the
appended 1 of a bias), P/R the sketch's output-side and input-side widths.

A gradient G_BOI = Σ_t δ_t a_tᵀ becomes Φ_BPR in one of two ways:
    SeparableSketch   Φ = L G Rᵀ, so each side is applied per position, before the sum: nothing O×I is formed
    EigenSketch       Φ = L [(Q_Sᵀ G Q_A) ∘ w] Rᵀ, where w_OI does not factor: G is formed exactly, then projected
`adjoint` returns W_KOI with ⟨Φ(G), Φ_k⟩ = ⟨G, W_k⟩: it makes every share and token score linear algebra.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from engine.modules import TrackedModule


class ModuleSketch(Protocol):
    """One module's map. `right` is shared, as one object, by all modules of an input group."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def prepare(self, a_BTI: Tensor) -> Tensor:
        """What the forward hook keeps of a; the same for every module of the input group."""
        ...

    def sketch(self, kept_BT: Tensor, d_BTO: Tensor) -> Tensor:
        """Φ_BPR."""
        ...

    def adjoint(self, phi_KPR: Tensor) -> Tensor:
        """W_KOI."""
        ...

    @property
    def is_zero(self) -> bool:
        """Whether every gradient is mapped to zero (nothing was measured in this module)."""
        ...


@dataclass(frozen=True)
class SeparableSketch:
    """left_PO and right_RI already hold projection and whitening; None = that side is left as it is."""

    outputs: int
    inputs: int
    left_PO: Tensor | None
    right_RI: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        rows = self.outputs if self.left_PO is None else self.left_PO.shape[0]
        cols = self.inputs if self.right_RI is None else self.right_RI.shape[0]
        return rows, cols

    def prepare(self, a_BTI: Tensor) -> Tensor:
        return a_BTI if self.right_RI is None else a_BTI.to(self.right_RI.dtype) @ self.right_RI.T

    def sketch(self, kept_BT: Tensor, d_BTO: Tensor) -> Tensor:
        d_BTP = d_BTO if self.left_PO is None else d_BTO.to(self.left_PO.dtype) @ self.left_PO.T
        return outer_sum(d_BTP, kept_BT)

    def adjoint(self, phi_KPR: Tensor) -> Tensor:
        w = phi_KPR if self.left_PO is None else self.left_PO.T @ phi_KPR
        return w if self.right_RI is None else w @ self.right_RI

    @property
    def is_zero(self) -> bool:
        return self.left_PO is not None and not bool(self.left_PO.any())


@dataclass(frozen=True)
class EigenSketch:
    """q_out_OO = Q_S, q_in_II = Q_A (eigenvectors in columns), scale_OI = w = (Λ+λ)^-½."""

    q_out_OO: Tensor
    q_in_II: Tensor
    scale_OI: Tensor
    left_PO: Tensor | None
    right_RI: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        rows = self.q_out_OO.shape[0] if self.left_PO is None else self.left_PO.shape[0]
        cols = self.q_in_II.shape[0] if self.right_RI is None else self.right_RI.shape[0]
        return rows, cols

    def prepare(self, a_BTI: Tensor) -> Tensor:
        return a_BTI

    def sketch(self, kept_BT: Tensor, d_BTO: Tensor) -> Tensor:
        g_BOI = outer_sum(d_BTO, kept_BT).to(self.scale_OI.dtype)
        phi = rotated(g_BOI, self.q_out_OO, self.q_in_II) * self.scale_OI
        phi = phi if self.left_PO is None else (phi.transpose(1, 2) @ self.left_PO.T).transpose(1, 2)
        return phi if self.right_RI is None else phi @ self.right_RI.T

    def adjoint(self, phi_KPR: Tensor) -> Tensor:
        w = phi_KPR if self.left_PO is None else self.left_PO.T @ phi_KPR
        w = w if self.right_RI is None else w @ self.right_RI
        return self.q_out_OO @ (w * self.scale_OI) @ self.q_in_II.T

    @property
    def is_zero(self) -> bool:
        return not bool(self.scale_OI.any())


def outer_sum(d_BTO: Tensor, a_BTI: Tensor) -> Tensor:
    """G_BOI = Σ_t δ_t a_tᵀ, summed in at least float32; no per-position outer product is materialised.

    In memory the wider side comes last: with LoRA's few rows in front, this product and those that follow take half
    the time on a CPU.
    """
    if d_BTO.dtype in (torch.bfloat16, torch.float16) or a_BTI.dtype != d_BTO.dtype:
        wide = torch.promote_types(torch.promote_types(d_BTO.dtype, a_BTI.dtype), torch.float32)
        d_BTO, a_BTI = d_BTO.to(wide), a_BTI.to(wide)
    if d_BTO.shape[-1] > a_BTI.shape[-1]:
        return torch.bmm(a_BTI.transpose(1, 2), d_BTO).transpose(1, 2)
    return torch.bmm(d_BTO.transpose(1, 2), a_BTI)


def rotated(g_BOI: Tensor, q_out_OO: Tensor, q_in_II: Tensor) -> Tensor:
    """Q_Sᵀ G Q_A of every example, each side one product over all of them."""
    if q_out_OO.shape[0] > q_in_II.shape[0]:
        return ((g_BOI.transpose(1, 2) @ q_out_OO).transpose(1, 2)) @ q_in_II
    return q_out_OO.T @ (g_BOI @ q_in_II)


@dataclass(frozen=True)
class Projection:
    """Random sides of a two-sided sketch: ±1/√p entries, seeded by name, so E⟨Φ₁,Φ₂⟩ = ⟨G₁,G₂⟩.

    width: p, or None for no projection. A side no wider than p is not projected (it would only be expanded).
    Rows are not normalised: that would reweight modules.
    """

    width: int | None
    seed: int
    checkpoint: int

    def left(self, module: TrackedModule) -> np.ndarray | None:
        """float64 [p, O], seeded by the module's name."""
        return self._side("left", module.name, module.outputs)

    def right(self, module: TrackedModule) -> np.ndarray | None:
        """float64 [p, I], seeded by the input group's name."""
        return self._side("right", module.group, module.inputs)

    def shape(self, module: TrackedModule) -> tuple[int, int]:
        p = self.width
        if p is None:
            return module.outputs, module.inputs
        return min(p, module.outputs), min(p, module.inputs)

    def _side(self, side: str, name: str, width: int) -> np.ndarray | None:
        if self.width is None or width <= self.width:
            return None
        key = hashlib.blake2b(f"{self.seed}|{self.checkpoint}|{side}|{name}".encode(), digest_size=16).digest()
        bits = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).integers(
            0, 2, size=(self.width, width), dtype=np.int8
        )
        return (2.0 * bits - 1.0) / np.sqrt(self.width)
