"""How often a row's rank in another run's index lies in its rank interval: the quality benchmark's two fine-tunes.

    python -m benchmarks.rank_intervals [--work DIRECTORY]

Each recipe's run and two replicas (the same rows, other seeds) lie in one index of the default method. The intervals of
the ten first rows of every question, from the five checkpoints of one run, are held against the ranks that each other
run gives these rows. Beside the definition in use: the one without the other run's error, and rounding alone. And, of
all pairs among the thirty first rows, how many are told apart and keep their order in the other run; and what finding
intervals and near-duplicates takes of an answer's time. Everything costly is kept in --work.

Shapes: Q questions, R runs, E checkpoints of a run, N rows, K first rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.quality import recipes, world
from benchmarks.report import show, write
from engine import answer, search
from engine.build import build_index
from engine.causal.recipe import load_recipe
from engine.causal.train import train_lora
from engine.config import IndexConfig, IndexOptions, ModelConfig
from engine.dataset import Dataset, example_to_row, open_dataset, store_dataset
from engine.demo.tuning import BASE_MODEL
from engine.measure import measure_with_gradients
from engine.model import LoadedModel, load_model
from engine.opened import OpenIndex
from engine.question import prepare
from engine.rank_intervals import Terms, rank_intervals
from engine.types import AskOptions, Query

COMMAND = "python -m benchmarks.rank_intervals"
COST = "cost.json"
RUNS, FIRST, PAIRED, TIMED = 3, 10, 30, 12


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    with tempfile.TemporaryDirectory(prefix="whence-bench-") as scratch:
        work = parser.parse_args().work or Path(scratch)
        rows = [row for recipe in recipes.RECIPES for row in _of_recipe(recipe, work / recipe)]
        cost = [{"recipe": recipe} | json.loads((work / recipe / COST).read_text()) for recipe in recipes.RECIPES]
    show("rank intervals", rows)
    show("share of an answer's time", cost)
    write("rank_intervals", COMMAND, rows, cost=cost)


def _of_recipe(recipe: str, work: Path) -> Iterator[dict[str, Any]]:
    scores_QREN = _kept_scores(recipe, work)
    same = _same_order(scores_QREN)
    for definition, shrink in (
        ("prediction (in use)", 1.0),
        ("without the other run's error", 0.5**0.5),
        ("none", 0.0),
    ):
        yield {"recipe": recipe, "error": definition, **_coverage(scores_QREN, shrink), **same}


def _coverage(scores_QREN: np.ndarray, shrink: float) -> dict[str, Any]:
    """shrink: what the spread of a run's checkpoints is multiplied by; 0 leaves the rank itself."""
    inside, worse, better, widths = [], [], [], []
    for scores_REN in scores_QREN:
        for one, other in permutations(scores_REN, 2):
            mean_N = one.mean(0)
            nothing_N = np.zeros(len(mean_N))
            first_K = _order(one)[:FIRST]
            terms = Terms(mean_N + shrink * (one - mean_N), nothing_N, nothing_N)
            best_K, worst_K = rank_intervals(terms, nothing_N + 1, first_K)
            ranks_K = 1 + np.argsort(_order(other))[first_K]
            inside.append((best_K <= ranks_K) & (ranks_K <= worst_K))
            worse.append(ranks_K > worst_K)
            better.append(ranks_K < best_K)
            widths.append(worst_K - best_K + 1)
    return {
        "inside": float(np.mean(inside)),
        "inside, first": float(np.mean(inside, 0)[0]),
        "ranked worse": float(np.mean(worse)),
        "ranked better": float(np.mean(better)),
        "median ranks": float(np.median(widths)),
        "median ranks, first": float(np.median(np.array(widths)[:, 0])),
    }


def _same_order(scores_QREN: np.ndarray) -> dict[str, float]:
    """Of pairs among the first rows of a run: told apart by its checkpoints, and the same way round in another run."""
    apart, kept, kept_of_all = [], [], []
    for scores_REN in scores_QREN:
        for one, other in permutations(scores_REN, 2):
            first_K = _order(one)[:PAIRED]
            terms_EK = one[:, first_K]
            told_KK = np.array([_told_apart(terms_EK, i) for i in range(PAIRED)])
            upper_KK = np.triu(np.ones((PAIRED, PAIRED), bool), 1)
            elsewhere_K = other.sum(0)[first_K]
            same_KK = elsewhere_K[:, None] > elsewhere_K
            apart.append(told_KK[upper_KK].mean())
            kept_of_all.append(same_KK[upper_KK].mean())
            kept += same_KK[upper_KK & told_KK].tolist()
    return {
        "pairs told apart": float(np.mean(apart)),
        "their order kept": float(np.mean(kept)),
        "order kept, all pairs": float(np.mean(kept_of_all)),
    }


def _told_apart(terms_EK: np.ndarray, row: int) -> np.ndarray:
    """bool [K]: the row alone beside each of the others."""
    nothing = np.zeros(2)
    pairs = [Terms(terms_EK[:, [row, other]], nothing, nothing) for other in range(terms_EK.shape[1])]
    found = [rank_intervals(pair, nothing + 1, np.array([0])) for pair in pairs]
    return np.array([best[0] == worst[0] for best, worst in found])


def _order(terms_EN: np.ndarray) -> np.ndarray:
    return np.argsort(-terms_EN.sum(0), kind="stable")


def _kept_scores(recipe: str, work: Path) -> np.ndarray:
    """float64 [Q, R, E, N]: what each checkpoint adds to each score."""
    kept = work / "scores.npy"
    if not (kept.exists() and (work / COST).exists()):
        model, data = _fine_tuned(recipe, work)
        options = IndexOptions(replicas=RUNS - 1)
        build_index(model, data, IndexConfig("auto", "all", options), work / "index", lambda _progress: None)
        queries = recipes.queries(world.questions())
        with OpenIndex(model, data, work / "index") as index:
            if not kept.exists():
                np.save(kept, np.stack([_by_checkpoint(index, query) for query in queries]))
            (work / COST).write_text(json.dumps(_cost(index, list(queries[:TIMED]))))
    scores_QCN = np.load(kept).astype(np.float64)
    return scores_QCN.reshape(len(scores_QCN), RUNS, -1, scores_QCN.shape[-1])


def _fine_tuned(recipe: str, work: Path) -> tuple[LoadedModel, Dataset]:
    work.mkdir(parents=True, exist_ok=True)
    (work / "rows.jsonl").write_text("".join(json.dumps(example_to_row(row)) + "\n" for row in world.rows()))
    data = store_dataset(work / "rows.jsonl", format="jsonl", root=work / "datasets")
    if not (work / "run").exists():
        train_lora(BASE_MODEL, world.rows(), work / "run", recipes.RECIPES[recipe])
    epochs = tuple(str(path) for path in sorted((work / "run").glob("epoch-*")))
    config = ModelConfig(str(BASE_MODEL), checkpoints=epochs, recipe=load_recipe(work / "run/recipe.json"))
    return load_model(config), open_dataset(work / "datasets" / data.sha256)


def _by_checkpoint(index: OpenIndex, query: Query) -> np.ndarray:
    """float32 [C, N]"""
    (vector,), _ = measure_with_gradients(index, [prepare(index.model, None, query)])
    query_1D = vector.vector_D[None].astype(np.float32)
    return np.stack([search.score_all(index.store, query_1D, checkpoints=[c])[0] for c in range(len(vector.factors_C))])


def _cost(index: OpenIndex, queries: list[Query]) -> dict[str, float]:
    """Share of an answer's time, median over queries: `intervals`, `near-duplicates`."""
    shares: dict[str, list[float]] = {"intervals": [], "near-duplicates": []}
    with mock.patch.object(answer, "with_rank_intervals", wraps=answer.with_rank_intervals) as intervals:
        with mock.patch.object(answer, "with_clusters", wraps=answer.with_clusters) as clusters:
            spent = {"intervals": _clocked(intervals), "near-duplicates": _clocked(clusters)}
            for query in queries:
                started = time.perf_counter()
                answer.attribute(index, [(query, AskOptions())])
                whole = time.perf_counter() - started
                for name, seconds in spent.items():
                    shares[name].append(seconds.pop() / whole)
    return {name: float(np.median(found[1:])) for name, found in shares.items()}  # the first opens the shards


def _clocked(patched: mock.MagicMock) -> list[float]:
    """Where the seconds of every call to the patched function are put down."""
    spent: list[float] = []
    wrapped = patched._mock_wraps

    def call(*given: Any, **named: Any) -> Any:
        started = time.perf_counter()
        found = wrapped(*given, **named)
        spent.append(time.perf_counter() - started)
        return found

    patched.side_effect = call
    return spent


if __name__ == "__main__":
    main()
