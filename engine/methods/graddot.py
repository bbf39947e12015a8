"""GradDot: the plain inner product of gradients."""

from __future__ import annotations

from engine.methods.base import GradientMethod, register
from engine.methods.options import GradDotOptions

GRADDOT = register(
    GradientMethod(
        name="graddot",
        title="Gradient dot product",
        description="⟨∇f(q), ∇log p(z)⟩ with the identity as the metric; "
        "with checkpoints, their sum scaled by the query's norm.",
        cost="one forward + backward a row and checkpoint",
        source="Charpiat et al. 2019 (arXiv:2102.05262), eq. 1; "
        "one term of TracIn, Pruthi et al. 2020 (arXiv:2002.08484)",
        options=GradDotOptions,
        metric="identity",
    )
)
