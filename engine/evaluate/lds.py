"""Linear datamodeling score: do summed scores rank the outcomes of retraining on subsets?

Park et al. 2023 ("TRAK", arXiv:2303.14186): the mean over queries of Spearman's correlation, over
subsets, between Σ score of the kept rows and the outcome f(q) measured after retraining on them.

The interval counts queries and subsets as samples (see `jackknife`). What simulations of four populations with a
known score found (Q = 40, M = 25 and 60, 300 draws each, printed by tests/engine/evaluate/test_coverage.py): as it is,
a nominal 95 % interval covers 93 to 97 %. Centred on the plain mean it covers 81 % at a score of 0.90 and M = 25,
because r_s is biased towards zero at finite M; it is therefore centred on the mean of unbiased correlations (see
`correlation`). Counting queries alone covers 72 to 96 %, subsets alone 71 to 94 %. The paired test rejects 2 to 5 % of
equal methods.

Shapes: Q queries, N rows, M subsets, R seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.errors import InvalidOption
from engine.evaluate.correlation import MINIMUM_SUBSETS, Correlations, correlations
from engine.evaluate.jackknife import pseudo_values, two_way
from engine.evaluate.significance import significant_share, spearman_p_values


@dataclass(frozen=True, eq=False)
class Lds:
    """value: the mean of per_query_Q over its defined queries; None when no query has a score ("undefined").

    low, high: 95 % interval for the score that all queries and all subsets would give; it holds `value` too.
    None below 2 defined queries or 3 subsets. unbiased: the interval's centre, free of the bias of few subsets.
    per_query_Q: Spearman, NaN where prediction or outcome is constant; undefined counts these.
    significant_share: of the defined queries, those significantly above zero (Benjamini-Hochberg, 5 %).
    """

    value: float | None
    low: float | None
    high: float | None
    unbiased: float | None
    per_query_Q: np.ndarray
    undefined: int
    significant_share: float | None
    queries: int
    subsets: int


@dataclass(frozen=True)
class Paired:
    """difference: mean LDS of a minus that of b, over the queries defined for both (undefined counts the others).

    low, high: its 95 % interval; p_value: two-sided, of no difference in the population. None where not measurable.
    """

    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    undefined: int


def predict(scores_QN: np.ndarray, kept_MN: np.ndarray) -> np.ndarray:
    """Σ of each subset's kept scores, float64 [Q, M].

    Each query's scores are first rounded to a grid so fine (2^-42 of the largest for 2,000 rows) that the sums are
    exact: equal sums then come out equal in any order of summation, and ties are ties.
    """
    scores_QN, kept_MN = np.asarray(scores_QN, dtype=np.float64), np.asarray(kept_MN)
    if kept_MN.dtype != np.bool_ or scores_QN.ndim != 2 or kept_MN.shape[1:] != scores_QN.shape[1:]:
        raise _bad_shape(f"scores {scores_QN.shape} and kept {kept_MN.shape} {kept_MN.dtype}", "[Q, N], bool [M, N]")
    _require_finite(scores_QN, "scores")
    largest_Q1 = np.abs(scores_QN).max(axis=1, keepdims=True, initial=0.0)
    spare_bits = 53 - int(np.ceil(np.log2(scores_QN.shape[1] + 1)))
    exponent_Q1 = np.frexp(largest_Q1)[1] - spare_bits
    whole_QN = np.rint(np.ldexp(scores_QN, -exponent_Q1))
    return np.ldexp(whole_QN @ kept_MN.T.astype(np.float64), exponent_Q1)


def score_lds(prediction_QM: np.ndarray, outcome: np.ndarray) -> Lds:
    """LDS of a prediction against outcomes [Q, M] or [Q, M, R] (averaged over seeds). Raises InvalidOption."""
    prediction_QM, outcome_QM = _checked(prediction_QM, outcome)
    found = correlations(prediction_QM, outcome_QM)
    defined_Q = found.defined_Q
    value, subsets = _mean(found.plain_Q[defined_Q]), prediction_QM.shape[1]
    centre, interval = None, (None, None)
    if value is not None and subsets >= MINIMUM_SUBSETS:
        centre = float(found.unbiased_Q[defined_Q].mean())
        if defined_Q.sum() > 1:
            interval = _within(two_way(_psi(found)[defined_Q]).interval(centre), value, 1.0)
    return Lds(
        value=value,
        low=interval[0],
        high=interval[1],
        unbiased=centre,
        per_query_Q=found.plain_Q,
        undefined=int((~defined_Q).sum()),
        significant_share=None if subsets < 3 else significant_share(spearman_p_values(found.plain_Q, subsets)),
        queries=len(prediction_QM),
        subsets=subsets,
    )


def compare_lds(prediction_a_QM: np.ndarray, prediction_b_QM: np.ndarray, outcome: np.ndarray) -> Paired:
    """LDS of a minus LDS of b against the same outcomes, by pseudo-values of the difference. Raises InvalidOption."""
    prediction_a_QM, outcome_QM = _checked(prediction_a_QM, outcome)
    prediction_b_QM, _ = _checked(prediction_b_QM, outcome)
    a, b = correlations(prediction_a_QM, outcome_QM), correlations(prediction_b_QM, outcome_QM)
    both_Q = a.defined_Q & b.defined_Q
    difference, undefined = _mean((a.plain_Q - b.plain_Q)[both_Q]), int((~both_Q).sum())
    if difference is None or both_Q.sum() < 2 or outcome_QM.shape[1] < MINIMUM_SUBSETS:
        return Paired(difference, None, None, None, undefined)
    centre, psi_QM = float((a.unbiased_Q - b.unbiased_Q)[both_Q].mean()), (_psi(a) - _psi(b))[both_Q]
    spread = two_way(psi_QM, skewed=False)
    low, high = _within(spread.interval(centre), difference, 2.0)
    return Paired(difference, low, high, spread.p_value(centre), undefined)


def _psi(found: Correlations) -> np.ndarray:
    return pseudo_values(found.plain_Q, found.left_out_QM)


def _within(interval: tuple[float, float], value: float, bound: float) -> tuple[float, float]:
    """The interval cut to ±bound, and stretched to hold the value where bias carried its centre away from it."""
    return max(-bound, min(interval[0], value)), min(bound, max(interval[1], value))


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _checked(prediction_QM: np.ndarray, outcome: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    prediction_QM, outcome = np.asarray(prediction_QM, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    outcome_QM = outcome.mean(axis=2) if outcome.ndim == 3 and outcome.shape[2] else outcome
    if prediction_QM.ndim != 2 or outcome_QM.shape != prediction_QM.shape:
        raise _bad_shape(f"prediction {prediction_QM.shape}, outcome {outcome.shape}", "[Q, M], [Q, M] or [Q, M, R]")
    _require_finite(prediction_QM, "predictions")
    _require_finite(outcome_QM, "outcomes")
    return prediction_QM, outcome_QM


def _bad_shape(given: str, wanted: str) -> InvalidOption:
    return InvalidOption(f"Shapes do not fit: {given}.", remedy=f"Give {wanted}, of the same queries and subsets.")


def _require_finite(values: np.ndarray, name: str) -> None:
    if not np.isfinite(values).all():
        raise InvalidOption(
            f"{(~np.isfinite(values)).sum()} of the {name} are NaN or infinite.",
            remedy="Look for the retraining or the method that diverged; leaving it out would bias the score.",
        )
