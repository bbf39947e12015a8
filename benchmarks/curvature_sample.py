"""How the calibration sample, and the labels drawn for it, change a ranking by EK-FAC.

    python -m benchmarks.curvature_sample

Two fine-tunes: the demonstration's (539 rows, all checkpoints), and one of the same kind with some 2,000 rows (its last
checkpoint; benchmarks/large_world.py). Against the index calibrated on every row with label seed 0: mean Spearman
over all rows, overlap@10, and of the demonstration the share of questions with at least two of the fact's own rows
among the first three. Which ranking is truer this does not say; retraining does (benchmarks/quality).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.demo_model import fact_queries, facts_found, fine_tuned
from benchmarks.large_world import fine_tune, large_queries, large_rows
from benchmarks.report import report
from engine.answer import score_query
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions
from engine.dataset import Dataset
from engine.evaluate.correlation import spearman
from engine.evaluate.retrieval import overlap_at
from engine.model import LoadedModel
from engine.opened import OpenIndex
from engine.types import Query

SAMPLES = (256, 128, 64, 32)
LARGE_SEEDS = range(101, 105)
LARGE_SAMPLES = (1024, 512, 256, 128)
LARGE_QUERIES = 96


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="whence-bench-") as scratch:
        root = Path(scratch)
        model, data = fine_tuned(root)
        rows = compared(Asked(model, data, fact_queries(), "all"), root / "demo", SAMPLES)
        large = fine_tune(large_rows(LARGE_SEEDS), large_queries(LARGE_QUERIES, LARGE_SEEDS), root / "large")
        rows += compared(Asked(large.model, large.data, large.queries, "final"), root / "large", LARGE_SAMPLES)
    report("curvature_sample", "python -m benchmarks.curvature_sample", rows)


@dataclass(frozen=True)
class Asked:
    model: LoadedModel
    data: Dataset
    queries: Sequence[Query]
    checkpoints: Literal["all", "final"]


def compared(asked: Asked, root: Path, samples: Sequence[int]) -> list[dict[str, Any]]:
    count = len(asked.data)
    reference_QN = _scores(asked, root / "all", count, 0)
    found = [_compared(asked, count, 0, reference_QN, reference_QN)]
    for sample, seed in ((count, 1), *((sample, 0) for sample in samples)):
        found.append(
            _compared(asked, sample, seed, _scores(asked, root / f"{sample}-{seed}", sample, seed), reference_QN)
        )
    return found


def _scores(asked: Asked, path: Path, sample: int, seed: int) -> np.ndarray:
    """[Q, N]"""
    options = IndexOptions(curvature_rows=sample, seed=seed)
    config = IndexConfig("ekfac", options=options, checkpoints=asked.checkpoints)
    build_index(asked.model, asked.data, config, path, lambda _progress: None)
    with OpenIndex(asked.model, asked.data, path) as index:
        return np.stack([score_query(index, query) for query in asked.queries])


def _compared(asked: Asked, sample: int, seed: int, scores_QN: np.ndarray, reference_QN: np.ndarray) -> dict[str, Any]:
    facts = facts_found(scores_QN, asked.data) if asked.checkpoints == "all" else []
    return {
        "calibration rows": sample,
        "of": len(asked.data),
        "label seed": seed,
        "spearman": float(np.mean(spearman(scores_QN, reference_QN))),
        "overlap@10": overlap_at(scores_QN, reference_QN, 10),
        "≥ 2 true in top 3": float(np.mean(facts)) if facts else None,
        "questions": len(asked.queries),
    }


if __name__ == "__main__":
    main()
