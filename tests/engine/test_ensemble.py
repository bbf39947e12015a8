"""How checkpoints add up: query factors, row factors, learning rates and what is said when they are not known.

Shapes: Q queries, N rows, C checkpoints.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.config import ModelConfig, Recipe
from engine.ensemble import ensemble_factors, mean_rates, row_factors
from engine.errors import InvalidOption, MissingNeed
from engine.model import load_model
from engine.opened import OpenIndex
from tests.engine.adam_world import EPOCHS, ROWS, TRAINING, AdamWorld, epoch_rates, lora_world

SELVES = arrays(np.float64, st.integers(1, 6), elements=st.floats(0.01, 1e6))
FILE = "optimizer.safetensors"


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> AdamWorld:
    return lora_world(tmp_path_factory.mktemp("ensemble"))


@settings(deadline=None, max_examples=30)
@given(SELVES, st.integers(2, 5), st.floats(0, 0.1))
def test_factors_are_those_of_their_formulas(self_Q: np.ndarray, count: int, rate: float) -> None:
    roots_Q = np.array([value**0.5 for value in self_Q])

    def factors(checkpoints: int, combine: Any, *, unit_norm: bool) -> np.ndarray:
        return ensemble_factors(self_Q, checkpoints, unit_norm=unit_norm, combine=combine, rate=rate)

    np.testing.assert_allclose(factors(count, "scaled", unit_norm=False), 1 / roots_Q)
    np.testing.assert_allclose(factors(count, "scaled", unit_norm=True), 1 / (count * roots_Q))
    np.testing.assert_array_equal(factors(1, "scaled", unit_norm=False), np.ones_like(self_Q))
    np.testing.assert_allclose(factors(1, "scaled", unit_norm=True), 1 / roots_Q)
    for checkpoints in (1, count):
        np.testing.assert_allclose(factors(checkpoints, "learning_rate", unit_norm=False), rate)
        np.testing.assert_allclose(factors(checkpoints, "learning_rate", unit_norm=True), rate / roots_Q)
        np.testing.assert_array_equal(factors(checkpoints, "sum", unit_norm=False), np.ones_like(self_Q))
        np.testing.assert_allclose(factors(checkpoints, "sum", unit_norm=True), 1 / roots_Q)


@pytest.mark.parametrize("combine", ["scaled", "learning_rate", "sum"])
def test_a_zero_gradient_has_factor_zero_where_its_norm_divides(combine: Any) -> None:
    found = ensemble_factors(np.array([0.0, 4.0]), 2, unit_norm=True, combine=combine, rate=3.0)
    assert found[0] == 0 and found[1] > 0


@settings(deadline=None, max_examples=30)
@given(arrays(np.float64, (4, 3), elements=st.floats(0.01, 1e6)), st.sampled_from([0, 0.5, 1]))
def test_row_and_query_factors_give_the_ensembles_formula(self_NC: np.ndarray, power: float) -> None:
    """Σ_c score_c/(√s_c(q)·s_c(z)^{p/2}); with p = 1 a row's score on itself is the number of checkpoints."""
    rows_NC = row_factors(self_NC, power)
    queries_NC = np.stack([ensemble_factors(column, 3, unit_norm=False) for column in self_NC.T], 1)
    for n in range(4):
        for c in range(3):
            expected = self_NC[n, c] / (self_NC[n, c] ** 0.5 * self_NC[n, c] ** (power / 2))
            assert self_NC[n, c] * rows_NC[n, c] * queries_NC[n, c] == pytest.approx(expected)
    if power == 0:
        np.testing.assert_array_equal(rows_NC, np.ones_like(self_NC))
    if power == 1:
        np.testing.assert_allclose((self_NC * rows_NC * queries_NC).sum(1), 3)


def test_a_row_without_gradient_stays_zero() -> None:
    np.testing.assert_array_equal(row_factors(np.array([0.0, 4.0]), 1), [0.0, 0.5])


# --- learning rates ---


def test_an_epochs_rate_is_transformers_mean_over_it(lora: AdamWorld) -> None:
    np.testing.assert_allclose(mean_rates(lora.model, lora.model.states), epoch_rates(), rtol=1e-12)


def test_checkpoints_left_out_leave_their_steps_to_the_next(lora: AdamWorld) -> None:
    states, rates = lora.model.states, epoch_rates()
    np.testing.assert_allclose(mean_rates(lora.model, [states[0], states[2]]), [rates[0], (rates[1] + rates[2]) / 2])
    np.testing.assert_allclose(mean_rates(lora.model, states[2:]), [np.mean(rates)])


def test_a_replicas_steps_start_anew(lora: AdamWorld) -> None:
    states = lora.model.states
    np.testing.assert_allclose(mean_rates(lora.model, [*states, *states]), epoch_rates() * 2)


def renamed(world: AdamWorld, root: Path, names: list[str], recipe: Recipe | None = None) -> Any:
    """The run's adapters under other names, without Adam's state."""
    for epoch, name in enumerate(names):
        source = world.root / f"run/epoch-{epoch + 1}"
        shutil.copytree(source, root / name, ignore=shutil.ignore_patterns(FILE))
    paths = tuple(str(root / name) for name in names)
    config: ModelConfig = replace(world.config, checkpoints=paths, recipe=recipe or world.config.recipe)
    return load_model(config)


def test_as_many_checkpoints_as_epochs_are_the_epochs(lora: AdamWorld, tmp_path: Path) -> None:
    model = renamed(lora, tmp_path, ["a", "b", "c"])
    np.testing.assert_allclose(mean_rates(model, model.states), epoch_rates())


def test_a_trainers_directories_tell_their_steps(lora: AdamWorld, tmp_path: Path) -> None:
    """max_steps, not the steps the model at hand took, is what the schedule ran towards."""
    details = {"max_steps": 3 * EPOCHS, "global_step": 6}
    recipe = Recipe(training=TRAINING, details=details)
    model = renamed(lora, tmp_path, ["checkpoint-3", "checkpoint-6"], recipe)
    np.testing.assert_allclose(mean_rates(model, model.states), epoch_rates()[:2])


def test_a_model_alone_is_the_end_of_its_run(lora: AdamWorld, tmp_path: Path) -> None:
    recipe = Recipe(training=TRAINING, details={"rows": ROWS})
    model = renamed(lora, tmp_path, ["final"], recipe)
    np.testing.assert_allclose(mean_rates(model, model.states), [np.mean(epoch_rates())])


def test_what_is_missing_is_named(lora: AdamWorld, tmp_path: Path) -> None:
    with pytest.raises(MissingNeed, match="training recipe") as caught:
        mean_rates(replaced(lora, Recipe()), lora.model.states)
    assert "recipe" in caught.value.remedy
    with pytest.raises(MissingNeed, match="number of steps"):
        mean_rates(replaced(lora, Recipe(training=TRAINING)), lora.model.states)
    model = renamed(lora, tmp_path, ["a", "b"])
    with pytest.raises(MissingNeed, match=r"step at which each checkpoint.*3 epochs are not the model's 2 checkpoints"):
        mean_rates(model, model.states)


@pytest.mark.parametrize(
    "details", [{"unknown": ["learning_rate", "seed"]}, {"unsupported": {"lr_scheduler_type": "polynomial"}}]
)
def test_a_schedule_that_is_only_a_guess_is_refused(lora: AdamWorld, details: dict[str, Any]) -> None:
    recipe = Recipe(training=TRAINING, details=details | {"max_steps": 9})
    with pytest.raises(MissingNeed, match=r"learning_rate|lr_scheduler_type"):
        mean_rates(replaced(lora, recipe), lora.model.states)
    known = Recipe(training=TRAINING, details={"unknown": ["seed", "betas"], "unsupported": {}, "max_steps": 9})
    np.testing.assert_allclose(mean_rates(replaced(lora, known), lora.model.states), epoch_rates())


def test_another_runs_recipe_is_refused(lora: AdamWorld) -> None:
    recipe = Recipe(training=TRAINING, details={"max_steps": 5})
    with pytest.raises(InvalidOption, match="epoch-2 was saved at step 6, and the recipe has 5 steps"):
        mean_rates(replaced(lora, recipe), lora.model.states)


def replaced(world: AdamWorld, recipe: Recipe) -> Any:
    return load_model(replace(world.config, recipe=recipe))


def test_an_index_keeps_its_rates(lora: AdamWorld) -> None:
    """A recipe edited later changes no answer of an index that was built with another one."""
    with lora.index("tracin") as index:
        path, before = index.store.path, lora.scores(index)
        np.testing.assert_allclose(index.store.load_tensors("rates")["rates"], epoch_rates())
    faster = replace(TRAINING, learning_rate=1.0, schedule="constant")
    assert lora.config.recipe is not None
    model = replaced(lora, replace(lora.config.recipe, training=faster))
    with OpenIndex(model, lora.dataset, path) as index:
        np.testing.assert_array_equal(lora.scores(index), before)


def test_a_build_without_recipe_stops_before_it_costs_anything(lora: AdamWorld, tmp_path: Path) -> None:
    world = AdamWorld(tmp_path, replace(lora.config, recipe=Recipe()), lora.dataset)
    for method in ("tracin", "less"):
        with pytest.raises(MissingNeed, match="recipe"):
            world.index(method)
    assert not list(tmp_path.rglob("*.faiss"))
