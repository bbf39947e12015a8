"""Effects in nats: a known slope is found, and intervals hold what they promise for queries never fitted on.

Shapes: Q queries, V retrainings without random rows.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import InvalidOption
from engine.evaluate.effect_model import EffectModel, room
from engine.evaluate.effects import MINIMUM_GROUPS, Named, fit_effects

ROWS, SLOPE = 500, 40.0


class World:
    """Queries with noise scales and slopes of their own; outputs that are nearly certain hardly move."""

    def __init__(self, seed: int, queries: int, retrainings: int = 40, *, spread: float = 0.3, noise: float = 0.02):
        self.rng = np.random.default_rng(seed)
        self.spread = spread
        self.log_prob_Q = -np.exp(self.rng.normal(0, 1.2, queries))
        self.size_Q = np.array([room(f) for f in self.log_prob_Q]) ** 0.5
        self.noise_Q = noise * np.exp(self.rng.normal(0, 0.6, queries))
        self.slope_Q = SLOPE * np.exp(self.rng.normal(0, spread, queries))
        self.offset_Q = 0.5 * self.noise_Q * self.rng.standard_normal(queries)  # the undisturbed run's own noise
        self.predicted_QV = self.rng.normal(0, 5e-4, (queries, retrainings))
        self.measured_QV = np.stack([self.measure(q, self.predicted_QV[q]) for q in range(queries)])

    def measure(self, query: int, predicted: np.ndarray) -> np.ndarray:
        noise = self.noise_Q[query] * self.rng.standard_t(5, np.shape(predicted)) + self.offset_Q[query]
        changed = self.size_Q[query] * (self.slope_Q[query] * predicted + noise)
        return np.minimum(changed, -self.log_prob_Q[query])

    def named(self, queries: range, seeds: int = 2) -> Named:
        query_C = np.repeat(list(queries), seeds)
        predicted_C = -np.abs(self.rng.normal(3e-3, 1e-3, len(query_C)))
        measured_C = np.array([float(self.measure(q, x)) for q, x in zip(query_C, predicted_C, strict=True)])
        return Named(query_C, predicted_C, measured_C)

    def fit(self, queries: range, named: Named | None = None) -> EffectModel | None:
        q = slice(queries.start, queries.stop)
        return fit_effects(
            self.predicted_QV[q],
            self.measured_QV[q],
            list(queries),
            rows=ROWS,
            named=named,
            log_prob_Q=self.log_prob_Q[q],
        )

    def inside(self, model: EffectModel, query: int, predicted: float, measured: float) -> bool:
        effect = model.predict(-predicted * ROWS, float(self.log_prob_Q[query]))
        return effect.low <= measured <= effect.high


def test_random_rows_fall_inside_on_queries_never_fitted() -> None:
    shares = []
    for seed in range(6):
        world = World(seed, 80)
        model = world.fit(range(40))
        assert model is not None
        cells = [
            world.inside(model, q, x, y)
            for q in range(40, 80)
            for x, y in zip(world.predicted_QV[q], world.measured_QV[q], strict=True)
        ]
        shares.append(np.mean(cells))
    assert 0.85 <= np.mean(shares) <= 0.95


def test_hits_fall_inside_on_queries_never_fitted() -> None:
    """24 queries' hits measured; judged on the hits of 60 others."""
    shares = []
    for seed in range(6):
        world = World(seed, 100)
        model = world.fit(range(40), world.named(range(24)))
        assert model is not None and model.for_hits
        hits = world.named(range(40, 100))
        cells = zip(hits.query_C, hits.predicted_C, hits.measured_C, strict=True)
        shares.append(np.mean([world.inside(model, q, x, y) for q, x, y in cells]))
    assert 0.85 <= np.mean(shares) <= 0.95


def test_the_slope_is_found_and_inside_its_interval() -> None:
    found = [World(seed, 40, 20, spread=0.1).fit(range(40)) for seed in range(20)]
    slopes = [model.slope for model in found if model is not None]
    assert np.mean(slopes) == pytest.approx(SLOPE, rel=0.05)
    covered = [model.slope_low <= SLOPE <= model.slope_high for model in found if model is not None]
    assert len(covered) == 20
    assert np.mean(covered) >= 0.8


def test_without_errors_the_model_is_exact() -> None:
    rng = np.random.default_rng(0)
    predicted_QV = rng.normal(0, 1e-3, (12, 20))
    model = fit_effects(predicted_QV, SLOPE * predicted_QV, range(12), rows=ROWS)
    assert model is not None
    effect = model.predict(score=2.0)
    assert effect.value == pytest.approx(-SLOPE * 2.0 / ROWS)
    assert effect.high - effect.low == pytest.approx(0, abs=1e-3)


def test_outliers_do_not_move_the_slope() -> None:
    world = World(1, 40)
    before = world.fit(range(40))
    world.measured_QV[::10] = -5.0
    after = world.fit(range(40))
    assert before is not None and after is not None
    assert after.slope == pytest.approx(before.slope, rel=0.15)


def test_hits_tell_their_own_slope_where_random_rows_attenuate_it() -> None:
    """Scores of random rows are mostly errors, those of hits are not."""
    world = World(2, 60)
    world.predicted_QV = world.predicted_QV + world.rng.normal(0, 1.5e-3, world.predicted_QV.shape)
    random, hits = world.fit(range(60)), world.fit(range(60), world.named(range(20)))
    assert random is not None and hits is not None
    assert random.slope < SLOPE / 2
    assert hits.slope == pytest.approx(SLOPE, rel=0.3)


def test_certain_outputs_get_narrow_intervals() -> None:
    model = World(3, 60).fit(range(60))
    assert model is not None
    assert model.exponent > 0.3
    sure, unsure = model.predict(10.0, -0.01), model.predict(10.0, -3.0)
    assert sure.high - sure.low < 0.3 * (unsure.high - unsure.low)
    assert abs(sure.value) < abs(unsure.value)


def test_noise_and_prediction_both_widen_the_interval() -> None:
    quiet, loud = World(4, 60).fit(range(60)), World(4, 60, noise=0.2).fit(range(60))
    assert quiet is not None and loud is not None
    width = {model: (e := model.predict(0.0, -1.0)).high - e.low for model in (quiet, loud)}
    assert width[loud] > 3 * width[quiet]
    large = quiet.predict(50.0, -3.0)
    assert large.high - large.low > width[quiet]


@pytest.mark.parametrize("queries", [0, 1, MINIMUM_GROUPS - 1])
def test_too_few_queries_promise_nothing(queries: int) -> None:
    assert World(0, queries + 1).fit(range(queries)) is None


def test_groups_count_not_queries() -> None:
    world = World(0, 24)
    given = (world.predicted_QV, world.measured_QV)
    assert fit_effects(*given, [q // 3 for q in range(24)], rows=ROWS) is None
    assert fit_effects(*given, [q // 2 for q in range(24)], rows=ROWS) is not None


def test_hits_of_too_few_queries_are_left_aside() -> None:
    world = World(5, 30)
    few, enough = (world.fit(range(30), world.named(range(n))) for n in (MINIMUM_GROUPS - 1, MINIMUM_GROUPS))
    assert few is not None and enough is not None
    assert (few.for_hits, enough.for_hits) == (False, True)
    assert few.slope == world.fit(range(30)).slope  # type: ignore[union-attr]


def test_outcomes_that_do_not_vary_give_no_model() -> None:
    assert fit_effects(np.ones((20, 5)), np.zeros((20, 5)), range(20), rows=ROWS) is None


def test_scores_that_predict_nothing_or_the_contrary_have_no_effect() -> None:
    world = World(6, 40)
    for predicted_QV in (np.zeros_like(world.predicted_QV), -world.predicted_QV):
        model = fit_effects(predicted_QV, world.measured_QV, range(40), rows=ROWS)
        assert model is not None
        assert model.slope == 0.0
        effect = model.predict(100.0)
        assert effect.value == 0
        assert effect.low < 0 < effect.high


def test_a_log_probability_cannot_rise_above_certainty() -> None:
    model = World(7, 40).fit(range(40))
    assert model is not None
    effect = model.predict(-1e6, -0.05)
    assert effect.value <= effect.high <= 0.05
    other = replace(model, log_prob=False, exponent=0.0).predict(-1e6, -0.05)
    assert other.high > 0.05


def test_the_prediction_is_the_documented_formula() -> None:
    model = EffectModel(100, 10.0, 8.0, 12.0, 0.5, 0.1, 0.2, 2.0, 0.9, True, True, 20, 60)
    effect = model.predict(3.0, -1.0)
    size, expected = (1 - math.exp(-1.0)) ** 0.5, -0.3
    assert effect.value == pytest.approx(size * expected)
    assert effect.low == pytest.approx(size * (expected - 2 * (0.1 + 0.2 * 0.3)))
    assert effect.high == pytest.approx(size * (expected + 2 * (0.1 + 0.2 * 0.3)))
    assert model.predict(3.0).value == pytest.approx(0.9 * expected)


def test_a_model_survives_json() -> None:
    model = World(8, 20).fit(range(20))
    assert model is not None
    assert EffectModel.from_json(json.loads(json.dumps(model.to_json()))) == model


def test_the_order_of_queries_and_the_names_of_groups_do_not_matter_to_the_fit() -> None:
    world, order = World(9, 30), np.random.default_rng(0).permutation(30)
    one = world.fit(range(30))
    other = fit_effects(
        world.predicted_QV[order],
        world.measured_QV[order],
        [f"fact {q}" for q in order],
        rows=ROWS,
        log_prob_Q=world.log_prob_Q[order],
    )
    assert one is not None and other is not None
    assert (other.slope, other.noise, other.exponent) == pytest.approx((one.slope, one.noise, one.exponent))


@pytest.mark.parametrize(
    ("predicted", "measured", "groups", "log_prob"),
    [
        (np.ones((3, 2)), np.ones((3, 3)), range(3), None),
        (np.ones((3, 2)), np.ones((3, 2)), range(2), None),
        (np.ones(3), np.ones(3), range(3), None),
        (np.ones((3, 2)), np.ones((3, 2)), range(3), np.ones(2)),
        (np.ones((3, 2)), np.full((3, 2), np.nan), range(3), None),
        (np.full((3, 2), np.inf), np.ones((3, 2)), range(3), None),
        (np.ones((3, 2)), np.ones((3, 2)), range(3), np.full(3, np.nan)),
    ],
)
def test_what_does_not_fit_is_refused(
    predicted: np.ndarray, measured: np.ndarray, groups: range, log_prob: np.ndarray | None
) -> None:
    with pytest.raises(InvalidOption):
        fit_effects(predicted, measured, groups, rows=ROWS, log_prob_Q=log_prob)


def test_named_cells_of_different_lengths_are_refused() -> None:
    with pytest.raises(InvalidOption):
        fit_effects(
            np.ones((3, 2)), np.ones((3, 2)), range(3), rows=ROWS, named=Named(np.zeros(2, int), np.ones(2), np.ones(3))
        )
