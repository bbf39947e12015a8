"""Fisher influence: gradients whitened by the Fisher of a sample of rows, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from engine.methods.base import GradientMethod, register
from engine.methods.options import GradDotOptions


@dataclass(frozen=True)
class FisherOptions(GradDotOptions):
    """damping: c in λ = c·tr F/d, d a block's numbers. labels: the rows' own (empirical Fisher) or drawn from the
    model. blocks: one Fisher a module, or a single one over all."""

    damping: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    labels: Literal["own", "drawn"] = "own"
    blocks: Literal["module", "all"] = "module"


FISHER = register(
    GradientMethod(
        name="fisher",
        title="Fisher influence",
        description="∇f(q)ᵀ (F + λ)⁻¹ ∇log p(z), F = (1/S) Σ g gᵀ of the calibration rows: a block a module, or one "
        "over all modules. Exact for any size: a small sample is solved through its Gram matrix.",
        cost="one forward + backward a row and checkpoint, one more for each calibration row; keeps a basis of "
        "up to S directions",
        source="Amari 1998 (Neural Computation 10, 251–276), eq. 13; Martens 2020 (arXiv:1412.1193), §5 and 11",
        options=FisherOptions,
        metric="fisher",
    )
)
