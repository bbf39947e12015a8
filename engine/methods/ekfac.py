"""EK-FAC influence: gradients whitened in the Kronecker eigenbasis with measured variances."""

from __future__ import annotations

from engine.methods.base import GradientMethod, register
from engine.methods.options import WhitenedOptions

EKFAC = register(
    GradientMethod(
        name="ekfac",
        title="EK-FAC influence",
        description="∇f(q)ᵀ H⁻¹ ∇log p(z), H in the Kronecker eigenbasis with its diagonal measured per example; "
        "with checkpoints, an ensemble scaled by the query's own norm. The default for LoRA fine-tunes.",
        cost="one forward + backward a row and checkpoint, plus two passes over a sample for the curvature",
        source="George et al. 2018 (arXiv:1806.03884), §3; Grosse et al. 2023 (arXiv:2308.03296), eq. 20",
        options=WhitenedOptions,
        metric="ekfac",
    )
)
