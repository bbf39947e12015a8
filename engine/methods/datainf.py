"""DataInf: every row's own inverse, averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from engine.methods.base import GradientMethod, register
from engine.methods.options import GradDotOptions


@dataclass(frozen=True)
class DataInfOptions(GradDotOptions):
    """damping: c in λ = c·mean ‖g‖²/d, of each module."""

    damping: Annotated[float, Field(gt=0, le=1e6)] = 0.1


DATAINF = register(
    GradientMethod(
        name="datainf",
        title="DataInf",
        description="∇f(q)ᵀ [mean of (g gᵀ + λ)⁻¹] ∇log p(z), module by module: a closed form made for LoRA. "
        "It weighs large gradients down and leaves their correlations alone.",
        cost="one forward + backward a row and checkpoint, one more for each calibration row; keeps a basis of "
        "up to S directions",
        source="Kwon et al. 2024 (arXiv:2310.00902), eq. 5",
        options=DataInfOptions,
        metric="datainf",
    )
)
