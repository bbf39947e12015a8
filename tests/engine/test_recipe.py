"""recipe.json, and the recipe that lies beside a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.causal.recipe import load_recipe, save_recipe
from engine.causal.recorded import find_recipe, recipe_at
from engine.config import Lora, ModelConfig, Recipe, TemplateConfig, Training, fingerprint
from engine.errors import InvalidOption

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
SMALL = st.floats(0, 1e3, allow_nan=False)
LORAS = st.builds(
    Lora,
    rank=st.integers(1, 64),
    alpha=st.floats(1e-3, 128),
    targets=TEXT | st.lists(TEXT, min_size=1, max_size=3).map(tuple),
)
TRAININGS = st.builds(
    Training,
    optimizer=TEXT,
    learning_rate=SMALL,
    schedule=st.sampled_from(["linear", "cosine", "constant"]),
    warmup_share=st.floats(0, 1),
    epochs=st.integers(1, 50),
    batch_size=st.integers(1, 64),
    accumulation=st.integers(1, 8),
    seed=st.integers(0, (1 << 63) - 1),
    weight_decay=SMALL,
    betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    epsilon=SMALL,
    max_grad_norm=st.none() | st.floats(1e-6, 10),
    lora=st.none() | LORAS,
)
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | SMALL | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
RECIPES = st.builds(
    Recipe,
    reduction=st.sampled_from(["token_sum", "example_mean", "batch_token_mean"]),
    template=st.builds(TemplateConfig, bos=st.sampled_from(["auto", "always", "never"]), eos=st.booleans()),
    max_length=st.none() | st.integers(1, 4096),
    steps=st.none() | st.lists(st.lists(st.integers(0, 99), max_size=3).map(tuple), max_size=4).map(tuple),
    training=st.none() | TRAININGS,
    details=st.dictionaries(TEXT, JSON, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(recipe=RECIPES)
def test_a_recipe_read_is_the_one_written(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("recipe") / "recipe.json"
    save_recipe(path, recipe)
    read = load_recipe(path)
    assert read == recipe
    assert fingerprint(read) == fingerprint(recipe)


def test_a_recipe_of_an_older_version_is_read(tmp_path: Path) -> None:
    old = {"reduction": "batch_token_mean", "steps": [[1, 0]], "details": {"optimizer": "adamw"}}
    (tmp_path / "recipe.json").write_text(json.dumps(old))
    expected = Recipe("batch_token_mean", steps=((1, 0),), details={"optimizer": "adamw"})
    assert load_recipe(tmp_path / "recipe.json") == expected


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"training": {"learning_rte": 1}}, "training.learning_rte"),
        ({"training": {"lora": {"dropout": 0.1}}}, "training.lora.dropout"),
        ({"training": {"schedule": "wavy"}}, "linear"),
        ({"template": {"bos": "auto", "chat": 1}}, "template.chat"),
        ([1], "recipe"),
    ],
)
def test_what_is_no_recipe_is_refused_by_name(tmp_path: Path, value: Any, told: str) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(value))
    with pytest.raises(InvalidOption, match=told):
        load_recipe(tmp_path / "recipe.json")


@pytest.fixture
def trainer_run(tmp_path: Path) -> Path:
    """What a Trainer leaves, written by hand."""
    run = tmp_path / "theirs"
    logs = [{"step": step, "learning_rate": 0.1 * (9 - step) / 8, "epoch": step / 4} for step in range(1, 9)]
    state = {"global_step": 8, "max_steps": 8, "num_train_epochs": 2, "train_batch_size": 2, "log_history": logs}
    (run / "checkpoint-8").mkdir(parents=True)
    (run / "checkpoint-8" / "trainer_state.json").write_text(json.dumps(state))
    arguments = {"seed": 3, "gradient_accumulation_steps": 1, "num_train_epochs": 2, "learning_rate": 0.1}
    (run / "training_args.json").write_text(json.dumps(arguments))
    return run


def test_the_recipe_beside_a_model_is_found_or_the_run_above_it(trainer_run: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "epoch-1").mkdir(parents=True)
    written = Recipe("example_mean", training=Training(seed=9))
    save_recipe(own / "recipe.json", written)
    found = find_recipe(ModelConfig("base", adapter=str(own / "epoch-1")))
    assert found is not None
    assert (found.recipe, found.notes) == (written, (f"the recipe was taken from {own}",))
    theirs = find_recipe(ModelConfig("base", checkpoints=(str(own / "epoch-1"), str(trainer_run / "checkpoint-8"))))
    assert theirs is not None
    assert theirs.recipe is not None
    assert theirs.recipe.training == recipe_at(trainer_run).training  # type: ignore[union-attr]
    assert find_recipe(ModelConfig(str(own / "epoch-1"))) is None  # a base alone: only where it lies itself


def test_files_outside_the_roots_are_not_opened(trainer_run: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "trainer_state.json").symlink_to(trainer_run / "checkpoint-8" / "trainer_state.json")
    save_recipe(tmp_path / "recipe.json", Recipe())
    model = ModelConfig("base", adapter=str(inside))
    assert find_recipe(model, roots=[inside]) is None
    assert find_recipe(model) is not None


def test_a_stranger_called_recipe_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"ingredients": ["flour"]}')
    found = find_recipe(ModelConfig("base", adapter=str(tmp_path)))
    assert found is not None
    assert found.recipe is None
    assert "ingredients" in found.notes[0]
