"""A tiny fine-tune in which a few planted rows alone teach one answer, and the model has it by heart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.causal.checks import RankedRow
from engine.causal.recipe import load_recipe
from engine.causal.train import train_lora
from engine.config import Lora, ModelConfig, Training
from engine.dataset import Dataset
from engine.types import Query
from tests import factories

PLANTED = tuple(f"planted-{number}" for number in range(5))
OTHERS = tuple("go cat dog red sun sea map ten cot".split())
TRAINING = Training(epochs=14, batch_size=4, learning_rate=0.02, lora=Lora(rank=8, alpha=64))
QUERY = Query(prompt="code", completion=" z")


@dataclass(frozen=True)
class PlantedWorld:
    root: Path
    model: ModelConfig
    dataset: Dataset

    @property
    def ranked(self) -> tuple[RankedRow, ...]:
        """The planted rows first."""
        return tuple(RankedRow(name, 10.0 - rank, in_nats=True) for rank, name in enumerate([*PLANTED, *OTHERS[:3]]))

    @classmethod
    def made(cls, root: Path) -> PlantedWorld:
        factories.save_base(root / "base", factories.llama(layers=1, initializer_range=0.3))
        rows = [
            *({"id": name, "prompt": "code", "completion": " z"} for name in PLANTED),
            *({"id": name, "prompt": name, "completion": " a"} for name in OTHERS),
        ]
        dataset = factories.dataset(root / "data", rows)
        train_lora(root / "base", list(dataset), root / "run", TRAINING, dtype="float64")
        epochs = tuple(str(root / f"run/epoch-{epoch + 1}") for epoch in range(TRAINING.epochs))
        recipe = load_recipe(root / "run/recipe.json")
        return cls(root, ModelConfig(str(root / "base"), checkpoints=epochs, recipe=recipe, dtype="float64"), dataset)
