"""TRAK: log-odds gradients, one kernel over all modules, and a weight for how far a row is from learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from engine.methods.base import GradientMethod, register
from engine.methods.options import GradDotOptions


@dataclass(frozen=True)
class TrakOptions(GradDotOptions):
    """damping: c in λ = c·tr/d of the kernel; 0 = the pseudo-inverse, as in the paper."""

    damping: Annotated[float, Field(ge=0, le=1e6)] = 0.01


TRAK = register(
    GradientMethod(
        name="trak",
        title="TRAK",
        description="φ(q)ᵀ (ΦᵀΦ/S + λ)⁻¹ φ(z) · (1 − p̄(z)), φ the (projected) gradient of the log-odds; checkpoints "
        "are summed. The paper averages over independently trained models.",
        cost="one forward + backward a row and checkpoint, one more for each calibration row; keeps a basis of "
        "up to S directions",
        source="Park et al. 2023 (arXiv:2303.14186), §3, eq. 16–18",
        options=TrakOptions,
        metric="trak",
        combine="sum",
        odds=True,
        damage=True,
    )
)
