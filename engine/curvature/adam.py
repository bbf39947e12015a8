"""What Adam makes of a gradient, element by element: exact G, scaled or stepped, then projected.

Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², and the step goes along
m̂/(√v̂+ε) with m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ).

Shapes: B examples, T positions, K rows to pull back, I/O a module's input/output width, P/R its sketch's widths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.curvature.base import Moments, Setting
from engine.errors import MissingNeed
from engine.modules import TrackedModule
from engine.sketch import outer_sum


@dataclass(frozen=True)
class ElementSketch:
    """Φ = L (G ∘ w) Rᵀ, w_OI one factor a weight; None = that side is left as it is."""

    scale_OI: Tensor
    left_PO: Tensor | None
    right_RI: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        return _shape(self.scale_OI, self.left_PO, self.right_RI)

    def prepare(self, a_BTI: Tensor) -> Tensor:
        return a_BTI

    def sketch(self, kept_BT: Tensor, d_BTO: Tensor) -> Tensor:
        g_BOI = outer_sum(d_BTO, kept_BT).to(self.scale_OI.dtype)
        return _projected(g_BOI * self.scale_OI, self.left_PO, self.right_RI)

    def adjoint(self, phi_KPR: Tensor) -> Tensor:
        w = phi_KPR if self.left_PO is None else self.left_PO.T @ phi_KPR
        w = w if self.right_RI is None else w @ self.right_RI
        return w * self.scale_OI

    @property
    def is_zero(self) -> bool:
        return not bool(self.scale_OI.any())


@dataclass(frozen=True)
class AdamStepSketch:
    """Φ = L (−Γ(−G)) Rᵀ, Γ(−G) Adam's next direction if the row alone made the step.

    G is the gradient of log p, Adam's state that of the loss, so −G is the row's loss gradient; the outer sign makes
    ⟨∇f(q), Φ⟩ positive where the step raises f. Not linear in G: it has no adjoint, and a row has no shares.
    """

    first_OI: Tensor
    second_OI: Tensor
    step: int
    betas: tuple[float, float]
    epsilon: float
    left_PO: Tensor | None
    right_RI: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        return _shape(self.first_OI, self.left_PO, self.right_RI)

    def prepare(self, a_BTI: Tensor) -> Tensor:
        return a_BTI

    def sketch(self, kept_BT: Tensor, d_BTO: Tensor) -> Tensor:
        g_BOI = -outer_sum(d_BTO, kept_BT).to(self.first_OI.dtype)
        beta1, beta2 = self.betas
        m_BOI = beta1 * self.first_OI + (1 - beta1) * g_BOI
        v_BOI = beta2 * self.second_OI + (1 - beta2) * g_BOI.square()
        root_BOI = (v_BOI / (1 - beta2 ** (self.step + 1))).sqrt()
        direction_BOI = divided(m_BOI / (1 - beta1 ** (self.step + 1)), root_BOI + self.epsilon)
        return _projected(-direction_BOI, self.left_PO, self.right_RI)

    def adjoint(self, phi_KPR: Tensor) -> Tensor:
        raise TypeError("Adam's step is not linear in the gradient: it has no adjoint")

    @property
    def is_zero(self) -> bool:
        return False


def adam_scale(moments: Moments, name: str) -> Tensor:
    """1/(√v̂+ε) of a module, float64 [O, I]; zero where v is: nothing was measured there (see `kfac`)."""
    second_OI = moments.second[name].double()
    root_OI = (second_OI / (1 - moments.betas[1] ** moments.step)).sqrt()
    return (second_OI > 0).double() / (root_OI + moments.epsilon).clamp_min(torch.finfo(torch.float64).tiny)


def moments_of(setting: Setting) -> Moments:
    if setting.moments is None:
        raise MissingNeed("The metric needs Adam's state at the checkpoint.", remedy="Train with `whence train`.")
    return setting.moments


def sides(module: TrackedModule, setting: Setting) -> tuple[Tensor | None, Tensor | None]:
    return setting.projected_left(module), setting.projected_right(module)


def divided(value: Tensor, by: Tensor) -> Tensor:
    """value/by, 0 for 0/0 (ε = 0 and a weight that never had a gradient)."""
    return torch.where(by > 0, value / by, 0.0)


def _shape(like_OI: Tensor, left_PO: Tensor | None, right_RI: Tensor | None) -> tuple[int, int]:
    rows = like_OI.shape[0] if left_PO is None else left_PO.shape[0]
    cols = like_OI.shape[1] if right_RI is None else right_RI.shape[0]
    return rows, cols


def _projected(g_BOI: Tensor, left_PO: Tensor | None, right_RI: Tensor | None) -> Tensor:
    phi = g_BOI if left_PO is None else left_PO @ g_BOI
    return phi if right_RI is None else phi @ right_RI.T
