"""LDS: known answers, ties, what is undefined, and speed."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.errors import InvalidOption
from engine.evaluate.lds import compare_lds, predict, score_lds


def world(seed: int = 0, queries: int = 12, rows: int = 40, subsets: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((queries, rows)), np.argsort(rng.random((subsets, rows)), axis=1) < rows // 2


def test_perfect_additive_truth_scores_1_and_its_negative_minus_1() -> None:
    effects_QN, kept_MN = world()
    outcome_QM = effects_QN @ kept_MN.T + 3.0
    good, bad = (score_lds(predict(sign * effects_QN, kept_MN), outcome_QM) for sign in (1, -1))
    assert (good.value, good.significant_share, good.undefined) == (pytest.approx(1.0), 1.0, 0)
    assert (good.low, good.high) == (pytest.approx(1.0), pytest.approx(1.0))
    assert (bad.value, bad.significant_share) == (pytest.approx(-1.0), 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_of_random_scores_holds_zero(seed: int) -> None:
    effects_QN, kept_MN = world(seed)
    scores_QN = np.random.default_rng(seed + 100).standard_normal(effects_QN.shape)
    found = score_lds(predict(scores_QN, kept_MN), effects_QN @ kept_MN.T)
    assert found.low is not None and found.high is not None and found.value is not None
    assert found.low <= 0 <= found.high
    assert found.low <= found.value <= found.high


def test_it_is_the_mean_of_scipy_s_spearman_over_outcomes_averaged_over_seeds() -> None:
    effects_QN, kept_MN = world(3)
    outcome_QMR = (effects_QN @ kept_MN.T)[:, :, None] + 5 * np.random.default_rng(1).standard_normal((12, 30, 3))
    prediction_QM = predict(np.round(effects_QN), kept_MN)
    pairs = zip(prediction_QM, outcome_QMR.mean(axis=2), strict=True)
    expected = [stats.spearmanr(prediction, outcome)[0] for prediction, outcome in pairs]
    found = score_lds(prediction_QM, outcome_QMR)
    assert found.value == pytest.approx(np.mean(expected), abs=1e-12)
    np.testing.assert_allclose(found.per_query_Q, expected, atol=1e-12)


def test_constant_predictions_and_outcomes_are_undefined_and_counted() -> None:
    effects_QN, kept_MN = world(1)
    outcome_QM = effects_QN @ kept_MN.T
    effects_QN[0] = 0.1  # the same sum over every half, but for rounding
    outcome_QM[1] = -2.5
    found = score_lds(predict(effects_QN, kept_MN), outcome_QM)
    assert (found.undefined, found.queries, found.value) == (2, 12, pytest.approx(1.0))
    assert np.isnan(found.per_query_Q[:2]).all()
    nothing = score_lds(predict(np.full((12, 40), 0.1), kept_MN), outcome_QM)
    assert (nothing.value, nothing.low, nothing.high, nothing.significant_share) == (None, None, None, None)
    assert nothing.undefined == 12


def test_too_few_queries_or_subsets_have_no_interval() -> None:
    effects_QN, kept_MN = world(2)
    outcome_QM = effects_QN @ kept_MN.T
    for queries, subsets in [(1, 30), (12, 2)]:
        part = (slice(queries), slice(subsets))
        found = score_lds(outcome_QM[part], outcome_QM[part])
        assert (found.value, found.low, found.high) == (pytest.approx(1.0), None, None)
        paired = compare_lds(outcome_QM[part], -outcome_QM[part], outcome_QM[part])
        assert (paired.difference, paired.low, paired.p_value) == (pytest.approx(2.0), None, None)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), queries=st.integers(1, 3), rows=st.integers(1, 60), scale=st.integers(-200, 200))
def test_predictions_are_sums_over_the_kept_rows_and_ties_are_ties(
    seed: int, queries: int, rows: int, scale: int
) -> None:
    rng = np.random.default_rng(seed)
    scores_QN = rng.choice([0.0, 0.1, 0.3, -0.7], (queries, rows)) * 10.0**scale
    kept_MN = rng.random((6, rows)) < 0.5
    prediction_QM = predict(scores_QN, kept_MN)
    for q in range(queries):
        for m in range(6):
            total = math.fsum(scores_QN[q, kept_MN[m]])
            assert prediction_QM[q, m] == pytest.approx(total, rel=1e-9, abs=1e-11 * 10.0**scale)
    order = rng.permutation(rows)
    np.testing.assert_array_equal(predict(scores_QN[:, order], kept_MN[:, order]), prediction_QM)


def test_a_method_compared_with_itself_and_with_its_opposite() -> None:
    effects_QN, kept_MN = world(4)
    outcome_QM = effects_QN @ kept_MN.T + 4 * np.random.default_rng(0).standard_normal((12, 30))
    prediction_QM = predict(effects_QN, kept_MN)
    same, opposite = (compare_lds(prediction_QM, sign * prediction_QM, outcome_QM) for sign in (1, -1))
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    value = score_lds(prediction_QM, outcome_QM).value
    assert value is not None and opposite.low is not None and opposite.p_value is not None
    assert opposite.difference == pytest.approx(2 * value)
    assert opposite.low > 0
    assert opposite.p_value < 1e-6


def test_pairing_is_narrower_than_two_intervals() -> None:
    """Two methods with the same errors but a little: the common part cancels."""
    rng = np.random.default_rng(55)
    effects_QN, kept_MN = world(5, queries=40)
    shared_QN = effects_QN + rng.standard_normal(effects_QN.shape)
    one, other = (predict(shared_QN + size * rng.standard_normal(shared_QN.shape), kept_MN) for size in (0.1, 0.6))
    outcome_QM = effects_QN @ kept_MN.T
    paired, single = compare_lds(one, other, outcome_QM), score_lds(one, outcome_QM)
    assert paired.low is not None and paired.high is not None and single.low is not None and single.high is not None
    assert paired.high - paired.low < single.high - single.low
    assert paired.low > 0


def test_a_query_defined_for_one_method_only_is_left_out_of_the_comparison() -> None:
    effects_QN, kept_MN = world(6)
    outcome_QM, sparse_QN = effects_QN @ kept_MN.T, effects_QN.copy()
    sparse_QN[:3] = 0.0
    paired = compare_lds(predict(effects_QN, kept_MN), predict(sparse_QN, kept_MN), outcome_QM)
    assert (paired.difference, paired.undefined) == (pytest.approx(0.0), 3)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_outcomes_and_shapes_are_refused(broken: float) -> None:
    effects_QN, kept_MN = world()
    outcome_QM = effects_QN @ kept_MN.T
    with pytest.raises(InvalidOption):
        score_lds(outcome_QM, outcome_QM[:, :-1])
    with pytest.raises(InvalidOption):
        predict(effects_QN, kept_MN.astype(float))
    with pytest.raises(InvalidOption):
        predict(effects_QN[:, :-1], kept_MN)
    outcome_QM[0, 0] = broken
    with pytest.raises(InvalidOption):
        score_lds(effects_QN @ kept_MN.T, outcome_QM)


def test_200_queries_over_200_subsets_take_well_under_a_second() -> None:
    prediction_QM, noise_QM = np.random.default_rng(0).standard_normal((2, 200, 200))
    score_lds(prediction_QM[:2], noise_QM[:2])
    started = time.process_time()
    score_lds(prediction_QM, prediction_QM + noise_QM)
    assert time.process_time() - started < 0.8
