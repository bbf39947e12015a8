"""Tail-patch on the demonstration's fine-tune: what taking many rows' steps side by side saves, and what it tells.

    python -m benchmarks.tail_patch [--questions 12]

One thread. Time: one more AdamW step on each row and f after it, as a ratio to one row alone; rounds are interleaved
and the best of each counts. What it tells: for invented facts' questions, how much more a step on EK-FAC's (and on
BM25's) first five rows raises the answer's log-probability than steps on random rows of like length.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.demo_model import fact_queries, fine_tuned
from benchmarks.report import report
from engine.answer import score_query
from engine.build import build_index
from engine.causal.check_intervals import interval_of_mean
from engine.causal.check_work import CheckWork
from engine.causal.checks import CheckConfig, RankedRow
from engine.causal.tail_patch import Patches, run_tail_patch
from engine.config import IndexConfig
from engine.dataset import Dataset
from engine.loaded import LoadedModel
from engine.opened import OpenIndex
from engine.search import rank
from engine.types import Query

COMMAND = "python -m benchmarks.tail_patch"
WIDTHS = (1, 4, 16, 64)
ROUNDS = 5
CONFIG = CheckConfig("tail_patch", rows=5, draws=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="whence-tail-patch-") as folder:
        root = Path(folder)
        model, data = fine_tuned(root)
        queries = fact_queries()[: given.questions]
        table = [_times(model, data, queries[0])]
        build_index(model, data, IndexConfig("ekfac"), root / "index", lambda _progress: None)
        with OpenIndex(model, data, root / "index") as index:
            for method in ("ekfac", "bm25"):
                ranked = [_first(score_query(index, query, method), data) for query in queries]
                table.append(_told(model, data, queries, ranked, root / method) | {"rows": f"first of {method}"})
    report("tail_patch", COMMAND, table)


def _first(scores_N: np.ndarray, data: Dataset) -> list[RankedRow]:
    positions, scores = rank(scores_N, CONFIG.rows, largest=True)
    return [RankedRow(data[int(p)].id, float(s)) for p, s in zip(positions, scores, strict=True)]


def _times(model: LoadedModel, data: Dataset, query: Query) -> dict[str, Any]:
    ranked = [RankedRow(data[0].id, 1.0)]
    patches = Patches.of(
        CheckWork(
            model.config, data, Path(), query, ranked, CheckConfig("tail_patch", rows=1), Path(), str(model.device)
        )
    )
    rounds = [{width: _seconds(patches, width) for width in WIDTHS} for _ in range(ROUNDS + 1)][1:]  # one allocates
    best = {width: min(each[width] for each in rounds) for width in WIDTHS}
    together, alone = patches.changes(range(16)), [patches.changes([p])[0] for p in range(16)]
    return {
        "rows": "of the dataset, in order",
        **{f"{width} side by side, time a row": best[width] / best[1] for width in WIDTHS},
        "largest difference, nats": float(np.abs(together - alone).max()),
    }


def _seconds(patches: Patches, width: int) -> float:
    """Of one row."""
    started = time.perf_counter()
    patches.changes(range(width))
    return (time.perf_counter() - started) / width


def _told(
    model: LoadedModel, data: Dataset, queries: list[Query], ranked: list[list[RankedRow]], work: Path
) -> dict[str, Any]:
    differences, wins, seconds = [], [], []
    for number, (query, rows) in enumerate(zip(queries, ranked, strict=True)):
        place = work / str(number)
        found = run_tail_patch(CheckWork(model.config, data, place, query, rows, CONFIG, place), lambda _progress: None)
        differences.append(found.details["difference"]["value"])
        wins.append(found.details["win_share"])
        seconds.append(found.seconds)
    low, high = interval_of_mean(np.array(differences))
    return {
        "questions": len(queries),
        "more than random rows, nats": float(np.mean(differences)),
        "low": low,
        "high": high,
        "rows above their random ones": float(np.mean(wins)),
        "seconds a question": float(np.median(seconds)),
    }


if __name__ == "__main__":
    main()
