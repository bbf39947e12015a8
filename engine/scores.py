"""What a search knows of one query: the score of every row, or of those that it read.

An approximate search (engine/ivf.py) reads the rows of some lists, which it ranks, and a fixed sample of all rows, of
which percentiles and warning signs are made. What it read counts for itself, and the sample for what it did not read.

Shapes: N rows of the index, M rows whose scores are known, K hits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Scores:
    """rows: N. scores_M: float32. positions_M: int64, ascending; None: every row is known, M = N.

    read_M: bool, the rows of the lists that were read; None: all. sample_M: int64, where among the M the fixed sample
    lies; None: figures are made from all. recall_at_10: of an approximate search, as measured when the index was built.
    """

    rows: int
    scores_M: np.ndarray
    positions_M: np.ndarray | None = None
    read_M: np.ndarray | None = None
    sample_M: np.ndarray | None = None
    recall_at_10: float | None = None

    @property
    def search(self) -> Literal["flat", "ivf"]:
        return "flat" if self.positions_M is None else "ivf"

    def among(self, values_N: np.ndarray) -> np.ndarray:
        """[M]: of these values of every row, those of the rows known."""
        return values_N if self.positions_M is None else values_N[self.positions_M]

    def places(self, positions_K: np.ndarray) -> np.ndarray:
        """int64 [K]: where among the M these rows are. All of them have to be known."""
        return positions_K if self.positions_M is None else np.searchsorted(self.positions_M, positions_K)

    def of(self, positions_K: np.ndarray) -> np.ndarray:
        """float32 [K]"""
        return self.scores_M[self.places(positions_K)]

    def rankable(self, allowed_N: np.ndarray | None) -> np.ndarray | None:
        """bool [M], None = all: rows that were read, of those that may be ranked."""
        allowed_M = None if allowed_N is None else self.among(allowed_N)
        if self.read_M is None:
            return allowed_M
        return self.read_M if allowed_M is None else self.read_M & allowed_M
