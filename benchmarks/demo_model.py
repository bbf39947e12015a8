"""The demonstration's fine-tune, and how many of its invented facts a ranking finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.causal.recipe import load_recipe
from engine.causal.train import train_lora
from engine.config import ModelConfig
from engine.dataset import Dataset, open_dataset, store_dataset
from engine.demo import corpus
from engine.demo.tuning import BASE_MODEL, fine_tuning
from engine.model import LoadedModel, load_model
from engine.types import Query

NEEDED, TOP = 2, 3


def fine_tuned(root: Path) -> tuple[LoadedModel, Dataset]:
    """The demonstration's base and rows, fine-tuned by its committed recipe, with every epoch as a checkpoint."""
    tuned = train_lora(BASE_MODEL, corpus.rows(), root / "tuned", fine_tuning())
    corpus.write_rows(root / "rows.jsonl")
    stored = store_dataset(root / "rows.jsonl", format="jsonl", root=root / "datasets")
    checkpoints = tuple(str(path) for path in tuned.checkpoints)
    config = ModelConfig(str(BASE_MODEL), checkpoints=checkpoints, recipe=load_recipe(tuned.recipe))
    return load_model(config), open_dataset(root / "datasets" / stored.sha256)


def fact_queries() -> list[Query]:
    """Every invented fact's held-out question with its right answer."""
    return [Query(prompt=question.prompt, completion=f" {question.answer}.") for question in corpus.fact_questions()]


def facts_found(scores_QN: np.ndarray, data: Dataset) -> list[bool]:
    """Per question: whether at least NEEDED of the fact's own rows are among the TOP first."""
    ids = [example.id for example in data]
    first_QK = np.argsort(-scores_QN, axis=1, kind="stable")[:, :TOP]
    return [
        sum(ids[position] in question.true_ids for position in first_K) >= NEEDED
        for question, first_K in zip(corpus.fact_questions(), first_QK, strict=True)
    ]
