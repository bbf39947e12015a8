"""What the charts show agrees with the scorecard's figures, and stays small and finite."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.evaluate.assemble import Measured
from engine.evaluate.correlation import spearman
from engine.evaluate.figures import curve, found_share, looked_at, pairs_of, spread
from engine.evaluate.retrieval import precision_at


def test_pairs_rank_as_predictions_and_outcomes_do() -> None:
    random = np.random.default_rng(0)
    scores_QN, kept_MN = random.normal(size=(3, 40)), random.random((12, 40)) < 0.5
    outcome_QMR = random.normal(size=(3, 12, 2))
    measured = Measured(kept_MN, outcome_QMR)
    lds_Q = measured.lds(scores_QN).per_query_Q
    shown = pairs_of([4, 7, 9], scores_QN, measured, lds_Q)
    assert [one["query"] for one in shown] == [4, 7, 9]
    for q, one in enumerate(shown):
        assert np.mean(one["predicted"]) == pytest.approx(0, abs=1e-5) and np.std(one["predicted"]) == pytest.approx(1)
        found = spearman(np.array([one["predicted"]]), np.array([one["measured"]]))[0]
        assert found == pytest.approx(lds_Q[q], abs=1e-5)
        assert one["lds"] == pytest.approx(lds_Q[q], abs=1e-5)
        assert one["measured"] == pytest.approx(outcome_QMR[q].mean(axis=1).tolist(), rel=1e-5)


def test_predictions_that_do_not_vary_are_shown_as_equal() -> None:
    """And what has no correlation is null, not NaN, which no JSON holds."""
    measured = Measured(np.ones((4, 5), bool), np.arange(4.0)[None, :, None])
    (shown,) = pairs_of([0], np.ones((1, 5)), measured, np.array([np.nan]))
    assert shown["predicted"] == [0, 0, 0, 0] and shown["lds"] is None
    json.dumps(shown, allow_nan=False)


def test_a_curve_is_precision_in_other_words() -> None:
    """Ties too: half of the scores are equal."""
    random = np.random.default_rng(1)
    scores_N = np.where(random.random(50) < 0.5, 0.0, random.normal(size=50))
    relevant_N = random.random(50) < 0.2
    found_P = found_share(scores_N, relevant_N, np.arange(1, 51))
    for k in range(1, 51):
        precision = precision_at(scores_N, relevant_N, k)
        assert precision is not None
        assert found_P[k - 1] == pytest.approx(precision * k / relevant_N.sum())


def test_a_curve_ends_with_everything_found() -> None:
    scores_QN, relevant_QN = np.random.default_rng(2).normal(size=(3, 30)), np.zeros((3, 30), bool)
    relevant_QN[0, :4] = relevant_QN[2, 5] = True  # the middle query has nothing to find, and does not count
    shown = curve("teaching rows", {"own": scores_QN, "perfect": relevant_QN.astype(float)}, relevant_QN)
    assert shown["relevant"] == 2.5 and shown["rows"][0] == 1 and shown["rows"][-1] == 30
    assert shown["found"]["own"][-1] == 1.0 and shown["found"]["own"] == sorted(shown["found"]["own"])
    assert shown["found"]["perfect"][shown["rows"].index(4)] == 1.0
    assert curve("none", {"own": scores_QN}, np.zeros((3, 30), bool))["found"] == {}


def test_what_is_shown_does_not_grow_with_the_evaluation() -> None:
    assert spread(3, 24) == [0, 1, 2] and spread(5000, 24)[:2] == [0, 208] and len(spread(5000, 24)) == 24
    assert len(looked_at(1_000_000)) <= 40 and looked_at(1).tolist() == [1]
