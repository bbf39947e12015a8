"""A look at a loaded model through tiny forward passes: which modules read the same tensor, and which keep rows apart.

A module can be tracked when its input is [B, T, I], or [B·T, I] with row b·T + t belonging to position t of example b,
as shared experts read it. Experts that see only the tokens routed to them mix rows, and modules that are called more
than once in a pass would need the sum over their calls.

Shapes: B examples, T positions, I a module's input width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import UnsupportedModel
from engine.modules import TrackedModule, input_identity

NOT_BY_ROW = "its input is not [batch, position, width] (a routed expert): rows cannot be told apart"
NOT_CALLED = "its forward is never called (its weight is read by other code): no input to see"
CALLED_TWICE = "it is called more than once in a forward pass (shared layers): its gradient is a sum over the calls"
_EXAMPLES, _POSITIONS = 2, 4
_CHANGED = 1e-3  # of the largest input: far above rounding, far below what another token does


@dataclass
class Seen:
    """What the hooks of one forward pass saw. inputs: path → the input of each of its calls; kept alive, because a
    freed tensor's address could be given to the next one.
    """

    inputs: dict[str, list[Tensor]] = field(default_factory=dict)

    def last(self, path: str) -> Tensor:
        return self.inputs[path][-1]

    def identities(self) -> dict[str, tuple[object, ...]]:
        """Path → identity of what the module read: equal for modules that read the same tensor."""
        return {path: input_identity(tensors[-1]) for path, tensors in self.inputs.items()}


def look(model: nn.Module, tracked: Iterable[TrackedModule], ids_BT: Tensor) -> Seen:
    """One forward pass of `ids_BT`. As in engine/capture.py only calls with something to differentiate are seen: DoRA
    also calls a module on its own weights.
    """
    seen = Seen()

    def remember(path: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if output.requires_grad:
                seen.inputs.setdefault(path, []).append(inputs[0].detach())

        return hook

    embedding = model.get_input_embeddings()  # type: ignore[operator]
    handles = [embedding.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_(True))]
    handles += [model.get_submodule(m.path).register_forward_hook(remember(m.path)) for m in tracked]
    try:
        with torch.enable_grad():
            model(input_ids=ids_BT, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def split_reached(
    model: nn.Module, found: Sequence[TrackedModule], device: torch.device
) -> tuple[tuple[TrackedModule, ...], dict[str, str], Seen]:
    """(modules whose rows can be told apart, path → why not for the others, what a forward pass saw).

    Raises UnsupportedModel when none is left.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    ids_BT = (torch.arange(_EXAMPLES * _POSITIONS, device=device) * 37 + 11).view(_EXAMPLES, _POSITIONS) % vocabulary
    seen = look(model, found, ids_BT)
    flat = [m for m in found if m.path in seen.inputs and seen.last(m.path).dim() == 2]
    by_row = _row_by_row(model, flat, ids_BT, vocabulary, seen) if flat else set()
    dropped = {m.path: reason for m in found if (reason := _why_not(m.path, seen, by_row)) is not None}
    kept = tuple(m for m in found if m.path not in dropped)
    if not kept:
        first = next(iter(dropped.values()))
        raise UnsupportedModel(f"No module of the model keeps its rows apart; none can be tracked: {first}.")
    return kept, dropped, seen


def _why_not(path: str, seen: Seen, by_row: set[str]) -> str | None:
    if path not in seen.inputs:
        return NOT_CALLED
    if len(seen.inputs[path]) > 1:
        return CALLED_TWICE
    return None if seen.last(path).dim() == 3 or path in by_row else NOT_BY_ROW


def _row_by_row(model: nn.Module, flat: list[TrackedModule], ids_BT: Tensor, vocabulary: int, before: Seen) -> set[str]:
    """Paths of those whose row b·T + t is position t of example b: another token at (b, t) changes that row, and no row
    before it or of another example.
    """
    count = ids_BT.numel()
    by_row = {m.path for m in flat if len(before.last(m.path)) == count}
    for row in range(count if by_row else 0):
        other = ids_BT.flatten().clone()
        other[row] = (other[row] + vocabulary // 2) % vocabulary
        after = look(model, [m for m in flat if m.path in by_row], other.view_as(ids_BT))
        end = (row // _POSITIONS + 1) * _POSITIONS
        by_row = {path for path in by_row if _only(before.last(path), after.last(path), row, end)}
    return by_row


def _only(before_NI: Tensor, after_NI: Tensor, row: int, end: int) -> bool:
    """Whether `row` changed, and nothing outside row … end − 1."""
    if before_NI.shape != after_NI.shape:
        return False
    changed_N = (after_NI - before_NI).abs().amax(1) > _CHANGED * before_NI.abs().max()
    return bool(changed_N[row]) and not bool(changed_N[:row].any() or changed_N[end:].any())
