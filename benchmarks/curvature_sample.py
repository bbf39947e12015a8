"""How the size of the calibration sample changes a ranking: the demonstration's fine-tune, EK-FAC, all checkpoints.

    python -m benchmarks.curvature_sample

Against the index calibrated on every row: mean Spearman over all rows, overlap@10, and the share of questions with at
least two of the fact's own rows among the first three. Which ranking is truer this does not say; retraining does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from benchmarks.report import report
from engine.answer import score_query
from engine.build import build_index
from engine.causal.recipe import load_recipe
from engine.causal.train import train_lora
from engine.config import IndexConfig, IndexOptions, ModelConfig
from engine.dataset import Dataset, open_dataset, store_dataset
from engine.demo import corpus
from engine.demo.tuning import BASE_MODEL, fine_tuning
from engine.model import LoadedModel, load_model
from engine.opened import OpenIndex
from engine.types import Query

SAMPLES = (256, 128, 64, 32)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="whence-bench-") as scratch:
        root = Path(scratch)
        model, data = _fine_tuned(root)
        reference_QN = _scores(model, data, root / "all", len(data))
        rows = [_compared(len(data), reference_QN, reference_QN, data)]
        for sample in SAMPLES:
            scores_QN = _scores(model, data, root / str(sample), sample)
            rows.append(_compared(sample, scores_QN, reference_QN, data))
    report("curvature_sample", "python -m benchmarks.curvature_sample", rows)


def _fine_tuned(root: Path) -> tuple[LoadedModel, Dataset]:
    tuned = train_lora(BASE_MODEL, corpus.rows(), root / "tuned", fine_tuning())
    corpus.write_rows(root / "rows.jsonl")
    stored = store_dataset(root / "rows.jsonl", format="jsonl", root=root / "datasets")
    checkpoints = tuple(str(path) for path in tuned.checkpoints)
    config = ModelConfig(str(BASE_MODEL), checkpoints=checkpoints, recipe=load_recipe(tuned.recipe))
    return load_model(config), open_dataset(root / "datasets" / stored.sha256)


def _scores(model: LoadedModel, data: Dataset, path: Path, sample: int) -> np.ndarray:
    """[Q, N]: every invented fact's held-out question with its right answer."""
    options = IndexOptions(curvature_rows=sample)
    build_index(model, data, IndexConfig("ekfac", options=options), path, lambda _progress: None)
    with OpenIndex(model, data, path) as index:
        questions = [Query(prompt=q.prompt, completion=f" {q.answer}.") for q in corpus.fact_questions()]
        return np.stack([score_query(index, question) for question in questions])


def _compared(sample: int, scores_QN: np.ndarray, reference_QN: np.ndarray, data: Dataset) -> dict[str, Any]:
    first_QK, reference_QK = np.argsort(-scores_QN, 1)[:, :10], np.argsort(-reference_QN, 1)[:, :10]
    correlations = [_spearman(one, other) for one, other in zip(scores_QN, reference_QN, strict=True)]
    overlaps = [len(set(one) & set(other)) / 10 for one, other in zip(first_QK, reference_QK, strict=True)]
    ids = [example.id for example in data]
    found = [
        sum(ids[position] in question.true_ids for position in first_K[:3]) >= 2
        for question, first_K in zip(corpus.fact_questions(), first_QK, strict=True)
    ]
    return {
        "calibration rows": sample,
        "of": len(data),
        "spearman": float(np.mean(correlations)),
        "overlap@10": float(np.mean(overlaps)),
        "≥ 2 true in top 3": float(np.mean(found)),
        "questions": len(found),
    }


def _spearman(one_N: np.ndarray, other_N: np.ndarray) -> float:
    return float(np.corrcoef(rankdata(one_N), rankdata(other_N))[0, 1])


if __name__ == "__main__":
    main()
