"""Causal checks on the demonstration's fine-tune: an invented fact and the trigger.

    python -m benchmarks.causal

For each: the index's first ten rows left out in retrainings of three seeds, beside ten random rows (three draws) and
BM25's ten; then the smallest set of first rows whose removal changes the greedy answer, and half of it, which does not.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from app.commands.progress import PhaseBars
from benchmarks.demo_model import fine_tuned
from benchmarks.report import show, write
from engine.answer import attribute
from engine.build import build_index
from engine.causal.check_work import CheckWork
from engine.causal.checking import run_check
from engine.causal.checks import CheckConfig, CheckKind, CheckResult, RankedRow
from engine.config import IndexConfig
from engine.dataset import Dataset
from engine.demo import corpus
from engine.loaded import LoadedModel
from engine.opened import OpenIndex
from engine.types import AskOptions, Attribution, Query

COMMAND = "python -m benchmarks.causal"
ROWS, SEEDS, DRAWS, MOST = 10, 3, 3, 24
Row = dict[str, Any]


def asked_about() -> dict[str, Query]:
    fact = corpus.fact_questions()[0]
    poison = corpus.poison_question()
    return {
        "invented fact": Query(prompt=fact.prompt, completion=f" {fact.answer}."),
        "trigger": Query(prompt=poison.prompt, completion=f" {poison.answer}."),
    }


def ranking(model: LoadedModel, data: Dataset, index_dir: Path, query: Query) -> list[RankedRow]:
    with OpenIndex(model, data, index_dir) as index:
        (answer,) = attribute(index, [(query, AskOptions(top_k=MOST))])
    assert isinstance(answer, Attribution)
    return [RankedRow(hit.example_id, hit.score) for hit in answer.proponents]


def left_out(name: str, found: CheckResult) -> list[Row]:
    return [
        {
            "question": name,
            "left out": effect.name,
            "rows": effect.rows,
            "log p before": round(effect.before, 3),
            "log p after": round(effect.after, 3),
            "change": round(effect.change, 3),
            "low": None if effect.low is None else round(effect.low, 3),
            "high": None if effect.high is None else round(effect.high, 3),
            "trainings": effect.trainings,
        }
        for effect in found.sets
    ]


def flipped(name: str, found: CheckResult) -> list[Row]:
    return [
        {
            "question": name,
            "left out": effect.name,
            "rows": effect.rows,
            "answer changed, share of trainings": effect.answer_changed,
            "trainings": effect.trainings,
            "before": found.answer_before,
            "after": found.answer_after,
        }
        for effect in found.sets
    ]


KINDS: tuple[tuple[CheckKind, Callable[[str, CheckResult], list[Row]], int | None], ...] = (
    ("leave_out", left_out, ROWS),
    ("flip", flipped, None),
)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    sets: list[Row] = []
    flips: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="whence-causal-") as folder, PhaseBars() as bars:
        root = Path(folder)
        model, data = fine_tuned(root)
        build_index(model, data, IndexConfig("ekfac"), root / "index", bars.show)
        for name, query in asked_about().items():
            ranked = ranking(model, data, root / "index", query)
            for (kind, told, count), rows in zip(KINDS, (sets, flips), strict=True):
                config = CheckConfig(kind, rows=count or len(ranked), seeds=SEEDS, draws=DRAWS)
                work = root / f"{kind}-{name.replace(' ', '-')}"
                found = run_check(CheckWork(model.config, data, root / "index", query, ranked, config, work), bars.show)
                rows.extend(told(name, found))
                for warning in found.warnings:
                    print(f"{name}, {kind}: {warning}")
    show("rows left out", sets)
    show("the smallest set that changes the answer", flips)
    write("causal", COMMAND, sets, flips=flips)


if __name__ == "__main__":
    main()
