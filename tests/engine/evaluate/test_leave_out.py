"""Leave-out against random removals: means by hand, and an interval that counts queries, seeds and draws."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidOption
from engine.evaluate.leave_out import leave_out


def test_means_and_wins_by_hand() -> None:
    top_QR = np.array([[2.0, 4.0], [1.0, 1.0]])
    random_QRK = np.array([[[0.0, 1.0], [0.0, 3.0]], [[1.0, 2.0], [1.0, 2.0]]])
    found = leave_out(top_QR, random_QRK)
    assert (found.top, found.random, found.difference) == (2.0, 1.25, 0.75)
    assert found.win_share == (1 + 1 + 0.5 + 0) / 4  # 3 > 0, 3 > 2, 1 = 1, 1 < 2
    assert (found.queries, found.seeds, found.draws) == (2, 2, 2)


def test_a_clear_effect_is_found_and_none_is_not() -> None:
    rng = np.random.default_rng(0)
    noise_QRK = rng.standard_normal((30, 2, 8))
    clear, none = (leave_out(shift + rng.standard_normal((30, 2)), noise_QRK) for shift in (3.0, 0.0))
    assert clear.low is not None and clear.p_value is not None and none.p_value is not None
    assert clear.low > 0
    assert clear.p_value < 1e-6
    assert clear.win_share > 0.9
    assert none.low is not None and none.high is not None
    assert none.low <= 0 <= none.high
    assert none.p_value > 0.05


@pytest.mark.parametrize("part", ["queries", "seeds", "draws"])
def test_each_sample_widens_the_interval(part: str) -> None:
    rng = np.random.default_rng(1)
    top_QR, random_QRK = 0.1 * rng.standard_normal((20, 4)), 0.1 * rng.standard_normal((20, 4, 6))
    before = leave_out(top_QR, random_QRK)
    if part == "draws":
        random_QRK = random_QRK + rng.standard_normal(6)
    else:
        top_QR = top_QR + rng.standard_normal((20, 1) if part == "queries" else 4)
    after = leave_out(top_QR, random_QRK)
    assert before.low is not None and before.high is not None and after.low is not None and after.high is not None
    assert after.high - after.low > 3 * (before.high - before.low)


def test_one_query_or_one_draw_has_no_interval() -> None:
    for shape in [(1, 3, 5), (5, 3, 1)]:
        found = leave_out(np.ones(shape[:2]), np.zeros(shape))
        assert (found.difference, found.low, found.high, found.p_value) == (1.0, None, None, None)


def test_no_scatter_at_all() -> None:
    found = leave_out(np.ones((4, 2)), np.zeros((4, 2, 3)))
    assert (found.low, found.high, found.p_value, found.win_share) == (1.0, 1.0, 0.0, 1.0)


def test_broken_input_is_refused() -> None:
    for top, random in [((4, 2), (4, 3, 5)), ((4,), (4, 1, 5)), ((0, 2), (0, 2, 5))]:
        with pytest.raises(InvalidOption):
            leave_out(np.zeros(top), np.zeros(random))
    with pytest.raises(InvalidOption):
        leave_out(np.full((4, 2), np.nan), np.zeros((4, 2, 5)))
