"""What `auto` would choose on the quality benchmark's two fine-tunes, where it is known that methods differ.

    python -m benchmarks.trust.auto

Reads benchmarks/results/quality/*.npz: nothing is trained. The choice is made by the code that an evaluation uses, on a
third of the groups of questions and of the halves; the others say whether it was right. Every pair of methods whose LDS
differs by APART or more on one of the fine-tunes is two pools: either is the index's own once.

Shapes: Q questions, N rows, M subsets, R seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np

from benchmarks.quality import world
from benchmarks.quality.kept import kept
from benchmarks.quality.recipes import RECIPES
from benchmarks.report import show, write
from engine.evaluate.assemble import Bench, Measured, lds_evidence, tuned
from engine.evaluate.scored import Scored
from engine.evaluate.splits import split_queries

COMMAND = "python -m benchmarks.trust.auto"
POOL = ("default, checkpoints", "source", "graddot, checkpoints", "gradcos, checkpoints", "less", "trackstar", "repsim")
SHARE, SEED = 1 / 3, 0
APART = 0.05


def main() -> None:
    rows = [row for recipe in RECIPES for row in chosen(recipe, _bench(recipe), kept(recipe)[1])]
    show("what `auto` chooses of two", rows)
    by_recipe = {recipe: [row for row in rows if row["recipe"] == recipe] for recipe in RECIPES}
    right = {recipe: f"{sum(row['right'] for row in found)} of {len(found)}" for recipe, found in by_recipe.items()}
    print(right)
    print(write("trust_auto", COMMAND, rows, right=right))


def chosen(recipe: str, bench: Bench, scores: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """One line a pair that is APART on the questions and subsets that did not choose."""
    known = {name: Scored(name, "candidate", name, {}, scores[name]) for name in POOL if name in scores}
    measured = {name: lds_evidence(one, [], bench)["composition"].value or 0.0 for name, one in known.items()}
    found = []
    for one, other in permutations(known, 2):
        if abs(measured[one] - measured[other]) < APART:
            continue
        choice = tuned(known[one], [known[other]], bench, "composition")
        assert choice is not None
        best = max(one, other, key=lambda name: measured[name])
        found.append(
            {
                "recipe": recipe,
                "own": one,
                "candidate": other,
                "tuning, own": choice.tuning_lds[one],
                "tuning, candidate": choice.tuning_lds[other],
                "test, own": measured[one],
                "test, candidate": measured[other],
                "chosen": choice.chosen,
                "right": choice.chosen == best,
            }
        )
    return found


def _bench(recipe: str) -> Bench:
    truth, _ = kept(recipe)
    groups = [min(question.true_ids) for question in world.questions()]  # questions with the same sources go together
    half = Measured(truth.half_kept_MN, truth.half_outcome_QMR)
    drop = Measured(truth.drop_kept_MN, truth.drop_outcome_QMR[:, :, :1])
    return Bench({"composition": half, "this_run": drop}, split_queries(groups, SHARE, SEED), SHARE)


if __name__ == "__main__":
    main()
