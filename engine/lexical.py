"""Scores that need no model: BM25, length and random, the controls every method has to beat.

Words are the maximal runs of letters, digits and underscores in the case-folded text; no stop words, no stemming.
Ties are left to the caller. Shapes: N rows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import bm25s
import numpy as np

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class RowQuery:
    """text: what is matched with the rows. seed: canonical form of the query; random scores depend on it alone."""

    text: str
    seed: str


class Corpus:
    """A dataset's rows as text, in order, and the revision of the index they belong to."""

    def __init__(self, texts: Sequence[str], revision: str) -> None:
        self._texts = texts
        self._revision = revision

    @cached_property
    def bm25(self) -> Bm25Index:
        return Bm25Index(self._texts)

    def lengths(self) -> np.ndarray:
        """float32 [N]: words of each row."""
        return self.bm25.lengths_N

    def random(self, query: RowQuery) -> np.ndarray:
        """float32 [N], uniform in [0, 1): a pure function of (revision, query)."""
        return random_scores(len(self._texts), self._revision, query.seed)


class Bm25Index:
    """BM25 in Lucene's variant: Σ over the query's words (repeats count) of idf · tf / (tf + k1·(1 − b + b·l/l̄)).

    idf = ln(1 + (N − n + ½)/(n + ½)), tf = the word's count in the row, n = rows that have it, l = the row's
    words, l̄ = their mean; k1 = 1.5, b = 0.75. A word that no row has adds nothing.
    """

    k1 = 1.5
    b = 0.75

    def __init__(self, texts: Sequence[str]) -> None:
        rows = [words(text) for text in texts]
        self.lengths_N = np.array([len(row) for row in rows], dtype=np.float32)
        self._vocabulary = {word: i for i, word in enumerate(sorted(set().union(*rows)))}
        self._bm25 = bm25s.BM25(k1=self.k1, b=self.b, method="lucene", dtype="float32")
        if self._vocabulary:
            ids = [[self._vocabulary[word] for word in row] for row in rows]
            self._bm25.index((ids, self._vocabulary), create_empty_token=False, show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """float32 [N]"""
        ids = [self._vocabulary[word] for word in words(query) if word in self._vocabulary]
        if not ids:
            return np.zeros(len(self.lengths_N), dtype=np.float32)
        return self._bm25.get_scores_from_ids(ids)


def words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def random_scores(count: int, revision: str, seed: str) -> np.ndarray:
    """float32 [count], uniform in [0, 1): the raw Philox stream, which numpy keeps the same in every version."""
    digest = hashlib.blake2b(f"random\0{revision}\0{seed}".encode(), digest_size=16).digest()
    raw = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count)
    return ((raw >> np.uint64(40)) * np.float64(2.0**-24)).astype(np.float32)
