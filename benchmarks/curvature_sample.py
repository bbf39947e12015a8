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

from benchmarks.demo_model import fact_queries, facts_found, fine_tuned
from benchmarks.report import report
from engine.answer import score_query
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions
from engine.dataset import Dataset
from engine.model import LoadedModel
from engine.opened import OpenIndex

SAMPLES = (256, 128, 64, 32)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="whence-bench-") as scratch:
        root = Path(scratch)
        model, data = fine_tuned(root)
        reference_QN = _scores(model, data, root / "all", len(data))
        rows = [_compared(len(data), reference_QN, reference_QN, data)]
        for sample in SAMPLES:
            scores_QN = _scores(model, data, root / str(sample), sample)
            rows.append(_compared(sample, scores_QN, reference_QN, data))
    report("curvature_sample", "python -m benchmarks.curvature_sample", rows)


def _scores(model: LoadedModel, data: Dataset, path: Path, sample: int) -> np.ndarray:
    """[Q, N]"""
    options = IndexOptions(curvature_rows=sample)
    build_index(model, data, IndexConfig("ekfac", options=options), path, lambda _progress: None)
    with OpenIndex(model, data, path) as index:
        return np.stack([score_query(index, query) for query in fact_queries()])


def _compared(sample: int, scores_QN: np.ndarray, reference_QN: np.ndarray, data: Dataset) -> dict[str, Any]:
    first_QK, reference_QK = np.argsort(-scores_QN, 1)[:, :10], np.argsort(-reference_QN, 1)[:, :10]
    correlations = [_spearman(one, other) for one, other in zip(scores_QN, reference_QN, strict=True)]
    overlaps = [len(set(one) & set(other)) / 10 for one, other in zip(first_QK, reference_QK, strict=True)]
    found = facts_found(scores_QN, data)
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
