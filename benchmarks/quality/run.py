"""The quality benchmark: what rankings are worth, measured by retraining, beside every peer on the same work.

    python -m benchmarks.quality.run [--quick] [--recipe smooth] [--without-peers] [--work .bench/quality]

Everything costly lies below --work and is found again: retrainings (checksummed), scores, the peers' environments.
The full run writes benchmarks/results/quality.json and benchmarks/results/quality/<recipe>.npz. --quick (25 subsets,
one seed, fewer methods, one peer on the final checkpoint; the smooth recipe unless --recipe names the other) prints its
table and leaves those alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from app.commands.progress import PhaseBars
from benchmarks import report
from benchmarks.quality import kept, recipes, truth, world
from benchmarks.quality.detection import relevance
from benchmarks.quality.leave import Asked, leave_out_rows
from benchmarks.quality.methods import CHOICES, CONTROLS, COSTLY, QUICK_CHOICES, score_all
from benchmarks.quality.peers.run import PEERS
from benchmarks.quality.table import CONTROL, WHENCE, MethodScores, print_table, run_summary, table_rows
from benchmarks.quality.theirs import peer_scores
from engine.causal.recipe import load_recipe
from engine.causal.retrain import Study
from engine.causal.train import train_lora
from engine.config import ModelConfig
from engine.dataset import Dataset, example_to_row, open_dataset, store_dataset
from engine.errors import EngineError
from engine.evaluate.lds import predict, score_lds

COMMAND = "python -m benchmarks.quality.run"
QUICK_PEERS = ("kronfluence",)
_console = Console()


@dataclass(frozen=True)
class Options:
    work: Path
    plan: truth.Plan
    peers: bool
    quick: bool


@dataclass(frozen=True)
class Found:
    """What one recipe gives to the report."""

    rows: list[dict[str, Any]]
    run: dict[str, Any]
    leave_out: list[dict[str, Any]]
    unavailable: list[dict[str, Any]]


def main() -> None:
    options, names = _arguments()
    torch.set_num_threads(1)
    try:
        found = [run_recipe(name, options) for name in names]
    except EngineError as error:
        raise SystemExit(f"{error}") from None
    except KeyboardInterrupt:
        raise SystemExit("Stopped; what is finished is kept, and the same command goes on from there.") from None
    if options.quick or set(names) != set(recipes.RECIPES):
        return
    rows = [row for each in found for row in each.rows]
    about = {
        "runs": [each.run for each in found],
        "leave out": [row for each in found for row in each.leave_out],
        "unavailable": [{"recipe": each.run["recipe"]} | why for each in found for why in each.unavailable],
    }
    report.write("quality", COMMAND, rows, **about)


def run_recipe(name: str, options: Options) -> Found:
    rows, questions = world.rows(), world.questions()
    study, out = recipes.study(name, rows, questions), options.work / name
    plan = truth.ROUGH if name == "rough" and not options.quick else options.plan
    _tell_cost(name, study, plan, out)
    with PhaseBars() as bars:
        measured = truth.measure(study, plan, out / "retrains", bars.show)
        model, data = _fine_tuned(study, out, bars)
    methods, unavailable = _methods(model, data, study, measured, out, options)
    methods = kept.as_kept(methods)
    table = table_rows(name, methods, measured, relevance(rows, questions))
    if not options.quick:
        kept.keep(name, measured, methods)
    print_table(name, table)
    left_out = _left_out(name, study, questions, methods, table, out) if not options.quick else []
    return Found(table, run_summary(name, measured), left_out, unavailable)


def _tell_cost(name: str, study: Study, plan: truth.Plan, out: Path) -> None:
    cost = truth.cost(study, plan, out / "retrains")
    _console.print(
        f"{name}: {cost.retrainings} retrainings to do, about {cost.seconds / 60:.0f} minutes "
        f"({cost.processes} processes, {cost.width} adapters in a stack)."
    )


def _fine_tuned(study: Study, out: Path, bars: PhaseBars) -> tuple[ModelConfig, Dataset]:
    """The audited run: five checkpoints, the recipe's own seed."""
    run = out / f"run-{study.training.seed}"
    if not run.exists():
        train_lora(study.base, study.examples, run, study.training, bars.show)
    rows = out / "rows.jsonl"
    rows.write_text("".join(json.dumps(example_to_row(row)) + "\n" for row in study.examples), encoding="utf-8")
    stored = store_dataset(rows, format="jsonl", root=out / "datasets")
    checkpoints = tuple(str(run / f"epoch-{epoch + 1}") for epoch in range(study.training.epochs))
    model = ModelConfig(str(study.base), checkpoints=checkpoints, recipe=load_recipe(run / "recipe.json"))
    return model, open_dataset(out / "datasets" / stored.sha256)


def _methods(
    model: ModelConfig, data: Dataset, study: Study, measured: truth.Truth, out: Path, options: Options
) -> tuple[list[MethodScores], list[dict[str, Any]]]:
    choices = QUICK_CHOICES if options.quick else CHOICES
    if study.training != recipes.SMOOTH:
        choices = tuple(choice for choice in choices if choice.name not in COSTLY)
    own = [
        MethodScores(
            scored.choice.name,
            CONTROL if scored.choice.name in CONTROLS else WHENCE,
            scored.scores_QN,
            seconds=scored.seconds,
            bytes_per_example=scored.bytes_per_example,
            options=scored.options,
            self_scores_N=scored.self_scores_N,
        )
        for scored in score_all(model, data, study.queries, out / "scores", choices, _console.print)
    ]
    if not options.peers:
        return own, []
    theirs, unavailable = peer_scores(
        model,
        data,
        study.queries,
        out / "peers",
        options.work.parent / "peers",
        lambda scores_QN: _half_lds(scores_QN, measured),
        peers=QUICK_PEERS if options.quick else tuple(PEERS),
        checkpoints="final" if options.quick else "all",
        say=_console.print,
    )
    return [*own, *theirs], unavailable


def _half_lds(scores_QN: np.ndarray, measured: truth.Truth) -> float:
    value = score_lds(predict(scores_QN, measured.half_kept_MN), measured.half_outcome_QMR).value
    return -1.0 if value is None else value


def _left_out(
    name: str,
    study: Study,
    questions: Sequence[world.Question],
    methods: Sequence[MethodScores],
    table: Sequence[dict[str, Any]],
    out: Path,
) -> list[dict[str, Any]]:
    """Whence's default, the half regime's best peer and BM25: what their top rows were worth."""
    best = table[0]["half"]["best peer"]
    chosen = [method for method in methods if method.name in (methods[0].name, best, "bm25")]
    with PhaseBars() as bars:
        rows = leave_out_rows(Asked.facts(study, questions), chosen, out / "retrains", bars.show)
    rows = [{"recipe": name} | row for row in rows]
    report.show(f"{name}: log p lost without the top rows (nats)", rows)
    return rows


def _arguments() -> tuple[Options, list[str]]:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="25 subsets, one seed, fewer methods")
    parser.add_argument("--recipe", choices=sorted(recipes.RECIPES), help="only this one")
    parser.add_argument("--without-peers", action="store_true", help="do not install or run the peers")
    parser.add_argument("--work", type=Path, default=Path(".bench/quality"), help="where what is costly is kept")
    given = parser.parse_args()
    plan = truth.QUICK if given.quick else truth.FULL
    options = Options(given.work, plan, peers=not given.without_peers, quick=given.quick)
    every = ["smooth"] if given.quick else list(recipes.RECIPES)
    return options, [given.recipe] if given.recipe else every


if __name__ == "__main__":
    main()
