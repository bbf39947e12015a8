"""How smooth a few recipes are on the benchmark's rows: what SMOOTH and ROUGH were chosen by.

    python -m benchmarks.quality.smoothness [--work .bench/quality]

"learned": the questions' mean log p after training minus before (nats). Metasmoothness with two steps of half a row's
weight (the second removes it) and two of a twentieth, for the rows of a few 2 % subsets.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.commands.progress import PhaseBars
from benchmarks.quality import recipes, world
from benchmarks.quality.truth import drop_subsets
from benchmarks.report import report
from engine.causal.retrain import Study, Variant, retrain
from engine.config import Training
from engine.evaluate.metasmooth import metasmoothness

COMMAND = "python -m benchmarks.quality.smoothness"
STEPS, DIRECTIONS = (0.5, 0.05), 4
CANDIDATES = {
    "rough": recipes.ROUGH,
    "batch 16, lr 2e-3, ε 1e-4": replace(recipes.SMOOTH, batch_size=16, learning_rate=2e-3, epsilon=1e-4),
    "batch 32, lr 2e-3, ε 1e-8": replace(recipes.SMOOTH, learning_rate=2e-3, epsilon=1e-8),
    "smooth": recipes.SMOOTH,
}


@dataclass(frozen=True)
class Direction:
    """The rows whose weight is changed, and by how much a step."""

    number: int
    rows: tuple[int, ...]
    step: float

    def variant(self, steps: int) -> Variant:
        weights = tuple((row, 1.0 - steps * self.step) for row in self.rows)
        return Variant(f"{self.step} direction {self.number} step {steps}", 0, weights)


def main() -> None:
    parser = argparse.ArgumentParser(prog=COMMAND)
    parser.add_argument("--work", type=Path, default=Path(".bench/quality"))
    work = parser.parse_args().work / "smoothness"
    torch.set_num_threads(1)
    base_Q = _before(work)
    report("quality_smoothness", COMMAND, [_row(name, training, base_Q, work) for name, training in CANDIDATES.items()])


def _before(work: Path) -> np.ndarray:
    """The questions before any training: one epoch at a learning rate of 0 moves nothing."""
    still = Training(learning_rate=0.0, epochs=1, batch_size=64, lora=recipes.LORA)
    return retrain(_study(still), [Variant("untrained", 0)], work / "untrained")[0]


def _row(name: str, training: Training, base_Q: np.ndarray, work: Path) -> dict[str, Any]:
    study = _study(training)
    removed_VN = ~drop_subsets(len(study.examples), DIRECTIONS, salt=1)
    rows = [tuple(np.flatnonzero(removed_N).tolist()) for removed_N in removed_VN]
    directions = [Direction(v, some, step) for step in STEPS for v, some in enumerate(rows)]
    variants = [Variant("full", 0), *(d.variant(steps) for steps in (1, 2) for d in directions)]
    with PhaseBars() as bars:
        outcome_VQ = retrain(study, variants, work / name.replace(" ", "").replace(",", "-"), bars.show)
    full_Q, once_VQ, twice_VQ = outcome_VQ[0], *np.split(outcome_VQ[1:], 2)
    found: dict[str, Any] = {"recipe": name, "learned": float((full_Q - base_Q).mean())}
    for step in STEPS:
        chosen = [at for at, direction in enumerate(directions) if direction.step == step]
        measured = metasmoothness(full_Q, once_VQ[chosen], twice_VQ[chosen])
        found |= {f"step {step}": measured.value, f"low {step}": measured.low, f"high {step}": measured.high}
    return found


def _study(training: Training) -> Study:
    questions = world.questions()
    return Study(recipes.BASE_MODEL, tuple(world.rows()), training, recipes.queries(questions))


if __name__ == "__main__":
    main()
