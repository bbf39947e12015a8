"""Plain training passes: forward, backward and an AdamW step on the adapter's weights, over every row once.

`training`: as a fine-tune goes, 8 rows a step in the order given. `bucketed`: rows of like length together, 4,096
tokens a step, pads included: the batches of an index build, which no training has, and the stricter reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.indexing_peers.contender import Contender, seconds, share
from benchmarks.quality.peers.batch import collate, logits_of, token_losses
from benchmarks.quality.peers.given import Given, Tokens, load_tuned
from engine.batching import plan_batches

STEP_ROWS, STEP_TOKENS = 8, 4096


class Loaded(Contender):
    version = torch.__version__
    runs = ("training", "bucketed")
    settings = (0,)

    def __init__(self, given: Given, scratch: Path) -> None:
        self.given = given
        self.model = load_tuned(given, given.checkpoints[-1])
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]

    def run(self, name: str, setting: int, few: bool) -> dict[str, float]:
        rows = share(self.given.rows, few)
        return {"index": seconds(lambda: self._train(_steps(name, rows)))}

    def _train(self, steps: Sequence[Sequence[Tokens]]) -> None:
        # so low a rate that every round finds the same weights, up to rounding
        optimizer = torch.optim.AdamW(self.weights, lr=1e-9, weight_decay=0.0)
        for step in steps:
            batch = collate(step, self.given.pad_id)
            optimizer.zero_grad()
            losses_BT = token_losses(logits_of(self.model, batch), batch["labels"])
            (losses_BT.sum() / (batch["labels"][:, 1:] != -100).sum()).backward()
            optimizer.step()


def _steps(name: str, rows: Sequence[Tokens]) -> list[Sequence[Tokens]]:
    if name == "training":
        return [rows[i : i + STEP_ROWS] for i in range(0, len(rows), STEP_ROWS)]
    return [[rows[i] for i in step] for step in plan_batches([len(row.ids) for row in rows], STEP_TOKENS)]
