"""How the calibration sample, and the labels drawn for it, change a ranking: the demonstration's fine-tune, EK-FAC, all
checkpoints.

    python -m benchmarks.curvature_sample

Against the index calibrated on every row with label seed 0: mean Spearman over all rows, overlap@10, and the share of
questions with at least two of the fact's own rows among the first three. Which ranking is truer this does not say;
retraining does (benchmarks/quality).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.demo_model import fact_queries, facts_found, fine_tuned
from benchmarks.report import report
from engine.answer import score_query
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions
from engine.dataset import Dataset
from engine.evaluate.correlation import spearman
from engine.evaluate.retrieval import overlap_at
from engine.model import LoadedModel
from engine.opened import OpenIndex

SAMPLES = (256, 128, 64, 32)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="whence-bench-") as scratch:
        root = Path(scratch)
        model, data = fine_tuned(root)
        reference_QN = _scores(model, data, root / "all", len(data), 0)
        rows = [_compared(len(data), 0, reference_QN, reference_QN, data)]
        for sample, seed in ((len(data), 1), *((sample, 0) for sample in SAMPLES)):
            scores_QN = _scores(model, data, root / f"{sample}-{seed}", sample, seed)
            rows.append(_compared(sample, seed, scores_QN, reference_QN, data))
    report("curvature_sample", "python -m benchmarks.curvature_sample", rows)


def _scores(model: LoadedModel, data: Dataset, path: Path, sample: int, seed: int) -> np.ndarray:
    """[Q, N]"""
    options = IndexOptions(curvature_rows=sample, seed=seed)
    build_index(model, data, IndexConfig("ekfac", options=options), path, lambda _progress: None)
    with OpenIndex(model, data, path) as index:
        return np.stack([score_query(index, query) for query in fact_queries()])


def _compared(sample: int, seed: int, scores_QN: np.ndarray, reference_QN: np.ndarray, data: Dataset) -> dict[str, Any]:
    found = facts_found(scores_QN, data)
    return {
        "calibration rows": sample,
        "of": len(data),
        "label seed": seed,
        "spearman": float(np.mean(spearman(scores_QN, reference_QN))),
        "overlap@10": overlap_at(scores_QN, reference_QN, 10),
        "≥ 2 true in top 3": float(np.mean(found)),
        "questions": len(found),
    }


if __name__ == "__main__":
    main()
