"""BM25: lexical likeness, the control every attribution method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.methods.base import RowMethod, register

if TYPE_CHECKING:
    import numpy as np

    from engine.lexical import Corpus, RowQuery


@dataclass(frozen=True)
class Bm25Method(RowMethod):
    def scores(self, corpus: Corpus, query: RowQuery) -> np.ndarray:
        return corpus.bm25.scores(query.text)


BM25 = register(
    Bm25Method(
        name="bm25",
        title="BM25",
        description="Lexical match of the query's prompt and completion with each row's text.",
        cost="no model; milliseconds",
        source="Robertson & Zaragoza 2009, eq. 3.15 (Lucene's variant, through bm25s)",
    )
)
