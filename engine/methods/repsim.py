"""RepSim: cosine of hidden states. An unsigned control, and a strong one for topical likeness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from engine.methods.base import RepresentationMethod, register


@dataclass(frozen=True)
class RepSimOptions:
    """layer: index into the hidden states (−1 = last). pooling: which positions are taken.

    centred: the calibration rows' mean is subtracted first. Hidden states of one model share a large common part, so
    that without it every cosine is near one.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    layer: int = -1
    pooling: Literal["last_prompt", "last", "mean_prompt", "mean_completion"] = "last_prompt"
    centred: bool = False


REPSIM = register(
    RepresentationMethod(
        name="repsim",
        title="Representation similarity",
        description="Cosine of the hidden state at the last prompt token (layer and pooling selectable, centred on "
        "request), on the final checkpoint.",
        cost="one forward a row",
        source="Hanawa et al. 2021 (arXiv:2006.04528), §3.2 (cos on last-layer features)",
        options=RepSimOptions,
    )
)
