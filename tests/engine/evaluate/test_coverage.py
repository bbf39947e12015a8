"""Intervals cover, and the paired test rejects, what they claim, on populations with a known LDS."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from engine.evaluate.correlation import correlations
from engine.evaluate.jackknife import Spread, pseudo_values, two_way_variance
from engine.evaluate.lds import compare_lds, score_lds
from engine.evaluate.leave_out import leave_out
from tests.engine.evaluate.populations import POPULATIONS

SIMULATIONS, QUERIES = 300, 40


@cache
def true_lds(name: str) -> float:
    return POPULATIONS[name].lds()


def intervals(name: str, number: int, subsets: int) -> dict[str, tuple[float, float]]:
    """The interval of one draw as it is, and as simpler formulas would have it."""
    prediction_QM, outcome_QM = POPULATIONS[name].draw(np.random.default_rng(1000 + number), QUERIES, subsets)
    found = correlations(prediction_QM, outcome_QM)
    psi_QM, cap = pseudo_values(found.plain_Q, found.left_out_QM), min(QUERIES, subsets) - 1
    plain, centre = found.plain_Q.mean(), found.unbiased_Q.mean()
    of_queries, of_subsets = found.plain_Q.var(ddof=1) / QUERIES, psi_QM.mean(0).var(ddof=1) / subsets
    lds = score_lds(prediction_QM, outcome_QM)
    assert lds.low is not None and lds.high is not None
    return {
        "as it is": (lds.low, lds.high),
        "Student alone": Spread(two_way_variance(psi_QM), cap).interval(centre),
        "around the plain mean": Spread(two_way_variance(psi_QM), cap).interval(plain),
        "queries alone": Spread(of_queries, QUERIES - 1).interval(plain),
        "subsets alone": Spread(of_subsets, subsets - 1).interval(plain),
    }


@cache
def misses(name: str, subsets: int) -> dict[str, tuple[float, float]]:
    """Share of draws whose interval lies (above, below) the truth, by formula."""
    truth, drawn = true_lds(name), [intervals(name, number, subsets) for number in range(SIMULATIONS)]
    return {formula: _missed([each[formula] for each in drawn], truth) for formula in drawn[0]}


def _missed(drawn: list[tuple[float, float]], truth: float) -> tuple[float, float]:
    return float(np.mean([low > truth for low, _ in drawn])), float(np.mean([high < truth for _, high in drawn]))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("subsets", [25, 60])
@pytest.mark.parametrize("name", POPULATIONS)
def test_95_percent_intervals_cover_92_to_98_percent(name: str, subsets: int) -> None:
    found = misses(name, subsets)
    for formula, (above, below) in found.items():
        shares = f"covers {1 - above - below:.3f}, above {above:.3f}, below {below:.3f}"
        print(f"{name} ({true_lds(name):.3f}), M = {subsets}, {formula}: {shares}")
    assert 0.92 <= 1 - sum(found["as it is"]) <= 0.98


@pytest.mark.slow
def test_what_each_part_of_the_interval_is_for() -> None:
    """Without both samples, the correction for bias or that for skewness, intervals miss more than they claim."""
    common, strong = misses("common", 60), misses("strong", 25)
    assert sum(common["queries alone"]) > 0.08
    assert sum(common["subsets alone"]) > 0.08
    assert sum(strong["around the plain mean"]) > 0.15
    assert max(strong["as it is"]) < max(strong["Student alone"])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("subsets", [25, 60])
@pytest.mark.parametrize("name", POPULATIONS)
def test_the_paired_test_rejects_at_most_7_percent_of_equal_methods(name: str, subsets: int) -> None:
    pairs = []
    for seed in range(SIMULATIONS):
        pairs.append(compare_lds(*POPULATIONS[name].draw(np.random.default_rng(5000 + seed), QUERIES, subsets, 2)))
    rejected = np.mean([pair.p_value <= 0.05 for pair in pairs])
    print(f"{name}, M = {subsets}: rejected {rejected:.3f}")
    assert rejected <= 0.07
    assert rejected == np.mean([not pair.low <= 0 <= pair.high for pair in pairs])


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_leave_out_intervals_cover(seeds: int) -> None:
    """Effects with a part of the query, of the seed, of the random draw (shared by queries and seeds) and noise."""
    covered, truth = 0, 0.5
    for number in range(SIMULATIONS):
        rng = np.random.default_rng(number)
        top = truth + rng.standard_normal((QUERIES, 1)) + 0.5 * rng.standard_normal((QUERIES, seeds))
        draws = 0.5 * rng.standard_normal(10) + 0.3 * rng.standard_normal((QUERIES, 1, 10))
        random = draws + 0.3 * rng.standard_normal((QUERIES, seeds, 10))
        if seeds > 1:
            top = top + 0.1 * rng.standard_normal(seeds)
        found = leave_out(top, random)
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    print(f"{seeds} seeds: covered {covered / SIMULATIONS:.3f}")
    assert 0.92 <= covered / SIMULATIONS <= 0.98
