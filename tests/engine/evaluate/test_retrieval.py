"""Retrieval metrics against pair counting, against every order of tied rows, and against scikit-learn."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from engine.errors import InvalidOption
from engine.evaluate.retrieval import (
    auc,
    auprc,
    length_correlation,
    mislabelled_auroc,
    over_queries,
    overlap_at,
    precision_at,
    recall_at_class_size,
    top1_concentration,
)


def ranking(seed: int, rows: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores_N, relevant_N = rng.integers(0, levels, rows).astype(float), rng.random(rows) < 0.4
    assume(relevant_N.any() and not relevant_N.all() and len(set(scores_N)) > 1)
    return scores_N, relevant_N


def rankings(rows: int = 30, levels: int = 12):  # type: ignore[no-untyped-def]
    return st.builds(lambda *parts: parts, st.integers(0, 9999), st.integers(2, rows), st.integers(2, levels))


@settings(max_examples=60, deadline=None)
@given(rankings())
def test_auc_counts_pairs_and_is_scikit_learn_s(parts: tuple[int, int, int]) -> None:
    scores_N, relevant_N = ranking(*parts)
    wins = [(a > b) + (a == b) / 2 for a in scores_N[relevant_N] for b in scores_N[~relevant_N]]
    assert auc(scores_N, relevant_N) == pytest.approx(np.mean(wins), abs=1e-12)
    assert auc(scores_N, relevant_N) == roc_auc_score(relevant_N, scores_N)
    assert mislabelled_auroc(scores_N, relevant_N) == auc(scores_N, relevant_N)


@settings(max_examples=60, deadline=None)
@given(rankings())
def test_auprc_sums_precision_over_thresholds_and_is_scikit_learn_s(parts: tuple[int, int, int]) -> None:
    scores_N, relevant_N = ranking(*parts)
    area = 0.0
    for threshold in set(scores_N):
        found = scores_N >= threshold
        area += relevant_N[found].mean() * relevant_N[scores_N == threshold].sum() / relevant_N.sum()
    assert auprc(scores_N, relevant_N) == pytest.approx(area, abs=1e-12)
    assert auprc(scores_N, relevant_N) == average_precision_score(relevant_N, scores_N)


@settings(max_examples=30, deadline=None)
@given(rankings(rows=6, levels=4), st.integers(1, 7))
def test_precision_is_the_mean_over_all_orders_of_tied_rows(parts: tuple[int, int, int], k: int) -> None:
    scores_N, relevant_N = ranking(*parts)
    cut = min(k, len(scores_N))
    orders = [order for order in permutations(range(len(scores_N))) if (np.diff(scores_N[list(order)]) <= 0).all()]
    expected = np.mean([relevant_N[list(order[:cut])].mean() for order in orders])
    assert precision_at(scores_N, relevant_N, k) == pytest.approx(expected, abs=1e-12)
    size = int(relevant_N.sum())
    assert recall_at_class_size(scores_N, relevant_N) == precision_at(scores_N, relevant_N, size)


def test_the_file_s_order_does_not_help() -> None:
    """Poison at the top of the file, and scores that say nothing about it."""
    poison_N, scores_N = np.arange(100) < 10, np.zeros(100)
    scores_N[99] = 1.0
    assert recall_at_class_size(scores_N, poison_N) == pytest.approx(9 * 10 / 99 / 10)


@pytest.mark.parametrize("metric", [auc, auprc, recall_at_class_size, lambda s, r: precision_at(s, r, 2)])
def test_constant_scores_and_one_class_are_undefined(metric) -> None:  # type: ignore[no-untyped-def]
    some_N = np.array([True, False, False])
    assert metric(np.full(3, 0.5), some_N) is None
    assert metric(np.arange(3.0), np.ones(3, dtype=bool)) is None
    assert metric(np.arange(3.0), np.zeros(3, dtype=bool)) is None
    assert metric(np.arange(3.0), some_N) is not None
    found = over_queries(metric, np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]), some_N)
    assert (found.value, found.defined, found.undefined) == (metric(np.arange(3.0), some_N), 1, 1)
    assert over_queries(metric, np.ones((2, 3)), some_N).value is None


def test_concentration_counts_the_row_most_often_on_top() -> None:
    scores_QN = np.array([[3.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 5.0, 1.0], [4.0, 4.0, 1.0], [7.0, 7.0, 7.0]])
    assert top1_concentration(scores_QN) == pytest.approx((1 + 1 + 0.5) / 4)
    assert top1_concentration(np.eye(6)) == pytest.approx(1 / 6)
    assert top1_concentration(np.ones((3, 4))) is None


def test_length_correlation_is_the_mean_of_scipy_s() -> None:
    rng = np.random.default_rng(0)
    scores_QN, lengths_N = rng.standard_normal((5, 20)), rng.integers(1, 9, 20)
    expected = np.mean([stats.spearmanr(scores, lengths_N)[0] for scores in scores_QN])  # type: ignore[arg-type]
    assert length_correlation(scores_QN, lengths_N) == pytest.approx(expected, abs=1e-12)
    assert length_correlation(scores_QN, np.ones(20)) is None
    assert length_correlation(np.tile(lengths_N, (2, 1)), lengths_N) == pytest.approx(1.0)


def test_overlap_is_that_of_the_answered_lists() -> None:
    exact_QN = np.array([[9.0, 8.0, 7.0, 1.0], [5.0, 5.0, 5.0, 0.0]])
    sketch_QN = np.array([[9.0, 1.0, 7.0, 8.0], [0.0, 5.0, 5.0, 5.0]])
    assert overlap_at(sketch_QN, exact_QN, 2) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert overlap_at(exact_QN, exact_QN, 3) == 1.0
    assert overlap_at(sketch_QN, exact_QN, 9) == 1.0
    assert overlap_at(np.ones((2, 4)), exact_QN, 2) is None


def test_broken_input_is_refused() -> None:
    for scores, relevant in [([np.nan, 1.0], [True, False]), ([0.0, 1.0], [1, 0]), ([0.0, 1.0], [True])]:
        with pytest.raises(InvalidOption):
            auc(np.array(scores), np.array(relevant))
    with pytest.raises(InvalidOption):
        precision_at(np.arange(2.0), np.array([True, False]), 0)
    with pytest.raises(InvalidOption):
        overlap_at(np.ones((2, 3)), np.ones((2, 4)), 1)
    with pytest.raises(InvalidOption):
        length_correlation(np.ones((2, 3)), np.ones(4))
