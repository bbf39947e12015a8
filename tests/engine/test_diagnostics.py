"""Percentiles, warning signs and group sums against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from engine.diagnostics import FLAT_LIMIT, UNTAGGED, diagnostics, group_sums, percentile, sample_rows
from engine.errors import InvalidOption
from engine.types import Group

SMALL_INTEGERS = st.integers(-5, 5).map(float)


@given(arrays(np.float32, st.integers(1, 40), elements=SMALL_INTEGERS), SMALL_INTEGERS)
def test_a_percentile_is_the_average_percentage_rank(scores_N: np.ndarray, score: float) -> None:
    assert percentile(scores_N, score) == pytest.approx(stats.percentileofscore(scores_N, score, kind="rank"))


def test_the_single_best_row_is_at_100_and_ties_share_one_percentile() -> None:
    scores_N = np.float32([5, 1, 2, 2, 2])
    assert percentile(scores_N, 5.0) == 100
    assert percentile(scores_N, 2.0) == 60
    assert percentile(scores_N, 1.0) == 20


def test_a_score_summed_in_float64_ties_with_its_own_float32_row() -> None:
    scores_N = np.linspace(1, 2, 11, dtype=np.float32)
    assert percentile(scores_N, float(scores_N[10]) - 1e-7) == 100


@given(
    arrays(np.float32, st.integers(3, 40), elements=SMALL_INTEGERS, unique=False),
    st.integers(0, 2**16),
    st.sampled_from([6, 1000]),
)
def test_length_correlation_is_spearmans(scores_N: np.ndarray, seed: int, longest: int) -> None:
    lengths_N = np.random.default_rng(seed).integers(1, longest, len(scores_N)).astype(np.int32)
    found = diagnostics(scores_N, lengths_N).length_correlation
    if len(set(scores_N)) == 1 or len(set(lengths_N)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(scores_N, lengths_N).statistic)


def test_shares_of_the_positive_score() -> None:
    scores_N = np.array([10, 6, 4, -100] + [0] * 196, np.float32)  # 200 rows: the top 1 % are two
    found = diagnostics(scores_N, np.ones(200, np.int32))
    assert found.positive_share_top_1pct == pytest.approx(16 / 20)
    assert found.top1_concentration == pytest.approx(10 / 20)
    assert (found.searched, found.total, found.estimated) == (200, 200, False)


def test_few_rows_still_have_a_top_percent_of_one_row() -> None:
    found = diagnostics(np.float32([3, 1, -1]), np.int32([1, 2, 3]))
    assert found.positive_share_top_1pct == found.top1_concentration == pytest.approx(0.75)


def test_null_z_counts_robust_deviations_above_the_median() -> None:
    scores_N = np.append(np.random.default_rng(0).standard_normal(5000), 8.0).astype(np.float32)
    assert diagnostics(scores_N, np.ones(5001)).null_z == pytest.approx(8, abs=0.5)


@given(arrays(np.float32, st.integers(1, 40), elements=SMALL_INTEGERS))
def test_spread_and_effective_rows_are_their_formulas(scores_N: np.ndarray) -> None:
    found = diagnostics(scores_N, np.ones(len(scores_N)))
    values = [float(score) for score in scores_N]
    mean = sum(values) / len(values)
    assert found.score_spread == pytest.approx((sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5, abs=1e-9)
    if not any(values):
        assert found.effective_rows is None
    else:
        assert found.effective_rows == pytest.approx(sum(map(abs, values)) ** 2 / sum(v * v for v in values))


def test_effective_rows_do_not_depend_on_the_scale() -> None:
    scores_N = np.float32([3, -1, 2, 0])
    tiny = diagnostics(scores_N * np.float32(1e-30), np.ones(4)).effective_rows
    assert tiny == pytest.approx(diagnostics(scores_N, np.ones(4)).effective_rows)
    assert diagnostics(np.float32([5, 5, -5, 0]), np.ones(4)).effective_rows == pytest.approx(3)


def test_figures_without_meaning_are_none() -> None:
    flat = diagnostics(np.full(5, -1, np.float32), np.arange(5))
    assert flat.positive_share_top_1pct is flat.top1_concentration is flat.length_correlation is flat.null_z is None
    nothing = diagnostics(np.float32([1, 2]), np.int32([1, 2]), np.zeros(2, bool))
    assert nothing.null_z is nothing.top1_concentration is nothing.length_correlation is None
    assert (nothing.searched, nothing.total) == (0, 2)


def test_only_searched_rows_count() -> None:
    found = diagnostics(np.float32([100, 3, 1]), np.int32([1, 1, 1]), np.array([False, True, True]))
    assert found.top1_concentration == pytest.approx(0.75)
    assert (found.searched, found.total) == (2, 3)


def test_a_dominating_row_and_a_length_effect_are_said_in_words() -> None:
    lengths_N = np.arange(1, 31, dtype=np.int32)
    scores_N = lengths_N.astype(np.float32)
    scores_N[-1] = 1000
    dominated, by_length = diagnostics(scores_N, lengths_N).warnings
    assert "One row carries 70%" in dominated
    assert "longer rows rank higher" in by_length and "+1.00" in by_length
    assert "shorter rows rank higher" in diagnostics(-lengths_N.astype(np.float32), lengths_N).warnings[0]


def test_an_even_answer_warns_of_nothing() -> None:
    random = np.random.default_rng(0)
    assert diagnostics(random.standard_normal(500), random.integers(5, 50, 500)).warnings == ()


def test_group_sums_add_raw_scores_highest_first() -> None:
    scores_N = np.float32([1, -3, 2, 0.5, 0.5])
    groups = group_sums(scores_N, ["facts", "poison", "facts", None, "chat"])
    assert groups == [
        Group("facts", 3.0, pytest.approx(3 / 7), 2),
        Group(UNTAGGED, 0.5, pytest.approx(0.5 / 7), 1),
        Group("chat", 0.5, pytest.approx(0.5 / 7), 1),
        Group("poison", -3.0, pytest.approx(-3 / 7), 1),
    ]


def test_group_sums_leave_out_rows_that_were_not_searched() -> None:
    allowed_N = np.array([True, False, True])
    assert group_sums(np.float32([1, 5, 2]), ["a", "b", "a"], allowed_N) == [Group("a", 3.0, 1.0, 2)]


def test_groups_that_all_sum_to_zero_share_nothing() -> None:
    assert group_sums(np.float32([1, -1]), ["a", "a"]) == [Group("a", 0.0, 0.0, 2)]


def test_above_the_flat_limit_figures_are_estimated_from_a_fixed_sample() -> None:
    rows = 20_000
    sample = sample_rows(rows, FLAT_LIMIT // rows + 1)
    assert sample is not None and len(sample) == len(set(sample.tolist())) == 4096
    assert np.array_equal(sample, sample_rows(rows, FLAT_LIMIT // rows + 1))
    scores_N = np.random.default_rng(1).standard_normal(rows).astype(np.float32)
    found = diagnostics(scores_N, np.arange(rows), sample=sample)
    assert found.estimated and found.searched == rows
    assert percentile(scores_N, 1.0, sample) == pytest.approx(percentile(scores_N, 1.0), abs=2)
    with pytest.raises(InvalidOption, match="Sums by tag"):
        group_sums(scores_N, ["a"] * rows, sample=sample)


def test_up_to_the_flat_limit_nothing_is_sampled() -> None:
    assert sample_rows(2**20, FLAT_LIMIT // 2**20) is None
    assert sample_rows(4096, FLAT_LIMIT) is None


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.integers(-5, 5), min_size=3, max_size=300),
    lengths=st.sampled_from([np.int32, np.float64]),
    filtered=st.booleans(),
    seed=st.integers(0, 99),
)
def test_figures_of_sorted_scores_equal_the_plain_formulas(
    scores: list[int], lengths: type, filtered: bool, seed: int
) -> None:
    """With ties, and with rows that were filtered out."""
    random = np.random.default_rng(seed)
    scores_N = np.float32(scores)
    lengths_N = random.integers(1, 400, len(scores)).astype(lengths)
    allowed_N = random.random(len(scores)) < 0.7 if filtered else None
    found = diagnostics(scores_N, lengths_N, allowed_N)
    kept = slice(None) if allowed_N is None else allowed_N
    searched, tokens = scores_N[kept].astype(float), lengths_N[kept]
    positive = np.sort(searched[searched > 0])[::-1]
    if len(positive):
        top = -(-len(searched) // 100)
        assert found.positive_share_top_1pct == pytest.approx(positive[:top].sum() / positive.sum())
        assert found.top1_concentration == pytest.approx(positive[0] / positive.sum())
    else:
        assert found.positive_share_top_1pct is None
    spread = 1.4826 * stats.median_abs_deviation(searched) if len(searched) else 0
    z = None if spread == 0 else (searched.max() - np.median(searched)) / spread
    assert found.null_z == (z if z is None else pytest.approx(z))
    if len(searched) > 2 and len(set(searched)) > 1 and len(set(tokens)) > 1:
        assert found.length_correlation == pytest.approx(stats.spearmanr(searched, tokens).statistic, abs=1e-9)
    assert (found.searched, found.total) == (len(searched), len(scores))
