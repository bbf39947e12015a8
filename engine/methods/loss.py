"""Loss: the rows that the tuned model still predicts badly. For mislabelled rows; blind to the query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from engine.methods.base import LossMethod, register


@dataclass(frozen=True)
class LossOptions:
    """average: mean over the run's checkpoints, so that a row learned late stands out; else the tuned model's loss."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    average: bool = False


LOSS = register(
    LossMethod(
        name="loss",
        title="Loss",
        description="The row's own mean token loss under the tuned model, whatever the query: high for mislabelled and "
        "odd rows. The index's self-influence is the same figure.",
        cost="one forward a row (and checkpoint, if averaged)",
        source="the baseline of Koh & Liang 2017 (arXiv:1703.04730), §5.4",
        options=LossOptions,
    )
)
