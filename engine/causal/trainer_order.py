"""The order in which Transformers' Trainer takes a dataset's rows, without running it.

Its loader shuffles with accelerate's SeedableRandomSampler: epoch e (from 0) is torch.randperm(rows) of a CPU generator
seeded with data_seed + e, where data_seed is `seed` unless given (transformers 5.23 Trainer._get_dataloader, accelerate
1.15 data_loader.SeedableRandomSampler). An optimizer step takes `accumulation` batches and never crosses an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from engine.causal.steps import Steps


@dataclass(frozen=True)
class Loading:
    """How one process loads rows. batch_size: rows of a forward pass. drop_last: without an epoch's partial batch."""

    rows: int
    batch_size: int
    accumulation: int
    seed: int
    shuffled: bool = True
    drop_last: bool = False

    @property
    def batches(self) -> int:
        """Of an epoch."""
        return self.rows // self.batch_size if self.drop_last else math.ceil(self.rows / self.batch_size)

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return max(1, math.ceil(self.batches / self.accumulation))


def trainer_steps(loading: Loading, total: int) -> Steps:
    """The dataset positions of the first `total` optimizer steps, over as many epochs as they take."""
    found: list[tuple[int, ...]] = []
    epoch = 0
    while len(found) < total:
        found += _epoch_steps(loading, epoch)
        epoch += 1
    return tuple(found[:total])


def _epoch_steps(loading: Loading, epoch: int) -> Iterator[tuple[int, ...]]:
    order = _order(loading, epoch)
    if loading.drop_last:
        order = order[: loading.batches * loading.batch_size]
    size = loading.batch_size * loading.accumulation
    return (tuple(order[start : start + size]) for start in range(0, max(1, len(order)), size))


def _order(loading: Loading, epoch: int) -> list[int]:
    if not loading.shuffled:
        return list(range(loading.rows))
    generator = torch.Generator().manual_seed(loading.seed + epoch)
    return torch.randperm(loading.rows, generator=generator).tolist()
