"""K-FAC influence: gradients whitened by the Kronecker factors of the Fisher."""

from __future__ import annotations

from engine.methods.base import GradientMethod, register
from engine.methods.options import WhitenedOptions

KFAC = register(
    GradientMethod(
        name="kfac",
        title="K-FAC influence",
        description="∇f(q)ᵀ H⁻¹ ∇log p(z), H = T̄·(S+λ_S)⊗(A+λ_A) per module, absorbed into the projections. "
        "The default for dense fine-tunes.",
        cost="one forward + backward a row and checkpoint, plus one pass over a sample for the curvature",
        source="Martens & Grosse 2015 (arXiv:1503.05671), §3; Grosse et al. 2023 (arXiv:2308.03296), eq. 17",
        options=WhitenedOptions,
        metric="kfac",
    )
)
