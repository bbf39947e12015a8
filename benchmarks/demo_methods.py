"""How many of the demonstration's invented facts each method finds: two of a fact's rows or more in the first three.

    python -m benchmarks.demo_methods

The demonstration's recipe and wordings were chosen while looking at these questions: a development figure, not a test,
and no evidence of what retraining would do.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.demo_model import fact_queries, facts_found, fine_tuned
from benchmarks.report import report
from engine.answer import score_query
from engine.build import build_index
from engine.config import IndexConfig
from engine.dataset import Dataset
from engine.model import LoadedModel
from engine.opened import OpenIndex

METHODS: tuple[tuple[str, Literal["all", "final"]], ...] = (
    ("ekfac", "all"),
    ("ekfac", "final"),
    ("kfac", "all"),
    ("graddot", "all"),
    ("gradcos", "all"),
    ("repsim", "final"),
    ("bm25", "final"),
    ("length", "final"),
    ("random", "final"),
)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="whence-bench-") as scratch:
        root = Path(scratch)
        model, data = fine_tuned(root)
        rows = [_found(model, data, root / f"{name}-{which}", name, which) for name, which in METHODS]
    report("demo_methods", "python -m benchmarks.demo_methods", rows)


def _found(model: LoadedModel, data: Dataset, path: Path, name: str, which: Literal["all", "final"]) -> dict[str, Any]:
    build_index(model, data, IndexConfig(name, checkpoints=which), path, lambda _progress: None)
    with OpenIndex(model, data, path) as index:
        found = facts_found(np.stack([score_query(index, query) for query in fact_queries()]), data)
    return {"method": name, "checkpoints": which, "facts found": sum(found), "of": len(found)}


if __name__ == "__main__":
    main()
