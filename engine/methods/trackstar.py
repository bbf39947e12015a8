"""TrackStar: Adam-corrected, projected and whitened gradients, compared by their cosine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from engine.methods.base import GradientMethod, register


@dataclass(frozen=True)
class TaskQuery:
    """A question of the kind that will be asked."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    prompt: str
    completion: str


@dataclass(frozen=True)
class TrackStarOptions:
    """damping: c in R + c·tr R/d, d a module's numbers.

    queries: of one task. R is then λ·R_query + (1−λ)·R_train: what they all have in common (a form of words, say)
    weighs less.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    damping: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    queries: Annotated[tuple[TaskQuery, ...], Field(max_length=1024)] = ()


TRACKSTAR = register(
    GradientMethod(
        name="trackstar",
        title="TrackStar",
        description="cos(R^-½ φ(q), R^-½ φ(z)), φ the gradient divided by √v̂+ε of Adam's state, then projected; R the "
        "second moment of φ over the calibration rows, module by module. Averaged over checkpoints.",
        cost="one forward + backward a row and checkpoint, one more for each calibration row, and every row's exact "
        "gradient, a module at a time",
        source="Chang et al. 2024 (arXiv:2410.17413), §3",
        additive=False,
        needs=("adam_state", "recipe"),
        options=TrackStarOptions,
        metric="trackstar",
        unit_norm=True,
    )
)
