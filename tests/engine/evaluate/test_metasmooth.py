"""Metasmoothness: 1 for a linear run, 0 for an erratic one, −1 for one that turns back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidOption
from engine.evaluate.metasmooth import metasmoothness


def test_a_linear_run_is_smooth() -> None:
    rng = np.random.default_rng(0)
    start_Q, slope_VQ = rng.standard_normal(9), rng.standard_normal((4, 9))
    found = metasmoothness(start_Q, start_Q + slope_VQ, start_Q + 2 * slope_VQ)
    assert (found.value, found.low, found.high, found.undefined) == (1.0, 1.0, 1.0, 0)


def test_a_run_that_turns_back_is_not() -> None:
    rng = np.random.default_rng(1)
    start_Q, slope_VQ = rng.standard_normal(9), rng.standard_normal((4, 9))
    assert metasmoothness(start_Q, start_Q + slope_VQ, start_Q - 0.5 * slope_VQ).value == -1.0


def test_outcomes_that_have_nothing_to_do_with_the_weights_read_zero() -> None:
    rng = np.random.default_rng(2)
    found = metasmoothness(*(rng.standard_normal(shape) for shape in [400, (60, 400), (60, 400)]))
    assert found.value == pytest.approx(0.0, abs=0.03)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), directions=st.integers(1, 5), queries=st.integers(1, 6))
def test_by_hand(seed: int, directions: int, queries: int) -> None:
    rng = np.random.default_rng(seed)
    zero, one, two = (rng.integers(0, 4, shape) for shape in [queries, (directions, queries), (directions, queries)])
    found = metasmoothness(zero, one, two)
    for v in range(directions):
        weights = [abs(int(two[v, q]) - int(zero[q])) for q in range(queries)]
        agreement = [np.sign(one[v, q] - zero[q]) * np.sign(two[v, q] - one[v, q]) for q in range(queries)]
        if sum(weights):
            expected = sum(w * a for w, a in zip(weights, agreement, strict=True)) / sum(weights)
            assert found.per_direction_V[v] == pytest.approx(expected)
        else:
            assert np.isnan(found.per_direction_V[v])
    defined = found.per_direction_V[np.isfinite(found.per_direction_V)]
    assert found.undefined == directions - len(defined)
    assert found.value == (pytest.approx(defined.mean()) if len(defined) else None)
    assert (found.low is None) == (len(defined) < 2)


def test_a_run_that_does_not_move_is_undefined() -> None:
    found = metasmoothness(np.ones(3), np.ones((2, 3)), np.ones((2, 3)))
    assert (found.value, found.low, found.high, found.undefined) == (None, None, None, 2)


def test_the_interval_over_directions_covers() -> None:
    """Directions of different roughness, mean 0.4 by construction: each either smooth or turning back on 3 of 10."""
    covered, rng = 0, np.random.default_rng(3)
    for _ in range(300):
        share_V = rng.beta(7, 3, size=(12, 1))
        slope_VQ, turns_VQ = rng.standard_normal((12, 200)), rng.random((12, 200)) > share_V
        second_VQ = np.where(turns_VQ, -2.0, 1.0) * slope_VQ  # |f2 − f0| is 2|Δ1| when smooth, |Δ1| when it turns
        found = metasmoothness(np.zeros(200), slope_VQ, slope_VQ + second_VQ)
        large_V = np.random.default_rng(4).beta(7, 3, size=100_000)
        truth = ((2 * large_V - (1 - large_V)) / (2 * large_V + 1 - large_V)).mean()
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 300 <= 0.98


def test_broken_input_is_refused() -> None:
    with pytest.raises(InvalidOption):
        metasmoothness(np.zeros(3), np.zeros((2, 4)), np.zeros((2, 4)))
    with pytest.raises(InvalidOption):
        metasmoothness(np.zeros(3), np.full((2, 3), np.nan), np.zeros((2, 3)))
