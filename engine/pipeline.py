"""READ THIS FIRST: the two things the engine does. Every other file is a step of one of them.

    build_index()   rows → tokens → (a, δ) → curvature → sketches → shards on disk
                    text, batching → capture → curvature.fit → features → store
    attribute()     query → tokens → (a, δ) → the same sketch → FAISS search → shares
                    text → capture → features → search → explain                      (engine/answer.py)

    score_matrix()  both in one go, for a list of queries: what `whence score` runs.

Nothing here knows HTTP, SQL or threads: `engine/lane.py` decides on which thread, and in which order, it runs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.answer import attribute, score_query
from engine.build import build_index
from engine.config import IndexConfig, ModelConfig
from engine.dataset import Dataset
from engine.model import load_model
from engine.opened import OpenIndex
from engine.types import CheckpointFn, Coverage, Progress, Query

__all__ = ["ScoreResult", "attribute", "build_index", "score_matrix"]


@dataclass(frozen=True)
class ScoreResult:
    """scores_QN: float32, positive = proponent. seconds: build and queries together."""

    scores_QN: np.ndarray
    example_ids: tuple[str, ...]
    method: str
    options: dict[str, Any]
    seconds: float
    index_bytes: int
    coverage: Coverage

    @property
    def scores(self) -> np.ndarray:
        return self.scores_QN


def score_matrix(
    model: ModelConfig,
    dataset: Dataset,
    queries: Sequence[Query],
    config: IndexConfig,
    *,
    workdir: Path | None = None,
    device: str = "cpu",
    checkpoint: CheckpointFn | None = None,
) -> ScoreResult:
    """Score every row for every query. The index lies in `workdir` (kept), or in a temporary folder."""
    started = time.perf_counter()
    tick = checkpoint or (lambda _progress: None)
    with tempfile.TemporaryDirectory(prefix="whence-score-") as scratch:
        path = (workdir or Path(scratch)) / "index"
        loaded = load_model(model, device)
        info = build_index(loaded, dataset, config, path, tick)
        scores = []
        with OpenIndex(loaded, dataset, path) as index:
            for done, query in enumerate(queries):
                tick(Progress(done, len(queries), "queries", "score"))
                scores.append(score_query(index, query))
    return ScoreResult(
        scores_QN=np.stack(scores) if scores else np.zeros((0, len(dataset)), np.float32),
        example_ids=tuple(example.id for example in dataset),
        method=info.method,
        options=info.options,
        seconds=time.perf_counter() - started,
        index_bytes=info.bytes,
        coverage=info.coverage,
    )
