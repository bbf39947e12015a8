"""Options that several methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from engine.methods.base import Normalize


@dataclass(frozen=True)
class GradDotOptions:
    """normalize: how answers are scaled unless the request says otherwise."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    normalize: Normalize = "none"


@dataclass(frozen=True)
class WhitenedOptions(GradDotOptions):
    """damping: c, relative to the mean of the curvature (DESIGN §4). exponent: α of the metric H^-α; 1 is the inverse.
    ensemble_power: p of Σ_c score_c/(√s_c(q)·s_c(z)^{p/2}): how much of a row's own scale is taken out."""

    damping: Annotated[float, Field(gt=0, le=1e6)] = 0.01
    exponent: Annotated[float, Field(gt=0, le=1)] = 0.75
    ensemble_power: Annotated[float, Field(ge=0, le=1)] = 0.5
