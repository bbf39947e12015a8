"""ASTRA: EK-FAC's inverse, corrected by exact products until it is the true one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from engine.methods.base import GradientMethod, register


@dataclass(frozen=True)
class AstraOptions:
    """damping: c in λ = c·mean Λ of each module, Λ being EK-FAC's. iterations: at most so many products a query.
    tolerance: the residual's norm at which to stop earlier, in the gradient's."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    damping: Annotated[float, Field(gt=0, le=1e6)] = 0.01
    iterations: Annotated[int, Field(ge=1, le=10_000)] = 20
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3


ASTRA = register(
    GradientMethod(
        name="astra",
        title="ASTRA",
        description="∇f(q)ᵀ (G+λ)⁻¹ ∇log p(z), G the exact Gauss-Newton matrix over all tracked modules, inverted on "
        "the query alone by conjugate gradients that EK-FAC preconditions.",
        cost="EK-FAC's curvature and one forward + backward a row and checkpoint; a query: about 20 passes over the "
        "calibration rows (curvature_rows), each of a forward with derivatives and a backward",
        source="Wang et al. 2025 (arXiv:2507.14740), §4",
        options=AstraOptions,
        metric="astra",
        self_scores=False,
        alike=False,
    )
)
