"""The two-way variance against loops and a known population; intervals and p-values agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.evaluate.jackknife import Spread, pseudo_values, two_way, two_way_variance


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), queries=st.integers(2, 6), subsets=st.integers(2, 6))
def test_variance_by_hand(seed: int, queries: int, subsets: int) -> None:
    psi_QM = np.random.default_rng(seed).standard_normal((queries, subsets))
    mean = psi_QM.mean()
    of_queries = sum((psi_QM[q].mean() - mean) ** 2 for q in range(queries)) / (queries * (queries - 1))
    of_subsets = sum((psi_QM[:, m].mean() - mean) ** 2 for m in range(subsets)) / (subsets * (subsets - 1))
    of_rest = 0.0
    for q in range(queries):
        for m in range(subsets):
            of_rest += (psi_QM[q, m] - psi_QM[q].mean() - psi_QM[:, m].mean() + mean) ** 2
    of_rest /= (queries - 1) * (subsets - 1) * queries * subsets
    expected = max(of_queries, of_subsets, of_queries + of_subsets - of_rest)
    assert two_way_variance(psi_QM) == pytest.approx(expected, rel=1e-12)


def test_variance_of_a_population_with_both_effects() -> None:
    """ψ = a_q + b_m + e_qm: the mean's variance is σ_a²/Q + σ_b²/M + σ_e²/QM."""
    rng, queries, subsets = np.random.default_rng(0), 30, 20
    found = [
        two_way_variance(
            rng.standard_normal((queries, 1))
            + 0.7 * rng.standard_normal(subsets)
            + 2 * rng.standard_normal((queries, subsets))
        )
        for _ in range(4000)
    ]
    assert np.mean(found) == pytest.approx(1 / queries + 0.49 / subsets + 4 / (queries * subsets), rel=0.02)


def test_pseudo_values_of_a_mean_are_the_data() -> None:
    data_QM = np.random.default_rng(0).standard_normal((3, 5))
    left_out_QM = np.array([[np.delete(row, m).mean() for m in range(5)] for row in data_QM])
    np.testing.assert_allclose(pseudo_values(data_QM.mean(1), left_out_QM), data_QM, atol=1e-12)


def test_without_skewness_the_interval_is_student_s() -> None:
    low, high = Spread(0.04, 9).interval(1.0)
    half = stats.t.ppf(0.975, 9) * 0.2
    assert (low, high) == pytest.approx((1 - half, 1 + half), rel=1e-12)
    assert Spread(0.04, 9).p_value(1.0) == pytest.approx(2 * stats.t.sf(5, 9))


@settings(max_examples=50, deadline=None)
@given(
    centre=st.floats(-3, 3),
    skewness=st.floats(-2, 2),
    degrees=st.floats(1, 60),
    confidence=st.floats(0.5, 0.99),
)
def test_an_interval_holds_zero_exactly_when_the_p_value_says_so(
    centre: float, skewness: float, degrees: float, confidence: float
) -> None:
    spread = Spread(1.0, degrees, skewness)
    low, high = spread.interval(centre, confidence)
    p_value = spread.p_value(centre)
    if abs(p_value - (1 - confidence)) > 1e-6:
        assert (low <= 0 <= high) == (p_value >= 1 - confidence)


def test_a_long_lower_tail_moves_the_interval_down() -> None:
    """Few hopeless queries make the mean too high as often as V too small."""
    plain, skewed = Spread(1.0, 30).interval(0.0), Spread(1.0, 30, -0.3).interval(0.0)
    assert skewed[0] < plain[0]
    assert skewed[1] < plain[1]


def test_degrees_are_at_most_the_smaller_sample_less_one_and_fewer_with_heavy_tails() -> None:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((40, 1)) + 0.01 * rng.standard_normal((40, 25))
    heavy = normal.copy()
    heavy[0] += 20
    assert two_way(normal).degrees == 24
    assert 1 <= two_way(heavy).degrees < 5
    assert two_way(rng.standard_normal((2, 2))).degrees == 1


def test_no_variance_at_all() -> None:
    spread = two_way(np.ones((4, 5)))
    assert spread.interval(1.0) == (1.0, 1.0)
    assert (spread.p_value(0.0), spread.p_value(1.0)) == (1.0, 0.0)
