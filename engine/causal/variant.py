"""One retraining: a seed, and a weight for every training row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import InvalidOption


@dataclass(frozen=True)
class Variant:
    """weights: (position, weight) where the weight is not 1. A removed row has weight 0: the steps, their order and
    their denominators stay what they were, so that nothing but the row's gradient is missing."""

    name: str
    seed: int
    weights: tuple[tuple[int, float], ...] = ()

    @classmethod
    def without(cls, name: str, seed: int, removed: Iterable[int]) -> Variant:
        return cls(name, seed, tuple((position, 0.0) for position in sorted(removed)))

    @property
    def removed(self) -> int:
        return sum(weight == 0.0 for _, weight in self.weights)

    def weights_N(self, rows: int) -> np.ndarray:
        """float64 [N]. Raises InvalidOption for a row that does not exist."""
        result_N = np.ones(rows)
        for position, weight in self.weights:
            if not 0 <= position < rows:
                raise InvalidOption(f"Variant {self.name!r} weighs row {position}; there are {rows} rows.")
            result_N[position] = weight
        return result_N


def check_variants(variants: Sequence[Variant]) -> None:
    """Names are how results are found again. Raises InvalidOption."""
    names = [variant.name for variant in variants]
    if not names:
        raise InvalidOption("There is no variant to retrain.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidOption(f"Two variants are named {twice!r}.", remedy="Give every variant a name of its own.")
