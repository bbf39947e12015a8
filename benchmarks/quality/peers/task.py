"""What every peer is given: the base, the checkpoints, and rows and questions as the tokens that Whence itself reads.

    task/base/  task/checkpoints/<name>/  task/rows.jsonl  task/queries.jsonl  task/task.json

A line of rows.jsonl or queries.jsonl is {"ids": […], "targets": […]}; a row's also has "weight", its weight in the
recipe's training loss, scaled so that the mean over rows is 1. task.json has the checkpoints' names in the order of
training and, for a run with one checkpoint an epoch, what unrolling it takes: "epochs" and "adam".
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.causal.steps import learning_rate
from engine.config import ModelConfig, Recipe
from engine.dataset import Dataset
from engine.encoded import Encoded, TokenRow
from engine.model import LoadedModel, load_model
from engine.question import prepare
from engine.rows import EncodedRows, encode_rows
from engine.types import Query

_NOT_GIVEN = shutil.ignore_patterns("optimizer.pt", "trainer_state*", "README.md")


def write_task(
    config: ModelConfig, data: Dataset, queries: Sequence[Query], out: Path, max_length: int | None = None
) -> Path:
    """Write the task directory, in place of an earlier one; gives `out`.

    config: a LoRA fine-tune with its checkpoints, in the order of training. Raises what load_model and the encoders
    raise for a model, row or query that cannot be read.
    """
    model = load_model(config)
    rows = encode_rows(model, data, max_length, lambda _done: None)
    shutil.rmtree(out, ignore_errors=True)
    names = _copy_models(config, out)
    _write_lines(out / "rows.jsonl", _row_lines(rows))
    _write_lines(out / "queries.jsonl", (_line(encoded) for encoded in _query_sequences(model, queries, max_length)))
    about = {"checkpoints": names, "pad_id": model.pad_id, **_training(config.recipe, len(names))}
    (out / "task.json").write_text(json.dumps(about) + "\n")
    return out


def _training(recipe: Recipe | None, checkpoints: int) -> dict[str, Any]:
    """Steps and mean learning rate of the epoch that ends at each checkpoint; none where that is not known."""
    training = recipe.training if recipe else None
    if recipe is None or training is None or not recipe.steps or training.epochs != checkpoints:
        return {"epochs": [], "adam": None}
    total = len(recipe.steps)
    rates = np.array_split([learning_rate(step, total, training) for step in range(total)], checkpoints)
    epochs = [{"steps": len(part), "learning_rate": float(np.mean(part))} for part in rates]
    return {"epochs": epochs, "adam": {"betas": training.betas, "eps": training.epsilon}}


def _copy_models(config: ModelConfig, out: Path) -> list[str]:
    """Names of the checkpoints, first to last. An adapter that is a copy of the last checkpoint is left out."""
    shutil.copytree(config.base, out / "base", ignore=_NOT_GIVEN)
    paths = [Path(path) for path in config.checkpoints or (config.adapter,) if path is not None]
    for path in paths:
        shutil.copytree(path, out / "checkpoints" / path.name, ignore=_NOT_GIVEN)
    return [path.name for path in paths]


def _query_sequences(model: LoadedModel, queries: Sequence[Query], max_length: int | None) -> list[Encoded]:
    questions = [prepare(model, max_length, query) for query in queries]
    if any(len(question.sequences) != 1 for question in questions):
        raise ValueError("A query with a contrast is two sequences: peers are given one.")
    return [question.sequences[0] for question in questions]


def _row_lines(rows: EncodedRows) -> Iterable[dict[str, Any]]:
    mean = float(np.mean(rows.weights))
    for encoded, weight in zip(rows.rows, rows.weights, strict=True):
        yield _line(encoded) | {"weight": weight / mean}


def _line(encoded: TokenRow) -> dict[str, Any]:
    return {"ids": [int(token) for token in encoded.ids], "targets": [bool(target) for target in encoded.targets]}


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
