"""A dataset's rows as the model reads them: tokens, targets and loss weights; and batches of them.

Shapes: B examples, T positions.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.batching import PaddedBatch, example_weights, pad_batch, plan_batches
from engine.dataset import Dataset
from engine.encoded import TokenRow
from engine.flat_rows import FlatRows, RowKeys, RowsWriter
from engine.model import LoadedModel


@dataclass(frozen=True)
class EncodedRows:
    """Position → tokens, the weight of the row's targets in the recipe's loss, and the content key (equal rows have
    equal ones). A row takes 24 bytes beside its tokens."""

    rows: FlatRows
    weights: array[float]
    keys: RowKeys
    truncated: int
    boundary_mismatches: int

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.rows.lengths


def encode_rows(
    model: LoadedModel, dataset: Dataset, max_length: int | None, tick: Callable[[int], None], *, alone: bool = False
) -> EncodedRows:
    """Raises NoLossToken naming the row. `tick(done)` is called every few hundred rows.

    alone: every row weighs what it would in a batch of its own, whatever the recipe.
    """
    encoder = model.encoder(max_length)
    writer, truncated, mismatches = RowsWriter(), 0, 0
    for position, example in enumerate(dataset):
        row = encoder.encode(example)
        writer.add(row)
        truncated += row.truncated
        mismatches += row.boundary_mismatch
        if position % 256 == 0:
            tick(position)
    rows, keys = writer.finished()
    reduction = "example_mean" if alone else model.recipe.reduction
    weights = array("d", example_weights(rows, reduction, model.recipe.steps))
    return EncodedRows(rows, weights, keys, truncated, mismatches)


@dataclass(frozen=True)
class Batcher:
    """Length-bucketed, right-padded batches on the model's device."""

    model: LoadedModel
    token_budget: int
    max_rows: int | None = None

    def batches(
        self, encoded: Sequence[TokenRow], weights: Sequence[float], positions: Sequence[int]
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
