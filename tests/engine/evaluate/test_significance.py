"""Significant queries: p-values against scipy, the adjustment against Benjamini-Hochberg's own steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.evaluate.significance import significant_share, spearman_p_values


def test_p_values_are_scipy_s() -> None:
    x, y = np.random.default_rng(0).integers(0, 6, (2, 8, 20)).astype(float)
    results = [stats.spearmanr(a, b, alternative="greater") for a, b in zip(x, y, strict=True)]
    found = spearman_p_values(np.array([result[0] for result in results]), 20)
    np.testing.assert_allclose(found, [result[1] for result in results], rtol=1e-9)


def test_perfect_opposite_and_undefined() -> None:
    np.testing.assert_array_equal(spearman_p_values(np.array([1.0, -1.0, np.nan]), 10), [0.0, 1.0, np.nan])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 0.1), st.floats(0, 1)), min_size=1, max_size=30))
def test_the_share_is_that_of_the_step_up_procedure(p_values: list[float]) -> None:
    ordered, count = sorted(p_values), len(p_values)
    passing = [rank for rank, p in enumerate(ordered, 1) if p <= 0.05 * rank / count * (1 + 1e-12)]
    near = any(abs(p - 0.05 * rank / count) < 1e-12 for rank, p in enumerate(ordered, 1))
    if not near:
        assert significant_share(np.array(p_values)) == pytest.approx(max(passing, default=0) / count)


def test_undefined_queries_do_not_count() -> None:
    assert significant_share(np.array([0.0001, np.nan, 0.9, np.nan])) == 0.5
    assert significant_share(np.array([np.nan])) is None
    assert significant_share(np.array([])) is None
