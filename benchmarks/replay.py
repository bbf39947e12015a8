"""Replay against retraining: how well the exact derivative through the run predicts what taking rows out really does.

    python -m benchmarks.replay [--recipe smooth] [--questions 24]

The quality benchmark's two runs (benchmarks/quality), same seed, deterministic, 2 % of the rows left out: LDS of
−Σ ∂f/∂w over the removed rows against the kept outcomes (benchmarks/results/quality/<recipe>.npz), beside the run's
metasmoothness on the same rows, and the cost of all questions' derivatives and of one question's in trainings of the
run. Takes minutes: every question is a Hessian-vector product a step.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from app.commands.progress import PhaseBars
from benchmarks.quality import kept, recipes, world
from benchmarks.report import report
from engine.causal.replay import replay
from engine.evaluate.lds import predict, score_lds
from engine.evaluate.metasmooth import metasmoothness

COMMAND = "python -m benchmarks.replay"
TARGETS = {"smooth": 0.9, "rough": None}


def measure(recipe: str, questions: int) -> dict[str, Any]:
    rows, asked = world.rows(), world.questions()
    truth, scores = kept.kept(recipe)
    chosen_Q = np.linspace(0, len(asked) - 1, min(questions, len(asked))).round().astype(int)
    study = recipes.study(recipe, rows, [asked[number] for number in chosen_Q])
    with PhaseBars() as bars:
        found = replay(study, bars.show)
        alone = replay(replace(study, queries=study.queries[:1]), bars.show)
    outcome_QM = truth.drop_outcome_QMR[chosen_Q, :, 0]  # the audited run's own seed comes first
    lds = score_lds(predict(found.derivative_QN, truth.drop_kept_MN), outcome_QM)
    rivals = {
        name: score_lds(predict(scores_QN[chosen_Q], truth.drop_kept_MN), outcome_QM)
        for name, scores_QN in scores.items()
    }
    best = max(rivals, key=lambda name: rivals[name].value or -1.0)
    smooth = metasmoothness(
        truth.full_outcome_QR[chosen_Q, 0], truth.step_1_QV[chosen_Q].T, truth.step_2_QV[chosen_Q].T
    )
    return {
        "recipe": recipe,
        "LDS": lds.value,
        "low": lds.low,
        "high": lds.high,
        "target": TARGETS[recipe],
        "metasmoothness": smooth.value,
        "best of the kept rankings": f"{best} {rivals[best].value:.3f}",
        "questions": len(chosen_Q),
        "subsets": outcome_QM.shape[1],
        "cost of one question, in trainings": round(alone.seconds / alone.training_seconds, 1),
        "cost of all, in trainings": round(found.seconds / found.training_seconds, 1),
        "repeated run off by, nats": float(np.abs(found.value_Q - truth.full_outcome_QR[chosen_Q, 0]).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=list(recipes.RECIPES), action="append")
    parser.add_argument("--questions", type=int, default=24)
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = COMMAND if given.questions == 24 else f"{COMMAND} --questions {given.questions}"
    report("replay", command, [measure(recipe, given.questions) for recipe in given.recipe or recipes.RECIPES])


if __name__ == "__main__":
    main()
