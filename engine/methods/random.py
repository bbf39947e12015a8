"""Random: the control every method must beat before its ranking means anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.methods.base import RowMethod, register

if TYPE_CHECKING:
    import numpy as np

    from engine.lexical import Corpus, RowQuery


@dataclass(frozen=True)
class RandomMethod(RowMethod):
    def scores(self, corpus: Corpus, query: RowQuery) -> np.ndarray:
        return corpus.random(query)


RANDOM = register(
    RandomMethod(
        name="random",
        title="Random",
        description="Uniform scores, a pure function of index revision and query: a control.",
        cost="nothing",
        source="control",
    )
)
