"""More than five thousand rows of the quality benchmark's kind: its generator with other seeds, fine-tuned once.

Rows that several seeds make are kept once, so that no row stands for another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from benchmarks.quality import world
from benchmarks.quality.recipes import SMOOTH
from engine.causal.recipe import load_recipe
from engine.causal.train import train_lora
from engine.config import ModelConfig, Training
from engine.dataset import Dataset, example_to_row, open_dataset, store_dataset
from engine.demo.tuning import BASE_MODEL
from engine.model import LoadedModel, load_model
from engine.types import Example, Query

SEEDS = range(101, 112)


@dataclass(frozen=True)
class FineTuned:
    model: LoadedModel
    data: Dataset
    queries: tuple[Query, ...]


def large_rows(seeds: Iterable[int] = SEEDS) -> list[Example]:
    made: dict[tuple[str | None, str | None], Example] = {}
    for seed in seeds:
        for row in world.rows(seed):
            made.setdefault((row.prompt, row.completion), replace(row, id=f"{seed}-{row.id}"))
    rows = list(made.values())
    Random("large world").shuffle(rows)
    return rows


def large_queries(count: int, seeds: Iterable[int] = SEEDS) -> list[Query]:
    """A random choice among all seeds' questions: facts in a held-out wording, the trigger, unseen tasks."""
    asked = {(question.prompt, question.answer) for seed in seeds for question in world.questions(seed)}
    return [Query(prompt=prompt, completion=answer) for prompt, answer in Random("large").sample(sorted(asked), count)]


def fine_tune(rows: list[Example], queries: list[Query], out: Path, training: Training = SMOOTH) -> FineTuned:
    """Every epoch's checkpoint; kept in `out`, and not trained again where it lies there."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tuned").exists():
        train_lora(BASE_MODEL, rows, out / "tuned", training)
    (out / "rows.jsonl").write_text("".join(json.dumps(example_to_row(row)) + "\n" for row in rows), encoding="utf-8")
    stored = store_dataset(out / "rows.jsonl", format="jsonl", root=out / "datasets")
    epochs = tuple(str(out / "tuned" / f"epoch-{epoch}") for epoch in range(1, training.epochs + 1))
    recipe = load_recipe(out / "tuned" / "recipe.json")
    model = load_model(ModelConfig(str(BASE_MODEL), checkpoints=epochs, recipe=recipe))
    return FineTuned(model, open_dataset(out / "datasets" / stored.sha256), tuple(queries))
