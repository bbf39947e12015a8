"""TracIn: inner products of gradients, checkpoint by checkpoint, weighed by the learning rate there."""

from __future__ import annotations

from engine.methods.base import GradientMethod, register
from engine.methods.options import GradDotOptions

TRACIN = register(
    GradientMethod(
        name="tracin",
        title="TracIn",
        description="Σ_c η_c ⟨∇f(q), ∇log p(z)⟩ over checkpoints, η_c the mean learning rate of the steps since the "
        "checkpoint before (TracInCP).",
        cost="one forward + backward a row and checkpoint",
        source="Pruthi et al. 2020 (arXiv:2002.08484), TracInCP",
        needs=("recipe",),
        options=GradDotOptions,
        metric="identity",
        combine="learning_rate",
    )
)
