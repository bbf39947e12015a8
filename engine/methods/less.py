"""LESS: the cosine of the query's gradient with Adam's step on the row."""

from __future__ import annotations

from engine.methods.base import GradientMethod, register

LESS = register(
    GradientMethod(
        name="less",
        title="LESS",
        description="Σ_c η̄_c cos(∇f(q), Γ(z)), Γ the step Adam would take from the checkpoint's state on this row "
        "alone (its loss the mean over its targets); both sides projected alike.",
        cost="one forward + backward a row and checkpoint, and every row's exact gradient, a module at a time",
        source="Xia et al. 2024 (arXiv:2402.04333), §2 and 3.1–3.2",
        additive=False,
        needs=("adam_state", "recipe"),
        metric="less",
        unit_norm=True,
        combine="learning_rate",
        alone=True,
        alike=False,
    )
)
