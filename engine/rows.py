"""A dataset's rows as the model reads them: tokens, targets and loss weights; and batches of them.

Shapes: B examples, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from engine.batching import PaddedBatch, example_weights, pad_batch, plan_batches
from engine.curvature.fit import row_key
from engine.dataset import Dataset
from engine.model import LoadedModel
from engine.text import Encoded


@dataclass(frozen=True)
class EncodedRows:
    """Position → encoding and the weight of the row's targets in the recipe's loss."""

    rows: tuple[Encoded, ...]
    weights: tuple[float, ...]

    @property
    def truncated(self) -> int:
        return sum(row.truncated for row in self.rows)

    @property
    def boundary_mismatches(self) -> int:
        return sum(row.boundary_mismatch for row in self.rows)

    @cached_property
    def keys(self) -> list[str]:
        """Position → content key: equal rows have equal ones."""
        return [row_key(row.ids) for row in self.rows]

    @property
    def lengths(self) -> list[int]:
        return [len(row.ids) for row in self.rows]


def encode_rows(
    model: LoadedModel, dataset: Dataset, max_length: int | None, tick: Callable[[int], None], *, alone: bool = False
) -> EncodedRows:
    """Raises NoLossToken naming the row. `tick(done)` is called every few hundred rows.

    alone: every row weighs what it would in a batch of its own, whatever the recipe.
    """
    encoder = model.encoder(max_length)
    rows: list[Encoded] = []
    for position, example in enumerate(dataset):
        rows.append(encoder.encode(example))
        if position % 256 == 0:
            tick(position)
    reduction = "example_mean" if alone else model.recipe.reduction
    weights = example_weights(rows, reduction, model.recipe.steps)
    return EncodedRows(tuple(rows), tuple(weights))


@dataclass(frozen=True)
class Batcher:
    """Length-bucketed, right-padded batches on the model's device."""

    model: LoadedModel
    token_budget: int
    max_rows: int | None = None

    def batches(
        self, encoded: Sequence[Encoded], weights: Sequence[float], positions: Sequence[int]
    ) -> Iterator[Batch]:
        """Every row once; `Batch.slots` say where in `encoded` its rows came from."""
        pad = self.model.pad_id
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        for slots in plan_batches([len(row.ids) for row in encoded], self.token_budget, self.max_rows):
            padded = pad_batch(
                [encoded[i] for i in slots],
                [weights[i] for i in slots],
                pad,
                dtype,
                positions=[positions[i] for i in slots],
            )
            yield Batch(tuple(slots), padded.to(self.model.device, non_blocking=True))


@dataclass(frozen=True)
class Batch:
    slots: tuple[int, ...]
    padded: PaddedBatch
