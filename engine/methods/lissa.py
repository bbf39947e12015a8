"""LiSSA: the query's gradient divided by the exact Gauss-Newton curvature, by the plainest of iterations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from engine.methods.base import GradientMethod, register


@dataclass(frozen=True)
class LissaOptions:
    """damping: c in λ = c·(mean of the curvature's diagonal over all modules). tolerance: the residual's norm at which
    to stop, in the gradient's. iterations: after so many without reaching it the query fails."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    damping: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    iterations: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000


LISSA = register(
    GradientMethod(
        name="lissa",
        title="LiSSA",
        description="∇f(q)ᵀ (G+λ)⁻¹ ∇log p(z), G the exact Gauss-Newton matrix over all tracked modules, inverted on "
        "the query alone by repeated products. What other methods approximate, and the slowest of all.",
        cost="one forward + backward a row and checkpoint; a query: hundreds to thousands of passes over the "
        "calibration rows (choose few: curvature_rows)",
        source="Agarwal et al. 2017 (arXiv:1602.03943), §3; Koh & Liang 2017 (arXiv:1703.04730), §3",
        options=LissaOptions,
        metric="lissa",
        self_scores=False,
        alike=False,
    )
)
