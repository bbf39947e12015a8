"""Spearman with ties, its leave-one-out values and its correction for bias, against naive loops."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.evaluate.correlation import correlations, spearman


def tied(seed: int, queries: int, subsets: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x_QM = rng.integers(0, levels, (queries, subsets)).astype(float)
    return x_QM, rng.integers(0, levels + 1, (queries, subsets)) + 0.5 * x_QM


def naive(x_M: np.ndarray, y_M: np.ndarray) -> float:
    if len(set(x_M)) == 1 or len(set(y_M)) == 1:
        return float("nan")
    return float(stats.spearmanr(x_M, y_M)[0])  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), queries=st.integers(1, 4), subsets=st.integers(3, 12), levels=st.integers(1, 30))
def test_spearman_and_leave_one_out_with_ties(seed: int, queries: int, subsets: int, levels: int) -> None:
    x_QM, y_QM = tied(seed, queries, subsets, levels)
    found = correlations(x_QM, y_QM)
    for q in range(queries):
        np.testing.assert_allclose(found.plain_Q[q], naive(x_QM[q], y_QM[q]), atol=1e-12)
        for m in range(subsets):
            without = naive(np.delete(x_QM[q], m), np.delete(y_QM[q], m))
            if np.isfinite(found.plain_Q[q]):
                np.testing.assert_allclose(found.left_out_QM[q, m], np.nan_to_num(without), atol=1e-12)
    np.testing.assert_array_equal(np.isnan(found.unbiased_Q), np.isnan(found.plain_Q))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), subsets=st.integers(3, 8))
def test_unbiased_is_the_u_statistic_of_the_population_spearman(seed: int, subsets: int) -> None:
    """ρ_s = 3·E sign(x_i − x_j)·sign(y_i − y_k) over distinct i, j, k (Hoeffding 1948)."""
    x_M, y_M = np.random.default_rng(seed).standard_normal((2, subsets))
    triples = permutations(range(subsets), 3)
    expected = 3 * np.mean([np.sign(x_M[i] - x_M[j]) * np.sign(y_M[i] - y_M[k]) for i, j, k in triples])
    assert correlations(x_M[None], y_M[None]).unbiased_Q[0] == pytest.approx(expected, abs=1e-12)


def test_unbiased_has_the_right_mean_where_the_plain_one_has_not() -> None:
    """Normal pairs of correlation 0.9: ρ_s = 6/π·asin(0.45)."""
    rng = np.random.default_rng(0)
    x_QM = rng.standard_normal((20_000, 10))
    y_QM = 0.9 * x_QM + (1 - 0.81) ** 0.5 * rng.standard_normal(x_QM.shape)
    found, truth = correlations(x_QM, y_QM), 6 / np.pi * np.arcsin(0.45)
    assert abs(found.unbiased_Q.mean() - truth) < 0.003
    assert found.plain_Q.mean() < truth - 0.03


def test_unbiased_keeps_perfect_agreement_and_its_opposite_with_ties() -> None:
    x = np.array([[1.0, 1.0, 2.0, 5.0, 5.0, 7.0]])
    assert correlations(x, x).unbiased_Q[0] == pytest.approx(1.0, abs=1e-12)
    assert correlations(x, -x).unbiased_Q[0] == pytest.approx(-1.0, abs=1e-12)


def test_two_subsets_have_a_correlation_and_nothing_more() -> None:
    found = correlations(np.array([[1.0, 2.0]]), np.array([[1.0, 3.0]]))
    assert found.plain_Q[0] == 1.0
    assert np.isnan(found.unbiased_Q[0])


def test_spearman_of_a_constant_is_undefined() -> None:
    assert np.isnan(spearman(np.full((1, 7), 0.1), np.arange(7.0)[None])[0])
