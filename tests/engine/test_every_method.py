"""Every registered method on one fine-tune with all a method may need; and what each says when that is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.causal.recipe import load_recipe
from engine.causal.train import train_lora
from engine.config import IndexConfig, IndexOptions, Lora, ModelConfig, Recipe, Training
from engine.dataset import Dataset
from engine.errors import InvalidOption, MissingNeed
from engine.methods import all_methods, get_method
from engine.pipeline import score_matrix
from engine.types import Query
from tests import factories

ROWS = 14
NAMES = [method.name for method in all_methods()]
TRAINING = Training(epochs=3, batch_size=5, learning_rate=0.02, lora=Lora(rank=2, alpha=4))


class Tuned:
    def __init__(self, root: Path) -> None:
        base = root / "base"
        factories.save_base(base, factories.llama(hidden=8, layers=1))
        self.dataset: Dataset = factories.dataset(root / "data", factories.sentences(ROWS, seed=4, longest=4))
        train_lora(base, list(self.dataset), root / "run", TRAINING)
        epochs = tuple(str(root / "run" / f"epoch-{epoch}") for epoch in (1, 2, 3))
        self.config = ModelConfig(str(base), checkpoints=epochs, recipe=load_recipe(root / "run" / "recipe.json"))

    @property
    def queries(self) -> list[Query]:
        return [Query(prompt=self.dataset[i].prompt, completion=self.dataset[i].completion) for i in (1, 6)]

    def scores(self, method: str, model: ModelConfig | None = None) -> np.ndarray:
        cheap = {"damping": 30.0} if method == "lissa" else {}  # its passes are the condition number's
        config = IndexConfig(method, options=IndexOptions(dtype="float32", curvature_rows=8), method_options=cheap)
        return score_matrix(model or self.config, self.dataset, self.queries, config).scores_QN


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return Tuned(tmp_path_factory.mktemp("every"))


@pytest.mark.parametrize("method", NAMES)
def test_every_method_scores_every_row(tuned: Tuned, method: str) -> None:
    scores_QN = tuned.scores(method)
    assert scores_QN.shape == (2, ROWS)
    assert np.isfinite(scores_QN).all()
    assert (scores_QN.std(1) > 0).all()
    again_QN = tuned.scores(method)
    np.testing.assert_array_equal(scores_QN, again_QN)


@pytest.mark.parametrize("method", [m.name for m in all_methods() if "recipe" in m.needs])
def test_a_missing_recipe_is_named(tuned: Tuned, method: str) -> None:
    with pytest.raises(MissingNeed, match="recipe"):
        tuned.scores(method, replace(tuned.config, recipe=Recipe()))


@pytest.mark.parametrize("method", NAMES)
def test_an_unknown_option_is_refused_with_the_nearest_name(method: str) -> None:
    known = get_method(method).spec().options.get("properties", {})
    wrong = f"{next(iter(known), 'option')}x"
    with pytest.raises(InvalidOption) as caught:
        get_method(method).parse({wrong: 1})
    if known:
        assert repr(wrong[:-1]) in caught.value.detail
