"""A query's own reliability: found where features tell of it, denied where they do not, never fitted on its own group.

Shapes: Q queries.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from engine.errors import InvalidOption
from engine.evaluate import reliability
from engine.evaluate.reliability import cross_fitted, fit_reliability, halves, predict, query_features
from engine.evaluate.reliability_model import interval, rank
from engine.types import Attribution, Diagnostics, Hit, Measurement, Token

FIGURES = ("checkpoint_agreement", "effective_rows", "query_norm", "gain_per_token")


def drawn(count: int, signal: float, seed: int = 0) -> tuple[list[dict[str, float]], np.ndarray, list[str]]:
    """Two queries a group. LDS = 0.6 + signal · (agreement's rank − effective rows' rank) + noise of 0.1."""
    random = np.random.default_rng(seed)
    figures = random.standard_normal((count, len(FIGURES)))
    features = [dict(zip(FIGURES, np.exp(each).tolist(), strict=True)) for each in figures]
    ranks = stats.rankdata(figures, axis=0) / count
    lds_Q = 0.6 + signal * (ranks[:, 0] - ranks[:, 1]) + 0.1 * random.standard_normal(count)
    return features, np.clip(lds_Q, -1, 1), [f"group {q // 2}" for q in range(count)]


def fitted(*given: Any, **options: Any) -> dict[str, Any]:
    model = fit_reliability(*given, **options)
    assert model is not None
    return model


@pytest.mark.parametrize("seed", [0, 1])
def test_where_features_tell_the_better_half_of_new_queries_is_better(seed: int) -> None:
    model = fitted(*drawn(60, 0.3, seed))
    features, lds_Q, _ = drawn(120, 0.3, 100 + seed)
    said = [predict(model, each) for each in features]
    found = halves(np.array([each.value for each in said]), lds_Q)
    assert model["skill"]
    assert found.low is not None and found.low > 0
    inside = np.mean([each.low <= lds <= each.high for each, lds in zip(said, lds_Q, strict=True)])
    assert 0.68 < inside < 0.92  # 80 % meant
    assert {"high", "usual"} <= {each.level for each in said}


def test_without_signal_it_seldom_claims_skill_and_then_predicts_the_mean_in_words() -> None:
    models = [fitted(*drawn(40, 0.0, seed)) for seed in range(6)]
    assert sum(model["skill"] for model in models) <= 1
    model = next(model for model in models if not model["skill"])
    features, lds_Q, _ = drawn(40, 0.0, models.index(model))
    said = [predict(model, each) for each in features]
    assert [each.value for each in said] == pytest.approx([lds_Q.mean()] * 40)
    assert {each.level for each in said} == {"usual"}
    assert "cannot be told apart" in said[0].words


def test_it_abstains_for_queries_whose_like_were_no_better_than_chance() -> None:
    features, lds_Q, groups = drawn(80, 0.0)
    agreements = np.array([each["checkpoint_agreement"] for each in features])
    lds_Q = np.where(agreements < np.quantile(agreements, 0.35), lds_Q - 0.6, lds_Q)
    model = fitted(features, lds_Q, groups)
    low, high = (predict(model, {"checkpoint_agreement": value}) for value in (agreements.min(), agreements.max()))
    assert low.level == "low" and "no better than chance" in low.words and "do not act on it" in low.words
    assert high.level == "high" and "do not act" not in high.words


def test_a_ranking_that_is_chance_for_all_is_low_for_all() -> None:
    features, lds_Q, groups = drawn(40, 0.0)
    said = predict(fitted(features, lds_Q - lds_Q.mean(), groups), features[0])
    assert said.level == "low" and "no better than chance" in said.words


def test_the_floor_may_be_a_control() -> None:
    features, lds_Q, groups = drawn(60, 0.3)
    usual = predict(fitted(features, lds_Q, groups), features[0])
    strict = predict(fitted(features, lds_Q, groups, floor=(0.95, "matching words")), features[0])
    assert usual.level != "low"
    assert strict.level == "low" and "no better than matching words (0.95)" in strict.words


def test_predictions_do_not_change_with_the_lds_of_their_own_group() -> None:
    features, lds_Q, groups = drawn(40, 0.3)
    own_Q = np.array([group == "group 3" for group in groups])
    changed = cross_fitted(features, np.where(own_Q, -1.0, lds_Q), groups)
    plain = cross_fitted(features, lds_Q, groups)
    np.testing.assert_array_equal(changed[own_Q], plain[own_Q])
    assert not np.array_equal(changed[~own_Q], plain[~own_Q])


def test_groups_are_never_split() -> None:
    groups = [f"group {q % 11}" for q in range(50)]
    folds = reliability._folds(groups)
    assert np.array_equal(np.sum(folds, axis=0), np.ones(50))
    for held_Q in folds:
        held, rest = ({g for g, h in zip(groups, held_Q, strict=True) if h == side} for side in (True, False))
        assert held and not held & rest


def test_weights_are_the_least_squares_of_the_definition() -> None:
    """A known direction that points the wrong way counts nothing; free ones are plain ridge."""
    features, lds_Q, _ = drawn(30, -0.3)
    names = ["gain_per_token", "query_norm"]
    fit = reliability._fits(features, lds_Q, [0.1])[0]
    assert fit.weights["checkpoint_agreement"] == 0 and fit.weights["effective_rows"] == 0
    ranks = np.array(
        [[2 * (stats.rankdata([f[n] for f in features])[q] - 0.5) / 30 - 1 for n in names] for q in range(30)]
    )
    centred = ranks - ranks.mean(0)
    penalty = 0.1 * reliability.FREE_PENALTY * 30 * np.eye(2)
    expected = np.linalg.solve(centred.T @ centred + penalty, centred.T @ (lds_Q - lds_Q.mean()))
    np.testing.assert_allclose([fit.weights[name] for name in names], expected, atol=1e-9)


@pytest.mark.parametrize(("value", "expected"), [(0.0, -1), (1.0, -0.75), (2.0, 0), (9.0, 1), (None, 0), (np.nan, 0)])
def test_a_rank_counts_ties_by_half_and_a_missing_value_as_the_middle(value: float | None, expected: float) -> None:
    assert rank(value, [1.0, 2.0, 2.0, 3.0]) == pytest.approx(expected)


def test_the_interval_is_the_conformal_one_of_the_nearest() -> None:
    random = np.random.default_rng(4)
    predicted = np.sort(random.uniform(0, 1, 100))
    calibration = [[p, p + random.normal() * (0.01 if p > 0.5 else 0.2)] for p in predicted.tolist()]
    for value in (0.1, 0.9):
        near = sorted(calibration, key=lambda pair: abs(pair[0] - value))[:25]
        residuals = sorted(measured - predicted for predicted, measured in near)
        assert interval(calibration, value) == pytest.approx((value + residuals[1], min(1, value + residuals[-2])))
    assert np.ptp(interval(calibration, 0.1)) > 5 * np.ptp(interval(calibration, 0.9))


def test_missing_and_undefined_values_are_left_out() -> None:
    features, lds_Q, groups = drawn(60, 0.3)
    features = [each | {"rare": 1.0 * q} if q < 10 else each for q, each in enumerate(features)]
    features[3] = features[3] | {"checkpoint_agreement": float("nan")}
    del features[4]["effective_rows"]
    lds_Q = np.where(np.arange(60) == 7, np.nan, lds_Q)
    model = fitted(features, lds_Q, groups)
    assert model["queries"] == 59 and "rare" not in model["weights"]
    without = fitted([f for q, f in enumerate(features) if q != 7], lds_Q[np.arange(60) != 7], groups[:7] + groups[8:])
    assert model == without
    assert np.isfinite(predict(model, {}).value)


def test_json_round_trip_and_determinism() -> None:
    given = drawn(40, 0.3)
    model = fitted(*given)
    read = json.loads(json.dumps(model, allow_nan=False))
    assert read == model == fitted(*given)
    assert [predict(read, each) for each in given[0]] == [predict(model, each) for each in given[0]]


@pytest.mark.parametrize(("queries", "per_group"), [(19, 1), (40, 10), (0, 1)])
def test_too_little_is_no_model(queries: int, per_group: int) -> None:
    features, lds_Q, _ = drawn(queries, 0.3) if queries else ([], np.zeros(0), [])
    assert fit_reliability(features, lds_Q, [f"group {q // per_group}" for q in range(queries)]) is None


def test_no_feature_at_all_is_no_skill() -> None:
    _, lds_Q, groups = drawn(40, 0.3)
    assert fitted([{}] * 40, lds_Q, groups)["skill"] is False


def test_lengths_must_agree() -> None:
    features, lds_Q, groups = drawn(40, 0.3)
    with pytest.raises(InvalidOption, match="39 an LDS"):
        fit_reliability(features, lds_Q[1:], groups)


def test_halves_are_welchs() -> None:
    random = np.random.default_rng(1)
    predicted_Q, lds_Q = random.standard_normal(41), random.standard_normal(41)
    lds_Q[5] = np.nan
    found = halves(predicted_Q, lds_Q)
    ordered = [lds_Q[q] for q in np.argsort(predicted_Q) if q != 5]
    expected = stats.ttest_ind(ordered[20:], ordered[:20], equal_var=False).confidence_interval(0.95)
    assert found.queries == 40
    assert found.difference == pytest.approx(np.mean(ordered[20:]) - np.mean(ordered[:20]))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_halves_of_equal_predictions_do_not_exist() -> None:
    assert halves(np.ones(10), np.arange(10.0)).difference is None
    assert halves(np.arange(3.0), np.arange(3.0)).low is None


# --- what an answer shows ---


def answer(diagnostics: Diagnostics, hits: Sequence[Hit] = ()) -> Attribution:
    return Attribution(
        method="ekfac", signed=True, additive=True, revision="r", prompt="p", completion="c",
        tokens=(Token("c", 0, 1, "completion", True),), measurement=Measurement("log_prob", -3.0, 2),
        tuned_minus_base=4.0, proponents=tuple(hits), opponents=(), groups=None, diagnostics=diagnostics, timings_ms={},
    )  # fmt: skip


def test_features_are_read_from_the_answer() -> None:
    shown = Diagnostics(0.5, 0.2, None, 9.0, 5, 5, query_norm=2.0, checkpoint_agreement=float("nan"))
    hit = Hit(1, 0, "a", 3.0, 0.75, 100.0)
    assert query_features(answer(shown, [hit])) == {
        "positive_share_top_1pct": 0.5, "top1_concentration": 0.2, "null_z": 9.0, "query_norm": 2.0,
        "best_cosine": 0.75, "explained_tokens": 2.0, "measurement_per_token": -1.5, "gain_per_token": 2.0,
    }  # fmt: skip


def test_what_is_not_known_is_no_feature() -> None:
    bare = replace(answer(Diagnostics(None, None, None, None, 0, 0)), tuned_minus_base=None)
    assert set(query_features(bare)) == {"explained_tokens", "measurement_per_token"}


def test_predicting_needs_no_numpy() -> None:
    """The API reads scorecards where the engine is not installed."""
    code = "import sys, engine.evaluate.reliability_model; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
