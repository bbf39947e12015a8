"""A tiny fine-tune with its index, and an evaluation of it: everything real, in seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from engine.build import build_index
from engine.causal.recipe import load_recipe
from engine.causal.train import train_lora
from engine.config import IndexConfig, Lora, ModelConfig, Training
from engine.dataset import Dataset
from engine.evaluate.evaluation import evaluate
from engine.evaluate.scorecard import EvaluationConfig, EvaluationQuery, Scorecard
from engine.model import load_model
from engine.types import CheckpointFn, Query
from tests import factories

ROWS, QUERIES, EPOCHS = 24, 8, 2
TRAINING = Training(epochs=EPOCHS, batch_size=8, learning_rate=0.02, lora=Lora(rank=2, alpha=4), epsilon=1e-3)
CONFIG = EvaluationConfig(
    half_subsets=8,
    half_seeds=2,
    drop_subsets=6,
    drop_share=0.1,
    leave_out_queries=2,
    leave_out_rows=2,
    leave_out_draws=2,
    leave_out_seeds=1,
    directions=2,
    canaries=0,
)


@dataclass(frozen=True)
class EvaluatedWorld:
    model: ModelConfig
    dataset: Dataset
    index_dir: Path
    queries: tuple[EvaluationQuery, ...]

    @classmethod
    def made(cls, root: Path, method: str = "graddot") -> EvaluatedWorld:
        base = factories.save_base(root / "base", factories.llama(hidden=8, layers=1))
        rows = factories.sentences(ROWS, seed=3, longest=3)
        dataset = factories.dataset(root / "data", rows)
        train_lora(base, list(dataset), root / "run", TRAINING)
        epochs = tuple(str(root / f"run/epoch-{epoch + 1}") for epoch in range(EPOCHS))
        model = ModelConfig(str(base), checkpoints=epochs, recipe=load_recipe(root / "run/recipe.json"))
        loaded = load_model(model)
        build_index(loaded, dataset, IndexConfig(method), root / "index", factories.ignore)
        asked = factories.sentences(QUERIES, seed=9, longest=3)
        queries = tuple(
            EvaluationQuery(Query(prompt=row["prompt"], completion=row["completion"]), f"group {n // 2}")
            for n, row in enumerate(asked)
        )
        return cls(model, dataset, root / "index", queries)

    def evaluate(
        self, work: Path, checkpoint: CheckpointFn = factories.ignore, config: EvaluationConfig = CONFIG
    ) -> Scorecard:
        return evaluate(self.model, self.dataset, self.index_dir, self.queries, config, work, checkpoint)


def timeless(scorecard: Scorecard) -> Scorecard:
    return replace(scorecard, seconds=0.0)
