"""Does trust hold what it promises? Generated datasets, evaluated, and checked on queries never fitted on.

    python -m benchmarks.trust.run [--work DIRECTORY] [--world NAME …]

Two with Q ≥ 100, 60 halves, 60 removals of 2 %, and the top rows of 60 queries left out:
    reliability   every query's LDS predicted by a model that saw no query of its group: better half against worse
    effects       fitted without a fifth of the groups, at a time: how often the measured effect of leaving out their
                  queries' top rows, and random rows, lies in the 90 % interval
These two and two whose recipes are known to favour different methods, with 150 halves:
    auto          what is chosen among SOURCE, TrackStar and hidden states on the tuning queries and subsets, and what
                  the others say of it (see also auto.py). EK-FAC is not among them: it is the best everywhere
Everything costly is kept in --work.

Shapes: Q queries, N rows, V retrainings, L queries whose top rows were left out, C cells.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.commands.progress import PhaseBars
from benchmarks.report import RESULTS, show, write
from benchmarks.trust.held_out import covered, reliability
from benchmarks.trust.worlds import FAVOURING, MISLABELLED, WORLDS, World
from engine.build import build_index
from engine.causal.recipe import RECIPE_FILE, load_recipe
from engine.causal.train import train_lora
from engine.config import IndexConfig, ModelConfig
from engine.dataset import Dataset, example_to_row, open_dataset, store_dataset
from engine.demo.tuning import BASE_MODEL
from engine.evaluate.evaluation import evaluate
from engine.evaluate.evidence import EVIDENCE_FILE
from engine.evaluate.scorecard import Candidate, EvaluationConfig, Scorecard, from_json, to_json
from engine.manifest import MANIFEST_FILE
from engine.model import load_model
from engine.types import CheckpointFn


@dataclass(frozen=True)
class Plan:
    name: str
    index: IndexConfig
    config: EvaluationConfig


COMMAND = "python -m benchmarks.trust.run"
WHOLE = EvaluationConfig(leave_out_queries=60, mislabelled=MISLABELLED)
AUTO = replace(
    WHOLE,
    half_subsets=150,
    leave_out_queries=0,
    drop_subsets=0,
    directions=0,
    mislabelled={},
    candidates=(Candidate("trackstar"), Candidate("repsim")),
)
EVERY = FAVOURING | WORLDS
STUDY, CHOICE = Plan("study", IndexConfig(), WHOLE), Plan("auto", IndexConfig("source"), AUTO)


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".bench/trust"))
    parser.add_argument("--world", nargs="+", choices=EVERY, default=list(EVERY))
    given = parser.parse_args()
    worlds = {name: EVERY[name]() for name in given.world}
    with PhaseBars() as bars:
        chosen = {name: _evaluated(world, CHOICE, given.work, bars.show) for name, world in worlds.items()}
        studied = {n: _evaluated(world, STUDY, given.work, bars.show) for n, world in worlds.items() if n in WORLDS}
    rows = [_checked(worlds[name], scorecard, given.work) for name, scorecard in studied.items()]
    choices = [row for name, scorecard in chosen.items() for row in _choice(name, scorecard)]
    methods = [row for name, scorecard in studied.items() for row in _methods(name, scorecard)]
    tables = (("trust on held-out queries", rows), ("verdicts", methods), ("what `auto` chooses", choices))
    for title, table in tables:
        if table:
            show(title, table)
    if set(given.world) == set(EVERY):
        print(write("trust", COMMAND, rows, methods=methods, auto=choices))


# --- evaluating ---


def _evaluated(world: World, plan: Plan, root: Path, progress: CheckpointFn) -> Scorecard:
    work, kept = root / world.name, root / world.name / f"{plan.name}.json"
    if kept.exists():
        return from_json(json.loads(kept.read_text()))
    model, data = _fine_tuned(world, work)
    index = work / f"{plan.name} index"
    if not (index / MANIFEST_FILE).exists():
        build_index(load_model(model), data, plan.index, index, progress)
    scorecard = evaluate(model, data, index, world.questions, plan.config, work / "evaluation", progress)
    kept.write_text(json.dumps(to_json(scorecard)))
    (work / "evaluation" / EVIDENCE_FILE).replace(work / f"{plan.name}.npz")
    return scorecard


def _fine_tuned(world: World, work: Path) -> tuple[ModelConfig, Dataset]:
    tuned = work / "tuned"
    if not tuned.exists():
        work.mkdir(parents=True, exist_ok=True)
        train_lora(BASE_MODEL, world.rows, tuned, world.training)
    lines = work / "rows.jsonl"
    lines.write_text("".join(json.dumps(example_to_row(row)) + "\n" for row in world.rows), encoding="utf-8")
    stored = store_dataset(lines, format="jsonl", root=work / "datasets")
    checkpoints = tuple(str(tuned / f"epoch-{number}") for number in range(1, world.training.epochs + 1))
    model = ModelConfig(str(BASE_MODEL), checkpoints=checkpoints, recipe=load_recipe(tuned / RECIPE_FILE))
    return model, open_dataset(work / "datasets" / stored.sha256)


# --- checking ---


def _checked(world: World, scorecard: Scorecard, root: Path) -> dict[str, Any]:
    with np.load(root / world.name / "study.npz", allow_pickle=False) as kept:
        evidence = dict(kept)
    own = next(method for method in scorecard.methods if method.role == "index")
    work = root / world.name
    predicted_Q, lds_Q, halves = reliability(world, scorecard, *_fine_tuned(world, work), work)
    found = covered(world, scorecard, evidence)
    kept: dict[str, Any] = {"predicted_Q": predicted_Q, "lds_Q": lds_Q} | found.arrays
    kept["example"] = _example(scorecard, evidence)
    (RESULTS / "trust").mkdir(parents=True, exist_ok=True)
    np.savez_compressed(RESULTS / "trust" / f"{world.name}.npz", **kept)
    lds = own.lds["composition"]
    return {
        "world": world.name,
        "rows": scorecard.rows,
        "queries": len(world.questions),
        "groups": len({asked.group for asked in world.questions}),
        "halves": f"{lds.subsets} × {lds.seeds} seeds",
        "LDS": lds.value,
        "ceiling": lds.ceiling,
        "LDS, this run": own.lds["this_run"].value,
        "metasmoothness": scorecard.metasmoothness,
        "verdict": own.verdicts["composition"].verdict,
        "verdict, this run": own.verdicts["this_run"].verdict,
        "reliable half": halves.top,
        "other half": halves.bottom,
        "difference": halves.difference,
        "low": halves.low,
        "high": halves.high,
        **found.shares,
    }


def _example(scorecard: Scorecard, evidence: Mapping[str, np.ndarray]) -> np.ndarray:
    """[2, M]: predicted and measured outcomes of the question whose LDS is nearest to the mean."""
    own = next(method for method in scorecard.methods if method.role == "index")
    lds = own.lds["composition"]
    far_Q = [np.inf if value is None else abs(value - (lds.value or 0)) for value in lds.per_query]
    q = int(np.argmin(far_Q))
    predicted_M = evidence["half_kept_MN"] @ evidence[f"scores/{own.name}"][q].astype(np.float64)
    return np.stack([predicted_M, evidence["half_outcome_QMR"][q].mean(1)]).astype(np.float32)


def _methods(name: str, scorecard: Scorecard) -> Iterator[dict[str, Any]]:
    for method in scorecard.methods:
        lds = method.lds["composition"]
        yield {
            "world": name,
            "method": method.name,
            "role": method.role,
            "LDS": lds.value,
            "low": lds.low,
            "high": lds.high,
            "verdict": method.verdicts["composition"].verdict,
            "verdict, this run": method.verdicts["this_run"].verdict,
        }


def _choice(name: str, scorecard: Scorecard) -> Iterator[dict[str, Any]]:
    tuned = scorecard.tuned["composition"]
    choices = [method for method in scorecard.methods if method.role in ("index", "candidate")]
    measured = {method.name: method.lds["composition"].value for method in choices}
    best = _best(measured)
    for method in choices:
        lds, over = method.lds["composition"], tuned.over_own.get(method.name)
        yield {
            "world": name,
            "method": method.name,
            "LDS, tuning": tuned.tuning_lds[method.name],
            "LDS, test": lds.value,
            "low": lds.low,
            "high": lds.high,
            "over SOURCE, tuning": over and over.difference,
            "its low": over and over.low,
            "chosen": method.name == tuned.chosen,
            "measured best": method.name == best,
        }


def _best(measured: dict[str, float | None]) -> str:
    return max(measured, key=lambda name: -np.inf if measured[name] is None else float(measured[name] or 0))


if __name__ == "__main__":
    main()
