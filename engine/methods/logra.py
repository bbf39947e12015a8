"""LoGra: the Fisher of gradients that were projected first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from engine.methods.base import GradientMethod, register
from engine.methods.options import GradDotOptions


@dataclass(frozen=True)
class LoGraOptions(GradDotOptions):
    """damping: c in λ = c·tr F/d. init: random sides, or the leading eigenvectors of both sides' covariances."""

    damping: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    init: Literal["random", "pca"] = "pca"


LOGRA = register(
    GradientMethod(
        name="logra",
        title="LoGra",
        description="Gradients projected to projection_dim × projection_dim a module, then whitened by the empirical "
        "Fisher of the projected ones. Without a projection (a small problem) it is the Fisher a module.",
        cost="one forward + backward a row and checkpoint, one more for each calibration row, and with init = pca "
        "another for the covariances",
        source="Choe et al. 2024 (arXiv:2405.13954), §3.1–3.2",
        options=LoGraOptions,
        metric="logra",
    )
)
