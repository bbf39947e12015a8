"""Length-bucketed, right-padded batches, and what each row weighs in the recipe's loss.

Shapes: B examples, T positions, C columns that hold a target in some example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import Reduction
from engine.encoded import TokenRow
from engine.errors import InvalidOption


@dataclass
class PaddedBatch:
    """ids_BT long; valid_BT False at pads; weights_BT: the weight of token t as a target, 0 elsewhere.

    target_columns [C], ascending, never 0: where some row has a target. positions: the rows' places in the dataset.
    """

    ids_BT: Tensor
    valid_BT: Tensor
    weights_BT: Tensor
    target_columns: Tensor
    positions: tuple[int, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PaddedBatch:
        """non_blocking: a GPU is not waited for."""
        move = on_device if non_blocking else torch.Tensor.to
        return PaddedBatch(
            move(self.ids_BT, device),
            move(self.valid_BT, device),
            move(self.weights_BT, device),
            move(self.target_columns, device),
            self.positions,
        )


def on_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """On a GPU without waiting for what it is busy with: that takes page-locked memory."""
    on_gpu = torch.device(device).type == "cuda"
    return tensor.pin_memory().to(device, non_blocking=True) if on_gpu else tensor.to(device)


def plan_batches(lengths: Sequence[int], token_budget: int, max_rows: int | None = None) -> list[list[int]]:
    """Every index once, rows of like length together, the longest first (so memory peaks at once, not at the end).

    A batch's tokens, pads included, stay within the budget, unless one row alone is longer. Ties go by position.
    """
    for name, value in (("token_budget", token_budget), ("max_rows", max_rows)):
        if value is not None and value < 1:
            raise InvalidOption(f"{name} is {value}; it must be at least 1.", pointer=f"/options/{name}")
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if room == 0:
            batches.append([])
            room = max(1, token_budget // max(1, lengths[index]))
            room = room if max_rows is None else min(room, max_rows)
        batches[-1].append(index)
        room -= 1
    return batches


def pad_batch(
    encoded: Sequence[TokenRow],
    example_weights: Sequence[float] | None,
    pad_id: int,
    dtype: torch.dtype,
    *,
    positions: Sequence[int] | None = None,
) -> PaddedBatch:
    """example_weights None: 1 each. dtype: of the weights. positions None: 0, 1, …"""
    weights = [1.0] * len(encoded) if example_weights is None else list(example_weights)
    width = max(len(row.ids) for row in encoded)
    ids_BT = torch.full((len(encoded), width), pad_id, dtype=torch.long)
    targets_BT = torch.zeros(len(encoded), width, dtype=torch.bool)
    for b, row in enumerate(encoded):
        ids_BT[b, : len(row.ids)] = torch.tensor(row.ids)
        targets_BT[b, : len(row.ids)] = torch.tensor(row.targets)
    lengths_B = torch.tensor([len(row.ids) for row in encoded])
    return PaddedBatch(
        ids_BT=ids_BT,
        valid_BT=torch.arange(width) < lengths_B.unsqueeze(1),
        weights_BT=targets_BT.to(dtype) * torch.tensor(weights, dtype=dtype).unsqueeze(1),
        target_columns=targets_BT.any(0).nonzero().flatten(),
        positions=tuple(range(len(encoded)) if positions is None else positions),
    )


def example_weights(
    encoded: Sequence[TokenRow], reduction: Reduction, steps: Sequence[Sequence[int]] | None
) -> list[float]:
    """The weight of each row's targets in the recipe's loss: 1, 1/T_z, or the mean of 1/(targets of its step).

    steps: the positions, in `encoded`, of every optimizer step. Raises InvalidOption when batch_token_mean lacks
    them, when they name a row that does not exist, and when a row is in none of them.
    """
    counts = [row.target_count for row in encoded]
    if reduction == "token_sum":
        return [1.0] * len(counts)
    if reduction == "example_mean":
        return [1.0 / count for count in counts]
    if not steps:
        raise _bad_steps("The reduction batch_token_mean needs the dataset positions of every optimizer step.")
    return _step_means(counts, steps)


def _step_means(counts: Sequence[int], steps: Sequence[Sequence[int]]) -> list[float]:
    sums, appearances = [0.0] * len(counts), [0] * len(counts)
    for number, step in enumerate(steps):
        for position in step:
            if not 0 <= position < len(counts):
                raise _bad_steps(f"Step {number} names row {position}; the dataset has rows 0 to {len(counts) - 1}.")
        tokens = sum(counts[position] for position in step)
        for position in step:
            sums[position] += 1.0 / tokens
            appearances[position] += 1
    if 0 in appearances:
        missing = [position for position, seen in enumerate(appearances) if not seen]
        more = f" and {len(missing) - 1} more rows are" if len(missing) > 1 else " is"
        raise _bad_steps(f"Row {missing[0]}{more} in no optimizer step of the recipe, so nothing trained on it.")
    return [total / seen for total, seen in zip(sums, appearances, strict=True)]


def _bad_steps(detail: str) -> InvalidOption:
    remedy = "Record recipe.steps for this very dataset, or set the recipe's reduction to token_sum or example_mean."
    return InvalidOption(detail, pointer="/recipe/steps", remedy=remedy)
