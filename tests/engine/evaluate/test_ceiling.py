"""The ceiling is what a perfect method reaches on outcomes with seed noise."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidOption
from engine.evaluate.ceiling import corrected_lds, noise_ceiling, seed_reliability
from engine.evaluate.lds import score_lds


@pytest.mark.parametrize("seeds", [2, 4])
@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_a_perfect_method_reaches_the_ceiling(seeds: int, noise: float) -> None:
    rng = np.random.default_rng(0)
    truth_QM = rng.standard_normal((100, 200))
    outcome_QMR = truth_QM[:, :, None] + noise * rng.standard_normal((100, 200, seeds))
    ceiling = noise_ceiling(seed_reliability(outcome_QMR), seeds)
    assert ceiling is not None
    reached = score_lds(truth_QM, outcome_QMR).value
    assert corrected_lds(reached, ceiling) == pytest.approx(1.0, abs=0.02)


def test_two_seeds_are_the_familiar_formula() -> None:
    assert noise_ceiling(0.5) == pytest.approx((2 * 0.5 / 1.5) ** 0.5)
    assert noise_ceiling(1.0, 3) == pytest.approx(1.0)
    assert noise_ceiling(0.25, 1) == pytest.approx(0.5)


def test_reliability_is_the_mean_over_pairs_of_seeds_and_defined_queries() -> None:
    first, second, third = np.arange(6.0), np.array([0, 1, 2, 3, 5, 4.0]), np.arange(6.0)[::-1]
    outcome_QMR = np.stack([np.stack([first, second, third], axis=1), np.zeros((6, 3))])
    between = 1 - 6 * 2 / (6 * 35)
    assert seed_reliability(outcome_QMR) == pytest.approx((between - 1 - between) / 3)


def test_without_reproducible_outcomes_there_is_no_ceiling() -> None:
    assert noise_ceiling(0.0) is None
    assert noise_ceiling(-0.1) is None
    assert noise_ceiling(None) is None
    assert seed_reliability(np.ones((3, 5, 2))) is None
    assert seed_reliability(np.random.default_rng(0).standard_normal((3, 5, 1))) is None
    assert corrected_lds(0.3, None) is None
    assert corrected_lds(None, 0.8) is None
    with pytest.raises(InvalidOption):
        seed_reliability(np.ones((3, 5)))
