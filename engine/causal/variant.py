"""One retraining: a seed, and a weight for every training row."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import InvalidOption

_REMEDY = "Give every row at most one weight, a finite number."


@dataclass(frozen=True)
class Variant:
    """weights: (position, weight) where the weight is not 1. A removed row has weight 0: the steps, their order and
    their denominators stay what they were, so that nothing but the row's gradient is missing."""

    name: str
    seed: int
    weights: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        """NumPy's integers would have no JSON, and 0 another fingerprint than 0.0."""
        weights = tuple((operator.index(position), float(weight)) for position, weight in self.weights)
        object.__setattr__(self, "seed", operator.index(self.seed))
        object.__setattr__(self, "weights", weights)

    @classmethod
    def without(cls, name: str, seed: int, removed: Iterable[int]) -> Variant:
        return cls(name, seed, tuple((position, 0.0) for position in sorted(set(removed))))

    @property
    def removed(self) -> int:
        return sum(weight == 0.0 for _, weight in self.weights)

    def weights_N(self, rows: int) -> np.ndarray:
        """float64 [N]. Raises InvalidOption for a row that does not exist or is weighed twice, and for NaN."""
        result_N = np.ones(rows)
        if len(dict(self.weights)) < len(self.weights):
            raise InvalidOption(f"Variant {self.name!r} weighs a row twice.", remedy=_REMEDY)
        for position, weight in self.weights:
            if not 0 <= position < rows:
                raise InvalidOption(
                    f"Variant {self.name!r} weighs row {position}; there are {rows} rows.", remedy=_REMEDY
                )
            if not math.isfinite(weight):
                raise InvalidOption(f"Variant {self.name!r} weighs row {position} by {weight}.", remedy=_REMEDY)
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
