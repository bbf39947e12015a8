"""Length: longer rows first. A control that exposes scores which only follow length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.methods.base import RowMethod, register

if TYPE_CHECKING:
    import numpy as np

    from engine.lexical import Corpus, RowQuery


@dataclass(frozen=True)
class LengthMethod(RowMethod):
    def scores(self, corpus: Corpus, query: RowQuery) -> np.ndarray:
        return corpus.lengths()


LENGTH = register(
    LengthMethod(
        name="length",
        title="Length",
        description="The row's number of words, whatever the query: a control.",
        cost="nothing",
        source="control",
    )
)
