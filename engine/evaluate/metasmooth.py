"""Metasmoothness: does a run answer twice the same small change of its row weights with twice the same effect?

Engstrom et al. 2025 ("Optimizing ML Training with Metagradient Descent", arXiv:2503.13751), definition 2:
sign(Δ₁)ᵀ diag(d/‖d‖₁) sign(Δ₂), with Δ₁ = f(one step) − f(none), Δ₂ = f(two steps) − f(one step) and
d = |f(two steps) − f(none)|. The paper takes it over the trained parameters; here f runs over the queries' outcomes,
which is what is attributed. It is 1 for a run that is linear in the weights. These weights d have a merit: a run
whose outcome has nothing to do with the weights reads exactly 0 in the mean (of three independent draws the middle
one lies between the others a third of the time, and then d is twice as large), where |Δ₁| would read −½.

A rough run cannot be attributed row by row, however good the method: outcomes of single removals are then noise.

Shapes: V directions in which the rows' weights were changed, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.errors import InvalidOption
from engine.evaluate.jackknife import Spread


@dataclass(frozen=True, eq=False)
class Metasmoothness:
    """value: the mean over directions, in [−1, 1]; None where no direction moved any outcome.

    low, high: 95 % interval over directions (Student, V − 1 degrees), for these queries; None below 2 directions.
    per_direction_V: NaN where no outcome moved at all; undefined counts these.
    """

    value: float | None
    low: float | None
    high: float | None
    per_direction_V: np.ndarray
    undefined: int


def metasmoothness(outcome_0_Q: np.ndarray, outcome_1_VQ: np.ndarray, outcome_2_VQ: np.ndarray) -> Metasmoothness:
    """outcome_0_Q: unchanged weights; outcome_1_VQ and outcome_2_VQ: one and two steps along each direction.

    All from the same seed, in nats. Raises InvalidOption when shapes differ or an outcome is not finite.
    """
    outcome_0_Q, outcome_1_VQ, outcome_2_VQ = _checked(outcome_0_Q, outcome_1_VQ, outcome_2_VQ)
    agreement_VQ = np.sign(outcome_1_VQ - outcome_0_Q) * np.sign(outcome_2_VQ - outcome_1_VQ)
    moved_VQ = np.abs(outcome_2_VQ - outcome_0_Q)
    total_V = moved_VQ.sum(axis=1)
    empty_V = np.full(len(total_V), np.nan)
    per_direction_V = np.divide((agreement_VQ * moved_VQ).sum(axis=1), total_V, out=empty_V, where=total_V > 0)
    defined = per_direction_V[np.isfinite(per_direction_V)]
    value = float(defined.mean()) if len(defined) else None
    low, high = None, None
    if value is not None and len(defined) > 1:
        low, high = Spread(defined.var(ddof=1) / len(defined), len(defined) - 1).interval(value)
        low, high = max(-1.0, low), min(1.0, high)
    return Metasmoothness(value, low, high, per_direction_V, len(per_direction_V) - len(defined))


def _checked(*outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    none_Q, one_VQ, two_VQ = (np.asarray(each, dtype=np.float64) for each in outcomes)
    if one_VQ.ndim != 2 or two_VQ.shape != one_VQ.shape or none_Q.shape != one_VQ.shape[1:]:
        raise InvalidOption(
            f"Shapes do not fit: {none_Q.shape}, {one_VQ.shape}, {two_VQ.shape}.",
            remedy="Give [queries], then twice [directions, queries].",
        )
    if not all(np.isfinite(each).all() for each in (none_Q, one_VQ, two_VQ)):
        raise InvalidOption("An outcome is NaN or infinite.", remedy="Take a smaller step, or a run that converges.")
    return none_Q, one_VQ, two_VQ
