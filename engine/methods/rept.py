"""RepT: cosine of hidden states with their gradients beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from engine.methods.base import RepresentationMethod, register


@dataclass(frozen=True)
class RepTOptions:
    """layer: index into the hidden states (−1 = last; the paper takes the one where neighbouring layers differ most).

    pooling: which positions are taken, of the hidden states and of the gradients. Not `last`: nothing is predicted
    there, so the gradient is zero.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    layer: int = -1
    pooling: Literal["last_prompt", "mean_prompt", "mean_completion"] = "last_prompt"


REPT = register(
    RepresentationMethod(
        name="rept",
        title="Representation gradient tracing",
        description="Cosine of [h ; ∂f/∂h], h the hidden state at the last prompt token (layer and pooling selectable) "
        "and f the mean log-probability of the completion's tokens, on the final checkpoint.",
        cost="one forward + backward of the activations a row",
        source="Li et al. 2025 (arXiv:2510.02334), sample-level attribution, as in the authors' code (instance_RepT)",
        options=RepTOptions,
        parts=2,
    )
)
