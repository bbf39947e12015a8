"""SOURCE: training unrolled segment by segment, so that runs that stopped early are seen as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from engine.methods.base import GradientMethod, register


@dataclass(frozen=True)
class SourceOptions:
    """segments: into how many parts the checkpoints are cut (None = one each, at most 6). optimizer: of the run; `adam`
    reads Adam's state beside every checkpoint. damping: c in λ = c·mean Λ, added to EK-FAC's curvature."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    segments: Annotated[int, Field(ge=1, le=1000)] | None = None
    optimizer: Literal["adam", "sgd"] = "adam"
    damping: Annotated[float, Field(ge=0, le=1e6)] = 0.0


SOURCE = register(
    GradientMethod(
        name="source",
        title="SOURCE",
        description="Σ over segments of training of ∇f(q)ᵀ S_L⋯S_{ℓ+1} (1−e^{−tPH})H⁻¹ ∇log p(z): how the final "
        "weights depend on the row, unrolled with EK-FAC's curvature H, learning rates t and Adam's steps P.",
        cost="EK-FAC's curvature and one forward + backward a row and checkpoint; a query: one gradient and some "
        "hundred small matrix products",
        source="Bae et al. 2024 (arXiv:2405.12186), eq. 15–20 and appendix C",
        needs=("checkpoints", "recipe", "adam_state"),
        options=SourceOptions,
        metric="source",
        combine="sum",
        self_scores=False,
        alike=False,
    )
)
