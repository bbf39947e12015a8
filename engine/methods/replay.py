"""Replay: the exact derivative of the measurement with respect to every row's weight, through the recorded run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from engine.methods.base import ReplayMethod, register


@dataclass(frozen=True)
class ReplayOptions:
    """state_mb: of the run's states, on disk and in memory; where they do not all fit, steps are trained again."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    state_mb: Annotated[int, Field(ge=1, le=1_000_000)] = 1024


REPLAY = register(
    ReplayMethod(
        name="replay",
        title="Replay",
        description="N · ∂f(q)/∂w_z through every step of the recorded training run, backwards: what no approximation "
        "of the curvature stands between. Exact for this very run and its seed; for LoRA fine-tunes with AdamW.",
        cost="the index: the training run once more; a query: about four runs (batches of a build and other queries "
        "go on between its steps)",
        source="Ilyas & Engstrom 2025 (MAGIC, arXiv:2504.16430); Maclaurin et al. 2015 (arXiv:1502.03492)",
        options=ReplayOptions,
        needs=("recipe",),
    )
)
