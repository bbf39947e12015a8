"""GradCos: the cosine of gradients, averaged over checkpoints."""

from __future__ import annotations

from engine.methods.base import GradientMethod, register

GRADCOS = register(
    GradientMethod(
        name="gradcos",
        title="Gradient cosine",
        description="cos(∇f(q), ∇log p(z)), averaged over checkpoints: blind to how large a row's gradient is.",
        cost="one forward + backward a row and checkpoint",
        source="Charpiat et al. 2019 (arXiv:2102.05262), eq. 4",
        additive=False,
        metric="identity",
        unit_norm=True,
    )
)
