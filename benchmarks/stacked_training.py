"""What training several adapters side by side saves: time of one adapter's step in a stack, as a ratio to it alone.

    python -m benchmarks.stacked_training

The demonstration's base and rows, one process, one thread. Rounds are interleaved and the best of each counts, so that
whatever else the machine does disturbs all widths alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.report import report
from engine.causal.retrainer import Retrainer, Study
from engine.causal.variant import Variant
from engine.config import Lora, Training
from engine.demo import corpus
from engine.demo.tuning import BASE_MODEL
from engine.types import Query

WIDTHS = (1, 2, 4, 8, 16)
BATCHES = (3, 8, 32)
ROUNDS = 5


def main() -> None:
    torch.set_num_threads(1)
    rows = tuple(corpus.rows())
    queries = tuple(Query(prompt=q.prompt, completion=f" {q.answer}.") for q in corpus.demo_questions())
    table = []
    for batch in BATCHES:
        training = Training(batch_size=batch, lora=Lora(rank=4))
        trainer = Retrainer(Study(BASE_MODEL, rows, training, queries))
        for removed in (0, len(rows) // 2):
            seconds = _seconds(trainer, _variants(len(rows), removed))
            ratios = {f"{width} side by side": seconds[width] / seconds[1] for width in WIDTHS}
            table.append({"batch": batch, "rows removed": f"{removed / len(rows):.0%}"} | ratios)
    report("stacked_training", "python -m benchmarks.stacked_training", table)


def _variants(rows: int, removed: int) -> list[Variant]:
    draws = [np.random.default_rng(n).choice(rows, removed, replace=False).tolist() for n in range(max(WIDTHS))]
    return [Variant.without(f"v{n}", n, some) for n, some in enumerate(draws)]


def _seconds(trainer: Retrainer, variants: Sequence[Variant]) -> dict[int, float]:
    """Of one adapter step, by width."""
    rounds = [{width: trainer.step_seconds(variants[:width]) for width in WIDTHS} for _ in range(ROUNDS)]
    return {width: min(each[width] for each in rounds) for width in WIDTHS}


if __name__ == "__main__":
    main()
