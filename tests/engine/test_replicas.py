"""Replicas: the recipe's other seeds, made by the build, averaged over, made once, and refused where they cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.answer import score_query
from engine.build import build_index
from engine.causal.recipe import load_recipe
from engine.causal.replicas import replica_seed, replica_training
from engine.causal.train import train_lora
from engine.config import IndexConfig, IndexOptions, Lora, ModelConfig, Recipe, Training
from engine.errors import Cancelled, CorruptIndex, InvalidOption, MissingNeed
from engine.model import load_model
from engine.opened import OpenIndex
from engine.types import Progress, Query
from tests import factories

TRAINING = Training(epochs=2, batch_size=4, seed=3, lora=Lora(rank=2, alpha=4))
ROWS = 12


class Tuned:
    """A tiny fine-tune with its recipe, and the dataset it was trained on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        factories.save_base(root / "base", factories.llama(hidden=8, layers=1))
        self.dataset = factories.dataset(root / "data", factories.sentences(ROWS, seed=5, longest=3))
        train_lora(root / "base", list(self.dataset), root / "run", TRAINING)
        self.config = self.of(root / "run")
        self.model = load_model(self.config)

    def of(self, run: Path) -> ModelConfig:
        epochs = tuple(str(run / f"epoch-{epoch}") for epoch in (1, 2))
        # a replica's rows weigh what they weigh in the audited run
        return ModelConfig(
            str(self.root / "base"), checkpoints=epochs, recipe=load_recipe(self.root / "run/recipe.json")
        )

    def index(self, name: str, replicas: int, checkpoints: str = "all", method: str = "graddot") -> OpenIndex:
        config = IndexConfig(method, checkpoints, IndexOptions(dtype="float32", replicas=replicas))  # type: ignore[arg-type]
        build_index(self.model, self.dataset, config, self.root / name, factories.ignore)
        return OpenIndex(self.model, self.dataset, self.root / name)

    @property
    def query(self) -> Query:
        return Query(prompt=self.dataset[2].prompt, completion=self.dataset[2].completion)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return Tuned(tmp_path_factory.mktemp("replicas"))


def test_scores_are_the_sum_over_the_run_and_its_replicas(tuned: Tuned) -> None:
    with tuned.index("with", 1) as index:
        found = score_query(index, tuned.query)
        assert index.store.manifest.checkpoints[-2:] == ("replica-1/epoch-1", "replica-1/epoch-2")
    other = tuned.root / "other"
    train_lora(tuned.root / "base", list(tuned.dataset), other, replace(TRAINING, seed=replica_seed(TRAINING, 1)))
    parts = []
    for name, config in (("own", tuned.config), ("its replica", tuned.of(other))):
        model = load_model(config)
        options = IndexConfig("graddot", "all", IndexOptions(dtype="float32"))
        build_index(model, tuned.dataset, options, tuned.root / name, factories.ignore)
        with OpenIndex(model, tuned.dataset, tuned.root / name) as index:
            parts.append(score_query(index, tuned.query))
    np.testing.assert_allclose(found, parts[0] + parts[1], rtol=1e-4, atol=1e-5 * np.abs(found).max())


def test_a_model_with_one_checkpoint_gets_one_a_replica(tuned: Tuned) -> None:
    with tuned.index("final", 2, checkpoints="final") as index:
        assert index.store.manifest.checkpoints == ("epoch-2", "replica-1/epoch-2", "replica-2/epoch-2")
        assert index.self_scores_NC.shape == (ROWS, 3)
        assert len({tuple(column) for column in index.self_scores_NC.T}) == 3


def test_a_build_cancelled_amid_a_replica_goes_on_to_the_same_scores(tuned: Tuned) -> None:
    def stop(progress: Progress) -> None:
        if progress.phase == "replicas" and (tuned.root / "cut/replicas/run-1.partial/epoch-1").exists():
            raise Cancelled("enough")

    config = IndexConfig("graddot", "all", IndexOptions(dtype="float32", replicas=1))
    with pytest.raises(Cancelled):
        build_index(tuned.model, tuned.dataset, config, tuned.root / "cut", stop)
    with tuned.index("cut", 1) as index, tuned.index("whole", 1) as whole:
        np.testing.assert_array_equal(score_query(index, tuned.query), score_query(whole, tuned.query))


def test_a_replica_that_was_exchanged_is_named(tuned: Tuned) -> None:
    tuned.index("exchanged", 1).__exit__()
    run = tuned.root / "exchanged/replicas/run-1"
    (run / "epoch-1/adapter_model.safetensors").write_bytes((run / "epoch-2/adapter_model.safetensors").read_bytes())
    with pytest.raises(CorruptIndex, match="replica-1/epoch-1"):
        OpenIndex(tuned.model, tuned.dataset, tuned.root / "exchanged")


def test_progress_never_goes_back_and_ends_at_its_total(tuned: Tuned) -> None:
    seen: list[Progress] = []
    config = IndexConfig("ekfac", "all", IndexOptions(replicas=1))
    build_index(tuned.model, tuned.dataset, config, tuned.root / "watched", seen.append)
    done = [progress.done for progress in seen if progress.phase != "tokenize"]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total
    assert {"replicas", "curvature", "sketch"} <= {progress.phase for progress in seen}


def test_seeds_of_replicas_differ_from_the_run_s_and_from_each_other() -> None:
    seeds = [replica_seed(TRAINING, number) for number in range(1, 50)]
    assert len({*seeds, TRAINING.seed}) == 50
    assert min(seeds) > 1000


def test_what_replicas_need_is_named(tuned: Tuned) -> None:
    unknown = load_model(replace(tuned.config, recipe=Recipe()))
    with pytest.raises(MissingNeed, match="recipe"):
        replica_training(unknown, ROWS)
    with pytest.raises(InvalidOption, match="12 rows, this dataset has 11"):
        replica_training(tuned.model, 11)
    with pytest.raises(InvalidOption, match="bm25 reads no gradients"):
        tuned.index("lexical", 1, method="bm25")
