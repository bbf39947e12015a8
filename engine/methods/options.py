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
    """damping: c, relative to the mean of the curvature (DESIGN §4)."""

    damping: Annotated[float, Field(gt=0, le=1e6)] = 0.01
